"""Notices when the machine's clock is set, and corrects the times that were computed by it."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from bot.core.durations import SECOND, words
from bot.core.ports.rooms import Wakeups
from bot.core.ports.timers import ClockStore
from bot.core.topics import Topic
from bot.core.types import Millis
from bot.services.clock import Clock

log = logging.getLogger(__name__)

LOOK_EVERY: Final[Millis] = 30_000
NOTICED: Final[Millis] = 2_000
"""Clocks are corrected by less all the time, and nobody notices."""


class WatchStore(Wakeups, ClockStore, Protocol):
    """What this service asks of the store."""


class ClockWatch:
    """Compares the wall clock with one that nobody sets.

    Set back, the clock makes all that waits for a moment wait longer: it is looked at anew, and
    timers made while the clock was ahead are moved back with it. Set forward, it moves nothing:
    the messages of a machine that stood still did get old.
    """

    def __init__(self, clock: Clock, store: WatchStore) -> None:
        self._clock = clock
        self._store = store
        self._wall = clock.now()
        self._elapsed = clock.elapsed()
        self._mark: int | None = None
        """The last timer that the clock before this one may have made."""
        self._seen = 0
        """The last timer that there was at the last look."""
        self._wake = store.listen(Topic.TIMERS)

    async def run(self) -> None:
        """Look at the clocks until cancelled: whenever something was read, and now and then."""
        while True:
            self._wake.clear()
            await self.look()
            await self._clock.wait(self._wake, self._clock.now() + LOOK_EVERY)

    async def look(self) -> None:
        """Mend what there is to mend, if the clock was set since the last look."""
        wall, elapsed = self._clock.now(), self._clock.elapsed()
        jump = (wall - self._wall) - (elapsed - self._elapsed)
        latest = self._store.latest_timer
        if self._mark is None:  # the first look: what is older was made by another process
            self._mark = self._seen = latest
        if jump >= NOTICED:
            log.warning("the clock was set forward by %s", _length(jump))
            self._mark = self._seen
        elif jump <= -NOTICED:
            log.warning("the clock was set back by %s", _length(-jump))
            # What came since the last look was made by the new clock.
            await self._store.clock_set_back(-jump, wall, after=self._mark, upto=self._seen)
        self._wall, self._elapsed, self._seen = wall, elapsed, latest
        if abs(jump) >= NOTICED:
            self._store.publish(Topic.CLOCK)


def _length(jump: Millis) -> str:
    return words(max(1, round(jump / SECOND)) * SECOND)
