"""Remembers which Megolm sessions were used, and which messages still wait for their key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bot.core.policy import RoomState
from bot.core.timeline import Item, KeyUse, Undecryptable
from bot.core.types import EventID, Millis, RoomID, UserID
from bot.store.database import Database, ask, run

FIRST: Final = -(2**40)
"""Before every position in a gap's part."""

ADD_KEY_USE: Final = (
    "INSERT OR IGNORE INTO key_uses (session_id, message_index, read_at) VALUES (?, ?, ?)"
)
ADD_SESSION: Final = (
    "INSERT INTO megolm_sessions (session_id, used_at) VALUES (?, ?)"
    " ON CONFLICT (session_id) DO UPDATE SET used_at = max(used_at, excluded.used_at)"
)
RATCHET: Final = (
    "SELECT session_id, max(message_index) FROM key_uses WHERE read_at <= ?"
    " GROUP BY session_id LIMIT ?"
)
RATCHETED: Final = "DELETE FROM key_uses WHERE session_id = ? AND message_index <= ?"
MOST_WAITING: Final = 500
MOST_OF_ONE: Final = 50
"""Messages of one room, and of one sender there, that wait for their keys at once."""
STILL_WAITS: Final = (
    "UPDATE undecryptable SET revision = ? WHERE room = ? AND event_id = ? RETURNING event_id"
)
CROWD: Final = "SELECT count(*), coalesce(sum(sender = ?), 0) FROM undecryptable WHERE room = ?"
WAIT: Final = (
    "INSERT INTO undecryptable (room, event_id, sender, session_id, read_at, not_a_command, sent,"
    " revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
WAITING: Final = (
    "SELECT r.room_id, u.event_id, u.sender, u.session_id, u.read_at, u.key_requested,"
    " u.not_a_command, u.sent FROM undecryptable u JOIN rooms r ON r.id = u.room WHERE NOT EXISTS"
    " (SELECT 1 FROM gaps WHERE room = r.id) ORDER BY u.id"
)
KEY_REQUESTED: Final = (
    "UPDATE undecryptable SET key_requested = 1 WHERE event_id = ?"
    " AND room = (SELECT id FROM rooms WHERE room_id = ?)"
)
HEARD: Final = "DELETE FROM undecryptable WHERE room = ? AND event_id = ? RETURNING revision"


async def remember_key_uses(db: Database, items: Sequence[Item]) -> None:
    """Note which keys were used, in the transaction that remembers what was read with them.

    Of what was read of a session at one time, the last message is noted: the key is moved past it.
    """
    last: dict[tuple[str, Millis], int] = {}
    for one in items:
        if isinstance(one, KeyUse):
            use = one.session_id, one.read_at
            last[use] = max(one.message_index, last.get(use, 0))
    uses = [(session_id, index, read_at) for (session_id, read_at), index in last.items()]
    await db.many(ADD_KEY_USE, uses)
    await db.many(ADD_SESSION, list(last))


async def remember_undecryptable(
    db: Database, row: int, found: Sequence[tuple[Undecryptable, RoomState]]
) -> None:
    """Note which messages wait for their key, and how the room stood at their place.

    Beyond the bounds they are passed over: they disappear, but are no commands.
    """
    for one, state in found:
        if await db.one(STILL_WAITS, state.revision, row, one.event_id) is not None:
            continue  # it was read once more, and something before it counts now
        crowd = await db.one(CROWD, one.sender, row)
        if crowd is not None and crowd[0] < MOST_WAITING and crowd[1] < MOST_OF_ONE:
            values = (
                row,
                one.event_id,
                one.sender,
                one.session_id,
                one.read_at,
                one.not_a_command,
                one.sent,
            )
            await db.rows(WAIT, *values, state.revision)


class MegolmSessions:
    """What is known of room keys, besides the keys themselves."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def first_key_use(self) -> Millis | None:
        """Return when the first message was read whose key is still to be moved past it."""
        row = await ask(self._db, "SELECT min(read_at) FROM key_uses")
        return None if row is None or row[0] is None else int(row[0])

    async def to_ratchet(self, before: Millis, limit: int) -> list[tuple[str, int]]:
        """Return sessions and the last message read of each before this time."""
        found = await run(self._db, RATCHET, before, limit)
        return [(str(row[0]), int(row[1])) for row in found]

    async def ratcheted(self, done: Sequence[tuple[str, int]]) -> None:
        """These sessions cannot decrypt what was read any more."""
        async with self._db.transaction() as db:
            await db.many(RATCHETED, list(done))

    async def last_used(self, known: Sequence[str], now: Millis) -> dict[str, Millis]:
        """Return when each session was used last; new ones begin to count now."""
        async with self._db.transaction() as db:
            added = "INSERT OR IGNORE INTO megolm_sessions (session_id, used_at) VALUES (?, ?)"
            await db.many(added, [(session, now) for session in known])
            found = await db.rows("SELECT session_id, used_at FROM megolm_sessions")
        return {str(row[0]): int(row[1]) for row in found}

    async def sessions_deleted(self, sessions: Sequence[str]) -> None:
        """These sessions are deleted."""
        async with self._db.transaction() as db:
            await db.many(
                "DELETE FROM megolm_sessions WHERE session_id = ?", [(one,) for one in sessions]
            )

    async def waiting(self) -> list[tuple[RoomID, Undecryptable, bool]]:
        """Return what waits for a key: where, what, and whether the key was requested."""
        found = await run(self._db, WAITING)
        return [
            (
                RoomID(row[0]),
                Undecryptable(
                    event_id=EventID(row[1]),
                    sender=UserID(row[2]),
                    session_id=row[3],
                    read_at=row[4],
                    not_a_command=bool(row[6]),
                    sent=row[7],
                ),
                bool(row[5]),
            )
            for row in found
        ]

    async def key_requested(self, room_id: RoomID, event_id: EventID) -> None:
        """The key was requested."""
        await run(self._db, KEY_REQUESTED, event_id, room_id)
