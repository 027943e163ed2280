"""The services over a homeserver in memory, a clock that stands still, and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Protocol

from bot.backfill import Backfill
from bot.deciding import Deciding
from bot.departures import Departures
from bot.disputes import Disputes
from bot.due import split
from bot.housekeeping import Housekeeping
from bot.intake import Intake
from bot.invitations import Invitations
from bot.kin import Kin
from bot.model import Bounds, EventID, Guests, Millis, RoomID, Timer, UserID
from bot.reading import Reader
from bot.redactor import Redactor
from bot.rooms import Rooms
from bot.speaker import Speaker
from bot.store import Store
from bot.sweeper import Sweeper
from bot.timekeeper import Timekeeper
from bot.timeline import Change, Message, Stretch
from bot.upgrades import Upgrades
from tests.fakes import ALICE, BOT, FakeClock, FakeHomeserver

SECOND = 1_000
MINUTE = 60 * SECOND
DAY = 86_400_000
BOUNDS = Bounds(minimum=SECOND, maximum=365 * DAY)


Opener = Callable[[Path], Awaitable[Store]]
"""Opens a store; closes it after the test, unless the test did."""


async def due_of(store: Store, now: Millis, share: int = 100, *, backlog: bool) -> list[Timer]:
    """Return up to so many timers of each room that may go, of the live ones or the backlog."""
    rooms = await store.rooms_due(now, 0, 1_000, backlog=backlog)
    ready, _ = split(await store.due(now, rooms, share, backlog=backlog), now)
    return [one.timer for one in sorted(ready, key=lambda one: (one.next, one.timer.id))]


async def whatever_is_due(store: Store, now: Millis, share: int) -> list[Timer]:
    """Return what is due of both lanes, oldest first."""
    lanes = [await due_of(store, now, share, backlog=backlog) for backlog in (False, True)]
    return sorted([*lanes[0], *lanes[1]], key=lambda timer: timer.due)


class Service(Protocol):
    """Something that runs side by side with others."""

    async def run(self) -> None: ...


class Woken(Service, Protocol):
    """One that waits to be woken."""

    @property
    def wake(self) -> asyncio.Event: ...


class House:
    """Builds the services as `bot.app` does."""

    def __init__(self, path: Path, store: Store, bounds: Bounds) -> None:
        self.path = path
        self.bounds = bounds
        self.clock = FakeClock()
        self.homeserver = FakeHomeserver(self.clock)
        self.allow: list[str] = ["@*:example.org"]
        self.guests = Guests(allow=[])
        self.per_minute = 30
        self.rest_after = 60
        self.media_server: str | None = None
        """Whose files the bot may delete."""
        self._keep(store)

    @classmethod
    async def build(cls, path: Path, bounds: Bounds = BOUNDS) -> House:
        return cls(path, await Store.open(path, bounds=bounds, own_id=BOT), bounds)

    def _keep(self, store: Store) -> None:
        """Make a new process's worth of services."""
        homeserver, clock, bounds, random = self.homeserver, self.clock, self.bounds, Random(1)
        self.store = store
        self.reader = Reader(
            homeserver,
            prefix="!expire",
            bounds=bounds,
            digest=store.digest,
            media_server=self.media_server,
            per_minute=self.per_minute,
        )
        self.intake = Intake(homeserver, store, self.reader, clock, random=random, wake=self.wake)
        self.sweeper = Sweeper(
            homeserver,
            store,
            self.reader,
            clock,
            bounds=bounds,
            random=random,
            wake_others=self.wake,
        )
        self.redactor = Redactor(homeserver, store, clock, random=random, wake_rooms=self.wake)
        self.backfill = Backfill(
            homeserver, store, self.reader, clock, random=random, wake_others=self.wake
        )
        self.speaker = Speaker(
            homeserver,
            store,
            clock,
            prefix="!expire",
            bounds=bounds,
            random=random,
            load=self.redactor,
        )
        self.deciding = Deciding(
            store, self.reader.judge, clock, random=random, wake_others=self.wake
        )
        self.kin = Kin(homeserver, store, clock, random=random, wake_others=self.wake)
        self.rooms = Rooms(
            homeserver,
            store,
            clock,
            bounds=bounds,
            random=random,
            wake_others=self.wake,
        )
        self.disputes = Disputes(
            homeserver,
            store,
            clock,
            read=self.reader.state_change,
            random=random,
            wake_others=self.wake,
        )
        guests = replace(self.guests, allow=self.allow)
        self.invitations = Invitations(homeserver, store, clock, guests=guests, random=random)
        self.departures = Departures(homeserver, store, clock)
        self.housekeeping = Housekeeping(store, clock, wake_others=self.wake)
        self.upgrades = Upgrades(
            homeserver,
            store,
            clock,
            door=self.invitations,
            random=random,
            wake_others=self.wake,
        )
        self.rooms.follow = self.upgrades.reviewed
        told = (self.redactor.clock_was_set, self.wake)
        self.timekeeper = Timekeeper(clock, store, clock_was_set=told)

    def keep_anew(self) -> None:
        """Make the services again over the same store, with what was arranged since."""
        self._keep(self.store)

    def wake(self) -> None:
        for service in self.everything[1:]:
            service.wake.set()

    @property
    def everything(self) -> tuple[Intake, *tuple[Woken, ...]]:
        return (
            self.intake,
            self.redactor,
            self.backfill,
            self.speaker,
            self.deciding,
            self.rooms,
            self.kin,
            self.sweeper,
            self.disputes,
            self.invitations,
            self.departures,
            self.housekeeping,
            self.upgrades,
            self.timekeeper,
        )

    async def restart(self, file: bytes | None = None) -> None:
        """Begin anew with nothing but the file, or with another one in its place."""
        await self.store.close()
        if file is not None:
            self.path.write_bytes(file)
        self._keep(await Store.open(self.path, bounds=self.bounds, own_id=BOT))

    @asynccontextmanager
    async def running(self, *services: Service) -> AsyncIterator[None]:
        """Run services until the block ends; begin and end with all of them at rest."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(service.run()) for service in services]
            await self.rest()
            yield
            await self.rest()
            for task in tasks:
                task.cancel()

    async def rest(self) -> None:
        """Return when nobody can go on without time passing or something happening.

        Whoever works is in a transaction or has its turn in the loop soon.
        """
        lock = self.store._db._lock
        quiet = 0
        while quiet < self.rest_after:
            if lock.locked():
                quiet = 0
                async with lock:
                    pass
            await asyncio.sleep(0)  # a turn for the others; no time passes
            quiet += 1

    async def advance(self, ms: Millis) -> None:
        """Let time pass, and whoever waited for it act."""
        self.clock.advance(ms)
        await self.rest()

    # --- arranging

    async def enter(self, room_id: RoomID, lifetime: Millis | None = None) -> None:
        """Let the bot know a room and its lifetime, with nothing to say about either."""
        change = Change(setting=lifetime, sender=ALICE, digest=f"set in {room_id}", quiet=True)
        await self.commit(Stretch(room_id=room_id, items=[change]))

    async def remember(self, room_id: RoomID, *event_ids: EventID, due: Millis) -> None:
        """Give messages timers that are due at one time."""
        await self.enter(room_id, SECOND)
        items = [Message(event_id=event_id, sent=due - SECOND) for event_id in event_ids]
        await self.commit(Stretch(room_id=room_id, items=list(items)))

    async def commit(self, *stretches: Stretch) -> None:
        """Commit as if the homeserver had said it up to now."""
        token = f"s{self.homeserver.place}"
        await self.store.commit(token, self.clock.now(), list(stretches))

    async def said_in(self, room_id: RoomID, text: str, *, sender: UserID = ALICE) -> EventID:
        """Let somebody say something, and everybody react."""
        event_id = self.homeserver.send(room_id, text, sender=sender)
        await self.rest()
        return event_id

    async def pending(self, room_id: RoomID) -> int:
        return (await self.store.pending(room_id))[0]

    async def timers(self) -> dict[EventID, Millis]:
        """Return when each message is due."""
        async with self.store._db.transaction() as db:
            return dict(await db.rows("SELECT event_id, due FROM timers ORDER BY due, id"))
