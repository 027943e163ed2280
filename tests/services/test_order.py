"""Who comes first: live messages before a backlog, what is ready before what was put off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bot.core.outcomes import Failed
from bot.core.redaction import SPARE
from bot.core.throughput import FIRST_WIDTH
from bot.core.timeline import Message, RoomUpdate
from bot.core.types import EventID
from tests.core.test_throughput import Bucket
from tests.services.test_redactor import messages
from tests.support.fake_homeserver import ALICE, BOT
from tests.support.harness import MINUTE, SECOND, Harness, Opener
from tests.support.store import Store
from tests.support.two_rooms import NOW, ONE, OTHER, begin_gap, furnish, invite

HOUR = 60 * MINUTE


async def both(harness: Harness, live: int, overdue: int) -> tuple[list[EventID], list[EventID]]:
    """Give messages of two rooms timers: some are due now, others have been for an hour."""
    chat, other = harness.homeserver.make_room(), harness.homeserver.make_room()
    old = [harness.homeserver.send(other, f"{number}") for number in range(overdue)]
    new = [harness.homeserver.send(chat, f"{number}") for number in range(live)]
    for room, sent, ago in ((other, old, HOUR), (chat, new, 0)):
        await harness.enter(room, SECOND)
        at = harness.clock.now() - ago
        items = [Message(event_id=one, sent=at) for one in sent]
        await harness.commit(RoomUpdate(room_id=room, items=list(items)))
    harness.clock.advance(SECOND)
    return new, old


def order(harness: Harness) -> list[str]:
    """Return what was redacted, in the order in which it went."""
    found = [
        event for room in harness.homeserver.rooms for event in harness.homeserver.redactions(room)
    ]
    return [event["redacts"] for event in sorted(found, key=lambda one: one["event_id"].zfill(99))]


async def test_under_a_limit_live_messages_go_before_a_backlog(harness: Harness) -> None:
    live, overdue = await both(harness, 6, 60)
    bucket = Bucket(SECOND, burst=1)
    harness.homeserver.limit_redactions(lambda: bucket.take(harness.clock.now()))
    async with harness.running(harness.redactor):
        while not set(live) <= set(order(harness)):
            await harness.advance(SECOND)
            assert len(order(harness)) <= 6 + 2
    assert len(set(order(harness)) & set(overdue)) <= 2


async def test_of_eight_redactions_one_is_the_backlogs(harness: Harness) -> None:
    live, overdue = await both(harness, 60, 60)
    bucket = Bucket(SECOND, burst=1)
    harness.homeserver.limit_redactions(lambda: bucket.take(harness.clock.now()))
    async with harness.running(harness.redactor):
        while len(order(harness)) < 40:
            await harness.advance(SECOND)
    gone = order(harness)[:40]
    assert len(set(gone) & set(overdue)) == 4
    assert len(set(gone) & set(live)) >= 34


async def test_what_is_due_now_goes_before_much_that_is_late(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 60, due=SECOND)
    [live] = await messages(harness, room, 1, due=2 * SECOND)
    harness.homeserver.hold("redact")
    async with harness.running(harness.redactor):
        for _ in range(2):
            await harness.advance(SECOND)
        harness.homeserver.release("redact")
    gone = [event["redacts"] for event in harness.homeserver.redactions(room)]
    assert gone.index(live) <= FIRST_WIDTH + SPARE
    assert len(gone) == 61


# --- what was put off ----------------------------------------------------------------------------

Ask = Callable[[Store], Awaitable[Any]]
PutOff = Callable[[Store, Any, int], Awaitable[None]]
QUEUES: dict[str, tuple[Ask, PutOff]] = {
    "words": (
        lambda s: s.next_to_deliver(setting=False),
        lambda s, one, at: s.deliver_later(one, at),
    ),
    "gap": (lambda s: s.gaps.next_gap(), lambda s, one, at: s.gaps.later(one, at)),
    "orphan": (lambda s: s.relations.next_pending(), lambda s, one, at: s.relations.later(one, at)),
    "invitation": (
        lambda s: s.invitations.undecided(),
        lambda s, one, at: s.invitations.later(one, at, counts=True),
    ),
    "successor": (lambda s: s.successors.next(), lambda s, one, at: s.successors.later(one, at)),
    "file": (lambda s: s.next_media(), lambda s, one, at: s.media_later(one, at)),
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


async def test_an_invitation_that_fails_does_not_hold_up_another(harness: Harness) -> None:
    async with harness.running(*harness.everything):
        harness.homeserver.fail_next(*[Failed(status=502)] * 3, on="join")
        first = harness.homeserver.make_room(joined=False, invited=False)
        second = harness.homeserver.make_room(joined=False, invited=False)
        harness.homeserver.set_member(first, BOT, "invite", sender=ALICE)
        await harness.rest()
        harness.homeserver.recover()
        harness.homeserver.set_member(second, BOT, "invite", sender=ALICE)
        await harness.rest()
        assert harness.homeserver.rooms[second].membership(BOT) == "join"


async def test_a_pending_relation_that_fails_does_not_hold_up_another(harness: Harness) -> None:
    rooms = [harness.homeserver.make_room() for _ in range(2)]
    lost = []
    for room in rooms:
        await harness.enter(room, HOUR)
        parent = harness.homeserver.send(room, "gone")
        harness.homeserver.redact_as(room, parent)
        child = harness.homeserver.send(room, "belongs to it")
        item = Message(event_id=child, sent=harness.clock.now(), parent=parent)
        await harness.commit(RoomUpdate(room_id=room, items=[item]))
        lost.append(child)
    harness.homeserver.fail_next(Failed(status=500), on="event")
    async with harness.running(harness.relations, harness.redactor):
        await harness.rest()
        assert [
            harness.homeserver.is_redacted(*one) for one in zip(rooms, lost, strict=True)
        ].count(True) == 1
        await harness.advance(MINUTE)
        assert all(harness.homeserver.is_redacted(*one) for one in zip(rooms, lost, strict=True))
