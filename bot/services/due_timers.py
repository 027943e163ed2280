"""Finds the timers that go next: asks the store for a few of each room whose turn it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Final, Protocol

from bot.core.due import Candidate, Vacancy, in_turns, share, split
from bot.core.ports.rooms import Wakeups
from bot.core.ports.timers import DueTimers, TimersAtOnce
from bot.core.timers import Timer
from bot.core.topics import Topic
from bot.core.types import Millis

AHEAD: Final[Millis] = 1_000
"""How long before its time a timer may be looked for."""
MOST_AHEAD: Final = 16
"""So many timers are found before their time; the others when it has come."""
DEEP: Final = 8
"""How far down to look for what belongs to a message, and to that, and so on."""


class AheadStore(Wakeups, TimersAtOnce, Protocol):
    """What is asked of the store before the time."""


class Ahead:
    """Timers that fall due in a moment, found before their time.

    When it comes, nobody has to wait for the database first, which may be at work for a sync.
    """

    def __init__(self, store: AheadStore) -> None:
        self._store = store
        # A gap or a sweep says that what belongs to the messages may not all be known.
        self._changed = store.listen(
            Topic.TIMERS, Topic.ACCESS, Topic.CLOCK, Topic.GAPS, Topic.SWEEPS
        )
        self._found: list[Candidate] = []
        self._up_to: Millis = 0
        """What falls due until then was looked for."""

    async def look(self, now: Millis, first: Millis) -> None:
        """Find what falls due within `AHEAD`, unless that is known; `first` is when the first does.

        What is in the backlog is late already.
        """
        if not self._changed.is_set() and first <= self._up_to:
            return
        self._changed.clear()
        self._up_to = until = now + AHEAD
        vacancy = Vacancy(space=MOST_AHEAD, busy={}, shut=())

        async def find(timers: DueTimers) -> list[Candidate]:
            rooms = await timers.rooms_due(until, 0, MOST_AHEAD, backlog=False)
            return await _ready(timers, until, rooms, vacancy, backlog=False)

        self._found = await self._store.at_once(find)

    def take(self, now: Millis) -> list[Timer]:
        """Return those that are due now, unless something has changed since they were found."""
        found, self._found = self._found, []
        if self._changed.is_set():
            return []
        self._found = [one for one in found if one.retry_at > now]
        return in_turns([one for one in found if one.retry_at <= now], 0, now)


async def next_timers(
    store: TimersAtOnce, now: Millis, last: int, vacancy: Vacancy, *, backlog: bool
) -> AsyncIterator[list[Timer]]:
    """Give timers that may go now, in the order in which they should, some rooms at a time.

    `last` is the room that was served last. Whoever has begun enough stops asking. What it costs
    depends on how much may begin, and not on how many rooms or timers there are.
    """
    seen = set(vacancy.shut)
    # In those where something is at work, there may be nothing else.
    most = vacancy.space + len(vacancy.busy)
    while vacancy.space > 0:

        async def look(timers: DueTimers, most: int = most) -> tuple[list[int], list[Candidate]]:
            found = await timers.rooms_due(now, last, most, backlog=backlog)
            rooms = [room for room in found if room not in seen]
            return found, await _ready(timers, now, rooms, vacancy, backlog=backlog)

        found, ready = await store.at_once(look)
        if ready:
            yield in_turns(ready, last, now)
        if len(found) < most:
            return
        seen.update(found)
        most *= 4


async def _ready(
    store: DueTimers, now: Millis, rooms: list[int], vacancy: Vacancy, *, backlog: bool
) -> list[Candidate]:
    """Return timers of these rooms that may go. Each room has one that is not at work, if any."""
    ready: list[Candidate] = []
    few = share(vacancy, rooms)
    while rooms:
        candidates = await store.due(now, rooms, few, backlog=backlog)
        found = await _go_first(store, now, candidates, few)
        ready += found
        served = {one.timer.room for one in found if one.timer.id not in vacancy.busy}
        looked_at = Counter(one.timer.room for one in candidates)
        # All of these wait for what is at work. There may be others behind them.
        rooms = [room for room in rooms if room not in served and looked_at[room] == few]
        few *= 4
    return ready


async def _go_first(
    store: DueTimers, now: Millis, candidates: list[Candidate], few: int
) -> list[Candidate]:
    """Return those that may go, and in the place of others what belongs to them and goes first."""
    ready, held = split(candidates, now)
    known = {one.timer.id for one in candidates}
    for _ in range(DEEP):
        if not held:
            break
        children = await store.children_due(now, [one.timer.id for one in held], few)
        children = [one for one in children if one.timer.id not in known]
        known.update(one.timer.id for one in children)
        more, held = split(children, now)
        ready += more
    return ready
