"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from typing import Any

from bot.core.types import Millis

START: Millis = 1_800_000_000_000


class FakeClock:
    """Time as the services see it. Nobody who waits goes on before `advance` or their wake."""

    def __init__(self, now: Millis = START) -> None:
        self._now = now
        self._elapsed: Millis = 0
        self._waiting: dict[asyncio.Future[None], Millis] = {}
        self.waits: list[Millis | None] = []
        """Until when the services have waited, in order."""

    def now(self) -> Millis:
        return self._now

    def elapsed(self) -> Millis:
        return self._elapsed

    def advance(self, ms: Millis) -> None:
        """Let `ms` milliseconds pass."""
        self._now += ms
        self._elapsed += ms
        for future, end in self._waiting.items():
            if end <= self._elapsed and not future.done():
                future.set_result(None)

    def jump(self, ms: Millis) -> None:
        """Set the clock forward or back; no time passes, and whoever waits does not notice."""
        self._now += ms

    async def wait(self, wake: asyncio.Event, until: Millis | None) -> None:
        """Return once `wake` is set or it is `until`; both may be so already."""
        self.waits.append(until)
        if wake.is_set() or (until is not None and until <= self._now):
            await asyncio.sleep(0)  # a turn for the others, as any wait gives
            return
        if until is None:
            await wake.wait()
            return
        woken = asyncio.ensure_future(wake.wait())
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[reached] = self._elapsed + until - self._now
        either: set[asyncio.Future[Any]] = {woken, reached}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiting[reached]
            woken.cancel()

    async def rest(self, seconds: float) -> None:
        """Give others a turn; no time passes."""
        await asyncio.sleep(0)
