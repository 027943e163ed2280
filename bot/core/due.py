"""Decides, purely, which of the timers that are due go next, and which wait for others first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bot.core.redaction import PER_ROOM
from bot.core.timers import Timer
from bot.core.types import Millis

WAIT_FOR_CHILDREN: Final[Millis] = 10_000
"""How long a message waits for all that belongs to it: somebody may add to that for ever."""
FEW: Final = 5
"""So many that belong to a message, and were due no later, go first however late it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A timer whose time has come. It goes now, unless something that belongs to it goes first."""

    timer: Timer
    retry_at: Millis
    """When it was to be seen to."""
    child: bool = False
    """Whether it belongs to another message."""
    children: int = 0
    """How many that belong to it are due and were not tried yet. The store counts a few dozen."""
    earlier: int = 0
    """How many of these were due no later than itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacancy:
    """How much may begin, beside what is at work."""

    space: int
    busy: Mapping[int, int]
    """The room of each timer that is at work."""
    shut: Collection[int]
    """Rooms in which nothing more may begin."""


def may_go(one: Candidate, now: Millis) -> bool:
    """Whether nothing that belongs to the message has to go before it.

    An edit that goes after its message can be read until then, so children go first, as far as a
    first try goes. After `WAIT_FOR_CHILDREN` it waits no longer for what came late or is too much.
    """
    if one.timer.redaction_sent_at is not None:
        return True  # it has gone; it is only looked at
    if is_fresh(one, now):
        return not one.children
    return not 1 <= one.earlier <= FEW


def is_fresh(one: Candidate, now: Millis) -> bool:
    """Whether its time came a moment ago."""
    return one.retry_at > now - WAIT_FOR_CHILDREN


def split(candidates: Iterable[Candidate], now: Millis) -> tuple[list[Candidate], list[Candidate]]:
    """Return those that may go, and those for whose children to look first."""
    ready: list[Candidate] = []
    held: list[Candidate] = []
    for one in candidates:
        (ready if may_go(one, now) else held).append(one)
    return ready, held


def in_turns(candidates: Iterable[Candidate], last: int, now: Millis) -> list[Timer]:
    """Order timers so that rooms take turns, beginning after the room that was served last.

    In a room the oldest goes first; of those with one time, what belongs to others, then what the
    store got first. Rooms take turns by their numbers in the store.
    """
    rooms: defaultdict[int, list[Candidate]] = defaultdict(list)
    for one in {one.timer.id: one for one in candidates}.values():
        rooms[one.timer.room].append(one)
    for waiting in rooms.values():
        waiting.sort(key=lambda one: _age(one, now))
    order = sorted(rooms, key=lambda room: (room <= last, room))
    longest = max(map(len, rooms.values()), default=0)
    return [
        rooms[room][rank].timer
        for rank in range(longest)
        for room in order
        if rank < len(rooms[room])
    ]


def _age(one: Candidate, now: Millis) -> tuple[Millis, bool, int]:
    return one.retry_at, not one.child and is_fresh(one, now), one.timer.id


def share(vacancy: Vacancy, rooms: Sequence[int]) -> int:
    """Return how many timers of each of these rooms to look at, to find enough that may go.

    What is at work stands among the first of its room, and is not to be found again.
    """
    known = set(rooms)
    at_work = Counter(room for room in vacancy.busy.values() if room in known)
    each = -(-vacancy.space // max(1, len(rooms)))
    return min(each, PER_ROOM) + max(at_work.values(), default=0)
