"""What the bot remembers: the sync token, the rooms, the timers, and what it owes to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Final

from bot.defaults import DefaultBegins
from bot.model import Bounds, Invite, Millis, RoomID, UserID
from bot.policy import Owed, Room, RoomState
from bot.store.commands import Commands, remember_undecided
from bot.store.database import Database, Row
from bot.store.debts import Debts, owe
from bot.store.defaults import (
    RoomDefaults,
    change_default,
    default_said,
    inherit,
    load_defaults,
    meet_default,
    owe_default,
    told_default,
)
from bot.store.files import Files, attach
from bot.store.handled import count_once, forget_handled, remember_handled
from bot.store.invitations import (
    Invitations,
    forget_never_came,
    remember_invites,
    take_inviter,
)
from bot.store.keys import FIRST, Keys, remember_opened, remember_unheard
from bot.store.kin import Kin, add_timers, drop_targets, take_back
from bot.store.left_rooms import LeftRooms, come_back
from bot.store.moments import Moments
from bot.store.standing import DISPUTED, HELD_BY, NEWS_OF_MEMBERS, REMOVED, ROOM, Standing
from bot.store.successors import Successors, enter, forget_successors
from bot.store.sweeps import Sweeps, begin_sweep
from bot.store.timers import Timers
from bot.store.unread import Unread
from bot.timeline import Item, Stretch
from bot.walk import Stamped, stamp

SWEEP_EVERY: Final = 3_600_000
LOOK_AFTER: Final[Millis] = 30_000
"""How long the bot stays where it seems to be alone, before that is looked at."""

SYNCED: Final = "SELECT value FROM meta WHERE key = 'token'"
SAVE_META: Final = (
    "INSERT INTO meta (key, value) VALUES (?, ?)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
ROOMS: Final = (
    "SELECT room_id, setting, encrypted, suspended, last_digest, policy_digest, review, greeting,"
    " stuck, removed, stated, commanded, defaults, told_defaults,"
    " revision FROM rooms"
)
ENTER: Final = "INSERT INTO rooms (room_id) VALUES (?)"
STATE: Final = (
    "SELECT setting, stated, policy_digest, commanded, awaits, revision, encrypted_here FROM rooms"
    " WHERE id = ?"
)
SAVE_STATE: Final = (
    "UPDATE rooms SET setting = ?, stated = ?, policy_digest = ?, commanded = ?, awaits = ?,"
    " revision = ?, encrypted_here = ?, encrypted = encrypted OR ?, inherited = ?,"
    " suspended = suspended OR ?, review = review + ? WHERE id = ?"
)
SEEN: Final = (
    "UPDATE rooms SET encrypted = encrypted OR ?, review = review + ?, removed = 0,"
    " review_at = CASE WHEN ? THEN 0 ELSE review_at END,"
    " last_digest = coalesce(nullif(?, ''), last_digest) WHERE id = ?"
)


class Store(Timers, Standing, LeftRooms, Debts, Commands, RoomDefaults, Files, Moments):
    """All that is remembered, over one database. Every method is one transaction."""

    def __init__(
        self, database: Database, *, bounds: Bounds, own_id: UserID, verify: bool = False
    ) -> None:
        self._db = database
        self.verify = verify
        self._bounds = bounds
        self._own_id = own_id
        self.unread = Unread(database, self._apply)
        self.keys = Keys(database)
        self.kin = Kin(database)
        self.sweeps = Sweeps(database)
        self.successors = Successors(database)
        self.invitations = Invitations(database)
        self._swept_at: Millis = 0
        self._default_begun = False

    @classmethod
    async def open(
        cls, path: Path, *, bounds: Bounds, own_id: UserID, verify: bool = False
    ) -> Store:
        """Open the database at `path`; raises `StoreError`.

        `verify`: have a sample of what was redacted read back before it is done.
        """
        database = await Database.open(path)
        return cls(database, bounds=bounds, own_id=own_id, verify=verify)

    async def close(self) -> None:
        """Leave the file without a journal."""
        await self._db.close()

    async def look_through(self) -> None:
        """Find damage that was not looked for when a large file was opened."""
        await self._db.look_through()

    async def tidy(self) -> None:
        """See that nothing deleted can still be read from the disk."""
        await self._db.tidy()

    def digest(self, text: str) -> str:
        """Return a keyed hash of an id, to recognise it without keeping it."""
        return blake2b(text.encode(), key=self._db.secret, digest_size=16).hexdigest()

    # --- reading the timeline ------------------------------------------------------------

    async def position(self) -> tuple[str | None, Millis]:
        """Return the sync token and when it was received (0: never)."""
        async with self._db.transaction() as db:
            token = await db.one(SYNCED)
            at = await db.one("SELECT value FROM meta WHERE key = 'synced_at'")
        return (str(token[0]) if token else None, int(at[0]) if at else 0)

    async def room(self, room_id: RoomID) -> Room | None:
        """Return what is known of a room."""
        async with self._db.transaction() as db:
            row = await db.one(f"{ROOMS} WHERE room_id = ?", room_id)
        return None if row is None else _room(row)

    async def rooms(self) -> list[Room]:
        """Return what is known of every room."""
        async with self._db.transaction() as db:
            return [_room(row) for row in await db.rows(f"{ROOMS} WHERE left_at IS NULL")]

    async def commit(
        self,
        token: str,
        now: Millis,
        stretches: list[Stretch],
        invited: Sequence[Invite] = (),
        left: Sequence[RoomID] = (),
    ) -> None:
        """Remember one sync as a whole: timers, changes, gaps, and the token itself."""

        async def work(db: Database) -> None:
            await remember_invites(db, invited)
            for room_id in left:
                await db.rows(REMOVED, room_id)
                await take_inviter(db, room_id)  # it was withdrawn, or declined
            begun = self._default_begun
            changed = [] if begun else await change_default(db, self._bounds.default, now)
            for stretch in stretches:
                await self._commit_stretch(db, stretch, now)
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
        default = self._bounds.default
        if await self.unread.is_reading(db, row):
            segment = await db.one("SELECT segment FROM rooms WHERE id = ?", row)
            assert segment is not None
            await self.unread.append(db, row, segment[0], [DefaultBegins(lifetime=default)])
        else:
            await inherit(db, row, default)
        await owe_default(db, row)

    async def _commit_stretch(self, db: Database, stretch: Stretch, now: Millis) -> None:
        back = await come_back(db, stretch.room_id, now) if stretch.entered else 0
        room = await db.one(ROOM, stretch.room_id)
        fresh = room is None
        if room is None:
            await db.rows(ENTER, stretch.room_id)
            room = await db.one(ROOM, stretch.room_id)
        assert room is not None
        row, segment = int(room[0]), int(room[6])
        begins = await self._meet_default(db, row, stretch, now, fresh=fresh)
        await remember_opened(db, stretch.items)
        review = (stretch.review, stretch.review)
        await db.rows(SEEN, stretch.encrypted, *review, stretch.last_digest, row)
        if stretch.gap:
            segment = await self.unread.begin(db, row, stretch.gap)
            await self.unread.put(db, row, segment - 1, FIRST, stretch.found)
        if await self.unread.is_reading(db, row):
            # What a command in the gap sets counts for what follows it: wait for the gap.
            await self.unread.append(db, row, segment, begins + stretch.items)
        else:
            await self._apply(db, row, begins + stretch.items, now)
        if stretch.sweep:
            await begin_sweep(db, row, stretch.sweep)
        if fresh or stretch.entered:
            await owe_default(db, row)
        if stretch.entered:
            await db.rows("UPDATE rooms SET greeting = 1 WHERE id = ?", row)
            if not await enter(db, stretch.room_id):
                args = {"back": back}
                await owe(db, row, [Owed(key=f"welcome:{now}", kind="welcome", args=args)])
        await self._welcomed(db, row, stretch, now)

    async def _meet_default(
        self, db: Database, row: int, stretch: Stretch, now: Millis, *, fresh: bool
    ) -> list[Item]:
        """Note since when the operator's default holds; return what stands before the new items.

        What waits unread from an earlier time in the room has the default of that time.
        """
        default, said = self._bounds.default, default_said(stretch.found + stretch.items)
        if not fresh and not stretch.entered:
            if said is not None:
                await told_default(db, row, said)
            return []
        await meet_default(db, row, said or (), default, now, entered=stretch.entered)
        if fresh:
            await inherit(db, row, default)
        return [DefaultBegins(lifetime=default)]

    async def _welcomed(self, db: Database, row: int, stretch: Stretch, now: Millis) -> None:
        """Note who wanted the bot in the room, and whether it may be alone there."""
        inviter = await take_inviter(db, stretch.room_id)
        if inviter is not None:
            await db.rows(HELD_BY, self.digest(inviter), row)
        if stretch.disputed:
            await db.rows(DISPUTED, now, row)
        if stretch.alone is not None:
            await db.rows(NEWS_OF_MEMBERS, stretch.alone, now + LOOK_AFTER, row)

    async def _apply(
        self, db: Database, row: int, items: list[Item], now: Millis, *, again: bool = False
    ) -> None:
        """Stamp `items` with the room's setting as it stands, and write down what follows."""
        items = await count_once(db, items)
        if not items:
            return
        state = await self._state(db, row)
        bounds = await self._bounds_there(db, row)
        result = stamp(state, items, bounds=bounds, own_id=self._own_id)
        if result.state != state or result.suspends or result.default != bounds.default:
            # The verdict may be old by now: have the bot's power looked at again.
            lacks = (result.suspends, result.suspends)
            await db.rows(SAVE_STATE, *_state_row(result.state), result.default, *lacks, row)
        await self._write(db, row, result, now, again=again)

    async def _write(
        self, db: Database, row: int, result: Stamped, now: Millis, *, again: bool
    ) -> None:
        if again:
            await take_back(db, row, result.stays)
        await add_timers(db, row, result.timers, now, again=again)
        await attach(db, row, result.files)
        await drop_targets(db, row, result.dropped, now, verify=self.verify)
        await remember_handled(db, result.handled, result.surplus, now)
        await remember_unheard(db, row, result.unheard)
        await owe(db, row, result.owed)
        await remember_undecided(db, row, result.undecided, now)

    async def _bounds_there(self, db: Database, row: int) -> Bounds:
        """Return the bounds, with the default that holds where the room's timeline is known to."""
        found = await db.one("SELECT inherited FROM rooms WHERE id = ?", row)
        assert found is not None
        return replace(self._bounds, default=found[0])

    async def _state(self, db: Database, row: int) -> RoomState:
        """Return how the room stands where its timeline is known up to."""
        found = await db.one(STATE, row)
        assert found is not None
        return RoomState(
            setting=found[0],
            stated=found[1],
            policy_digest=found[2],
            commanded=bool(found[3]),
            awaits=found[4],
            revision=found[5],
            encrypted=bool(found[6]),
        )


def _state_row(state: RoomState) -> Row:
    """Return the state as `SAVE_STATE` takes it; encryption that was met is known from then on."""
    policy = (state.setting, state.stated, state.policy_digest)
    command = (state.commanded, state.awaits, state.revision)
    return *policy, *command, state.encrypted, state.encrypted


def _room(row: Row) -> Room:
    return Room(
        room_id=RoomID(row[0]),
        setting=row[1],
        encrypted=bool(row[2]),
        suspended=bool(row[3]),
        last_digest=row[4],
        policy_digest=row[5],
        reviews=row[6],
        greeting=bool(row[7]),
        stuck=bool(row[8]),
        removed=bool(row[9]),
        stated=row[10],
        commanded=bool(row[11]),
        defaults=load_defaults(row[12]),
        told_defaults=load_defaults(row[13]),
        revision=row[14],
    )
