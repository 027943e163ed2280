"""What the bot remembers: the sync token, the rooms, the timers, and what it is to tell people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from bot.core.policy import Room
from bot.core.topics import Topic
from bot.core.types import Millis, RoomID
from bot.store.clock_shift import ClockShift
from bot.store.commands import Commands
from bot.store.database import Database, Row, ask, run
from bot.store.default_lifetimes import (
    RoomDefaults,
)
from bot.store.gaps import Gaps
from bot.store.invitations import (
    Invitations,
)
from bot.store.left_rooms import LeftRooms
from bot.store.media import MediaFiles
from bot.store.megolm_sessions import (
    MegolmSessions,
)
from bot.store.outbox import Outbox
from bot.store.permissions import (
    Permissions,
)
from bot.store.relations import NOWHERE_ALL_SEEN, Relations
from bot.store.rooms import ROOMS, load_room
from bot.store.rows import Rows
from bot.store.successors import Successors
from bot.store.sweeps import Sweeps
from bot.store.timers import Timers

SYNCED: Final = "SELECT value FROM meta WHERE key = 'token'"

T = TypeVar("T")


class Store(Timers, Permissions, LeftRooms, Outbox, Commands, RoomDefaults, MediaFiles, ClockShift):
    """All that is remembered, over one database. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.topics = database.topics
        self.gaps = Gaps(database)
        self.keys = MegolmSessions(database)
        self.relations = Relations(database)
        self.sweeps = Sweeps(database)
        self.successors = Successors(database)
        self.invitations = Invitations(database)

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the database at `path`; raises `StoreError`."""
        database = await Database.open(path)
        return cls(database)

    def listen(self, *topics: Topic) -> asyncio.Event:
        """Return an event that is set when there is news of a topic; see `Topics.listen`."""
        return self.topics.listen(*topics)

    def publish(self, *topics: Topic) -> None:
        """Tell of what is not in the database; see `Topics.publish`."""
        self.topics.publish(*topics)

    async def close(self) -> None:
        """Leave the file without a journal."""
        await self._db.close()

    async def look_through(self) -> None:
        """Find damage that was not looked for when a large file was opened."""
        await self._db.look_through()

    async def wipe(self) -> None:
        """See that nothing deleted can still be read from the disk."""
        await self._db.wipe()

    def digest(self, text: str) -> str:
        """Return a keyed hash of an id, to recognise it without keeping it."""
        return blake2b(text.encode(), key=self._db.secret, digest_size=16).hexdigest()

    async def position(self) -> tuple[str | None, Millis]:
        """Return the sync token and when it was received (0: never)."""
        async with self._db.transaction() as db:
            token = await db.one(SYNCED)
            at = await db.one("SELECT value FROM meta WHERE key = 'synced_at'")
        return (str(token[0]) if token else None, int(at[0]) if at else 0)

    def note_synced(self, *, synced: bool) -> None:
        """Note whether a sync has shown what came up to now, or that something is missing.

        Until then what belongs to any message may not all be known.
        """
        self._db.synced = synced

    async def not_all_seen(self) -> None:
        """Something came into any room, maybe, that no sync will show.

        So what belongs to the messages that have timers by now may not all be known.
        """
        await run(self._db, NOWHERE_ALL_SEEN)

    async def room(self, room_id: RoomID) -> Room | None:
        """Return what is known of a room."""
        row = await ask(self._db, f"{ROOMS} WHERE room_id = ?", room_id)
        return None if row is None else load_room(row)

    async def rooms_of(self, room_ids: Sequence[RoomID]) -> dict[RoomID, Room]:
        """Return what is known of those of some rooms that are known."""
        if not room_ids:
            return {}

        async def work(db: Database) -> list[Row]:
            # One after the other: most often it is one.
            return [
                row for one in room_ids for row in await db.rows(f"{ROOMS} WHERE room_id = ?", one)
            ]

        found = [load_room(row) for row in await self._db.whole(work)]
        return {room.room_id: room for room in found}

    async def rooms(self) -> list[Room]:
        """Return what is known of every room."""
        async with self._db.transaction() as db:
            return [load_room(row) for row in await db.rows(f"{ROOMS} WHERE left_at IS NULL")]

    async def in_transaction(self, work: Callable[[Rows], Coroutine[Any, Any, T]]) -> T:
        """Run `work` on rows, as one transaction: committed as a whole, or not at all.

        It may await nothing but those rows. Cancelled, it is done all the same, or not at all.
        Raises `DiskError` when the disk does not take it now.
        """
        return await self._db.whole(lambda db: work(Rows(db)))
