"""Decides how to ask again for a page of a room's history that the homeserver did not give."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from bot.core.outcomes import Failed, Outcome, RateLimited, Unreachable
from bot.core.ports.homeserver import Account
from bot.core.retry import PAUSE_CEILING, backoff, retry_in
from bot.core.types import Millis
from bot.services.clock import Clock

AWAY: Final = "the homeserver is away"
"""Why a page is put off that is not to blame for it."""
SMALLEST: Final = 10
"""Events of the smallest page that is asked for."""
AT_EACH_SIZE: Final = 2
"""Failures in a row after which a smaller page is asked for: one may be chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How a page is asked for next."""

    at: Millis
    size: int
    counts: bool
    """Whether the page is to blame: some day it is given up for that."""


class HistoryPages:
    """Tells a page that does not come from a homeserver that is away, in which nothing counts."""

    def __init__(self, homeserver: Account, clock: Clock, *, random: Random) -> None:
        self._homeserver = homeserver
        self._clock = clock
        self._random = random
        self._rests_until: Millis = 0
        """By `clock.elapsed()`, which nobody sets."""
        self._failures = 0

    @property
    def away_until(self) -> Millis | None:
        """Until when no page is asked for, since the homeserver answers nothing; `None`: now."""
        left = self._rests_until - self._clock.elapsed()
        return self._clock.now() + left if left > 0 else None

    async def again(
        self, outcome: Outcome, *, attempts: int, size: int, ceiling: Millis = PAUSE_CEILING
    ) -> Again:
        """Return how to go on after a failure, and `attempts` before it."""
        chance = self._random.random()
        if isinstance(outcome, Unreachable | Failed) and not await self._homeserver.answers():
            return Again(at=self._rest(chance), size=size, counts=False)
        self._failures = 0
        wait = retry_in(outcome, attempts, chance=chance, ceiling=ceiling)
        if isinstance(outcome, Unreachable | Failed) and attempts % AT_EACH_SIZE == 1:
            size = max(SMALLEST, size // 10)
        counts = not isinstance(outcome, RateLimited)
        return Again(at=self._clock.now() + wait, size=size, counts=counts)

    def _rest(self, chance: float) -> Millis:
        """Ask for no page for a while, longer each time; return until when."""
        if self.away_until is None:  # of those that failed together, one counts
            wait = backoff(self._failures, ceiling=PAUSE_CEILING, chance=chance)
            self._rests_until = self._clock.elapsed() + wait
            self._failures += 1
        return self.away_until or self._clock.now()
