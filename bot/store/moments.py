"""Mends the moments in the database after the machine's clock was set back."""

from __future__ import annotations

from typing import Final

from bot.model import Millis
from bot.store.database import Database
from bot.store.defaults import not_in_the_future

LATEST: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'timers'"

MOVE_TIMERS: Final = (
    "UPDATE timers SET due = due - ?, next = next - ? WHERE id > ? AND id <= ? AND local"
)
MOVE_CHILDREN: Final = (
    "UPDATE timers SET due = p.due, next = min(timers.next, p.due) FROM timers AS p"
    " WHERE timers.parent IS NOT NULL AND p.room = timers.room AND p.event_id = timers.parent"
    " AND p.local AND timers.due > p.due"
)
"""What belongs to a message is due with it, or before."""
LOOK_AT_TIMERS: Final = "UPDATE timers SET next = max(due, ?1) WHERE next > max(due, ?1)"
MOVE_GAPS: Final = (
    "UPDATE gaps SET since = min(since, ?1), until = min(until, ?1), stop_at = stop_at - ?2"
)
READ: Final = (
    "UPDATE unread SET item = CAST(?1 AS TEXT) || substr(item, instr(item || ' ', ' '))"
    " WHERE event_id IS NOT NULL AND CAST(item AS INTEGER) > ?1"
)
MOVE_SWEEPS: Final = "UPDATE sweeps SET since = min(since, ?1), until = min(until, ?1)"
SYNCED: Final = "UPDATE meta SET value = min(value, ?1) WHERE key = 'synced_at'"

WAITING: Final = (
    "UPDATE gaps SET next = ?1 WHERE next > ?1",
    "UPDATE owed SET next = ?1 WHERE next > ?1",
    "UPDATE invites SET next = ?1 WHERE next > ?1",
    "UPDATE orphans SET next = ?1 WHERE next > ?1",
    "UPDATE sweeps SET next = ?1 WHERE next > ?1",
    "UPDATE successors SET next = ?1 WHERE next > ?1",
    "UPDATE files SET next = ?1 WHERE next > ?1",
)
"""What waits after a failure is tried at once."""
SINCE: Final = (
    "UPDATE unheard SET at = ?1 WHERE at > ?1",
    "UPDATE opened SET at = ?1 WHERE at > ?1",
    "UPDATE sessions SET used_at = ?1 WHERE used_at > ?1",
    "UPDATE handled SET at = ?1 WHERE at > ?1",
    "UPDATE left_behind SET at = ?1 WHERE at > ?1",
)
"""Moments from which something counts that is to happen later: none lies in the future."""


class Moments:
    """All that was computed by a clock which turned out to be ahead."""

    _db: Database

    async def latest_timer(self) -> int:
        """Return the id of the timer made last; later ones are greater."""
        async with self._db.transaction() as db:
            row = await db.one(LATEST)
        return 0 if row is None else int(row[0])

    async def clock_set_back(self, by: Millis, now: Millis, *, after: int, upto: int) -> None:
        """The clock was set back by so much, to `now`: nothing may wait longer for that.

        Timers whose ids lie after `after` and up to `upto` were made while it was ahead.
        """
        async with self._db.transaction() as db:
            await db.rows(MOVE_TIMERS, by, by, after, upto)
            await db.rows(MOVE_CHILDREN)
            await db.rows(LOOK_AT_TIMERS, now)
            await db.rows(MOVE_GAPS, now, by)
            await db.rows(MOVE_SWEEPS, now)
            await db.rows(READ, now)
            await db.rows(SYNCED, now)
            for statement in (*WAITING, *SINCE):
                await db.rows(statement, now)
            await not_in_the_future(db, now)
