"""Mends the moments in the database after the machine's clock was set back."""

from __future__ import annotations

from typing import Final

from bot.model import Millis
from bot.store.database import Database

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
LOOK_AT_TIMERS: Final = "UPDATE timers SET next = max(due, :now) WHERE next > max(due, :now)"
MOVE_GAPS: Final = (
    "UPDATE gaps SET since = min(since, :now), until = min(until, :now), stop_at = stop_at - :by"
)
READ: Final = (
    "UPDATE unread SET item = CAST(:now AS TEXT) || substr(item, instr(item || ' ', ' '))"
    " WHERE event_id IS NOT NULL AND CAST(item AS INTEGER) > :now"
)
MOVE_SWEEPS: Final = "UPDATE sweeps SET since = min(since, :now), until = min(until, :now)"
SYNCED: Final = "UPDATE meta SET value = min(value, :now) WHERE key = 'synced_at'"

WAITING: Final = (
    "UPDATE gaps SET next = :now WHERE next > :now",
    "UPDATE owed SET next = :now WHERE next > :now",
    "UPDATE invites SET next = :now WHERE next > :now",
    "UPDATE orphans SET next = :now WHERE next > :now",
    "UPDATE sweeps SET next = :now WHERE next > :now",
    "UPDATE successors SET next = :now WHERE next > :now",
    "UPDATE files SET next = :now WHERE next > :now",
)
"""What waits after a failure is tried at once."""
SINCE: Final = (
    "UPDATE unheard SET at = :now WHERE at > :now",
    "UPDATE opened SET at = :now WHERE at > :now",
    "UPDATE sessions SET used_at = :now WHERE used_at > :now",
    "UPDATE handled SET at = :now WHERE at > :now",
    "UPDATE left_behind SET at = :now WHERE at > :now",
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
            await db.rows(LOOK_AT_TIMERS, now=now)
            await db.rows(MOVE_GAPS, now=now, by=by)
            await db.rows(MOVE_SWEEPS, now=now)
            await db.rows(READ, now=now)
            await db.rows(SYNCED, now=now)
            for statement in (*WAITING, *SINCE):
                await db.rows(statement, now=now)
