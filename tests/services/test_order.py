"""Who comes first: live messages before a backlog, what is ready before what was put off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bot.core.outcomes import Failed
from bot.core.timeline import Message, RoomUpdate
from bot.core.types import EventID
from bot.store import Store
from tests.core.test_throughput import Bucket
from tests.support.fake_homeserver import ALICE, BOT
from tests.support.harness import MINUTE, SECOND, Harness, Opener
from tests.support.two_rooms import NOW, ONE, OTHER, begin_gap, furnish, invite

HOUR = 60 * MINUTE


async def both(house: Harness, live: int, overdue: int) -> tuple[list[EventID], list[EventID]]:
    """Give messages of two rooms timers: some are due now, others have been for an hour."""
    chat, other = house.homeserver.make_room(), house.homeserver.make_room()
    old = [house.homeserver.send(other, f"{number}") for number in range(overdue)]
    new = [house.homeserver.send(chat, f"{number}") for number in range(live)]
    for room, sent, ago in ((other, old, HOUR), (chat, new, 0)):
        await house.enter(room, SECOND)
        at = house.clock.now() - ago
        items = [Message(event_id=one, sent=at) for one in sent]
        await house.commit(RoomUpdate(room_id=room, items=list(items)))
    house.clock.advance(SECOND)
    return new, old


def order(house: Harness) -> list[str]:
    """Return what was redacted, in the order in which it went."""
    found = [
        event for room in house.homeserver.rooms for event in house.homeserver.redactions(room)
    ]
    return [event["redacts"] for event in sorted(found, key=lambda one: one["event_id"].zfill(99))]


async def test_under_a_limit_live_messages_go_before_a_backlog(house: Harness) -> None:
    live, overdue = await both(house, 6, 60)
    bucket = Bucket(SECOND, burst=1)
    house.homeserver.limit_redactions(lambda: bucket.take(house.clock.now()))
    async with house.running(house.redactor):
        while not set(live) <= set(order(house)):
            await house.advance(SECOND)
            assert len(order(house)) <= 6 + 2
    assert len(set(order(house)) & set(overdue)) <= 2


async def test_of_eight_redactions_one_is_the_backlogs(house: Harness) -> None:
    live, overdue = await both(house, 60, 60)
    bucket = Bucket(SECOND, burst=1)
    house.homeserver.limit_redactions(lambda: bucket.take(house.clock.now()))
    async with house.running(house.redactor):
        while len(order(house)) < 40:
            await house.advance(SECOND)
    gone = order(house)[:40]
    assert len(set(gone) & set(overdue)) == 4
    assert len(set(gone) & set(live)) >= 34


# --- what was put off ----------------------------------------------------------------------------

Ask = Callable[[Store], Awaitable[Any]]
PutOff = Callable[[Store, Any, int], Awaitable[None]]
QUEUES: dict[str, tuple[Ask, PutOff]] = {
    "words": (lambda s: s.next_debt(setting=False), lambda s, one, at: s.owed_later(one, at)),
    "gap": (lambda s: s.unread.next_gap(), lambda s, one, at: s.unread.later(one, at)),
    "orphan": (lambda s: s.kin.next_orphan(), lambda s, one, at: s.kin.later(one, at)),
    "invitation": (
        lambda s: s.invitations.undecided(),
        lambda s, one, at: s.invitations.later(one, at, counts=True),
    ),
    "successor": (lambda s: s.successors.next(), lambda s, one, at: s.successors.later(one, at)),
    "file": (lambda s: s.next_file(), lambda s, one, at: s.file_later(one, at)),
    "sweep": (lambda s: s.sweeps.next(), lambda s, one, at: s.sweeps.later(one, at)),
}


@pytest.mark.parametrize("name", QUEUES)
async def test_what_was_put_off_comes_after_what_is_ready(
    open_store: Opener, tmp_path: Path, name: str
) -> None:
    store = await open_store(tmp_path / "timers.db")
    for room in (ONE, OTHER):
        await furnish(store, room)
        if name == "gap":
            await begin_gap(store, room)
        await invite(store, room)
    ask, put_off = QUEUES[name]
    met = []
    for wait in (3, 2, 1):
        found = _first(await ask(store))
        met.append(found)
        await put_off(store, found, NOW + wait)
    assert _whose(met[0]) != _whose(met[1]) or name == "orphan"
    assert _key(met[0]) != _key(met[1])
    if name != "orphan":  # each room has two
        assert _key(met[2]) == _key(met[1])


def _first(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) else found


def _whose(found: Any) -> object:
    return getattr(found, "room_id", None) or found.media_id


def _key(found: Any) -> object:
    return getattr(found, "id", None) or _whose(found)


async def test_an_invitation_that_fails_does_not_hold_up_another(house: Harness) -> None:
    async with house.running(*house.everything):
        house.homeserver.fail_next(*[Failed(status=502)] * 3, on="join")
        first = house.homeserver.make_room(joined=False, invited=False)
        second = house.homeserver.make_room(joined=False, invited=False)
        house.homeserver.set_member(first, BOT, "invite", sender=ALICE)
        await house.rest()
        house.homeserver.recover()
        house.homeserver.set_member(second, BOT, "invite", sender=ALICE)
        await house.rest()
        assert house.homeserver.rooms[second].membership(BOT) == "join"


async def test_an_orphan_that_fails_does_not_hold_up_another(house: Harness) -> None:
    rooms = [house.homeserver.make_room() for _ in range(2)]
    lost = []
    for room in rooms:
        await house.enter(room, HOUR)
        parent = house.homeserver.send(room, "gone")
        house.homeserver.redact_as(room, parent)
        child = house.homeserver.send(room, "belongs to it")
        item = Message(event_id=child, sent=house.clock.now(), parent=parent)
        await house.commit(RoomUpdate(room_id=room, items=[item]))
        lost.append(child)
    house.homeserver.fail_next(Failed(status=500), on="event")
    async with house.running(house.kin, house.redactor):
        await house.rest()
        assert [house.homeserver.is_redacted(*one) for one in zip(rooms, lost, strict=True)].count(
            True
        ) == 1
        await house.advance(MINUTE)
        assert all(house.homeserver.is_redacted(*one) for one in zip(rooms, lost, strict=True))
