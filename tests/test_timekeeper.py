"""A clock that is set forward or back: nothing is lost, nothing goes early by more than that."""

from __future__ import annotations

import asyncio
import time

import pytest

from bot.clock import SystemClock
from bot.model import EventID, Invite, Millis, RoomID, Unreachable
from bot.policy import Owed
from bot.succession import Stage, Successor
from bot.timeline import Attached, Gap, Message, Redaction, Stretch, Sweep
from tests.fakes import ALICE
from tests.house import DAY, MINUTE, SECOND, House, whatever_is_due
from tests.test_kin import relate

HOUR = 60 * MINUTE


@pytest.fixture
async def room(house: House) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of two hours."""
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, 2 * HOUR)
    async with house.running(house.intake):
        pass
    return room


def is_gone(house: House, room: RoomID, sent: EventID) -> bool:
    return house.homeserver.is_redacted(room, sent)


async def notice(house: House) -> None:
    """Let the time pass in which a jump is noticed."""
    await house.advance(30 * SECOND)


async def moments(house: House, table: str, column: str = "next") -> list[Millis]:
    async with house.store._db.transaction() as db:
        return [row[0] for row in await db.rows(f"SELECT {column} FROM {table}")]


# --- back ----------------------------------------------------------------------------------------


async def test_a_clock_set_back_keeps_no_message_longer(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        sent = await house.said_in(room, "hello")
        await house.advance(HOUR)
        house.clock.jump(-HOUR)
        await notice(house)
        await house.advance(HOUR - 31 * SECOND)
        assert not is_gone(house, room, sent)
        await house.advance(SECOND)
        assert is_gone(house, room, sent)


async def test_what_came_after_the_clock_was_set_back_is_not_moved(
    house: House, room: RoomID
) -> None:
    async with house.running(*house.everything):
        await house.said_in(room, "before")
        house.clock.jump(-HOUR)
        sent = await house.said_in(room, "after")
        await notice(house)
        assert (await house.timers())[sent] == house.clock.now() - 30 * SECOND + 2 * HOUR


async def test_timers_of_an_earlier_process_keep_their_time(house: House, room: RoomID) -> None:
    """By which clock they were made is not known: they may go late, not early."""
    async with house.running(*house.everything):
        sent = await house.said_in(room, "hello")
    due = (await house.timers())[sent]
    await house.restart()
    async with house.running(*house.everything):
        house.clock.jump(-HOUR)
        await notice(house)
        assert (await house.timers())[sent] == due


async def test_an_hour_forward_and_back_costs_nobody_anything(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        before = await house.said_in(room, "before")
        due = (await house.timers())[before]
        house.clock.jump(HOUR)
        await notice(house)
        ahead = await house.said_in(room, "ahead")
        began = house.clock.now() - HOUR
        house.clock.jump(-HOUR)
        await notice(house)
        timers = await house.timers()
        assert timers[before] == due
        assert timers[ahead] == began + 2 * HOUR


async def test_a_redactor_that_paused_by_the_old_clock_goes_on(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        sent = await house.said_in(room, "hello")
        house.homeserver.fail_next(Unreachable(reason="reset"), on="redact")
        await house.advance(2 * HOUR)
        house.clock.jump(-HOUR)
        await notice(house)
        assert is_gone(house, room, sent)


async def test_a_confirmation_that_was_awaited_by_the_old_clock_is_looked_up(
    house: House, room: RoomID
) -> None:
    house.homeserver.lying = True
    async with house.running(*house.everything):
        sent = await house.said_in(room, "hello")
        await house.advance(2 * HOUR)
        house.homeserver.lying = False
        house.clock.jump(-HOUR)
        await notice(house)
        await house.advance(SECOND)
        assert is_gone(house, room, sent)


async def test_a_debt_that_was_put_off_by_the_old_clock_is_paid(house: House, room: RoomID) -> None:
    house.homeserver.fail_next(*[Unreachable(reason="reset")] * 6, on="say")
    async with house.running(*house.everything):
        await house.said_in(room, "!expire status")
        for _ in range(5):
            await house.advance(MINUTE)
        house.clock.jump(-HOUR)
        await notice(house)
        await house.advance(MINUTE)
    assert len(house.homeserver.heard(room)) == 1


async def test_a_timer_put_off_by_the_old_clock_is_looked_at_when_it_is_due(
    house: House, room: RoomID
) -> None:
    now = house.clock.now()
    past, coming = EventID("$past"), EventID("$coming")
    await house.remember(room, past, due=now - HOUR)
    await house.remember(room, coming, due=now + MINUTE)
    for timer in await whatever_is_due(house.store, now + HOUR, 5):
        await house.store.postpone(timer, now + 2 * HOUR)
    await house.store.clock_set_back(HOUR, now, after=0, upto=0)
    assert [timer.event_id for timer in await whatever_is_due(house.store, now, 5)] == [past]
    assert await house.store.next_due(now) == now + MINUTE


async def test_nothing_in_the_database_waits_for_a_moment_of_the_old_clock(
    house: House, room: RoomID
) -> None:
    now = house.clock.now()
    ahead = now + HOUR
    gap = Gap(room_id=room, token="s0", stop_digest="", stop_at=now, since=ahead, until=ahead)
    await house.store.commit("s1", ahead, [Stretch(room_id=room, items=[], gap=gap)])
    found = await house.store.unread.next_gap()
    assert found is not None
    await house.store.unread.later(found[0], ahead)
    invite = Invite(room_id=RoomID("!else:example.org"), inviter=ALICE)
    await house.store.commit("s1", ahead, [], [invite])
    waiting = await house.store.invitations.undecided()
    assert waiting is not None
    await house.store.invitations.later(waiting, ahead, counts=True)
    await house.store.reviewed(room, suspended=False, owed=[Owed(key="k", kind="help", args={})])
    debt = await house.store.next_debt()
    assert debt is not None
    await house.store.owed_later(debt, ahead)
    async with house.store._db.transaction() as db:
        await db.rows("INSERT INTO opened (session_id, message, at) VALUES ('s', 1, ?)", ahead)
    await house.store.clock_set_back(HOUR, now, after=0, upto=0)
    for table in ("gaps", "invites", "owed"):
        assert await moments(house, table) == [now], table
    assert await moments(house, "opened", "at") == [now]
    assert (await moments(house, "gaps", "since"), await moments(house, "gaps", "until")) == (
        [now],
        [now],
    )
    assert await moments(house, "gaps", "stop_at") == [now - HOUR]
    assert await house.store.position() == ("s1", now)


async def test_what_belongs_to_a_message_is_moved_back_with_it(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        house.clock.jump(HOUR)
        await notice(house)
        whole = await house.said_in(room, "ahead")
        await house.advance(MINUTE)
        edit = relate(house, room, "m.replace", whole)
        await notice(house)
        house.clock.jump(-HOUR)
        await notice(house)
        timers = await house.timers()
        assert timers[whole] == house.clock.now() - 2 * MINUTE + 2 * HOUR
        assert timers[edit] == timers[whole]


async def test_no_sweep_waits_for_a_moment_of_the_old_clock(house: House, room: RoomID) -> None:
    now = house.clock.now()
    ahead = now + HOUR
    sweeps = house.store.sweeps
    known = await sweeps.next()
    assert known is not None
    await sweeps.end(known)
    await sweeps.begin(Sweep(room_id=room, whole=True, since=ahead, until=ahead))
    await sweeps.later(known, ahead)
    await house.store.clock_set_back(HOUR, now, after=0, upto=0)
    found = await sweeps.next()
    assert found is not None
    assert (found.next, found.since, found.until) == (now, now, now)


async def test_no_file_waits_for_a_moment_of_the_old_clock(house: House, room: RoomID) -> None:
    now = house.clock.now()
    sent = EventID("$picture")
    message = Message(event_id=sent, sent=now)
    shown = Attached(event_id=sent, media_ids=["picture"], owner="alice")
    gone = Redaction(target=sent, target_digest="d", sender=ALICE, digest="e")
    await house.commit(Stretch(room_id=room, items=[message, shown]))
    await house.commit(Stretch(room_id=room, items=[gone]))
    file = await house.store.next_file()
    assert file is not None
    await house.store.file_later(file, now + HOUR)
    await house.store.clock_set_back(HOUR, now, after=0, upto=0)
    assert await moments(house, "files") == [now]


async def test_no_orphan_waits_for_a_moment_of_the_old_clock(house: House, room: RoomID) -> None:
    now = house.clock.now()
    edit = Message(event_id=EventID("$edit"), sent=now, parent=EventID("$unknown"))
    await house.commit(Stretch(room_id=room, items=[edit]))
    orphan = await house.store.kin.next_orphan()
    assert orphan is not None
    await house.store.kin.later(orphan, now + HOUR)
    await house.store.clock_set_back(HOUR, now, after=0, upto=0)
    assert await moments(house, "orphans") == [now]


async def test_no_successor_waits_for_a_moment_of_the_old_clock(house: House, room: RoomID) -> None:
    now = house.clock.now()
    new = RoomID("!new:example.org")
    one = Successor(room_id=new, predecessor=room, setting=None, via="", stage=Stage.OUTSIDE)
    await house.store.successors.claim(one, now=now)
    await house.store.successors.later(one, now + HOUR)
    await house.store.clock_set_back(HOUR, now, after=0, upto=0)
    assert await moments(house, "successors") == [now]


async def test_what_was_read_of_a_gap_by_the_old_clock_does_not_begin_in_the_future(
    house: House, room: RoomID
) -> None:
    async with house.running(house.intake):
        pass
    house.homeserver.limit = 1
    sent = [house.homeserver.send(room, f"message {number}") for number in range(4)]
    house.clock.jump(HOUR)
    for one in house.homeserver.rooms[room].events:
        one["origin_server_ts"] = house.clock.now()
    async with house.running(house.intake, house.timekeeper):
        page = await house.store.unread.next_gap()
        assert page is not None
        await house.backfill.read(page[0])
        house.clock.jump(-HOUR)
        await notice(house)
    async with house.running(house.backfill):
        pass
    timers = await house.timers()
    assert set(timers) == set(sent)
    assert max(timers.values()) <= house.clock.now() + 2 * HOUR


# --- forward -------------------------------------------------------------------------------------


async def test_a_clock_set_forward_is_noticed_and_nothing_is_moved(
    house: House, room: RoomID
) -> None:
    async with house.running(*house.everything):
        sent = await house.said_in(room, "hello")
        due = (await house.timers())[sent]
        house.clock.jump(HOUR)
        await notice(house)
        assert (await house.timers())[sent] == due
        await house.advance(HOUR - MINUTE)
        assert not is_gone(house, room, sent)
        await house.advance(30 * SECOND)
        assert is_gone(house, room, sent)


async def test_what_is_due_by_the_new_clock_goes_within_a_minute(
    house: House, room: RoomID
) -> None:
    async with house.running(*house.everything):
        sent = await house.said_in(room, "hello")
        house.clock.jump(DAY)
        await notice(house)
        assert is_gone(house, room, sent)


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
    house: House, caplog: pytest.LogCaptureFixture, jump: Millis, words: str
) -> None:
    async with house.running(house.timekeeper):
        await house.advance(10 * SECOND)
        house.clock.jump(jump)
        await notice(house)
        await notice(house)
    assert [one for one in caplog.messages if "the clock was set" in one] == [words]


@pytest.mark.parametrize("jump", [0, 1999, -1999])
async def test_a_small_correction_is_none(
    house: House, caplog: pytest.LogCaptureFixture, jump: Millis
) -> None:
    async with house.running(house.timekeeper):
        house.clock.jump(jump)
        await notice(house)
        await house.advance(DAY)
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


async def test_a_last_sync_in_the_future_loses_nothing(house: House, room: RoomID) -> None:
    """The bot was stopped while its clock was ahead, and starts with the right one."""
    house.clock.jump(HOUR)
    async with house.running(house.intake):
        house.homeserver.send(room, "ahead")
    house.clock.jump(-HOUR)
    house.clock.advance(MINUTE)
    sent = house.homeserver.send(room, "while it was away")
    house.clock.advance(MINUTE)
    async with house.running(house.intake):
        live = await house.said_in(room, "live")
        timers = await house.timers()
        assert timers[sent] == house.clock.now() + 2 * HOUR  # late, not early
        assert timers[live] == house.clock.now() + 2 * HOUR
    assert (await house.store.position())[1] == house.clock.now()


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_long_poll_across_a_jump_loses_nothing(
    house: House, room: RoomID, jump: Millis
) -> None:
    async with house.running(house.intake):
        house.clock.jump(jump)
        sent = await house.said_in(room, "!expire 1h")
        later = await house.said_in(room, "later")
        timers = await house.timers()
    assert timers[sent] <= house.clock.now() + HOUR
    assert timers[sent] >= house.clock.now() + HOUR - abs(jump)
    assert timers[later] == house.clock.now() + HOUR


async def test_a_gap_after_a_jump_back_is_read_to_its_end(house: House, room: RoomID) -> None:
    house.clock.jump(3 * HOUR)
    async with house.running(house.intake):
        house.homeserver.send(room, "ahead")
    house.homeserver.limit = 1
    house.clock.jump(-3 * HOUR)
    sent = [house.homeserver.send(room, f"message {number}") for number in range(20)]
    async with house.running(*house.everything):
        await house.advance(MINUTE)
        assert set(sent) <= set(await house.timers())


# --- a backup that is put back -------------------------------------------------------------------


async def test_an_old_copy_of_the_database_reads_on_from_where_it_ends(
    house: House, room: RoomID
) -> None:
    async with house.running(*house.everything):
        early = await house.said_in(room, "before the backup")
    await house.restart()
    backup = house.path.read_bytes()
    async with house.running(*house.everything):
        await house.advance(HOUR)
        late = await house.said_in(room, "after the backup")
        await house.advance(HOUR)
        assert is_gone(house, room, early)
    await house.restart(backup)
    async with house.running(*house.everything):
        timers = await house.timers()
        assert early not in timers
        assert timers[late] == house.clock.now() + HOUR
        await house.advance(HOUR)
        assert is_gone(house, room, late)
        await house.advance(MINUTE)
        assert await house.timers() == {}


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


async def test_only_what_was_seen_to_arrive_is_timed_by_the_bots_own_clock(house: House) -> None:
    house.homeserver.limit, house.homeserver.page = 2, 2
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, 2 * HOUR)
    before = [house.homeserver.send(room, f"before {number}") for number in range(4)]
    async with house.running(house.intake, house.backfill, house.sweeper):
        live = house.homeserver.send(room, "seen")
        await house.rest()
        house.homeserver.hold("sync")
        gap = [house.homeserver.send(room, f"in a gap {number}") for number in range(4)]
        house.homeserver.release("sync")
        await house.rest()
        await house.advance(MINUTE)
    async with house.store._db.transaction() as db:
        found: dict[str, int] = dict(await db.rows("SELECT event_id, local FROM timers"))
    assert found.keys() >= {*before, live, *gap}
    assert found[live] == 1
    assert [found[one] for one in (*before, *gap[:2])] == [0] * 6
