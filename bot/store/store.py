"""What the bot remembers: the sync token, the rooms, the timers, and what it owes to people."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from bot.model import Bounds, Invite, Millis, RoomID, UserID
from bot.policy import Debt, Owed, Room, RoomState, Stamped, stamp
from bot.store.database import Database, Row
from bot.store.debts import Debts, owe
from bot.store.files import Files, attach
from bot.store.handled import count_once, forget_handled, remember_handled
from bot.store.keys import FIRST, HEARD, Keys, remember_opened, remember_unheard, reread
from bot.store.kin import Kin, add_timers, drop_targets
from bot.store.moments import Moments
from bot.store.standing import ASK_REVIEW, ROOM, Standing, come_back, forget_left_behind
from bot.store.successors import Successors, enter
from bot.store.sweeps import Sweeps, begin_sweep
from bot.store.timers import Timers
from bot.store.unread import Unread
from bot.timeline import Attached, Item, Message, Said, Stretch, Unheard

SWEEP_EVERY: Final = 3_600_000

SYNCED: Final = "SELECT value FROM meta WHERE key = 'token'"
SAVE_META: Final = (
    "INSERT INTO meta (key, value) VALUES (?, ?)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
ROOMS: Final = (
    "SELECT room_id, setting, encrypted, suspended, last_digest, policy_digest, review, greeting,"
    " stuck FROM rooms"
)
ENTER: Final = "INSERT OR IGNORE INTO rooms (room_id) VALUES (?)"
SAVE_STATE: Final = (
    "UPDATE rooms SET setting = ?, policy_digest = ?, commanded = ?,"
    " suspended = suspended OR ?, review = review + ? WHERE id = ?"
)
SEEN: Final = (
    "UPDATE rooms SET encrypted = encrypted OR ?, review = review + ?,"
    " last_digest = coalesce(nullif(?, ''), last_digest) WHERE id = ?"
)
REVERT: Final = "UPDATE rooms SET setting = ?, policy_digest = ?, commanded = 0 WHERE id = ?"
MOST_INVITED: Final = 1_000
"""Invitations that wait for an answer at once; it takes a moment to give one."""
INVITED: Final = (
    "INSERT INTO invites (room_id, inviter) SELECT :room, :inviter"
    " WHERE (SELECT count(*) FROM invites) < :most OR :room IN (SELECT room_id FROM invites)"
    " ON CONFLICT (room_id) DO UPDATE SET inviter = excluded.inviter, next = 0, attempts = 0"
)


class Store(Timers, Standing, Debts, Files, Moments):
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
        self._swept_at: Millis = 0

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
            return [_room(row) for row in await db.rows(ROOMS)]

    async def commit(
        self,
        token: str,
        now: Millis,
        stretches: list[Stretch],
        invited: Sequence[Invite] = (),
        left: Sequence[RoomID] = (),
    ) -> None:
        """Remember one sync as a whole: timers, changes, gaps, and the token itself."""
        async with self._db.transaction() as db:
            asked = [
                {"room": one.room_id, "inviter": one.inviter, "most": MOST_INVITED}
                for one in invited
            ]
            await db.many(INVITED, asked)
            await db.many(ASK_REVIEW, [(room_id,) for room_id in left])
            for stretch in stretches:
                await self._commit_stretch(db, stretch, now)
            await db.rows(SAVE_META, "token", token)
            await db.rows(SAVE_META, "synced_at", now)
            if now - self._swept_at >= SWEEP_EVERY:
                await forget_handled(db, now)
                await forget_left_behind(db, now)
                self._swept_at = now

    async def _commit_stretch(self, db: Database, stretch: Stretch, now: Millis) -> None:
        await db.rows(ENTER, stretch.room_id)
        room = await db.one(ROOM, stretch.room_id)
        assert room is not None
        row, segment = int(room[0]), int(room[6])
        await remember_opened(db, stretch.items)
        await db.rows(SEEN, stretch.encrypted, stretch.review, stretch.last_digest, row)
        if stretch.gap:
            segment = await self.unread.begin(db, row, stretch.gap)
            await self.unread.put(db, row, segment - 1, FIRST, stretch.found)
        if await self.unread.is_reading(db, row):
            # What a command in the gap sets counts for what follows it: wait for the gap.
            await self.unread.append(db, row, segment, stretch.items)
        else:
            await self._apply(db, row, stretch.items, now)
        if stretch.sweep:
            await begin_sweep(db, row, stretch.sweep)
        if stretch.entered:
            await db.rows("UPDATE rooms SET greeting = 1 WHERE id = ?", row)
            args = {"back": await come_back(db, row, stretch.room_id, now)}
            if not await enter(db, stretch.room_id):
                await owe(db, row, [Owed(key=f"welcome:{now}", kind="welcome", args=args)])

    async def _apply(
        self, db: Database, row: int, items: list[Item], now: Millis, *, again: bool = False
    ) -> None:
        """Stamp `items` with the room's setting as it stands, and write down what follows."""
        items = await count_once(db, items)
        if not items:
            return
        room = await db.one("SELECT setting, policy_digest, commanded FROM rooms WHERE id = ?", row)
        assert room is not None
        state = RoomState(setting=room[0], policy_digest=room[1], commanded=bool(room[2]))
        result = stamp(state, items, bounds=self._bounds, own_id=self._own_id)
        await self._write(db, row, result, now, again=again)

    async def _write(
        self, db: Database, row: int, result: Stamped, now: Millis, *, again: bool
    ) -> None:
        state = result.state
        # The verdict may be old by now: have the bot's power looked at again.
        lacks = (result.suspends, result.suspends)
        await db.rows(SAVE_STATE, state.setting, state.policy_digest, state.commanded, *lacks, row)
        await add_timers(db, row, result.timers, now, again=again)
        await attach(db, row, result.files)
        await drop_targets(db, row, result.dropped, now, verify=self.verify)
        await remember_handled(db, result.handled, result.surplus, now)
        await remember_unheard(db, row, result.unheard)
        await owe(db, row, result.owed)

    async def heard(
        self, room_id: RoomID, unheard: Unheard, then: RoomState, items: list[Item], now: Millis
    ) -> None:
        """A message that waited for its key was read, or given up: `items` are what it says.

        A lifetime that it sets counts from its own place: what followed is read once more. It
        is passed over when the room's lifetime was changed since.
        """
        async with self._db.transaction() as db:
            room = await db.one(ROOM, room_id)
            if room is None:
                return
            row = int(room[0])
            if await self.unread.is_reading(db, row):
                return  # what was said since is not known yet: wait for the gap
            await remember_opened(db, items)
            await db.rows(HEARD, row, unheard.event_id)
            said = [item for item in items if isinstance(item, Said)]
            files = [item for item in items if isinstance(item, Attached)]
            await attach(db, row, files)
            if not any(item.setting is not None for item in said):
                await self._apply(db, row, list(said), now)
            elif (room[1], room[2]) == (then.setting, then.policy_digest):
                token = await db.one(SYNCED)
                assert token is not None
                digest = self.digest(unheard.event_id)
                gap = reread(room_id, token[0], digest, unheard.at, now)
                tail = await self.unread.begin(db, row, gap)
                own = Message(event_id=unheard.event_id, sent=unheard.at)
                await self.unread.put(db, row, tail - 1, FIRST, [*said, own, *files])

    # --- rooms ---------------------------------------------------------------------------

    async def revert(self, debt: Debt, setting: int | None, digest: str, owed: Owed) -> None:
        """A commanded lifetime could not be set: the room's own state holds again.

        Nothing happens if a later command has taken the debt's place.
        """
        async with self._db.transaction() as db:
            row = await db.one("SELECT room FROM owed WHERE id = ?", debt.id)
            if row is not None:
                await db.rows(REVERT, setting, digest, row[0])
                await db.rows("DELETE FROM owed WHERE id = ?", debt.id)
                await owe(db, row[0], [owed])


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
    )
