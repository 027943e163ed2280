"""The services over a homeserver in memory, a clock that stands still, and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random

from pydantic import SecretStr

from bot.build import Service, build
from bot.config import Settings
from bot.config.settings import Commands, Invites, Lifetimes
from bot.core.due import split
from bot.core.invitations import InvitePolicy
from bot.core.lifetimes import LifetimeLimits
from bot.core.timeline import Change, Message, RoomUpdate
from bot.core.timers import Timer
from bot.core.topics import Topic
from bot.core.types import EventID, Millis, RoomID, UserID
from tests.support.fake_homeserver import ALICE, BOT, FakeClock, FakeHomeserver
from tests.support.store import Store

SECOND = 1_000
MINUTE = 60 * SECOND
DAY = 86_400_000
LIMITS = LifetimeLimits(minimum=SECOND, maximum=365 * DAY)


Opener = Callable[[Path], Awaitable[Store]]
"""Opens a store; closes it after the test, unless the test did."""


async def due_of(store: Store, now: Millis, share: int = 100, *, backlog: bool) -> list[Timer]:
    """Return up to so many timers of each room that may go, of the live ones or the backlog."""
    rooms = await store.rooms_due(now, 0, 1_000, backlog=backlog)
    ready, _ = split(await store.due(now, rooms, share, backlog=backlog), now)
    return [one.timer for one in sorted(ready, key=lambda one: (one.retry_at, one.timer.id))]


async def whatever_is_due(store: Store, now: Millis, share: int) -> list[Timer]:
    """Return what is due of both lanes, oldest first."""
    lanes = [await due_of(store, now, share, backlog=backlog) for backlog in (False, True)]
    return sorted([*lanes[0], *lanes[1]], key=lambda timer: timer.due)


class Harness:
    """Builds the services as `bot.app` does."""

    def __init__(self, path: Path, store: Store, limits: LifetimeLimits) -> None:
        self.path = path
        self.limits = limits
        self.clock = FakeClock()
        self.homeserver = FakeHomeserver(self.clock)
        self.allow: list[str] = ["@*:example.org"]
        self.invite_policy = InvitePolicy(allow=[])
        self.per_minute = 30
        self.rest_after = 60
        self.media_server: str | None = None
        """Whose files the bot may delete."""
        self._keep(store)

    @classmethod
    async def build(cls, path: Path, limits: LifetimeLimits = LIMITS) -> Harness:
        return cls(path, await Store.open(path, limits=limits, own_id=BOT), limits)

    def _keep(self, store: Store) -> None:
        """Make a new process's worth of services."""
        self.store = store
        bot = build(
            self.settings,
            self.homeserver,
            store,
            self.clock,
            Random(1),
            media_server=self.media_server,
        )
        self.services = bot
        store.timeline = bot.timeline  # what is arranged is decided as the services do
        self.reader, self.sync, self.redactor = bot.reader, bot.sync, bot.redactor
        self.backfill, self.sweeper, self.outbox = bot.backfill, bot.sweeps, bot.outbox
        self.deferred_authorization = bot.deferred_authorization
        self.relations, self.permissions = bot.relations, bot.permissions
        self.policy_check, self.invitations = bot.policy_check, bot.invitations
        self.empty_rooms, self.room_upgrades = bot.empty_rooms, bot.room_upgrades
        self.database_maintenance, self.clock_watch = bot.database_maintenance, bot.clock_watch

    @property
    def settings(self) -> Settings:
        """What was arranged, as the operator would write it."""
        invites = asdict(self.invite_policy) | {"allow": self.allow}
        limits = self.limits
        known = Settings(homeserver="http://127.0.0.1", user_id=BOT, password=SecretStr("x"))
        parts = {
            "invites": Invites.model_construct(**invites),
            "lifetime": Lifetimes.model_construct(
                min=limits.minimum, max=limits.maximum, default=limits.default
            ),
            "commands": Commands(per_minute=self.per_minute),
        }
        return known.model_copy(update=parts)

    def keep_anew(self) -> None:
        """Make the services again over the same store, with what was arranged since."""
        self._keep(self.store)

    def wake(self) -> None:
        """Have everybody look for work, as if there was news of everything."""
        self.store.publish(*(topic for topic in Topic if topic is not Topic.CLOCK))

    @property
    def everything(self) -> tuple[Service, ...]:
        bot = self.services
        return bot.sync, bot.redactor, *bot.beside

    async def restart(self, file: bytes | None = None) -> None:
        """Begin anew with nothing but the file, or with another one in its place."""
        await self.store.close()
        if file is not None:
            self.path.write_bytes(file)
        self._keep(await Store.open(self.path, limits=self.limits, own_id=BOT))

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
        change = Change(
            setting=lifetime, sender=ALICE, digest=f"set in {room_id}", unannounced=True
        )
        await self.commit(RoomUpdate(room_id=room_id, items=[change]))

    async def remember(self, room_id: RoomID, *event_ids: EventID, due: Millis) -> None:
        """Give messages timers that are due at one time."""
        await self.enter(room_id, SECOND)
        items = [Message(event_id=event_id, sent=due - SECOND) for event_id in event_ids]
        await self.commit(RoomUpdate(room_id=room_id, items=list(items)))

    async def commit(self, *updates: RoomUpdate) -> None:
        """Commit as if the homeserver had said it up to now."""
        token = f"s{self.homeserver.place}"
        await self.store.commit(token, self.clock.now(), list(updates))

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
