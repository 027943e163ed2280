"""A clock that is set forward or back: nothing is lost, nothing goes early by more than that."""

from __future__ import annotations

import asyncio
import time

import pytest

from bot.core.invitations import Invite
from bot.core.outbox import AnswerHelp, Outgoing
from bot.core.outcomes import RateLimited, Unreachable
from bot.core.successors import Stage, Successor
from bot.core.timeline import Gap, MediaReference, Message, Redaction, RoomUpdate, Sweep
from bot.core.types import EventID, Millis, RoomID
from bot.services.clock import SystemClock
from tests.services.test_relations import relate
from tests.support.fake_homeserver import ALICE
from tests.support.harness import DAY, MINUTE, SECOND, Harness, whatever_is_due

HOUR = 60 * MINUTE


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of two hours."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, 2 * HOUR)
    async with harness.running(harness.sync):
        pass
    return room


def is_gone(harness: Harness, room: RoomID, sent: EventID) -> bool:
    return harness.homeserver.is_redacted(room, sent)


async def notice(harness: Harness) -> None:
    """Let the time pass in which a jump is noticed."""
    await harness.advance(30 * SECOND)


async def moments(harness: Harness, table: str, column: str = "retry_at") -> list[Millis]:
    async with harness.store._db.transaction() as db:
        return [row[0] for row in await db.rows(f"SELECT {column} FROM {table}")]


# --- back ----------------------------------------------------------------------------------------


async def test_a_clock_set_back_keeps_no_message_longer(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "hello")
        await harness.advance(HOUR)
        harness.clock.jump(-HOUR)
        await notice(harness)
        await harness.advance(HOUR - 31 * SECOND)
        assert not is_gone(harness, room, sent)
        await harness.advance(SECOND)
        assert is_gone(harness, room, sent)


async def test_what_came_after_the_clock_was_set_back_is_not_moved(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "before")
        harness.clock.jump(-HOUR)
        sent = await harness.said_in(room, "after")
        await notice(harness)
        assert (await harness.timers())[sent] == harness.clock.now() - 30 * SECOND + 2 * HOUR


async def test_timers_of_an_earlier_process_keep_their_time(harness: Harness, room: RoomID) -> None:
    """By which clock they were made is not known: they may go late, not early."""
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "hello")
    due = (await harness.timers())[sent]
    await harness.restart()
    async with harness.running(*harness.everything):
        harness.clock.jump(-HOUR)
        await notice(harness)
        assert (await harness.timers())[sent] == due


async def test_an_hour_forward_and_back_costs_nobody_anything(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        before = await harness.said_in(room, "before")
        due = (await harness.timers())[before]
        harness.clock.jump(HOUR)
        await notice(harness)
        ahead = await harness.said_in(room, "ahead")
        began = harness.clock.now() - HOUR
        harness.clock.jump(-HOUR)
        await notice(harness)
        timers = await harness.timers()
        assert timers[before] == due
        assert timers[ahead] == began + 2 * HOUR


async def test_a_redactor_that_paused_by_the_old_clock_goes_on(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "hello")
        harness.homeserver.fail_next(Unreachable(reason="reset"), on="redact")
        await harness.advance(2 * HOUR)
        harness.clock.jump(-HOUR)
        await notice(harness)
        assert is_gone(harness, room, sent)


async def test_a_message_that_was_refused_by_the_old_clock_goes(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "hello")
        harness.homeserver.fail_next(RateLimited(retry_after=MINUTE), on="redact")
        await harness.advance(2 * HOUR)
        harness.clock.jump(-HOUR)
        await notice(harness)
        assert is_gone(harness, room, sent)


async def test_a_confirmation_that_was_awaited_by_the_old_clock_is_looked_up(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.lying = True
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "hello")
        await harness.advance(2 * HOUR)
        harness.homeserver.lying = False
        harness.clock.jump(-HOUR)
        await notice(harness)
        await harness.advance(SECOND)
        assert is_gone(harness, room, sent)


async def test_a_notice_that_was_put_off_by_the_old_clock_is_sent(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.fail_next(*[Unreachable(reason="reset")] * 6, on="say")
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire status")
        for _ in range(5):
            await harness.advance(MINUTE)
        harness.clock.jump(-HOUR)
        await notice(harness)
        await harness.advance(MINUTE)
    assert len(harness.homeserver.heard(room)) == 1


async def test_a_timer_the_old_clock_put_off_is_looked_at_when_due(
    harness: Harness, room: RoomID
) -> None:
    now = harness.clock.now()
    past, coming = EventID("$past"), EventID("$coming")
    await harness.remember(room, past, due=now - HOUR)
    await harness.remember(room, coming, due=now + MINUTE)
    for timer in await whatever_is_due(harness.store, now + HOUR, 5):
        await harness.store.postpone(timer, now + 2 * HOUR)
    await harness.store.clock_set_back(HOUR, now, after=0, upto=0)
    assert [timer.event_id for timer in await whatever_is_due(harness.store, now, 5)] == [past]
    assert await harness.store.next_due(now) == now + MINUTE


async def test_nothing_in_the_database_waits_for_a_moment_of_the_old_clock(
    harness: Harness, room: RoomID
) -> None:
    now = harness.clock.now()
    ahead = now + HOUR
    gap = Gap(room_id=room, token="s0", stop_digest="", stop_at=now, since=ahead, until=ahead)
    await harness.store.commit("s1", ahead, [RoomUpdate(room_id=room, items=[], gap=gap)])
    found = await harness.store.gaps.next_gap()
    assert found is not None
    await harness.store.gaps.later(found[0], ahead)
    invite = Invite(room_id=RoomID("!else:example.org"), inviter=ALICE)
    await harness.store.commit("s1", ahead, [], [invite])
    waiting = await harness.store.invitations.undecided()
    assert waiting is not None
    await harness.store.invitations.later(waiting, ahead, counts=True)
    await harness.store.reviewed(
        room, suspended=False, outgoing=[Outgoing(key="k", content=AnswerHelp())]
    )
    entry = await harness.store.next_to_deliver()
    assert entry is not None
    await harness.store.deliver_later(entry, ahead)
    async with harness.store._db.transaction() as db:
        await db.rows(
            "INSERT INTO key_uses (session_id, message_index, read_at) VALUES ('s', 1, ?)", ahead
        )
    await harness.store.clock_set_back(HOUR, now, after=0, upto=0)
    for table in ("gaps", "invitations", "outbox"):
        assert await moments(harness, table) == [now], table
    assert await moments(harness, "key_uses", "read_at") == [now]
    assert (await moments(harness, "gaps", "since"), await moments(harness, "gaps", "until")) == (
        [now],
        [now],
    )
    assert await moments(harness, "gaps", "stop_at") == [now - HOUR]
    assert await harness.store.position() == ("s1", now)


async def test_what_belongs_to_a_message_is_moved_back_with_it(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        harness.clock.jump(HOUR)
        await notice(harness)
        whole = await harness.said_in(room, "ahead")
        await harness.advance(MINUTE)
        edit = relate(harness, room, "m.replace", whole)
        await notice(harness)
        harness.clock.jump(-HOUR)
        await notice(harness)
        timers = await harness.timers()
        assert timers[whole] == harness.clock.now() - 2 * MINUTE + 2 * HOUR
        assert timers[edit] == timers[whole]


async def test_no_sweep_waits_for_a_moment_of_the_old_clock(harness: Harness, room: RoomID) -> None:
    now = harness.clock.now()
    ahead = now + HOUR
    sweeps = harness.store.sweeps
    known = await sweeps.next()
    assert known is not None
    await sweeps.end(known)
    await sweeps.begin(Sweep(room_id=room, whole_room=True, since=ahead, until=ahead))
    await sweeps.later(known, ahead)
    await harness.store.clock_set_back(HOUR, now, after=0, upto=0)
    found = await sweeps.next()
    assert found is not None
    assert (found.retry_at, found.since, found.until) == (now, now, now)


async def test_no_file_waits_for_a_moment_of_the_old_clock(harness: Harness, room: RoomID) -> None:
    now = harness.clock.now()
    sent = EventID("$picture")
    message = Message(event_id=sent, sent=now)
    shown = MediaReference(event_id=sent, media_ids=["picture"], owner_digest="alice")
    gone = Redaction(target=sent, target_digest="d", sender=ALICE, digest="e")
    await harness.commit(RoomUpdate(room_id=room, items=[message, shown]))
    await harness.commit(RoomUpdate(room_id=room, items=[gone]))
    file = await harness.store.next_media()
    assert file is not None
    await harness.store.media_later(file, now + HOUR)
    await harness.store.clock_set_back(HOUR, now, after=0, upto=0)
    assert await moments(harness, "media") == [now]


async def test_no_pending_relation_waits_for_a_time_of_the_old_clock(
    harness: Harness, room: RoomID
) -> None:
    now = harness.clock.now()
    edit = Message(event_id=EventID("$edit"), sent=now, parent=EventID("$unknown"))
    await harness.commit(RoomUpdate(room_id=room, items=[edit]))
    relation = await harness.store.relations.next_pending()
    assert relation is not None
    await harness.store.relations.later(relation, now + HOUR)
    await harness.store.clock_set_back(HOUR, now, after=0, upto=0)
    assert await moments(harness, "pending_relations") == [now]


async def test_no_successor_waits_for_a_moment_of_the_old_clock(
    harness: Harness, room: RoomID
) -> None:
    now = harness.clock.now()
    new = RoomID("!new:example.org")
    one = Successor(room_id=new, predecessor=room, setting=None, via="", stage=Stage.OUTSIDE)
    await harness.store.successors.claim(one, now=now)
    await harness.store.successors.later(one, now + HOUR)
    await harness.store.clock_set_back(HOUR, now, after=0, upto=0)
    assert await moments(harness, "successors") == [now]


async def test_a_gap_read_by_the_old_clock_never_begins_in_the_future(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(harness.sync):
        pass
    harness.homeserver.limit = 1
    sent = [harness.homeserver.send(room, f"message {number}") for number in range(4)]
    harness.clock.jump(HOUR)
    for one in harness.homeserver.rooms[room].events:
        one["origin_server_ts"] = harness.clock.now()
    async with harness.running(harness.sync, harness.clock_watch):
        page = await harness.store.gaps.next_gap()
        assert page is not None
        await harness.backfill.read(page[0])
        harness.clock.jump(-HOUR)
        await notice(harness)
    async with harness.running(harness.backfill):
        pass
    timers = await harness.timers()
    assert set(timers) == set(sent)
    assert max(timers.values()) <= harness.clock.now() + 2 * HOUR


# --- forward -------------------------------------------------------------------------------------


async def test_a_clock_set_forward_is_noticed_and_nothing_is_moved(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "hello")
        due = (await harness.timers())[sent]
        harness.clock.jump(HOUR)
        await notice(harness)
        assert (await harness.timers())[sent] == due
        await harness.advance(HOUR - MINUTE)
        assert not is_gone(harness, room, sent)
        await harness.advance(30 * SECOND)
        assert is_gone(harness, room, sent)


async def test_what_is_due_by_the_new_clock_goes_within_a_minute(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "hello")
        harness.clock.jump(DAY)
        await notice(harness)
        assert is_gone(harness, room, sent)


# --- noticing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jump", "words"),
    [
        (-HOUR, "the clock was set back by 1 hour"),
        (HOUR + 7, "the clock was set forward by 1 hour"),
        (-2000, "the clock was set back by 2 seconds"),
    ],
)
async def test_the_log_says_by_how_much(
    harness: Harness, caplog: pytest.LogCaptureFixture, jump: Millis, words: str
) -> None:
    async with harness.running(harness.clock_watch):
        await harness.advance(10 * SECOND)
        harness.clock.jump(jump)
        await notice(harness)
        await notice(harness)
    assert [one for one in caplog.messages if "the clock was set" in one] == [words]


@pytest.mark.parametrize("jump", [0, 1999, -1999])
async def test_a_small_correction_is_none(
    harness: Harness, caplog: pytest.LogCaptureFixture, jump: Millis
) -> None:
    async with harness.running(harness.clock_watch):
        harness.clock.jump(jump)
        await notice(harness)
        await harness.advance(DAY)
    assert not [one for one in caplog.messages if "the clock was set" in one]


async def test_the_machines_clock_waits_in_time_that_is_not_set() -> None:
    clock = SystemClock()
    outside = time.monotonic()
    before = clock.elapsed()
    inside = time.monotonic()
    await clock.wait(asyncio.Event(), clock.now() + 30)
    inside = time.monotonic() - inside
    passed = clock.elapsed() - before
    outside = time.monotonic() - outside
    assert 1000 * inside - 1 <= passed <= 1000 * outside + 1  # whole milliseconds


# --- intake --------------------------------------------------------------------------------------


async def test_a_last_sync_in_the_future_loses_nothing(harness: Harness, room: RoomID) -> None:
    """The bot was stopped while its clock was ahead, and starts with the right one."""
    harness.clock.jump(HOUR)
    async with harness.running(harness.sync):
        harness.homeserver.send(room, "ahead")
    harness.clock.jump(-HOUR)
    harness.clock.advance(MINUTE)
    sent = harness.homeserver.send(room, "while it was away")
    harness.clock.advance(MINUTE)
    async with harness.running(harness.sync):
        live = await harness.said_in(room, "live")
        timers = await harness.timers()
        assert timers[sent] == harness.clock.now() + 2 * HOUR  # late, not early
        assert timers[live] == harness.clock.now() + 2 * HOUR
    assert (await harness.store.position())[1] == harness.clock.now()


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_long_poll_across_a_jump_loses_nothing(
    harness: Harness, room: RoomID, jump: Millis
) -> None:
    async with harness.running(harness.sync):
        harness.clock.jump(jump)
        sent = await harness.said_in(room, "!expire 1h")
        later = await harness.said_in(room, "later")
        timers = await harness.timers()
    assert timers[sent] <= harness.clock.now() + HOUR
    assert timers[sent] >= harness.clock.now() + HOUR - abs(jump)
    assert timers[later] == harness.clock.now() + HOUR


async def test_a_gap_after_a_jump_back_is_read_to_its_end(harness: Harness, room: RoomID) -> None:
    harness.clock.jump(3 * HOUR)
    async with harness.running(harness.sync):
        harness.homeserver.send(room, "ahead")
    harness.homeserver.limit = 1
    harness.clock.jump(-3 * HOUR)
    sent = [harness.homeserver.send(room, f"message {number}") for number in range(20)]
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
        assert set(sent) <= set(await harness.timers())


# --- a backup that is put back -------------------------------------------------------------------


async def test_an_old_copy_of_the_database_reads_on_from_where_it_ends(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        early = await harness.said_in(room, "before the backup")
    await harness.restart()
    backup = harness.path.read_bytes()
    async with harness.running(*harness.everything):
        await harness.advance(HOUR)
        late = await harness.said_in(room, "after the backup")
        await harness.advance(HOUR)
        assert is_gone(harness, room, early)
    await harness.restart(backup)
    async with harness.running(*harness.everything):
        timers = await harness.timers()
        assert early not in timers
        assert timers[late] == harness.clock.now() + HOUR
        await harness.advance(HOUR)
        assert is_gone(harness, room, late)
        await harness.advance(MINUTE)
        assert await harness.timers() == {}


async def test_the_machines_clock_is_waited_for_no_longer_than_is_left() -> None:
    clock, wake = SystemClock(), asyncio.Event()
    async with asyncio.timeout(50):
        await clock.wait(wake, clock.now())
        await clock.wait(wake, clock.now() - 60_000)
        began, elapsed = clock.now(), clock.elapsed()
        while clock.now() < began + 20:
            await clock.wait(wake, began + 20)
        assert clock.elapsed() - elapsed >= 15
        wake.set()
        await clock.wait(wake, None)
        await clock.wait(wake, clock.now() + 3_600_000)
    assert abs(clock.now() - time.time() * 1000) < 10_000
    wake.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await clock.wait(wake, clock.now() + 3_600_000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await clock.wait(wake, None)


async def test_only_what_was_seen_arriving_is_timed_by_the_bots_clock(
    harness: Harness,
) -> None:
    harness.homeserver.limit, harness.homeserver.page = 2, 2
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, 2 * HOUR)
    before = [harness.homeserver.send(room, f"before {number}") for number in range(4)]
    async with harness.running(harness.sync, harness.backfill, harness.sweeper):
        live = harness.homeserver.send(room, "seen")
        await harness.rest()
        harness.homeserver.hold("sync")
        gap = [harness.homeserver.send(room, f"in a gap {number}") for number in range(4)]
        harness.homeserver.release("sync")
        await harness.rest()
        await harness.advance(MINUTE)
    async with harness.store._db.transaction() as db:
        found: dict[str, int] = dict(await db.rows("SELECT event_id, from_local_clock FROM timers"))
    assert found.keys() >= {*before, live, *gap}
    assert found[live] == 1
    assert [found[one] for one in (*before, *gap[:2])] == [0] * 6
