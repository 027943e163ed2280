"""Cleans the database a portion at a time, so that nobody waits for it."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from bot.core.ports.rooms import Wakeups
from bot.core.ports.timers import Disk, LeftRoomStore, RelationStore, TimerStore
from bot.core.topics import Topic
from bot.core.types import Millis
from bot.services.clock import Clock

WIPE_EVERY: Final[Millis] = 10_000
"""How long deleted rows wait to be wiped together."""
WHILE_BUSY: Final[Millis] = 5 * 60_000
"""How often they are wiped while timers wait. What one round has missed, because SQLite moved it
meanwhile, the next one finds: nothing stays for more than ten minutes."""


class MaintenanceStore(Wakeups, TimerStore, LeftRoomStore, Disk, Protocol):
    """What this service asks of the store."""

    @property
    def relations(self) -> RelationStore:
        """What belongs to messages."""


class DatabaseMaintenance:
    """Does what would take too long at once: in rooms that were left, and where much is due."""

    def __init__(self, store: MaintenanceStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._wake = store.listen(Topic.ACCESS, Topic.RELATED)

    async def run(self) -> None:
        """Keep order until cancelled."""
        while True:
            self._wake.clear()
            for portion in (self._store.relations.make_due, self._store.put_in_order):
                while await portion():
                    pass  # who waits for the database has a turn between
            while await self._store.delete_expired_room(self._clock.now()):
                pass
            await self._clock.wait(self._wake, await self._store.next_expiry())


async def keep_wiping(store: MaintenanceStore, clock: Clock) -> None:
    """Wipe from the disk what was deleted: soon when nothing is left to do, else now and then."""
    deleted, never = store.listen(Topic.DELETED), asyncio.Event()
    deleted.set()  # another process may have left something
    last = clock.elapsed()
    await store.look_through()
    while True:
        await deleted.wait()
        await clock.wait(never, clock.now() + WIPE_EVERY)
        busy = await store.any_timer()
        if not busy or clock.elapsed() - last >= WHILE_BUSY:
            deleted.clear()
            await store.wipe()
            last = clock.elapsed()
