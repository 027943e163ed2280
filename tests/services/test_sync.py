"""Intake: every batch is judged and remembered as a whole, with its token, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import RateLimited, Refused, TokenRejectedError, Unreachable
from bot.core.sync_batch import RoomBatch, SyncBatch
from bot.core.types import EventID, Millis, RoomID
from bot.services.sync import LIVE
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness


@pytest.fixture
async def room(house: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    async with house.running(house.intake):
        pass
    return room


async def dues(house: Harness, *sent: EventID) -> list[Millis | None]:
    """Return in how many milliseconds from now each message is due."""
    timers = await house.timers()
    return [timers[one] - house.clock.now() if one in timers else None for one in sent]


# --- what gets a timer ---------------------------------------------------------------------------


async def test_a_message_becomes_a_timer_when_it_is_seen(house: Harness, room: RoomID) -> None:
    async with house.running(house.intake):
        sent = await house.said_in(room, "hello")
        assert await dues(house, sent) == [MINUTE]


async def test_any_event_that_is_not_state_becomes_a_timer(house: Harness, room: RoomID) -> None:
    kinds = ["m.room.message", "m.reaction", "m.sticker", "m.poll.start", "m.call.invite", "any"]
    async with house.running(house.intake):
        sent = [house.homeserver.add(room, {"type": kind}) for kind in kinds]
        sent.append(house.homeserver.send_encrypted(room, "secret"))
        sent.append(house.homeserver.send(room, "mine", sender=BOT))
        await house.rest()
        assert await dues(house, *sent) == [MINUTE] * len(sent)


async def test_state_and_redactions_get_no_timer(house: Harness, room: RoomID) -> None:
    async with house.running(house.intake):
        sent = await house.said_in(room, "hello")
        house.homeserver.redact_as(room, sent)
        house.homeserver.set_state(room, "m.room.name", {"name": "here"})
        house.homeserver.set_state(room, "m.room.message", {"body": "state"}, key="trick")
        await house.rest()
    assert await house.timers() == {}


async def test_what_was_said_before_the_bot_came_stays(house: Harness) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    room = house.homeserver.make_room(invited=False, joined=False)
    house.homeserver.set_lifetime(room, MINUTE)
    before = house.homeserver.send(room, "before")
    house.homeserver.set_member(room, BOT, "join")
    after = house.homeserver.send(room, "after")
    async with house.running(house.intake):
        assert await dues(house, before, after) == [None, MINUTE]


async def test_a_new_database_begins_with_now_and_knows_the_lifetimes(house: Harness) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    before = house.homeserver.send(room, "!expire 2m")
    async with house.running(house.intake):
        after = await house.said_in(room, "after")
        assert await dues(house, before, after) == [None, MINUTE]
    assert await house.store.next_debt() is None


# --- live and catching up ------------------------------------------------------------------------


async def test_a_live_message_begins_when_it_is_seen_whatever_its_stamp_says(
    house: Harness, room: RoomID
) -> None:
    async with house.running(house.intake):
        sent = [
            house.homeserver.send(room, "long ago", at=house.clock.now() - DAY),
            house.homeserver.send(room, "to come", at=house.clock.now() + DAY),
        ]
        await house.rest()
        assert await dues(house, *sent) == [MINUTE, MINUTE]


async def test_a_message_that_waited_for_the_bot_began_when_it_was_sent(
    house: Harness, room: RoomID
) -> None:
    house.clock.advance(30 * SECOND)
    sent = house.homeserver.send(room, "while you were away")
    house.clock.advance(10 * SECOND)
    async with house.running(house.intake):
        assert await dues(house, sent) == [50 * SECOND]


async def test_a_forged_stamp_cannot_leave_the_time_the_bot_was_away(
    house: Harness, room: RoomID
) -> None:
    house.clock.advance(40 * SECOND)
    sent = [
        house.homeserver.send(room, "forged", at=0),
        house.homeserver.send(room, "forged", at=house.clock.now() + DAY),
    ]
    async with house.running(house.intake):
        assert await dues(house, *sent) == [20 * SECOND, MINUTE]


async def test_a_sync_that_comes_soon_after_the_last_is_live(house: Harness, room: RoomID) -> None:
    house.clock.advance(LIVE)
    sent = house.homeserver.send(room, "hello", at=house.clock.now() - DAY)
    async with house.running(house.intake):
        assert await dues(house, sent) == [MINUTE]


# --- what asks for a review ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "reviews"),
    [
        ([("m.room.member", BOT)], []),
        ([("m.room.member", BOT), ("m.room.power_levels", "")], ["the room"]),
    ],
)
async def test_the_own_membership_told_again_asks_for_no_review(
    house: Harness, room: RoomID, told: list[tuple[str, str]], reviews: list[str]
) -> None:
    """As Synapse does with every sync while the bot redacts in two rooms."""
    await house.store.reviewed(room, suspended=False, owed=[])
    _, synced_at = await house.store.position()
    state = house.homeserver.rooms[room].state()
    batch = RoomBatch(room_id=room, state=[state[key] for key in told], timeline=[])
    sync = SyncBatch(next_batch="s99", joined=[batch])
    await house.intake.take(sync, live=True, first=False, synced_at=synced_at)
    assert await house.store.to_review() == [room for _ in reviews]


# --- a homeserver that is away --------------------------------------------------------------------


async def test_intake_waits_for_a_homeserver_that_is_away_and_goes_on(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.fail_next(*[Unreachable(reason="refused")] * 5, on="sync")
    async with house.running(house.intake):
        sent = house.homeserver.send(room, "while it was away")
        for _ in range(5):
            await house.advance(MINUTE)
        assert await dues(house, sent) == [MINUTE - 5 * MINUTE]


async def test_a_rate_limited_sync_waits_for_exactly_what_was_said(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.fail_next(RateLimited(retry_after=7_000), on="sync")
    async with house.running(house.intake):
        asked = len(house.homeserver.times("sync"))
        await house.advance(6_999)
        assert len(house.homeserver.times("sync")) == asked
        await house.advance(1)
        assert len(house.homeserver.times("sync")) > asked


async def test_a_rejected_token_ends_intake(house: Harness) -> None:
    house.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="sync")
    with pytest.raises(TokenRejectedError):
        await house.intake.run()


async def test_intake_stops_in_the_middle_of_a_long_poll(house: Harness, room: RoomID) -> None:
    run = asyncio.ensure_future(house.intake.run())
    await house.rest()
    house.intake.stop()
    await asyncio.wait_for(run, 60)


async def test_intake_stops_that_was_told_so_before_its_poll_began(
    house: Harness, room: RoomID
) -> None:
    run = asyncio.ensure_future(house.intake.run())
    await asyncio.sleep(0)  # a turn: it is reading its position now
    assert house.store._db._lock.locked()
    house.intake.stop()
    await asyncio.wait_for(run, 60)


# --- what else a batch says ----------------------------------------------------------------------


async def test_the_lifetime_at_a_messages_own_place_counts(house: Harness, room: RoomID) -> None:
    async with house.running(house.intake):
        first = house.homeserver.send(room, "one")
        house.homeserver.set_lifetime(room, 2 * MINUTE)
        second = house.homeserver.send(room, "two")
        house.homeserver.set_lifetime(room, None)
        third = house.homeserver.send(room, "three")
        await house.rest()
        assert await dues(house, first, second, third) == [MINUTE, 2 * MINUTE, None]


async def test_a_redaction_takes_the_timer_away(house: Harness, room: RoomID) -> None:
    async with house.running(house.intake):
        sent = await house.said_in(room, "hello")
        house.homeserver.redact_as(room, sent, BOB)
        await house.rest()
        assert await house.timers() == {}


async def test_to_redact_the_policy_is_to_turn_it_off(house: Harness, room: RoomID) -> None:
    policy = house.homeserver.rooms[room].state()[(POLICY_EVENT, "")]["event_id"]
    async with house.running(house.intake):
        house.homeserver.redact_as(room, policy, BOB)
        sent = await house.said_in(room, "hello")
        assert await dues(house, sent) == [None]


async def test_a_policy_event_under_another_state_key_is_not_the_rooms(
    house: Harness, room: RoomID
) -> None:
    async with house.running(house.intake):
        content = {"type": "after_send", "timer": 5 * MINUTE}
        house.homeserver.set_state(room, POLICY_EVENT, content, sender=ALICE, key="else")
        sent = await house.said_in(room, "hello")
        assert await dues(house, sent) == [MINUTE]


async def test_a_change_while_the_bot_was_away_counts_from_its_own_place(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.limit = 2
    first = house.homeserver.send(room, "one")
    house.homeserver.set_lifetime(room, 2 * MINUTE)
    second = [house.homeserver.send(room, f"{number}") for number in range(4)]
    async with house.running(house.intake, house.backfill):
        assert await dues(house, first, *second) == [MINUTE] + [2 * MINUTE] * 4


# --- a token that is worth nothing ---------------------------------------------------------------


def refused() -> Refused:
    return Refused(status=400, errcode="M_UNKNOWN")


async def test_a_token_that_is_refused_twice_is_said_and_everything_is_read_anew(
    house: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    house.homeserver.limit = 2
    room = house.homeserver.make_room()
    before = house.homeserver.send(room, "from before the lifetime")
    house.homeserver.set_lifetime(room, MINUTE)
    async with house.running(house.intake):
        seen = await house.said_in(room, "seen")
    house.clock.advance(SECOND)
    missed = [house.homeserver.send(room, f"{number}") for number in range(7)]
    house.homeserver.fail_next(refused(), refused(), on="sync")
    async with house.running(house.intake, house.sweeper):
        for _ in range(10):
            await house.advance(SECOND)
        live = await house.said_in(room, "live")
    timers = await house.timers()
    assert {seen, live, *missed} <= set(timers)
    assert before not in timers
    assert "waiting for the homeserver (status 400 M_UNKNOWN)" in caplog.text
    assert caplog.text.count("does not know how far the bot has read") == 1
    assert caplog.text.count("reading anew: reading back in 1 rooms") == 1


async def test_a_token_that_is_refused_once_is_kept(
    house: Harness, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    house.homeserver.fail_next(refused(), Unreachable(reason="reset"), refused(), on="sync")
    async with house.running(house.intake):
        for _ in range(10):
            await house.advance(SECOND)
        sent = await house.said_in(room, "live")
        assert await dues(house, sent) == [MINUTE]
    assert "anew" not in caplog.text


async def test_a_homeserver_that_refuses_every_sync_costs_no_token(
    house: Harness, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    house.homeserver.fail_next(refused(), refused(), refused(), on="sync")
    async with house.running(house.intake):
        for _ in range(10):
            await house.advance(SECOND)
        sent = await house.said_in(room, "live")
        assert await dues(house, sent) == [MINUTE]
    assert "reading back" not in caplog.text


class Restored:
    """Has its tokens count as Synapse's do, and can put a backup back from before any of them."""

    AHEAD = 1_000

    def __init__(self, house: Harness) -> None:
        self._homeserver = house.homeserver
        self._ahead = self.AHEAD
        self._sync = house.homeserver.sync
        house.homeserver.sync = self.sync  # type: ignore[method-assign]

    def put_back(self) -> None:
        """From now on the counter is lower; a token from its future counts as the newest."""
        self._ahead = 0

    async def sync(self, since: str | None, wait: Millis) -> SyncBatch:
        place = None if since is None else int(since[1:].split("_")[0]) - self._ahead
        asked = None if place is None else f"s{min(place, self._homeserver.place)}"
        batch = await self._sync(asked, wait)
        return replace(batch, next_batch=f"s{int(batch.next_batch[1:]) + self._ahead}_0_0")


async def test_what_a_restored_homeserver_heard_before_the_first_sync_goes(
    house: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    restored = Restored(house)
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    async with house.running(house.intake):
        await house.said_in(room, "seen")
    restored.put_back()
    said = house.homeserver.send(room, "after the backup was put back")
    await house.restart()
    async with house.running(house.intake, house.sweeper):
        assert said in await house.timers()
        live = await house.said_in(room, "live")
        assert live in await house.timers()
    assert caplog.text.count("knows less than before") == 1


async def test_a_room_whose_setting_is_gone_after_a_restore_has_none(house: Harness) -> None:
    restored = Restored(house)
    room = house.homeserver.make_room()
    forgotten = len(house.homeserver.rooms[room].events)
    house.homeserver.set_lifetime(room, MINUTE)
    async with house.running(house.intake):
        await house.said_in(room, "seen")
    restored.put_back()
    left = house.homeserver.rooms[room]
    del left.events[forgotten:], left.places[forgotten:]
    await house.restart()
    async with house.running(house.intake, house.sweeper):
        sent = await house.said_in(room, "nobody has set a lifetime here")
        assert sent not in await house.timers()
