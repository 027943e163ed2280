"""What the bot remembers: the sync token, the rooms, the timers, and what it owes to people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from bot.model import Bounds, EventID, Invite, Millis, RoomID, Timer, UserID
from bot.policy import Debt, Owed, Room, RoomState, Stamped, stamp
from bot.store.database import Database, Row
from bot.store.unread import Unread
from bot.timeline import Item, Said, Stretch

HANDLED_FOR: Final = 90 * 24 * 3_600_000
"""How long the digest of a command is kept, in ms; a homeserver repeats events within hours."""

SYNCED: Final = "SELECT value FROM meta WHERE key = 'token'"
SAVE_META: Final = (
    "INSERT INTO meta (key, value) VALUES (?, ?)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
ROOMS: Final = "SELECT room_id, setting, encrypted, suspended, last_digest FROM rooms"
ENTER: Final = "INSERT OR IGNORE INTO rooms (room_id) VALUES (?)"
ROOM: Final = (
    "SELECT id, setting, policy_digest, commanded, encrypted, suspended, segment, last_digest"
    " FROM rooms WHERE room_id = ?"
)
SAVE_STATE: Final = (
    "UPDATE rooms SET setting = ?, policy_digest = ?, commanded = ?,"
    " suspended = suspended OR ? WHERE id = ?"
)
SEEN: Final = (
    "UPDATE rooms SET encrypted = encrypted OR ?, review = review OR ?,"
    " last_digest = coalesce(nullif(?, ''), last_digest) WHERE id = ?"
)
ADD_TIMER: Final = (
    "INSERT INTO timers (room, event_id, due, next) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (room, event_id) DO NOTHING"
)
DROP_TARGET: Final = "DELETE FROM timers WHERE room = ? AND event_id = ?"
DUE: Final = (
    "SELECT t.id, r.room_id, t.event_id, t.due, t.attempts, t.generation, t.sent_at"
    " FROM rooms r JOIN timers t ON t.id IN"
    " (SELECT id FROM timers WHERE room = r.id AND next <= ? ORDER BY next LIMIT ?)"
    " WHERE NOT r.suspended ORDER BY t.next"
)
NEXT: Final = (
    "SELECT min((SELECT min(next) FROM timers WHERE room = r.id AND next > ?)) FROM rooms r"
    " WHERE NOT r.suspended"
)
HANDLED: Final = "SELECT digest FROM handled WHERE digest IN (SELECT value FROM json_each(?))"
DROP: Final = "DELETE FROM timers WHERE id = ?"
SENT: Final = "UPDATE timers SET sent_at = ?, next = ?, attempts = 0 WHERE id = ?"
UNSENT: Final = (
    "UPDATE timers SET sent_at = NULL, next = ?, generation = generation + 1 WHERE id = ?"
)
POSTPONE: Final = "UPDATE timers SET next = ?, attempts = attempts + 1 WHERE id = ?"
PENDING: Final = (
    "SELECT count(*), min(due) FROM timers JOIN rooms r ON r.id = room WHERE r.room_id = ?"
)
INVITED: Final = (
    "INSERT INTO invites (room_id, inviter) VALUES (?, ?)"
    " ON CONFLICT (room_id) DO UPDATE SET inviter = excluded.inviter, next = 0, attempts = 0"
)
OWE: Final = "INSERT OR IGNORE INTO owed (room, key, kind, args) VALUES (?, ?, ?, ?)"
SUPERSEDE: Final = "DELETE FROM owed WHERE room = ? AND kind = 'set'"
NEXT_OWED: Final = (
    "SELECT o.id, r.room_id, o.key, o.kind, o.args, o.attempts, o.next FROM rooms r"
    " JOIN owed o ON o.id = (SELECT min(id) FROM owed WHERE room = r.id) ORDER BY o.next LIMIT 1"
)
PAID: Final = "DELETE FROM owed WHERE id = ?"
OWED_LATER: Final = "UPDATE owed SET next = ?, attempts = attempts + 1 WHERE id = ?"


class Store:
    """All that is remembered, over one database. Every method is one transaction."""

    def __init__(self, database: Database, *, bounds: Bounds, own_id: UserID) -> None:
        self._db = database
        self._bounds = bounds
        self._own_id = own_id
        self.unread = Unread(database, self._apply)

    @classmethod
    async def open(cls, path: Path, *, bounds: Bounds, own_id: UserID) -> Store:
        """Open the database at `path`; raises `StoreError`."""
        return cls(await Database.open(path), bounds=bounds, own_id=own_id)

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
            await db.many(INVITED, [(one.room_id, one.inviter) for one in invited])
            await db.many("UPDATE rooms SET review = 1 WHERE room_id = ?", [(r,) for r in left])
            for stretch in stretches:
                await self._commit_stretch(db, stretch, now)
            await db.rows(SAVE_META, "token", token)
            await db.rows(SAVE_META, "synced_at", now)
            await db.rows("DELETE FROM handled WHERE at < ?", now - HANDLED_FOR)

    async def _commit_stretch(self, db: Database, stretch: Stretch, now: Millis) -> None:
        await db.rows(ENTER, stretch.room_id)
        room = await db.one(ROOM, stretch.room_id)
        assert room is not None
        row, segment = int(room[0]), int(room[6])
        await db.rows(SEEN, stretch.encrypted, stretch.review, stretch.last_digest, row)
        if stretch.gap:
            segment = await self.unread.begin(db, row, stretch.gap)
        if await self.unread.is_reading(db, row):
            # What a command in the gap sets counts for what follows it: wait for the gap.
            await self.unread.append(db, row, segment, stretch.items)
        else:
            await self._apply(db, row, stretch.items, now)
        if stretch.entered:
            await _owe(db, row, [Owed(key=f"welcome:{now}", kind="welcome", args={})])

    async def _apply(self, db: Database, row: int, items: list[Item], now: Millis) -> None:
        """Stamp `items` with the room's setting as it stands, and write down what follows."""
        items = await _count_once(db, items)
        if not items:
            return
        room = await db.one("SELECT setting, policy_digest, commanded FROM rooms WHERE id = ?", row)
        assert room is not None
        state = RoomState(setting=room[0], policy_digest=room[1], commanded=bool(room[2]))
        result = stamp(state, items, bounds=self._bounds, own_id=self._own_id)
        await self._write(db, row, result, now)

    async def _write(self, db: Database, row: int, result: Stamped, now: Millis) -> None:
        state = result.state
        await db.rows(
            SAVE_STATE, state.setting, state.policy_digest, state.commanded, result.suspends, row
        )
        await db.many(ADD_TIMER, [(row, event, due, due) for event, due in result.timers])
        await db.many(DROP_TARGET, [(row, event) for event in result.dropped])
        await db.many(
            "INSERT OR IGNORE INTO handled (digest, at) VALUES (?, ?)",
            [(digest, now) for digest in result.handled],
        )
        await _owe(db, row, result.owed)

    # --- timers --------------------------------------------------------------------------

    async def due(self, now: Millis, share: int) -> list[Timer]:
        """Return up to `share` timers of each room that may act, whose time has come."""
        async with self._db.transaction() as db:
            return [_timer(row) for row in await db.rows(DUE, now, share)]

    async def next_due(self, after: Millis) -> Millis | None:
        """Return when, after this time, the next timer of a room that may act wants something."""
        async with self._db.transaction() as db:
            row = await db.one(NEXT, after)
        return None if row is None or row[0] is None else int(row[0])

    async def sent(self, timer: Timer, now: Millis, check_at: Millis) -> None:
        """A redaction was accepted; the timer stays until it has been seen."""
        await self._run(SENT, now, check_at, timer.id)

    async def unsent(self, timer: Timer, now: Millis) -> None:
        """A redaction was accepted and did not happen: do it anew, as another request."""
        await self._run(UNSENT, now, timer.id)

    async def postpone(self, timer: Timer, until: Millis) -> None:
        """Let only this timer wait."""
        await self._run(POSTPONE, until, timer.id)

    async def drop(self, timer: Timer) -> None:
        """The message is gone for certain."""
        await self._run(DROP, timer.id)

    async def any_timer(self) -> bool:
        """Whether any message waits to be redacted."""
        async with self._db.transaction() as db:
            return await db.one("SELECT 1 FROM timers LIMIT 1") is not None

    async def pending(self, room_id: RoomID) -> tuple[int, Millis | None]:
        """Return how many timers the room has, and when the first is due."""
        async with self._db.transaction() as db:
            row = await db.one(PENDING, room_id)
        return (0, None) if row is None else (int(row[0]), row[1])

    # --- rooms ---------------------------------------------------------------------------

    async def to_review(self) -> list[RoomID]:
        """Return the rooms whose power or membership changed."""
        async with self._db.transaction() as db:
            return [
                RoomID(row[0]) for row in await db.rows("SELECT room_id FROM rooms WHERE review")
            ]

    async def ask_review(self, room_id: RoomID) -> None:
        """Have the room's state looked at."""
        await self._run("UPDATE rooms SET review = 1 WHERE room_id = ?", room_id)

    async def reviewed(self, room_id: RoomID, *, suspended: bool, owed: list[Owed]) -> None:
        """Remember what the room's state says, and what is to be said of it."""
        async with self._db.transaction() as db:
            row = await db.one(ROOM, room_id)
            if row is not None:
                sql = "UPDATE rooms SET review = 0, suspended = ? WHERE id = ?"
                await db.rows(sql, suspended, row[0])
                await _owe(db, row[0], owed)

    async def forget(self, room_id: RoomID) -> int:
        """Forget a room that the bot is no longer in; return how many timers went with it."""
        async with self._db.transaction() as db:
            row = await db.one(PENDING, room_id)
            await db.rows("DELETE FROM rooms WHERE room_id = ?", room_id)
        return int(row[0]) if row else 0

    async def revert(self, room_id: RoomID, setting: int | None, digest: str) -> None:
        """A commanded lifetime could not be set: the room's own state holds again."""
        sql = "UPDATE rooms SET setting = ?, policy_digest = ?, commanded = 0 WHERE room_id = ?"
        await self._run(sql, setting, digest, room_id)

    async def next_invite(self) -> tuple[Invite, int, Millis] | None:
        """Return the invitation to be answered next, how often it was tried, and when to try."""
        async with self._db.transaction() as db:
            row = await db.one(
                "SELECT room_id, inviter, attempts, next FROM invites ORDER BY next LIMIT 1"
            )
        if row is None:
            return None
        inviter = None if row[1] is None else UserID(row[1])
        return Invite(room_id=RoomID(row[0]), inviter=inviter), row[2], row[3]

    async def answered(self, invite: Invite) -> None:
        """The invitation was accepted or declined."""
        await self._run("DELETE FROM invites WHERE room_id = ?", invite.room_id)

    async def invite_later(self, invite: Invite, until: Millis) -> None:
        """The invitation could not be answered now."""
        sql = "UPDATE invites SET next = ?, attempts = attempts + 1 WHERE room_id = ?"
        await self._run(sql, until, invite.room_id)

    # --- what is owed to people ----------------------------------------------------------

    async def next_debt(self) -> Debt | None:
        """Return the debt to be paid first: of each room the oldest, whichever is ready."""
        async with self._db.transaction() as db:
            row = await db.one(NEXT_OWED)
        if row is None:
            return None
        return Debt(
            id=row[0],
            room_id=RoomID(row[1]),
            key=row[2],
            kind=row[3],
            args=json.loads(row[4]),
            attempts=row[5],
            next=row[6],
        )

    async def paid(self, debt: Debt, *followed_by: Owed) -> None:
        """The debt is paid; what follows from it is owed in the same transaction."""
        async with self._db.transaction() as db:
            row = await db.one(ROOM, debt.room_id)
            await db.rows(PAID, debt.id)
            if row is not None:
                await _owe(db, row[0], list(followed_by))

    async def owed_later(self, debt: Debt, until: Millis) -> None:
        """The debt could not be paid now."""
        await self._run(OWED_LATER, until, debt.id)

    async def _run(self, sql: str, *args: Any) -> None:
        async with self._db.transaction() as db:
            await db.rows(sql, *args)


async def _count_once(db: Database, items: list[Item]) -> list[Item]:
    """Leave out the commands that were counted before, in this stretch or an earlier one."""
    said = json.dumps([item.digest for item in items if isinstance(item, Said)])
    seen = {str(row[0]) for row in await db.rows(HANDLED, said)} if said != "[]" else set()
    fresh: list[Item] = []
    for item in items:
        if isinstance(item, Said):
            if item.digest in seen:
                continue
            seen.add(item.digest)
        fresh.append(item)
    return fresh


async def _owe(db: Database, row: int, owed: list[Owed]) -> None:
    if any(one.kind == "set" for one in owed):
        await db.rows(SUPERSEDE, row)  # a later command took its place
    await db.many(OWE, [(row, one.key, one.kind, json.dumps(asdict(one)["args"])) for one in owed])


def _timer(row: Row) -> Timer:
    return Timer(
        id=row[0],
        room_id=RoomID(row[1]),
        event_id=EventID(row[2]),
        due=row[3],
        attempts=row[4],
        generation=row[5],
        sent_at=row[6],
    )


def _room(row: Row) -> Room:
    return Room(
        room_id=RoomID(row[0]),
        setting=row[1],
        encrypted=bool(row[2]),
        suspended=bool(row[3]),
        last_digest=row[4],
    )
