"""Tells for how long the event loop is held."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Self

EVERY: Final = 0.002
"""Seconds between two looks."""


class Held:
    """Within its block: how late a timer of the event loop is, in ms; the worst, and in all."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.total = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(2 * EVERY)
        self.longest = self.total = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(2 * EVERY)
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(EVERY)
            late = (time.perf_counter() - before - EVERY) * 1000
            self.longest = max(self.longest, late)
            self.total += late
