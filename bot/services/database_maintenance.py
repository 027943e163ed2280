"""Cleans the database a portion at a time, so that nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from bot.core.types import Millis
from bot.services.clock import Clock

WIPE_EVERY: Final[Millis] = 10_000
"""How often the database is looked at for deleted rows to be wiped."""


class Memory(Protocol):
    """What this service asks of the store."""

    async def any_timer(self) -> bool: ...  # noqa: D102
    async def wipe(self) -> None: ...  # noqa: D102
    async def put_in_order(self) -> bool: ...  # noqa: D102
    async def end_left(self, now: Millis) -> bool: ...  # noqa: D102
    async def next_end(self) -> Millis | None: ...  # noqa: D102


class DatabaseMaintenance:
    """Works through rooms that were left: what waits in them goes on, or has its end."""

    def __init__(self, memory: Memory, clock: Clock, *, wake_others: Callable[[], None]) -> None:
        self._memory = memory
        self._clock = clock
        self._wake_others = wake_others
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Keep order until cancelled."""
        while True:
            self.wake.clear()
            if await self._memory.put_in_order():
                while await self._memory.put_in_order():
                    pass  # who waits for the database has a turn between
                self._wake_others()
            while await self._memory.end_left(self._clock.now()):
                pass
            await self._clock.wait(self.wake, await self._memory.next_end())


async def keep_wiping(memory: Memory, clock: Clock) -> None:
    """Wipe from the disk what was deleted: soon when nothing is left to do, else now and then."""
    never = asyncio.Event()
    last = clock.elapsed()
    while True:
        await clock.wait(never, clock.now() + WIPE_EVERY)
        busy = await memory.any_timer()
        if not busy or clock.elapsed() - last >= 60 * WIPE_EVERY:
            await memory.wipe()
            last = clock.elapsed()
