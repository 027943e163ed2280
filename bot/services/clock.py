"""Time as the services see it, so that their tests need not wait for it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final, Protocol

from bot.core.types import Millis

LONGEST: Final[Millis] = 30_000
"""A wait is looked at again at least this often: the wall clock may have been set meanwhile."""


class Clock(Protocol):
    """Tells the time, and waits."""

    def now(self) -> Millis:
        """Return the time in milliseconds since the epoch."""
        ...

    def elapsed(self) -> Millis:
        """Return milliseconds since some moment, which no setting of the clock changes."""
        ...

    async def wait(self, wake: asyncio.Event, until: Millis | None) -> None:
        """Return once `wake` is set, or at the latest at `until`.

        It may return earlier than that; whoever waits looks at the time again. `wake` stays
        set: clear it before looking for work, so that no wake is lost between.
        """
        ...

    async def rest(self, seconds: float) -> None:
        """Let others go on in the midst of long work."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> Millis:
        """Return the wall clock's time: timers must hold across restarts."""
        return time.time_ns() // 1_000_000

    def elapsed(self) -> Millis:
        """Return the time since the machine was started, its sleep included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    async def wait(self, wake: asyncio.Event, until: Millis | None) -> None:
        """Wait for `wake` or `until`, and never longer than `LONGEST` where there is an `until`."""
        if until is None:
            await wake.wait()
            return
        left = min(until - self.now(), LONGEST)
        if left > 0:
            # Not `wait_for`: before Python 3.12 it loses a cancellation that comes with the wake.
            with suppress(TimeoutError):
                async with asyncio.timeout(left / 1000):
                    await wake.wait()

    async def rest(self, seconds: float) -> None:
        """Let others go on for so long."""
        await asyncio.sleep(seconds)
