"""Intake: every batch is judged and remembered as a whole, with its token, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import RateLimited, Refused, TokenRejectedError, Unreachable
from bot.core.sync_batch import RoomBatch, SyncBatch
from bot.core.types import EventID, Millis, RoomID
from bot.services.sync import GATHER, LIVE
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(harness.sync):
        pass
    return room


async def dues(harness: Harness, *sent: EventID) -> list[Millis | None]:
    """Return in how many milliseconds from now each message is due."""
    timers = await harness.timers()
    return [timers[one] - harness.clock.now() if one in timers else None for one in sent]


# --- what gets a timer ---------------------------------------------------------------------------


async def test_a_message_becomes_a_timer_when_it_is_seen(harness: Harness, room: RoomID) -> None:
    async with harness.running(harness.sync):
        sent = await harness.said_in(room, "hello")
        assert await dues(harness, sent) == [MINUTE]


async def test_any_event_that_is_not_state_becomes_a_timer(harness: Harness, room: RoomID) -> None:
    kinds = ["m.room.message", "m.reaction", "m.sticker", "m.poll.start", "m.call.invite", "any"]
    async with harness.running(harness.sync):
        sent = [harness.homeserver.add(room, {"type": kind}) for kind in kinds]
        sent.append(harness.homeserver.send_encrypted(room, "secret"))
        sent.append(harness.homeserver.send(room, "mine", sender=BOT))
        await harness.rest()
        assert await dues(harness, *sent) == [MINUTE] * len(sent)


async def test_state_and_redactions_get_no_timer(harness: Harness, room: RoomID) -> None:
    async with harness.running(harness.sync):
        sent = await harness.said_in(room, "hello")
        harness.homeserver.redact_as(room, sent)
        harness.homeserver.set_state(room, "m.room.name", {"name": "here"})
        harness.homeserver.set_state(room, "m.room.message", {"body": "state"}, key="trick")
        await harness.rest()
    assert await harness.timers() == {}


async def test_what_was_said_before_the_bot_came_stays(harness: Harness) -> None:
    await harness.store.commit("s0", harness.clock.now(), [])
    room = harness.homeserver.make_room(invited=False, joined=False)
    harness.homeserver.set_lifetime(room, MINUTE)
    before = harness.homeserver.send(room, "before")
    harness.homeserver.set_member(room, BOT, "join")
    after = harness.homeserver.send(room, "after")
    async with harness.running(harness.sync):
        assert await dues(harness, before, after) == [None, MINUTE]


async def test_a_new_database_begins_with_now_and_knows_the_lifetimes(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    before = harness.homeserver.send(room, "!expire 2m")
    async with harness.running(harness.sync):
        after = await harness.said_in(room, "after")
        assert await dues(harness, before, after) == [None, MINUTE]
    assert await harness.store.next_to_deliver() is None


# --- live and catching up ------------------------------------------------------------------------


async def test_a_live_message_begins_when_it_is_seen_or_a_moment_before(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(harness.sync):
        sent = [
            harness.homeserver.send(room, "long ago", at=harness.clock.now() - DAY),
            harness.homeserver.send(room, "just now", at=harness.clock.now() - GATHER // 2),
            harness.homeserver.send(room, "to come", at=harness.clock.now() + DAY),
        ]
        await harness.rest()
        assert await dues(harness, *sent) == [MINUTE - GATHER, MINUTE - GATHER // 2, MINUTE]


async def test_a_message_that_waited_for_the_bot_began_when_it_was_sent(
    harness: Harness, room: RoomID
) -> None:
    harness.clock.advance(30 * SECOND)
    sent = harness.homeserver.send(room, "while you were away")
    harness.clock.advance(10 * SECOND)
    async with harness.running(harness.sync):
        assert await dues(harness, sent) == [50 * SECOND]


async def test_a_forged_stamp_cannot_leave_the_time_the_bot_was_away(
    harness: Harness, room: RoomID
) -> None:
    harness.clock.advance(40 * SECOND)
    sent = [
        harness.homeserver.send(room, "forged", at=0),
        harness.homeserver.send(room, "forged", at=harness.clock.now() + DAY),
    ]
    async with harness.running(harness.sync):
        assert await dues(harness, *sent) == [20 * SECOND, MINUTE]


async def test_what_came_while_the_machine_slept_began_when_it_was_sent(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(harness.sync):
        begun = harness.clock.now()
        harness.homeserver.hold("sync")
        await harness.advance(10 * SECOND)
        sent = [harness.homeserver.send(room, "at the beginning")]
        harness.homeserver.limit = 1
        await harness.advance(50 * SECOND)
        harness.homeserver.release("sync")
        sent.append(harness.homeserver.send(room, "in the end", at=begun + 30 * SECOND))
        await harness.rest()
        timers = await harness.timers()
    assert [timers[one] - begun for one in sent] == [70 * SECOND, 90 * SECOND]


async def test_a_sync_that_comes_soon_after_the_last_is_live(
    harness: Harness, room: RoomID
) -> None:
    harness.clock.advance(LIVE)
    sent = harness.homeserver.send(room, "hello", at=harness.clock.now() - DAY)
    async with harness.running(harness.sync):
        assert await dues(harness, sent) == [MINUTE - GATHER]


# --- what asks for a review ---------------------------------------------------------------------


async def echo(harness: Harness, room: RoomID) -> None:
    """Let the bot see a redaction of its own, and nothing else."""
    whole = harness.homeserver.send(room, "one")
    await harness.rest()
    await harness.homeserver.redact(room, whole, "txn")
    await harness.rest()


async def test_after_its_own_redactions_the_bot_asks_a_moment_later(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(harness.sync):
        await echo(harness, room)
        before = len(harness.homeserver.times("sync"))
        await harness.advance(GATHER - 1)
        assert len(harness.homeserver.times("sync")) == before
        await harness.advance(1)
        assert len(harness.homeserver.times("sync")) == before + 1


async def test_what_comes_while_redactions_gather_began_when_it_was_sent(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(harness.sync):
        await echo(harness, room)
        begun = harness.clock.now()
        await harness.advance(30)
        sent = harness.homeserver.send(room, "two")
        await harness.advance(GATHER)
        timers = await harness.timers()
        assert timers[sent] == begun + 30 + MINUTE


@pytest.mark.parametrize(
    ("told", "reviews"),
    [
        ([("m.room.member", BOT)], []),
        ([("m.room.member", BOT), ("m.room.power_levels", "")], ["the room"]),
    ],
)
async def test_the_own_membership_told_again_asks_for_no_review(
    harness: Harness, room: RoomID, told: list[tuple[str, str]], reviews: list[str]
) -> None:
    """As Synapse does with every sync while the bot redacts in two rooms."""
    await harness.store.reviewed(room, suspended=False, outgoing=[])
    _, synced_at = await harness.store.position()
    state = harness.homeserver.rooms[room].state()
    batch = RoomBatch(room_id=room, state=[state[key] for key in told], timeline=[])
    sync = SyncBatch(next_batch="s99", joined=[batch])
    await harness.sync.take(sync, live=True, first=False, synced_at=synced_at)
    assert await harness.store.to_review() == [room for _ in reviews]


# --- a homeserver that is away --------------------------------------------------------------------


async def test_the_sync_waits_for_a_homeserver_that_is_away_and_goes_on(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.fail_next(*[Unreachable(reason="refused")] * 5, on="sync")
    async with harness.running(harness.sync):
        sent = harness.homeserver.send(room, "while it was away")
        for _ in range(5):
            await harness.advance(MINUTE)
        assert await dues(harness, sent) == [MINUTE - 5 * MINUTE]


async def test_a_rate_limited_sync_waits_for_exactly_what_was_said(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.fail_next(RateLimited(retry_after=7_000), on="sync")
    async with harness.running(harness.sync):
        asked = len(harness.homeserver.times("sync"))
        await harness.advance(6_999)
        assert len(harness.homeserver.times("sync")) == asked
        await harness.advance(1)
        assert len(harness.homeserver.times("sync")) > asked


async def test_a_rejected_token_ends_the_sync(harness: Harness) -> None:
    harness.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="sync")
    with pytest.raises(TokenRejectedError):
        await harness.sync.run()


async def test_the_sync_stops_in_the_middle_of_a_long_poll(harness: Harness, room: RoomID) -> None:
    run = asyncio.ensure_future(harness.sync.run())
    await harness.rest()
    harness.sync.stop()
    await asyncio.wait_for(run, 60)


async def test_the_sync_stops_that_was_told_so_before_its_poll_began(
    harness: Harness, room: RoomID
) -> None:
    run = asyncio.ensure_future(harness.sync.run())
    await asyncio.sleep(0)  # a turn: it is reading its position now
    assert harness.store._db._lock.locked()
    harness.sync.stop()
    await asyncio.wait_for(run, 60)


# --- what else a batch says ----------------------------------------------------------------------


async def test_the_lifetime_at_a_messages_own_place_counts(harness: Harness, room: RoomID) -> None:
    async with harness.running(harness.sync):
        first = harness.homeserver.send(room, "one")
        harness.homeserver.set_lifetime(room, 2 * MINUTE)
        second = harness.homeserver.send(room, "two")
        harness.homeserver.set_lifetime(room, None)
        third = harness.homeserver.send(room, "three")
        await harness.rest()
        assert await dues(harness, first, second, third) == [MINUTE, 2 * MINUTE, None]


async def test_a_redaction_takes_the_timer_away(harness: Harness, room: RoomID) -> None:
    async with harness.running(harness.sync):
        sent = await harness.said_in(room, "hello")
        harness.homeserver.redact_as(room, sent, BOB)
        await harness.rest()
        assert await harness.timers() == {}


async def test_to_redact_the_policy_is_to_turn_it_off(harness: Harness, room: RoomID) -> None:
    policy = harness.homeserver.rooms[room].state()[(POLICY_EVENT, "")]["event_id"]
    async with harness.running(harness.sync):
        harness.homeserver.redact_as(room, policy, BOB)
        sent = await harness.said_in(room, "hello")
        assert await dues(harness, sent) == [None]


async def test_a_policy_event_under_another_state_key_is_not_the_rooms(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(harness.sync):
        content = {"type": "after_send", "timer": 5 * MINUTE}
        harness.homeserver.set_state(room, POLICY_EVENT, content, sender=ALICE, key="else")
        sent = await harness.said_in(room, "hello")
        assert await dues(harness, sent) == [MINUTE]


async def test_a_change_while_the_bot_was_away_counts_from_its_own_place(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.limit = 2
    first = harness.homeserver.send(room, "one")
    harness.homeserver.set_lifetime(room, 2 * MINUTE)
    second = [harness.homeserver.send(room, f"{number}") for number in range(4)]
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, first, *second) == [MINUTE] + [2 * MINUTE] * 4


# --- a token that is worth nothing ---------------------------------------------------------------


def refused() -> Refused:
    return Refused(status=400, errcode="M_UNKNOWN")


async def test_a_token_refused_twice_is_said_and_all_read_anew(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.homeserver.limit = 2
    room = harness.homeserver.make_room()
    before = harness.homeserver.send(room, "from before the lifetime")
    harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(harness.sync):
        seen = await harness.said_in(room, "seen")
    harness.clock.advance(SECOND)
    missed = [harness.homeserver.send(room, f"{number}") for number in range(7)]
    harness.homeserver.fail_next(refused(), refused(), on="sync")
    async with harness.running(harness.sync, harness.sweeper):
        for _ in range(10):
            await harness.advance(SECOND)
        live = await harness.said_in(room, "live")
    timers = await harness.timers()
    assert {seen, live, *missed} <= set(timers)
    assert before not in timers
    assert "waiting for the homeserver (status 400 M_UNKNOWN)" in caplog.text
    assert caplog.text.count("does not know how far the bot has read") == 1
    assert caplog.text.count("reading anew: reading back in 1 rooms") == 1


async def test_a_token_that_is_refused_once_is_kept(
    harness: Harness, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    harness.homeserver.fail_next(refused(), Unreachable(reason="reset"), refused(), on="sync")
    async with harness.running(harness.sync):
        for _ in range(10):
            await harness.advance(SECOND)
        sent = await harness.said_in(room, "live")
        assert await dues(harness, sent) == [MINUTE]
    assert "anew" not in caplog.text


async def test_a_homeserver_that_refuses_every_sync_costs_no_token(
    harness: Harness, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    harness.homeserver.fail_next(refused(), refused(), refused(), on="sync")
    async with harness.running(harness.sync):
        for _ in range(10):
            await harness.advance(SECOND)
        sent = await harness.said_in(room, "live")
        assert await dues(harness, sent) == [MINUTE]
    assert "reading back" not in caplog.text


class Restored:
    """Has its tokens count as Synapse's do, and can put a backup back from before any of them."""

    AHEAD = 1_000

    def __init__(self, harness: Harness) -> None:
        self._homeserver = harness.homeserver
        self._ahead = self.AHEAD
        self._sync = harness.homeserver.sync
        harness.homeserver.sync = self.sync  # type: ignore[method-assign]

    def put_back(self) -> None:
        """From now on the counter is lower; a token from its future counts as the newest."""
        self._ahead = 0

    async def sync(self, since: str | None, wait: Millis) -> SyncBatch:
        place = None if since is None else int(since[1:].split("_")[0]) - self._ahead
        asked = None if place is None else f"s{min(place, self._homeserver.place)}"
        batch = await self._sync(asked, wait)
        return replace(batch, next_batch=f"s{int(batch.next_batch[1:]) + self._ahead}_0_0")


async def test_what_a_restored_homeserver_heard_before_the_first_sync_goes(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    restored = Restored(harness)
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(harness.sync):
        await harness.said_in(room, "seen")
    restored.put_back()
    said = harness.homeserver.send(room, "after the backup was put back")
    await harness.restart()
    async with harness.running(harness.sync, harness.sweeper):
        assert said in await harness.timers()
        live = await harness.said_in(room, "live")
        assert live in await harness.timers()
    assert caplog.text.count("knows less than before") == 1


async def test_a_room_whose_setting_is_gone_after_a_restore_has_none(harness: Harness) -> None:
    restored = Restored(harness)
    room = harness.homeserver.make_room()
    forgotten = len(harness.homeserver.rooms[room].events)
    harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(harness.sync):
        await harness.said_in(room, "seen")
    restored.put_back()
    left = harness.homeserver.rooms[room]
    del left.events[forgotten:], left.places[forgotten:]
    await harness.restart()
    async with harness.running(harness.sync, harness.sweeper):
        sent = await harness.said_in(room, "nobody has set a lifetime here")
        assert sent not in await harness.timers()
