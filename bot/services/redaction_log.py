"""Says in the log what was redacted, and when a rate limit lets through less than is due."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from bot.core.throughput import Behind, Tally, Throughput, behind
from bot.core.types import Millis

log = logging.getLogger(__name__)

COUNT_EVERY: Final[Millis] = 10_000
SUMMARY_EVERY: Final[Millis] = 60_000


class OverdueTimers(Protocol):
    """What is asked of the store."""

    async def overdue(self, now: Millis) -> int: ...  # noqa: D102


class RedactionLog:
    """Counts what is redacted; it never says which messages these are."""

    def __init__(self, store: OverdueTimers, pace: Throughput) -> None:
        self._store = store
        self._pace = pace
        self.tally = Tally()
        self.behind: Behind | None = None
        """While the homeserver lets through less than is due: how much."""
        self.counted_at: Millis = 0

    def redacted(self, *, late: Millis) -> None:
        """A redaction was accepted, so many milliseconds after its time."""
        self.tally.redacted += 1
        self.tally.worst = max(self.tally.worst, late)

    def clock_was_set(self, now: Millis) -> None:
        """Nothing waits for a time of the old clock."""
        self.counted_at = 0
        self.tally.since = min(self.tally.since, now)

    async def say(self, now: Millis) -> None:
        """Say what there is to say, if it is time for it."""
        self._summarise(now)
        await self._compare(now)

    async def _compare(self, now: Millis) -> None:
        """Find out whether more is due than the homeserver lets through; say so once."""
        if now - self.counted_at < COUNT_EVERY:
            return
        self.counted_at, interval = now, self._pace.interval(now)
        if self.behind is None and not interval:
            return
        late = await self._store.overdue(now)
        before, self.behind = self.behind, behind(self.behind, late, interval)
        if self.behind is not None and before is None:
            log.warning("%s", self.behind)
        elif self.behind is None and before is not None:
            log.info("what was due is caught up with" if not late else "no rate limit holds now")

    def _summarise(self, now: Millis) -> None:
        """Say what was done, in counts only, once a minute at most."""
        tally = self.tally
        if tally.redacted + tally.waited == 0 or now - tally.since < SUMMARY_EVERY:
            return
        log.info("%s", tally)
        self.tally = Tally(since=now)
