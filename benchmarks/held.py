"""Tells for how long the event loop is held."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Final, Self

EVERY: Final = 0.002
"""Seconds between two looks."""


class Held:
    """Within its block: how late a timer of the event loop is, in ms; the worst, and in all.

    What the thread waits for a processor that others use does not count, where the system tells.
    """

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
        told = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        try:
            while True:
                before = time.perf_counter() - _waited(told)
                await asyncio.sleep(EVERY)
                late = (time.perf_counter() - _waited(told) - before - EVERY) * 1000
                self.longest = max(self.longest, late)
                self.total += max(0.0, late)
        finally:
            os.close(told)


def _waited(told: int) -> float:
    """Return the seconds that a thread could have run, and others did.

    https://docs.kernel.org/scheduler/sched-stats.html
    """
    return int(os.pread(told, 100, 0).split()[1]) / 1e9
