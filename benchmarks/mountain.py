"""The bot's services and its real database, with a mountain of overdue timers, in one process."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from math import inf
from pathlib import Path

from bot.core.outcomes import Outcome
from bot.core.types import EventID, RoomID
from bot.services.clock import SystemClock
from tests.support.fake_homeserver import BOT, FakeHomeserver
from tests.support.harness import LIMITS, Harness
from tests.support.store import Store

COST, LOOK = 0.025, 0.005
"""Seconds that a Synapse works for a redaction, and for a question, one after the other."""
DAY = 86_400_000
MADE_UP = "$made-up-"
KEPT = 300
"""How many events of the mountain's room the homeserver remembers: only the bot is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How late live messages went, in seconds, and what happened meanwhile."""

    late: list[float]
    before: float
    after: float
    """MB of memory."""
    moved: int
    """How many overdue messages were redacted."""


class Laborious(FakeHomeserver):
    """Takes its time for each request, and forgets what was long ago in the mountain's room."""

    def __init__(self, clock: SystemClock, lifetime: int) -> None:
        super().__init__(clock)  # type: ignore[arg-type]
        self._working = asyncio.Lock()
        self.mountain, self.live = self.make_room(), self.make_room()
        for room in (self.mountain, self.live):
            self.set_lifetime(room, lifetime)
        self._first = len(self.rooms[self.mountain].events)
        self.moved = 0
        self.redacted: dict[EventID, int] = {}
        """When, for messages that were really said."""

    async def redact(self, room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        async with self._working:
            await asyncio.sleep(COST)
        outcome = await super().redact(room_id, event_id, txn)
        if not event_id.startswith(MADE_UP):
            self.redacted.setdefault(event_id, self.clock.now())
        elif room_id == self.mountain:
            self.moved += 1
            room = self.rooms[room_id]
            del room.events[self._first : -KEPT], room.places[self._first : -KEPT]
            room.transactions.clear()
            self.asked.clear()
        return outcome

    async def relations(self, room_id: RoomID, event_id: EventID) -> tuple[list[EventID], bool]:
        async with self._working:
            await asyncio.sleep(LOOK)
        return await super().relations(room_id, event_id)


class TimelyHouse(Harness):
    """The services by the machine's clock."""

    def __init__(self, path: Path, homeserver: Laborious, store: Store) -> None:
        super().__init__(path, store, LIMITS)
        self.clock = SystemClock()  # type: ignore[assignment]
        self.homeserver = homeserver
        self._keep(store)

    @classmethod
    async def open(cls, path: Path, homeserver: Laborious) -> TimelyHouse:
        return cls(path, homeserver, await Store.open(path, limits=LIMITS, own_id=BOT))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Run all services; none may end."""
        tasks = [asyncio.create_task(service.run()) for service in self.everything]
        try:
            yield
            ended = [task.exception() for task in tasks if task.done()]
            assert not ended, ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.store.close()


async def trial(
    timers: int, lifetime: int, messages: int, *, backlog: bool = False, same_room: bool = False
) -> Trial:
    """Say things, two in a second, while the timers of another room, or this one, are overdue.

    `backlog`: they were overdue already when the bot read of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, homeserver = Path(folder) / "timers.db", Laborious(SystemClock(), lifetime)
        room = homeserver.mountain if same_room else homeserver.live
        harness = await TimelyHouse.open(path, homeserver)
        await harness.sync.once()
        await harness.store.close()
        pile_up(path, homeserver.mountain, timers, backlog=backlog)
        harness = await TimelyHouse.open(path, homeserver)
        sent: dict[EventID, int] = {}
        async with harness.working():
            await asyncio.sleep(2)
            before = memory()
            for number in range(messages):
                said = homeserver.clock.now()
                sent[homeserver.send(room, f"message {number}", at=said)] = said
                await asyncio.sleep(0.5)
            await asyncio.sleep(lifetime / 1000 + 3)
            after = memory()
        times = [(said, homeserver.redacted.get(event_id)) for event_id, said in sent.items()]
        late = [inf if gone is None else (gone - said - lifetime) / 1000 for said, gone in times]
        return Trial(late=late, before=before, after=after, moved=homeserver.moved)


def pile_up(path: Path, room_id: RoomID, timers: int, *, backlog: bool) -> None:
    """Put overdue timers into the database of a bot that is not running."""
    then = time.time_ns() // 1_000_000 - DAY
    with closing(sqlite3.connect(path)) as db, db:
        (row,) = db.execute("SELECT id FROM rooms WHERE room_id = ?", (room_id,)).fetchone()
        db.executemany(
            "INSERT INTO timers (room, event_id, due, retry_at, backlog) VALUES (?, ?, ?, ?, ?)",
            ((row, f"{MADE_UP}{n:034}", then + n, then + n, backlog) for n in range(timers)),
        )


def memory() -> float:
    """Return how many MB this process has."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024
