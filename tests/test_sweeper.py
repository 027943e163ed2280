"""A room is walked back through when nothing, or not everything, is known of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bot.model import (
    Event,
    EventID,
    Failed,
    Forbidden,
    NotFound,
    Refused,
    RoomID,
    Unreachable,
    UserID,
)
from bot.sweeper import TRIES, _never_held
from bot.timeline import Sweep
from tests.fakes import ALICE
from tests.house import DAY, MINUTE, SECOND, House

HOUR = 60 * MINUTE
REMOTE = UserID("@carol:elsewhere.org")


async def lose_disk(house: House) -> None:
    """Take the database away, and start again with the same account."""
    house.path = Path(f"{house.path}2")
    await house.restart()


def leave(house: House) -> None:
    """Let time pass in which nothing is written."""
    house.clock.advance(SECOND)


async def test_a_lost_disk_loses_no_timer_and_touches_nothing_that_stays(house: House) -> None:
    room, says = house.homeserver.make_room(), house.homeserver.send
    before = says(room, "from before")
    house.homeserver.set_lifetime(room, DAY)
    old = says(room, "a day")
    leave(house)
    house.homeserver.set_lifetime(room, MINUTE)
    overdue = says(room, "a minute")
    leave(house)
    house.homeserver.set_lifetime(room, None)
    kept = says(room, "stays")
    house.homeserver.set_lifetime(room, HOUR)
    young = says(room, "an hour")
    house.clock.advance(30 * MINUTE)
    await lose_disk(house)
    async with house.running(*house.everything):
        assert house.homeserver.is_redacted(room, overdue)
        now = house.clock.now()
        dues = {event: due - now for event, due in (await house.timers()).items()}
        assert dues == {
            young: 30 * MINUTE,
            old: DAY - 30 * MINUTE - 2 * SECOND,
        }
        await house.advance(DAY)
    assert [house.homeserver.is_redacted(room, one) for one in (before, kept)] == [False, False]
    assert [house.homeserver.is_redacted(room, one) for one in (old, young)] == [True, True]


async def test_commands_of_long_ago_are_not_carried_out_again(house: House) -> None:
    room = house.homeserver.make_room()
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 2h")
        house.homeserver.set_lifetime(room, HOUR, sender=ALICE)
        await house.rest()
    heard = len(house.homeserver.heard(room))
    await lose_disk(house)
    async with house.running(*house.everything):
        await house.rest()
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": HOUR}
    assert len(house.homeserver.heard(room)) == heard


async def test_what_is_said_while_a_room_is_swept_does_not_wait(house: House) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    for number in range(30):
        house.homeserver.send(room, f"{number}")
    house.homeserver.hold("page_back")
    async with house.running(*house.everything):
        live = await house.said_in(room, "hello")
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, live)
        house.homeserver.release("page_back")
        await house.rest()
        assert await house.timers() == {}


async def test_rooms_are_swept_in_turns(house: House) -> None:
    rooms = [house.homeserver.make_room() for _ in range(2)]
    for room in rooms:
        house.homeserver.set_lifetime(room, DAY)
        for number in range(20):
            house.homeserver.send(room, f"{number}")
    async with house.running(house.intake):
        pass
    seen: list[RoomID] = []
    while (sweep := await house.store.sweeps.next()) is not None:
        seen.append(sweep.room_id)
        house.clock.advance(1)
        await house.sweeper.step(sweep)
    assert seen[:4] in ([*rooms, *rooms], [*rooms[::-1], *rooms[::-1]])


async def test_a_sweep_goes_on_where_it_was_killed(house: House) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    sent = [house.homeserver.send(room, f"{number}") for number in range(20)]
    async with house.running(house.intake):
        pass
    sweep = await house.store.sweeps.next()
    assert sweep is not None
    await house.sweeper.step(sweep)
    assert set(await house.timers()) == set(sent[-5:])
    asked = len(house.homeserver.times("page_back"))
    await house.restart()
    async with house.running(house.sweeper):
        pass
    assert set(sent) <= set(await house.timers())
    assert len(house.homeserver.times("page_back")) - asked <= 5


async def test_a_walk_ends_where_a_lifetime_was_set_for_the_first_time(house: House) -> None:
    room = house.homeserver.make_room()
    for number in range(20):
        house.homeserver.send(room, f"stays {number}")
    house.homeserver.set_lifetime(room, DAY)
    sent = [house.homeserver.send(room, f"{number}") for number in range(6)]
    async with house.running(house.intake, house.sweeper):
        assert await house.store.sweeps.left() == 0
        assert set(await house.timers()) == set(sent)
    assert len(house.homeserver.times("page_back")) == 2


async def test_a_walk_goes_on_through_what_is_overdue_for_longer_than_any_lifetime(
    house: House,
) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    sent = [house.homeserver.send(room, f"{number}") for number in range(20)]
    house.clock.advance(2 * house.bounds.maximum)
    async with house.running(*house.everything):
        await house.rest()
    assert all(house.homeserver.is_redacted(room, one) for one in sent)


@pytest.mark.parametrize("failure", [Failed(status=500), Unreachable(reason="x")])
async def test_a_page_that_cannot_be_had_is_asked_for_again(
    house: House, failure: Failed | Unreachable
) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    sent = house.homeserver.send(room, "hello")
    house.homeserver.fail_next(failure, on="page_back")
    async with house.running(*house.everything):
        assert sent not in await house.timers()
        await house.advance(10 * SECOND)
        assert sent in await house.timers()


# --- a hole that another homeserver left ---------------------------------------------------------


async def shared_room(house: House) -> RoomID:
    """Return a room with people of two homeservers, read up to now."""
    room = house.homeserver.make_room()
    house.homeserver.set_member(room, REMOTE, "join")
    house.homeserver.set_lifetime(room, DAY)
    async with house.running(house.intake):
        pass
    await clear(house)
    return room


async def clear(house: House) -> None:
    while (sweep := await house.store.sweeps.next()) is not None:
        await house.store.sweeps.end(sweep)


async def test_a_room_that_the_homeserver_refuses_to_show_is_told(house: House) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    async with house.running(house.intake):
        pass
    await house.store.sweeps.begin(Sweep(room_id=room, whole=True, since=0, until=1))
    house.homeserver.fail_next(*[Refused(status=400, errcode="M_UNKNOWN")] * 99, on="page_back")
    async with house.running(house.sweeper, house.speaker):
        for _ in range(TRIES + 10):
            await house.advance(10 * MINUTE)
    assert await house.store.sweeps.left() == 0
    assert any("could not read everything" in one for one in house.homeserver.heard(room))


async def test_a_room_that_may_not_be_read_is_looked_at(house: House) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    async with house.running(house.intake):
        pass
    await house.store.sweeps.begin(Sweep(room_id=room, whole=True, since=0, until=1))
    for outcome, reviewed in ((Failed(status=500), 0), (Forbidden(), 1), (NotFound(), 1)):
        async with house.store._db.transaction() as db:
            await db.rows("UPDATE rooms SET review = 0")
        house.homeserver.fail_next(outcome, on="page_back")
        sweep = await house.store.sweeps.next()
        assert sweep is not None
        await house.sweeper.step(sweep)
        async with house.store._db.transaction() as db:
            assert [tuple(row) for row in await db.rows("SELECT review > 0 FROM rooms")] == [
                (reviewed,)
            ]


async def test_a_walk_ends_where_there_is_only_what_was_removed_long_ago(house: House) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    for number in range(40):
        gone = house.homeserver.send(room, f"{number}")
        house.homeserver.redact_as(room, gone, ALICE)
    house.clock.advance(2 * house.bounds.maximum)
    async with house.running(house.intake, house.sweeper):
        assert await house.store.sweeps.left() == 0
    assert len(house.homeserver.times("page_back")) == 1


def put_below(house: House, room: RoomID, text: str) -> EventID:
    """Let an event come that no sync shows: it stands lower than what was read."""
    event_id = house.homeserver.send(room, text, sender=REMOTE)
    whole = house.homeserver.rooms[room]
    event, place = whole.events.pop(), whole.places.pop()
    index = len(whole.events) - 1
    whole.events.insert(index, event)
    whole.places.insert(index, place - 2)
    return event_id


async def hole(house: House, room: RoomID) -> None:
    """Let the homeserver say that something is missing."""
    since, synced_at = await house.store.position()
    house.homeserver.send(room, "first of what came", sender=REMOTE)
    batch = await house.homeserver.sync(since, 0)
    [part] = batch.joined
    holed = replace(part, limited=True, full=False)
    batch = replace(batch, joined=[holed])
    await house.intake.take(batch, live=True, first=False, synced_at=synced_at)


async def test_messages_that_come_below_what_was_read_are_found(house: House) -> None:
    room = await shared_room(house)
    house.homeserver.send(room, "read")
    async with house.running(house.intake):
        pass
    missed = put_below(house, room, "missed")
    await hole(house, room)
    async with house.running(house.backfill, house.sweeper, house.redactor):
        assert missed in await house.timers()


async def test_a_homeserver_that_fetches_late_is_asked_again(house: House) -> None:
    room = await shared_room(house)
    house.homeserver.send(room, "read")
    async with house.running(house.intake):
        pass
    await hole(house, room)
    async with house.running(house.backfill, house.sweeper, house.redactor):
        missed = put_below(house, room, "missed")
        assert missed not in await house.timers()
        await house.advance(30 * SECOND)
        assert missed in await house.timers()
        for _ in range(7):
            await house.advance(HOUR)
        assert await house.store.sweeps.left() == 0


async def test_a_room_without_strangers_is_not_swept_for_a_hole(house: House) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    async with house.running(house.intake):
        pass
    await clear(house)
    await house.store.sweeps.begin(Sweep(room_id=room, whole=False, since=0, until=1))
    pages = len(house.homeserver.times("page_back"))
    async with house.running(house.sweeper):
        pass
    assert await house.store.sweeps.left() == 0
    assert len(house.homeserver.times("page_back")) == pages


async def test_a_burst_is_no_hole(house: House) -> None:
    house.homeserver.limit = 3
    room = await shared_room(house)
    async with house.running(house.intake):
        for number in range(9):
            house.homeserver.send(room, f"{number}")
        await house.rest()
    assert await house.store.sweeps.left() == 0


@pytest.mark.parametrize(("days", "far"), [(0, False), (29, False), (30, True), (60, True)])
def test_a_walk_for_a_hole_ends_thirty_days_before_it(house: House, days: int, far: bool) -> None:
    since = house.clock.now() - DAY
    sweep = Sweep(room_id=RoomID("!r"), whole=False, since=since, until=since)
    sent = {"type": "m.room.message", "event_id": "$x", "origin_server_ts": since - days * DAY - 1}
    assert house.sweeper._far([sent], sweep) is far
    assert not house.sweeper._far([], sweep)
    assert not house.sweeper._far([sent, sent | {"origin_server_ts": since - 30 * DAY}], sweep)


@pytest.mark.parametrize(("days", "far"), [(364, False), (365, True), (400, True)])
def test_a_walk_through_all_ends_where_only_what_is_gone_can_be_due(
    house: House, days: int, far: bool
) -> None:
    sweep = Sweep(room_id=RoomID("!r"), whole=True, since=0, until=house.clock.now())
    sent: Event = {"type": "m.room.message", "event_id": "$x", "content": {"body": "x"}}
    sent["origin_server_ts"] = house.clock.now() - days * DAY - 1
    gone = sent | {"content": {}, "unsigned": {"redacted_because": {"event_id": "$y"}}}
    assert house.sweeper._far([gone], sweep) is far
    assert not house.sweeper._far([sent, gone], sweep)


def test_a_default_that_began_later_covers_nothing_before(house: House) -> None:
    began = house.clock.now()
    events = [{"origin_server_ts": began - 1}, {"origin_server_ts": began - 2}]
    assert _never_held((), events)
    assert _never_held(((began, DAY),), events)
    assert not _never_held(((began, DAY),), [])
    assert not _never_held(((began, DAY),), [*events, {"origin_server_ts": began}])
    assert not _never_held(((began, DAY),), [*events, {}])


@pytest.mark.parametrize("end", [None, "the same"])
async def test_a_walk_ends_where_a_page_leads_no_further(
    house: House, end: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    missed = house.homeserver.send(room, "missed")
    for number in range(2 * house.homeserver.limit):
        house.homeserver.send(room, f"{number}")
    [page] = [one for one in house.homeserver.rooms[room].events if one["event_id"] == missed]
    asked: list[str] = []

    async def page_back(_: RoomID, token: str, __: int) -> tuple[list[Event], str | None]:
        asked.append(token)
        assert len(asked) <= 3, "it would go on for ever"
        return [page], end and token

    monkeypatch.setattr(house.homeserver, "page_back", page_back)
    async with house.running(house.intake, house.sweeper):
        for _ in range(5):
            await house.advance(DAY // 100)
    assert missed in await house.timers()
    assert await house.store.sweeps.left() == 0
