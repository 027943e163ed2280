"""Which timers go next: children first, rooms in turns, and nobody starves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.due import FEW, WAIT_FOR_CHILDREN, Candidate, Vacancy, in_turns, may_go, share
from bot.core.ports.timers import DueTimers
from bot.core.timers import Timer
from bot.core.types import EventID, Millis, RoomID
from bot.services.due_timers import next_timers

T = TypeVar("T")

NOW = 1_800_000_000_000
FRESH, LATE = NOW, NOW - WAIT_FOR_CHILDREN


def candidate(
    number: int = 1,
    room: int = 1,
    *,
    retry_at: Millis = NOW,
    child: bool = False,
    children: int = 0,
    earlier: int = 0,
    sent: bool = False,
) -> Candidate:
    timer = Timer(
        id=number,
        room=room,
        room_id=RoomID(f"!{room}"),
        event_id=EventID(f"${number}"),
        due=retry_at,
        redaction_sent_at=NOW if sent else None,
    )
    return Candidate(
        timer=timer, retry_at=retry_at, child=child, children=children, earlier=earlier
    )


# --- who waits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "goes"),
    [
        (candidate(retry_at=FRESH), True),
        (candidate(retry_at=FRESH, children=1), False),
        (candidate(retry_at=FRESH, children=64, earlier=64), False),
        (candidate(retry_at=FRESH, children=1, sent=True), True),
        (candidate(retry_at=LATE + 1, children=1), False),
        (candidate(retry_at=LATE), True),
        (candidate(retry_at=LATE, children=64), True),
        (candidate(retry_at=LATE, children=9, earlier=1), False),
        (candidate(retry_at=LATE, children=FEW, earlier=FEW), False),
        (candidate(retry_at=LATE, children=FEW + 1, earlier=FEW + 1), True),
        (candidate(retry_at=LATE, children=1, earlier=1, sent=True), True),
    ],
)
def test_a_message_waits_for_what_belongs_to_it(one: Candidate, goes: bool) -> None:
    assert may_go(one, NOW) == goes


# --- the order -----------------------------------------------------------------------------------

CANDIDATES = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([FRESH, FRESH - 1, LATE]), st.booleans()),
    max_size=30,
).map(
    lambda made: [
        candidate(number, room, retry_at=at, child=child)
        for number, (room, at, child) in enumerate(made)
    ]
)
LAST = st.integers(0, 5)


@given(candidates=CANDIDATES, last=LAST)
def test_taking_turns_loses_and_doubles_nobody(candidates: list[Candidate], last: int) -> None:
    order = in_turns(candidates + candidates, last, NOW)
    assert sorted(one.id for one in order) == [one.timer.id for one in candidates]


@given(candidates=CANDIDATES, last=LAST)
def test_within_a_room_the_oldest_goes_first(candidates: list[Candidate], last: int) -> None:
    order = in_turns(candidates, last, NOW)
    for room in {one.timer.room for one in candidates}:
        times = [one.due for one in order if one.room == room]
        assert times == sorted(times)


@pytest.mark.parametrize(("at", "order"), [(FRESH, [2, 1]), (LATE, [1, 2])])
def test_of_one_time_children_go_first_while_it_is_fresh(at: Millis, order: list[int]) -> None:
    both = [candidate(1, retry_at=at), candidate(2, retry_at=at, child=True)]
    assert [one.id for one in in_turns(both, 0, NOW)] == order


@given(candidates=CANDIDATES, last=LAST, count=st.integers(0, 30))
def test_no_room_is_served_twice_before_one_that_waits(
    candidates: list[Candidate], last: int, count: int
) -> None:
    served = Counter(one.room for one in in_turns(candidates, last, NOW)[:count])
    for room, waiting in Counter(one.timer.room for one in candidates).items():
        if served[room] < waiting:
            assert served[room] >= max(served.values(), default=0) - 1


@given(candidates=CANDIDATES)
def test_whoever_was_served_last_comes_last(candidates: list[Candidate]) -> None:
    rooms = sorted({one.timer.room for one in candidates})
    for last in rooms:
        first_round = [one.room for one in in_turns(candidates, last, NOW)[: len(rooms)]]
        assert first_round[-1] == last
        assert sorted(first_round) == rooms


@pytest.mark.parametrize(
    ("space", "rooms", "busy", "expected"),
    [
        (10, [1], [], 10),
        (2, [1], [1] * 8, 10),
        (10, list(range(20)), [], 1),
        (3, [1, 2], [], 2),
        (3, [1, 2], [1, 1, 2, 7, 7, 7], 4),
        (1, [], [], 1),
    ],
)
def test_only_as_many_are_looked_at_as_may_begin(
    space: int, rooms: list[int], busy: list[int], expected: int
) -> None:
    vacancy = Vacancy(space=space, busy=dict(enumerate(busy)), shut=[])
    assert share(vacancy, rooms) == expected


# --- the choice as a whole -----------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """A timer as a store has it."""

    id: int
    room: int
    retry_at: Millis
    parent: int | None = None
    attempts: int = 0
    sent: bool = False


@dataclass(slots=True)
class Rows:
    """A store in memory, of which every answer can be checked by hand."""

    rows: list[Row]
    asked: list[int] = field(default_factory=list)
    """How many timers were looked at each time."""

    def children(self, parent: Row, now: Millis) -> list[Row]:
        return [
            one
            for one in self.rows
            if one.parent == parent.id and one.room == parent.room and one.id > parent.id
            if not one.sent and not one.attempts and one.retry_at <= now
        ]

    def candidate(self, row: Row, now: Millis) -> Candidate:
        children = self.children(row, now)
        return candidate(
            row.id,
            row.room,
            retry_at=row.retry_at,
            child=row.parent is not None,
            children=len(children),
            earlier=sum(one.retry_at <= row.retry_at for one in children),
            sent=row.sent,
        )

    async def rooms_due(self, now: Millis, last: int, most: int, *, backlog: bool) -> list[int]:
        assert not backlog
        rooms = {one.room for one in self.rows if one.retry_at <= now}
        return sorted(rooms, key=lambda room: (room <= last, room))[:most]

    async def due(
        self, now: Millis, rooms: Sequence[int], share: int, *, backlog: bool
    ) -> list[Candidate]:
        assert not backlog
        found: list[Row] = []
        for room in rooms:
            there = [one for one in self.rows if one.room == room and one.retry_at <= now]
            found += sorted(there, key=lambda one: (one.retry_at, one.sent, one.id))[:share]
        self.asked.append(len(found))
        return [self.candidate(one, now) for one in found]

    async def children_due(
        self, now: Millis, parents: Sequence[int], share: int
    ) -> list[Candidate]:
        held = [one for one in self.rows if one.id in parents]
        found = [child for one in held for child in self.children(one, now)[:share]]
        self.asked.append(len(found))
        return [self.candidate(one, now) for one in found]

    async def at_once(self, work: Callable[[DueTimers], Coroutine[Any, Any, T]]) -> T:
        return await work(self)


async def choose(rows: Rows, last: int, space: int, busy: Mapping[int, int]) -> list[list[Timer]]:
    """Return all that is given, page by page, to somebody who never has enough."""
    vacancy = Vacancy(space=space, busy=busy, shut=[])
    return [page async for page in next_timers(rows, NOW, last, vacancy, backlog=False)]


@st.composite
def worlds(draw: st.DrawFn) -> Rows:
    """Draw rooms full of messages of all ages, and what belongs to them, some of it tried."""
    rows: list[Row] = []
    for number in range(1, draw(st.integers(1, 40)) + 1):
        earlier = [one for one in rows if not one.sent]
        parent = draw(st.none() | st.sampled_from(earlier)) if earlier else None
        at = NOW + draw(st.sampled_from([-50_000, -WAIT_FOR_CHILDREN, -5_000, 0, 0, 0, 1]))
        room = draw(st.integers(1, 3)) if parent is None else parent.room
        tried = draw(st.sampled_from([0, 0, 0, 1]))
        row = Row(
            number,
            room,
            at,
            parent.id if parent else None,
            tried,
            sent=draw(st.integers(0, 9)) == 0,
        )
        rows.append(row)
    return Rows(rows)


@given(rows=worlds(), last=LAST, space=st.integers(1, 10))
def test_nothing_goes_before_what_has_to_go_first(rows: Rows, last: int, space: int) -> None:
    given_away = [one for page in asyncio.run(choose(rows, last, space, {})) for one in page]
    by_id = {one.id: one for one in rows.rows}
    for one in given_away:
        assert by_id[one.id].retry_at <= NOW
        assert may_go(rows.candidate(by_id[one.id], NOW), NOW)


@given(rows=worlds(), last=LAST, space=st.integers(1, 10), busy=st.integers(0, 6))
def test_what_is_due_is_found_whatever_else_waits(
    rows: Rows, last: int, space: int, busy: int
) -> None:
    """With some at work, every room gives one that may go, if it has any."""
    may = [
        one for one in rows.rows if one.retry_at <= NOW and may_go(rows.candidate(one, NOW), NOW)
    ]
    at_work = {one.id: one.room for one in may[:busy]}
    pages = asyncio.run(choose(rows, last, space, at_work))
    found = {one.id for page in pages for one in page} - set(at_work)
    for room in {one.room for one in may}:
        others = {one.id for one in may if one.room == room} - set(at_work)
        assert bool(others) == bool(others & found)


@given(rows=worlds(), last=LAST)
def test_served_one_by_one_all_have_their_turn(rows: Rows, last: int) -> None:
    left = {one.id for one in rows.rows if one.retry_at <= NOW}
    while left:
        pages = asyncio.run(choose(rows, last, 1, {}))
        first = next(one for page in pages for one in page)
        last = first.room
        left.remove(first.id)
        rows.rows = [one for one in rows.rows if one.id != first.id]


@pytest.mark.parametrize("rooms", [1, 10, 1_000])
@pytest.mark.parametrize("each", [1, 50])
def test_the_choice_costs_the_same_with_many_rooms_and_timers(rooms: int, each: int) -> None:
    rows = Rows([Row(number, number % rooms, NOW) for number in range(rooms * each)])

    async def first() -> list[Timer]:
        vacancy = Vacancy(space=10, busy={}, shut=[])
        async for page in next_timers(rows, NOW, 0, vacancy, backlog=False):
            return page
        return []

    page = asyncio.run(first())
    assert len(page) >= min(10, rooms * each)
    assert sum(rows.asked) <= 20
