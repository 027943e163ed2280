"""What happens in one room changes nothing of another, and holds it up in nothing.

Every method of the store is tried on a room that stands alone, and on the same room beside another
one that holds the same ids. Nothing of the other room may change, and the room itself, what is
known of it, and when its turn comes must be the same in both stores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.core.successors import Stage, Successor
from bot.core.timeline import Change, RoomUpdate
from bot.core.types import RoomID
from tests.support.harness import Opener, due_of
from tests.support.store import Store
from tests.support.store_actions import ACTS, NOT_OF_A_ROOM, joining
from tests.support.two_rooms import (
    ALICE,
    DAY,
    FAR,
    LESS,
    MINUTE,
    NOW,
    ONE,
    OTHER,
    begin_gap,
    belongings,
    commit,
    end_gap,
    fill,
    furnish,
    invite,
    message,
    methods,
    pair,
    put_off,
    said,
    sql,
    undecided,
    walk_on,
)

HOUR = 60 * MINUTE
Make = Callable[[Store, RoomID], Awaitable[None]]


async def calm(store: Store, room: RoomID) -> None:
    await furnish(store, room)


async def reading(store: Store, room: RoomID) -> None:
    await furnish(store, room)
    await begin_gap(store, room)


async def ready(store: Store, room: RoomID) -> None:
    await furnish(store, room)
    await end_gap(store, room)


async def different(store: Store, room: RoomID) -> None:
    await furnish(store, room, shift=7)
    only = dataclasses.replace(message("only", NOW - 8 * MINUTE), live=True)
    command = said(room, "their set", MINUTE)
    await commit(store, room, only, command)
    await commit(store, room, message("theirs", NOW - MINUTE, "late"))
    same = dataclasses.replace(undecided(room, "x"), digest="of both")
    await commit(store, room, same)
    walk_on(store, room)


async def full(store: Store, room: RoomID) -> None:
    await different(store, room)
    await fill(store, room)
    await store.reviewed(room, suspended=True, outgoing=[])
    walk_on(store, room, None)


async def bare(store: Store, room: RoomID) -> None:
    """Nothing waits in it."""
    await commit(
        store, room, Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True)
    )


async def left(store: Store, room: RoomID) -> None:
    await different(store, room)
    await store.forget(room, NOW)


Pair = tuple[Make, Make, bool]
PAIRS: list[Pair] = [
    (calm, full, True),
    (calm, different, False),
    (reading, full, False),
    (ready, full, True),
    (bare, full, False),
    (calm, left, True),
]
"""The room, the other one, and whether that was there later."""


class Files:
    """Furnishes each pair of rooms once in a run; what is tried is tried on copies of that."""

    made: ClassVar[dict[object, bytes]] = {}
    sums: ClassVar[dict[object, dict[str, Any]]] = {}

    def __init__(self, open_store: Opener, folder: Path) -> None:
        self._open = open_store
        self._folder = folder

    async def open(self, *rooms: tuple[RoomID, Make]) -> Store:
        """Open a store with these rooms, furnished in this order."""
        if rooms not in self.made:
            path = self._folder / "rooms.db"
            store = await self._open(path)
            store._db.secret = bytes(32)
            for room, make in rooms:
                await make(store, room)
                await invite(store, room)
                if make is different:
                    await joining(store, room)
            self.sums[rooms] = await together(store)
            await store.close()
            self.made[rooms] = path.read_bytes()
            path.unlink()
        copy = self._folder / f"copy-{len(rooms)}.db"
        copy.write_bytes(self.made[rooms])
        store = await self._open(copy)
        store._db.secret = bytes(32)  # one id, one digest
        return store


@pytest.fixture
def files(open_store: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    for bound, less in LESS.items():
        monkeypatch.setattr(bound, less)
    return Files(open_store, tmp_path)


async def known(store: Store, room: RoomID) -> dict[str, Any]:
    """Return what the store tells of one room."""
    due = [await due_of(store, NOW + MINUTE, 3, backlog=backlog) for backlog in (False, True)]
    return {
        "due": [_plain(one) for lane in due for one in lane if one.room_id == room],
        "room": await store.room(room),
        "rooms": [one for one in await store.rooms() if one.room_id == room],
        "rooms of": await store.rooms_of([room]),
        "pending": await store.pending(room),
        "refusals": await store.refusals(room),
        "has_gap": await store.gaps.has_gap(room),
        "review": [one for one in await store.to_review() if one == room],
        "waiting": [one for one in await store.keys.waiting() if one[0] == room],
        "of": await store.successors.of(RoomID(f"{room} new")),
        "known": await store.successors.is_known(RoomID(f"{room} new"), room),
    }


async def together(store: Store) -> dict[str, Any]:
    """Return what the store counts over all rooms."""
    when = [await store.next_due(at) for at in (0, NOW, NOW + MINUTE)]
    when.append(await store.first_due())
    return {
        "overdue": [await store.overdue(at) for at in (NOW, NOW + MINUTE, FAR)],
        "next": [FAR if one is None else one for one in when],
        "left": await store.sweeps.left(),
    }


def _plain(one: Any) -> Any:
    """Return a row without its number, or its room's."""
    numbers = {field.name: 0 for field in dataclasses.fields(one) if field.name in {"id", "room"}}
    return dataclasses.replace(one, **numbers)


async def turns(store: Store, room: RoomID) -> list[Any]:
    """Return what comes of the room when the other one is at work, and when it has put all off."""
    busy = await _turns(store, room, {OTHER})
    put_off(store, OTHER)
    taken = [await store.take_over(NOW) for _ in range(5)]
    last = [one for one in taken if one and one[0] == room]
    return [busy, await _turns(store, room, set()), last]


async def _turns(store: Store, room: RoomID, busy: set[RoomID]) -> dict[str, Any]:
    files = {f"{name} of {OTHER}" for name in ("wiped", "shown")} if busy else set()
    queues: dict[str, Awaitable[Any]] = {
        "setting": store.next_to_deliver(busy, setting=True),
        "words": store.next_to_deliver(busy, setting=False),
        "undecided": store.next_pending_command(busy),
        "gap": store.gaps.next_gap(busy),
        "sweep": store.sweeps.next(busy),
        "orphan": store.relations.next_pending(busy),
        "successor": store.successors.next({RoomID(f"{one} new") for one in busy}),
        "file": store.next_media(files),
        "joining": store.invitations.to_join(busy),
    }
    if not busy:
        queues["invite"] = store.invitations.undecided()
    return {name: _of(room, await ask) for name, ask in queues.items()}


def _of(room: RoomID, one: Any) -> Any:
    what = one[0] if isinstance(one, tuple) else one
    whose = getattr(what, "room_id", getattr(what, "media_id", "")).split()
    return _plain(what) if room in whose else None


ANSWERS = {
    "store.forget",
    "store.has_work",
    "successors.look_again",
    "sweeps.read_on",
}
"""What answers a question about one room; the other questions are in `known`."""


async def compare(files: Files, names: list[tuple[str, int]], pair: Pair) -> None:
    """Do these things to a room that is alone, and to one beside another."""
    state, beside, later = pair
    rooms = ((ONE, state), (OTHER, beside))
    await (await files.open(rooms[1])).close()
    sums = files.sums[rooms[1:]]
    both = await files.open(*(rooms if later else rooms[::-1]))
    alone = await files.open(rooms[0])
    before = belongings(both, OTHER)
    for name, number in names:
        answers = [await ACTS[name][number](store, ONE) for store in (both, alone)]
        assert answers[0] == answers[1] or name not in ANSWERS
        assert belongings(both, OTHER) == before
        assert belongings(both, ONE) == belongings(alone, ONE)
        assert await known(both, ONE) == await known(alone, ONE)
        mine, ours = await together(alone), await together(both)
        assert ours["overdue"] == [
            a + b for a, b in zip(mine["overdue"], sums["overdue"], strict=True)
        ]
        assert ours["next"] == [min(two) for two in zip(mine["next"], sums["next"], strict=True)]
        assert ours["left"] == mine["left"] + sums["left"]
    assert await turns(both, ONE) == await turns(alone, ONE)
    assert belongings(both, ONE) == belongings(alone, ONE)
    await both.close()
    await alone.close()


async def test_a_clock_set_back_moves_a_room_by_itself(files: Files) -> None:
    for state, beside, later in PAIRS:
        rooms = ((ONE, state), (OTHER, beside))
        both = await files.open(*(rooms if later else rooms[::-1]))
        alone = await files.open(rooms[0])
        for store in (both, alone):
            await commit(store, ONE, message("theirs too", NOW, "only"))
            await store.clock_set_back(HOUR, NOW - HOUR, after=0, upto=10**6)
        assert belongings(both, ONE) == belongings(alone, ONE)
        await both.close()
        await alone.close()


async def test_each_pair_of_an_upgrade_is_seen_to_by_itself(
    open_store: Opener, tmp_path: Path
) -> None:
    store = await open_store(tmp_path / "timers.db")
    one, two = pair(ONE, "new"), pair(ONE, "next")
    three = dataclasses.replace(one, predecessor=OTHER)
    for found in (two, three):
        await store.successors.claim(found, now=NOW)
    assert not await store.successors.is_known(one.room_id, one.predecessor)
    await store.successors.claim(one, now=NOW)
    rest = await _pairs(store, two), await _pairs(store, three)
    await store.successors.follow(one)
    await store.successors.later(one, FAR)
    await store.successors.move(one, Stage.POWERLESS, where=ONE, needs_announced=True)
    assert (await _pairs(store, two), await _pairs(store, three)) == rest


async def test_pairs_of_rooms_that_were_left_are_forgotten_by_themselves(
    open_store: Opener, tmp_path: Path
) -> None:
    store = await open_store(tmp_path / "timers.db")
    for room in (ONE, OTHER):
        await commit(store, room)
        await store.successors.claim(pair(room, "new"), now=NOW)
    await store.forget(ONE, NOW)
    await store.commit("s1", NOW + 40 * DAY, [])
    assert [await _pairs(store, pair(room, "new")) for room in (ONE, OTHER)] == [
        [],
        [pair(OTHER, "new")],
    ]


async def test_a_successor_is_held_for_whom_its_predecessor_was_held(
    open_store: Opener, tmp_path: Path
) -> None:
    store = await open_store(tmp_path / "timers.db")
    await commit(store, OTHER)
    claim = dataclasses.replace(pair(OTHER, "new"), inviter_digest="somebody")
    await store.successors.claim(claim, now=NOW)
    await store.commit("s1", NOW, [RoomUpdate(room_id=claim.room_id, items=[], entered=True)])
    held = sql(store, "SELECT room_id, inviter_digest FROM rooms ORDER BY id")
    assert held == [(OTHER, None), (claim.room_id, "somebody")]


async def _pairs(store: Store, which: Successor) -> list[Successor]:
    found = await store.successors.of(which.room_id)
    return [one for one in found if one.predecessor == which.predecessor]


# --- every method --------------------------------------------------------------------------------


async def test_every_method_of_the_store_is_tried(open_store: Opener, tmp_path: Path) -> None:
    """A new method needs a line in `ACTS`, or concerns no room."""
    found = methods(await open_store(tmp_path / "timers.db"))
    assert set(found) == set(ACTS) | NOT_OF_A_ROOM


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", sorted(ACTS))
async def test_a_method_touches_one_room(files: Files, name: str, pair: Pair) -> None:
    for number in range(len(ACTS[name])):
        await compare(files, [(name, number)], pair)


ANYTHING = st.sampled_from([(name, number) for name in ACTS for number in range(len(ACTS[name]))])


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(ANYTHING, min_size=2, max_size=8), pair=st.sampled_from(PAIRS))
async def test_whatever_happens_touches_one_room(
    files: Files, names: list[tuple[str, int]], pair: Pair
) -> None:
    await compare(files, names, pair)
