"""A room is walked back through when nothing, or not everything, is known of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bot.core.outcomes import Failed, Forbidden, NotFound, Refused, Unreachable
from bot.core.timeline import Sweep
from bot.core.types import Event, EventID, RoomID, UserID
from bot.services.sweeps import TRIES, _never_held
from bot.services.sync import GATHER
from tests.support.fake_homeserver import ALICE
from tests.support.harness import DAY, MINUTE, SECOND, Harness

HOUR = 60 * MINUTE
REMOTE = UserID("@carol:elsewhere.org")


async def lose_disk(harness: Harness) -> None:
    """Take the database away, and start again with the same account."""
    harness.path = Path(f"{harness.path}2")
    await harness.restart()


def leave(harness: Harness) -> None:
    """Let time pass in which nothing is written."""
    harness.clock.advance(SECOND)


async def test_a_lost_disk_loses_no_timer_and_touches_nothing_that_stays(harness: Harness) -> None:
    room, says = harness.homeserver.make_room(), harness.homeserver.send
    before = says(room, "from before")
    harness.homeserver.set_lifetime(room, DAY)
    old = says(room, "a day")
    leave(harness)
    harness.homeserver.set_lifetime(room, MINUTE)
    overdue = says(room, "a minute")
    leave(harness)
    harness.homeserver.set_lifetime(room, None)
    kept = says(room, "stays")
    harness.homeserver.set_lifetime(room, HOUR)
    young = says(room, "an hour")
    harness.clock.advance(30 * MINUTE)
    await lose_disk(harness)
    async with harness.running(*harness.everything):
        assert harness.homeserver.is_redacted(room, overdue)
        now = harness.clock.now()
        dues = {event: due - now for event, due in (await harness.timers()).items()}
        assert dues == {
            young: 30 * MINUTE,
            old: DAY - 30 * MINUTE - 2 * SECOND,
        }
        await harness.advance(DAY)
    assert [harness.homeserver.is_redacted(room, one) for one in (before, kept)] == [False, False]
    assert [harness.homeserver.is_redacted(room, one) for one in (old, young)] == [True, True]


async def test_commands_of_long_ago_are_not_carried_out_again(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 2h")
        harness.homeserver.set_lifetime(room, HOUR, sender=ALICE)
        await harness.rest()
    heard = len(harness.homeserver.heard(room))
    await lose_disk(harness)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": HOUR}
    assert len(harness.homeserver.heard(room)) == heard


async def test_what_is_said_while_a_room_is_swept_does_not_wait(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    for number in range(30):
        harness.homeserver.send(room, f"{number}")
    harness.homeserver.hold("page_back")
    async with harness.running(*harness.everything):
        live = await harness.said_in(room, "hello")
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, live)
        harness.homeserver.release("page_back")
        for _ in range(3):
            await harness.advance(GATHER)
        assert await harness.timers() == {}


async def test_rooms_are_swept_in_turns(harness: Harness) -> None:
    rooms = [harness.homeserver.make_room() for _ in range(2)]
    for room in rooms:
        harness.homeserver.set_lifetime(room, DAY)
        for number in range(20):
            harness.homeserver.send(room, f"{number}")
    async with harness.running(harness.sync):
        pass
    seen: list[RoomID] = []
    while (sweep := await harness.store.sweeps.next()) is not None:
        seen.append(sweep.room_id)
        harness.clock.advance(1)
        await harness.sweeper.step(sweep)
    assert seen[:4] in ([*rooms, *rooms], [*rooms[::-1], *rooms[::-1]])


async def test_a_sweep_goes_on_where_it_was_killed(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    sent = [harness.homeserver.send(room, f"{number}") for number in range(20)]
    async with harness.running(harness.sync):
        pass
    sweep = await harness.store.sweeps.next()
    assert sweep is not None
    await harness.sweeper.step(sweep)
    assert set(await harness.timers()) == set(sent[-5:])
    asked = len(harness.homeserver.times("page_back"))
    await harness.restart()
    async with harness.running(harness.sweeper):
        pass
    assert set(sent) <= set(await harness.timers())
    assert len(harness.homeserver.times("page_back")) - asked <= 5


async def test_a_walk_ends_where_a_lifetime_was_set_for_the_first_time(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    for number in range(20):
        harness.homeserver.send(room, f"stays {number}")
    harness.homeserver.set_lifetime(room, DAY)
    sent = [harness.homeserver.send(room, f"{number}") for number in range(6)]
    async with harness.running(harness.sync, harness.sweeper):
        assert await harness.store.sweeps.left() == 0
        assert set(await harness.timers()) == set(sent)
    assert len(harness.homeserver.times("page_back")) == 2


async def test_a_walk_goes_on_through_the_overdue_beyond_any_lifetime(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    sent = [harness.homeserver.send(room, f"{number}") for number in range(20)]
    harness.clock.advance(2 * harness.limits.maximum)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert all(harness.homeserver.is_redacted(room, one) for one in sent)


@pytest.mark.parametrize("failure", [Failed(status=500), Unreachable(reason="x")])
async def test_a_page_that_cannot_be_had_is_asked_for_again(
    harness: Harness, failure: Failed | Unreachable
) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    sent = harness.homeserver.send(room, "hello")
    harness.homeserver.fail_next(failure, on="page_back")
    async with harness.running(*harness.everything):
        assert sent not in await harness.timers()
        await harness.advance(10 * SECOND)
        assert sent in await harness.timers()


# --- a hole that another homeserver left ---------------------------------------------------------


async def shared_room(harness: Harness) -> RoomID:
    """Return a room with people of two homeservers, read up to now."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, REMOTE, "join")
    harness.homeserver.set_lifetime(room, DAY)
    async with harness.running(harness.sync):
        pass
    await clear(harness)
    return room


async def clear(harness: Harness) -> None:
    while (sweep := await harness.store.sweeps.next()) is not None:
        await harness.store.sweeps.end(sweep)


async def test_a_room_that_the_homeserver_refuses_to_show_is_told(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    async with harness.running(harness.sync):
        pass
    await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=True, since=0, until=1))
    harness.homeserver.fail_next(*[Refused(status=400, errcode="M_UNKNOWN")] * 99, on="page_back")
    async with harness.running(harness.sweeper, harness.outbox):
        for _ in range(TRIES + 10):
            await harness.advance(10 * MINUTE)
    assert await harness.store.sweeps.left() == 0
    assert any("could not read everything" in one for one in harness.homeserver.heard(room))


async def test_a_room_that_may_not_be_read_is_looked_at(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    async with harness.running(harness.sync):
        pass
    await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=True, since=0, until=1))
    for outcome, reviewed in ((Failed(status=500), 0), (Forbidden(), 1), (NotFound(), 1)):
        async with harness.store._db.transaction() as db:
            await db.rows("UPDATE rooms SET reviews_asked = 0")
        harness.homeserver.fail_next(outcome, on="page_back")
        sweep = await harness.store.sweeps.next()
        assert sweep is not None
        await harness.sweeper.step(sweep)
        async with harness.store._db.transaction() as db:
            assert [tuple(row) for row in await db.rows("SELECT reviews_asked > 0 FROM rooms")] == [
                (reviewed,)
            ]


async def test_a_walk_ends_where_there_is_only_what_was_removed_long_ago(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    for number in range(40):
        gone = harness.homeserver.send(room, f"{number}")
        harness.homeserver.redact_as(room, gone, ALICE)
    harness.clock.advance(2 * harness.limits.maximum)
    async with harness.running(harness.sync, harness.sweeper):
        assert await harness.store.sweeps.left() == 0
    assert len(harness.homeserver.times("page_back")) == 1


def put_below(harness: Harness, room: RoomID, text: str) -> EventID:
    """Let an event come that no sync shows: it stands lower than what was read."""
    event_id = harness.homeserver.send(room, text, sender=REMOTE)
    whole = harness.homeserver.rooms[room]
    event, place = whole.events.pop(), whole.places.pop()
    index = len(whole.events) - 1
    whole.events.insert(index, event)
    whole.places.insert(index, place - 2)
    return event_id


async def hole(harness: Harness, room: RoomID) -> None:
    """Let the homeserver say that something is missing."""
    since, synced_at = await harness.store.position()
    harness.homeserver.send(room, "first of what came", sender=REMOTE)
    batch = await harness.homeserver.sync(since, 0)
    [part] = batch.joined
    holed = replace(part, limited=True, full=False)
    batch = replace(batch, joined=[holed])
    await harness.sync.take(batch, live=True, first=False, synced_at=synced_at)


async def test_messages_that_come_below_what_was_read_are_found(harness: Harness) -> None:
    room = await shared_room(harness)
    harness.homeserver.send(room, "read")
    async with harness.running(harness.sync):
        pass
    missed = put_below(harness, room, "missed")
    await hole(harness, room)
    async with harness.running(harness.backfill, harness.sweeper, harness.redactor):
        assert missed in await harness.timers()


async def test_a_homeserver_that_fetches_late_is_asked_again(harness: Harness) -> None:
    room = await shared_room(harness)
    harness.homeserver.send(room, "read")
    async with harness.running(harness.sync):
        pass
    await hole(harness, room)
    async with harness.running(harness.backfill, harness.sweeper, harness.redactor):
        missed = put_below(harness, room, "missed")
        assert missed not in await harness.timers()
        await harness.advance(30 * SECOND)
        assert missed in await harness.timers()
        for _ in range(7):
            await harness.advance(HOUR)
        assert await harness.store.sweeps.left() == 0


async def test_a_room_without_strangers_is_not_swept_for_a_hole(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    async with harness.running(harness.sync):
        pass
    await clear(harness)
    await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=False, since=0, until=1))
    pages = len(harness.homeserver.times("page_back"))
    async with harness.running(harness.sweeper):
        pass
    assert await harness.store.sweeps.left() == 0
    assert len(harness.homeserver.times("page_back")) == pages


async def test_a_burst_is_no_hole(harness: Harness) -> None:
    harness.homeserver.limit = 3
    room = await shared_room(harness)
    async with harness.running(harness.sync):
        for number in range(9):
            harness.homeserver.send(room, f"{number}")
        await harness.rest()
    assert await harness.store.sweeps.left() == 0


@pytest.mark.parametrize(("days", "far"), [(0, False), (29, False), (30, True), (60, True)])
def test_a_walk_for_a_hole_ends_thirty_days_before_it(
    harness: Harness, days: int, far: bool
) -> None:
    since = harness.clock.now() - DAY
    sweep = Sweep(room_id=RoomID("!r"), whole_room=False, since=since, until=since)
    sent = {"type": "m.room.message", "event_id": "$x", "origin_server_ts": since - days * DAY - 1}
    assert harness.sweeper._far([sent], sweep) is far
    assert not harness.sweeper._far([], sweep)
    assert not harness.sweeper._far([sent, sent | {"origin_server_ts": since - 30 * DAY}], sweep)


@pytest.mark.parametrize(("days", "far"), [(364, False), (365, True), (400, True)])
def test_a_whole_walk_ends_where_only_what_is_gone_can_be_due(
    harness: Harness, days: int, far: bool
) -> None:
    sweep = Sweep(room_id=RoomID("!r"), whole_room=True, since=0, until=harness.clock.now())
    sent: Event = {"type": "m.room.message", "event_id": "$x", "content": {"body": "x"}}
    sent["origin_server_ts"] = harness.clock.now() - days * DAY - 1
    gone = sent | {"content": {}, "unsigned": {"redacted_because": {"event_id": "$y"}}}
    assert harness.sweeper._far([gone], sweep) is far
    assert not harness.sweeper._far([sent, gone], sweep)


def test_a_default_that_began_later_covers_nothing_before(harness: Harness) -> None:
    began = harness.clock.now()
    events = [{"origin_server_ts": began - 1}, {"origin_server_ts": began - 2}]
    assert _never_held((), events)
    assert _never_held(((began, DAY),), events)
    assert not _never_held(((began, DAY),), [])
    assert not _never_held(((began, DAY),), [*events, {"origin_server_ts": began}])
    assert not _never_held(((began, DAY),), [*events, {}])


@pytest.mark.parametrize("end", [None, "the same"])
async def test_a_walk_ends_where_a_page_leads_no_further(
    harness: Harness, end: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    missed = harness.homeserver.send(room, "missed")
    for number in range(2 * harness.homeserver.limit):
        harness.homeserver.send(room, f"{number}")
    [page] = [one for one in harness.homeserver.rooms[room].events if one["event_id"] == missed]
    asked: list[str] = []

    async def page_back(_: RoomID, token: str, __: int) -> tuple[list[Event], str | None]:
        asked.append(token)
        assert len(asked) <= 3, "it would go on for ever"
        return [page], end and token

    monkeypatch.setattr(harness.homeserver, "page_back", page_back)
    async with harness.running(harness.sync, harness.sweeper):
        for _ in range(5):
            await harness.advance(DAY // 100)
    assert missed in await harness.timers()
    assert await harness.store.sweeps.left() == 0
