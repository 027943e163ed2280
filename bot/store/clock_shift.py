"""Corrects the times in the database after the machine's clock was set back."""

from __future__ import annotations

from typing import Final

from bot.core.types import Millis
from bot.store.database import Database
from bot.store.default_lifetimes import not_in_the_future

PORTION: Final = 1_000
"""Timers that one transaction looks at, so that others have their turn."""
UP_TO: Final = (
    "SELECT max(id) FROM (SELECT id FROM timers WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)"
)
MOVE_TIMERS: Final = (
    "UPDATE timers SET due = due - ?, retry_at = retry_at - ? WHERE id > ? AND id <= ?"
    " AND from_local_clock"
)
MOVE_CHILDREN: Final = (
    "UPDATE timers SET due = p.due, retry_at = min(timers.retry_at, p.due) FROM timers AS p"
    " WHERE p.id > ? AND p.id <= ? AND p.from_local_clock AND timers.room = p.room"
    " AND timers.parent = p.event_id AND timers.due > p.due"
)
"""What belongs to a message is due with it, or before."""
LOOK_AT_TIMERS: Final = (
    "UPDATE timers SET retry_at = max(due, :now) WHERE id IN"
    " (SELECT id FROM timers WHERE retry_at > due AND retry_at > :now LIMIT :most) RETURNING 1"
)
"""Only what was put off waits for longer than until it is due."""
NEARER: Final = "UPDATE gaps SET stop_at = stop_at - ?"
"""A gap ends at a moment that was computed before the clock was set back, and lies behind it."""
SYNCED: Final = "UPDATE meta SET value = min(value, ?) WHERE key = 'synced_at'"
TIMES: Final = (
    "SELECT t.name, c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c"
    " WHERE t.type = 'table' AND t.name <> 'timers'"
    " AND (c.name GLOB '*_at' OR c.name IN ('since', 'until', 'sent'))"
)
"""All times but those of the timers: nothing has begun in the future, or waits for the old time."""


class ClockShift:
    """All that was computed by a clock which turned out to be ahead."""

    _db: Database

    @property
    def latest_timer(self) -> int:
        """The id of the timer made last; later ones are greater."""
        return self._db.latest_timer

    async def clock_set_back(self, by: Millis, now: Millis, *, after: int, upto: int) -> None:
        """The clock was set back by so much, to `now`: nothing may wait longer for that.

        Timers whose ids lie after `after` and up to `upto` were made while it was ahead.
        """
        await self._in_portions(after, upto, MOVE_TIMERS, by, by)
        await self._in_portions(after, upto, MOVE_CHILDREN)
        put_off = {"now": now, "most": PORTION}
        while await self._db.whole(lambda db: db.rows(LOOK_AT_TIMERS, **put_off)):
            pass  # who waits for the database has a turn between
        async with self._db.transaction() as db:
            await db.rows(NEARER, by)
            await db.rows(SYNCED, now)
            for table, time in await db.rows(TIMES):
                not_later = f"UPDATE {table} SET {time} = ? WHERE {time} > ?"  # noqa: S608
                await db.rows(not_later, now, now)
            await not_in_the_future(db, now)

    async def _in_portions(self, after: int, upto: int, sql: str, *before: Millis) -> None:
        """Run a statement over the timers after one id and up to another.

        `before` are its arguments before the ids that bound a portion.
        """
        while True:
            async with self._db.transaction() as db:
                row = await db.one(UP_TO, after, upto, PORTION)
                if row is None or row[0] is None:
                    return
                await db.rows(sql, *before, after, int(row[0]))
            after = int(row[0])
