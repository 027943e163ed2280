"""What the bot remembers: the sync token, the rooms, the timers, and what it is to tell people."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Final

from bot.core.default_lifetime import DefaultBegins
from bot.core.invitations import Invite
from bot.core.lifetimes import LifetimeLimits
from bot.core.outbox import Outgoing, Welcome
from bot.core.policy import Room
from bot.core.policy_forward import Decision, decide
from bot.core.timeline import Item, RoomUpdate
from bot.core.topics import Topic
from bot.core.types import Millis, RoomID, UserID
from bot.store.clock_shift import ClockShift
from bot.store.commands import Commands, remember_pending_commands
from bot.store.database import Database, Row, ask
from bot.store.default_lifetimes import (
    RoomDefaults,
    change_default,
    inherit,
    meet_default,
    note_published_defaults,
    publish_defaults,
    published_in,
)
from bot.store.gaps import Gaps
from bot.store.handled_commands import count_once, forget_handled, remember_handled
from bot.store.invitations import (
    Invitations,
    forget_never_came,
    remember_invites,
    take_inviter,
)
from bot.store.left_rooms import LeftRooms, come_back
from bot.store.media import MediaFiles, attach
from bot.store.megolm_sessions import (
    FIRST,
    MegolmSessions,
    remember_key_uses,
    remember_undecryptable,
)
from bot.store.outbox import Outbox, enqueue
from bot.store.permissions import (
    ASK_POLICY_CHECK,
    HELD_BY,
    NEWS_OF_MEMBERS,
    REMOVED,
    ROOM,
    Permissions,
)
from bot.store.relations import Relations, add_timers, drop_targets, take_back
from bot.store.rooms import ROOMS, SAVE_STATE, load_room, load_state, state_row
from bot.store.successors import Successors, enter, forget_successors
from bot.store.sweeps import Sweeps, begin_sweep
from bot.store.timers import Timers

SWEEP_EVERY: Final = 3_600_000
LOOK_AFTER: Final[Millis] = 30_000
"""How long the bot stays where it seems to be alone, before that is looked at."""

SYNCED: Final = "SELECT value FROM meta WHERE key = 'token'"
SAVE_META: Final = (
    "INSERT INTO meta (key, value) VALUES (?, ?)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
ENTER: Final = "INSERT INTO rooms (room_id) VALUES (?)"
SEEN: Final = (
    "UPDATE rooms SET encrypted = encrypted OR ?, reviews_asked = reviews_asked + ?, removed = 0,"
    " review_at = CASE WHEN ? THEN 0 ELSE review_at END,"
    " last_event_digest = coalesce(nullif(?, ''), last_event_digest) WHERE id = ?"
)


class Store(Timers, Permissions, LeftRooms, Outbox, Commands, RoomDefaults, MediaFiles, ClockShift):
    """All that is remembered, over one database. Every method is one transaction."""

    def __init__(self, database: Database, *, limits: LifetimeLimits, own_id: UserID) -> None:
        self._db = database
        self.topics = database.topics
        self._limits = limits
        self._own_id = own_id
        self.gaps = Gaps(database, self._apply)
        self.keys = MegolmSessions(database)
        self.relations = Relations(database)
        self.sweeps = Sweeps(database)
        self.successors = Successors(database)
        self.invitations = Invitations(database)
        self._swept_at: Millis = 0
        self._default_begun = False

    @classmethod
    async def open(cls, path: Path, *, limits: LifetimeLimits, own_id: UserID) -> Store:
        """Open the database at `path`; raises `StoreError`."""
        database = await Database.open(path)
        return cls(database, limits=limits, own_id=own_id)

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

    async def commit(
        self,
        token: str,
        now: Millis,
        updates: list[RoomUpdate],
        invited: Sequence[Invite] = (),
        left: Sequence[RoomID] = (),
    ) -> None:
        """Remember one sync as a whole: timers, changes, gaps, and the token itself."""

        async def work(db: Database) -> None:
            for room_id in left:
                await db.rows(REMOVED, room_id)
                await take_inviter(db, room_id)  # it was withdrawn, or declined
            # Synapse shows a room in both lists where an invitation followed within one sync.
            await remember_invites(db, invited)
            begun = self._default_begun
            changed = [] if begun else await change_default(db, self._limits.default, now)
            for update in updates:
                await self._commit_update(db, update, now)
            for row in changed:
                await self._begin_default(db, row)
            await db.rows(SAVE_META, "token", token)
            await db.rows(SAVE_META, "synced_at", now)
            if now - self._swept_at >= SWEEP_EVERY:
                await forget_handled(db, now)
                await forget_never_came(db, now)
                await forget_successors(db, now)
                self._swept_at = now

        await self._db.whole(work)
        self._default_begun = True

    async def _begin_default(self, db: Database, row: int) -> None:
        """The operator's default holds for what comes after all that was said in a room."""
        default = self._limits.default
        if await self.gaps.is_reading(db, row):
            part = await db.one("SELECT timeline_part FROM rooms WHERE id = ?", row)
            assert part is not None
            await self.gaps.append(db, row, part[0], [DefaultBegins(lifetime=default)])
        else:
            await inherit(db, row, default)
        await publish_defaults(db, row)

    async def _commit_update(self, db: Database, update: RoomUpdate, now: Millis) -> None:
        back = await come_back(db, update.room_id, now) if update.entered else 0
        room = await db.one(ROOM, update.room_id)
        if fresh := room is None:
            await db.rows(ENTER, update.room_id)
            room = await db.one(ROOM, update.room_id)
        assert room is not None
        row, part = int(room[0]), int(room[6])
        begins = await self._meet_default(db, row, update, now, fresh=fresh)
        await remember_key_uses(db, update.items)
        review = (update.review, update.review)
        await db.rows(SEEN, update.encrypted, *review, update.last_event_digest, row)
        if update.gap:
            part = await self.gaps.begin(db, row, update.gap)
            await self.gaps.put(db, row, part - 1, FIRST, update.found)
        if await self.gaps.is_reading(db, row):
            # What a command in the gap sets counts for what follows it: wait for the gap.
            await self.gaps.append(db, row, part, begins + update.items)
        else:
            await self._apply(db, row, begins + update.items, now)
        if update.sweep:
            await begin_sweep(db, row, update.sweep)
        if fresh or update.entered:
            await publish_defaults(db, row)
        if update.entered:
            await db.rows("UPDATE rooms SET just_joined = 1 WHERE id = ?", row)
            if not await enter(db, update.room_id):
                greeting = Outgoing(key=f"welcome:{now}", content=Welcome(back=back))
                await enqueue(db, row, [greeting])
        await self._welcomed(db, row, update, now)

    async def _meet_default(
        self, db: Database, row: int, update: RoomUpdate, now: Millis, *, fresh: bool
    ) -> list[Item]:
        """Note since when the operator's default holds; return what stands before the new items.

        What waits unread from an earlier time in the room has the default of that time.
        """
        default, published = self._limits.default, published_in(update.found + update.items)
        if not fresh and not update.entered:
            if published is not None:
                await note_published_defaults(db, row, published)
            return []
        await meet_default(db, row, published or (), default, now, entered=update.entered)
        if fresh:
            await inherit(db, row, default)
        return [DefaultBegins(lifetime=default)]

    async def _welcomed(self, db: Database, row: int, update: RoomUpdate, now: Millis) -> None:
        """Note who wanted the bot in the room, and whether it may be alone there."""
        inviter = await take_inviter(db, update.room_id)
        if inviter is not None:
            await db.rows(HELD_BY, self.digest(inviter), row)
        if update.check_policy:
            await db.rows(ASK_POLICY_CHECK, now, row)
        if update.alone is not None:
            await db.rows(NEWS_OF_MEMBERS, update.alone, now + LOOK_AFTER, row)

    async def _apply(
        self, db: Database, row: int, items: list[Item], now: Millis, *, reread: bool = False
    ) -> None:
        """Decide on `items` by the room's setting as it stands, and write down what follows."""
        items = await count_once(db, items)
        if not items:
            return
        state = await load_state(db, row)
        limits = await self._bounds_there(db, row)
        result = decide(state, items, limits=limits, own_id=self._own_id)
        if result.state != state or result.suspends or result.default != limits.default:
            # The verdict may be old by now: have the bot's power looked at again.
            values = (*state_row(result.state), result.default, *[result.suspends] * 2)
            await db.rows(SAVE_STATE, *values, row)
        await self._write(db, row, result, now, reread=reread)

    async def _write(
        self, db: Database, row: int, result: Decision, now: Millis, *, reread: bool
    ) -> None:
        if reread:
            await take_back(db, row, result.stays)
        await add_timers(db, row, result.timers, now, reread=reread)
        await attach(db, row, result.files)
        await drop_targets(db, row, result.dropped, now)
        await remember_handled(db, result.handled, result.surplus, now)
        await remember_undecryptable(db, row, result.undecryptable)
        await enqueue(db, row, result.outgoing)
        await remember_pending_commands(db, row, result.undecided, now)

    async def _bounds_there(self, db: Database, row: int) -> LifetimeLimits:
        """Return the bounds, with the default that holds where the room's timeline is known to."""
        found = await db.one("SELECT default_lifetime FROM rooms WHERE id = ?", row)
        assert found is not None
        return replace(self._limits, default=found[0])
