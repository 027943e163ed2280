"""Remembers the timers: one row a pending redaction, in the order in which they are due."""

from __future__ import annotations

from typing import Final

from bot.core.timers import MANY, Timer
from bot.core.types import EventID, Millis, RoomID
from bot.store.database import Database, Row, run

PATIENCE: Final[Millis] = 10_000
"""How long a message waits for all that belongs to it: somebody may add to that for ever."""
FEW: Final = 5
"""So many that belong to a message, and did before its time, go first however late it is."""

DUE: Final = (
    "SELECT t.id, r.room_id, t.event_id, t.due, t.attempts, t.generation, t.sent_at, t.looked,"
    " t.refused IS NOT NULL"
    " FROM rooms r JOIN timers t ON t.id IN"
    " (SELECT id FROM timers AS f WHERE room = r.id AND backlog = :backlog AND next <= :now"
    # Children first, as far as a first try goes; `id`: nothing waits for what came before it.
    " AND (sent_at IS NOT NULL OR (SELECT count(*) FROM (SELECT 1 FROM timers AS c"
    " WHERE c.room = f.room AND c.parent = f.event_id AND c.id > f.id AND c.sent_at IS NULL"
    " AND c.attempts = 0 AND c.next <= :now AND (f.next > :patient OR c.next <= f.next)"
    " LIMIT :few + 1)) NOT BETWEEN 1 AND :few + (next > :patient))"
    " ORDER BY next, parent IS NULL AND next > :patient, id LIMIT :share)"
    " WHERE NOT r.suspended AND NOT r.came_back"
    " ORDER BY t.next, t.parent IS NULL AND t.next > :patient, t.id"
)
NEXT: Final = (
    "SELECT min(min(coalesce((SELECT min(next) FROM timers WHERE room = r.id AND backlog = 0"
    " AND next > :after), 1 << 62), coalesce((SELECT min(next) FROM timers WHERE room = r.id"
    " AND backlog = 1 AND next > :after), 1 << 62))) FROM rooms r"
    " WHERE NOT r.suspended AND NOT r.came_back"
)
OVERDUE: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM rooms r CROSS JOIN timers t ON t.room = r.id"
    " AND t.backlog IN (0, 1) AND t.next <= ? WHERE NOT r.suspended AND t.sent_at IS NULL LIMIT ?)"
)
DROP: Final = "DELETE FROM timers WHERE id = ?"
SENT: Final = "UPDATE timers SET sent_at = ?, next = ?, attempts = 0 WHERE id = ?"
UNSENT: Final = (
    "UPDATE timers SET sent_at = NULL, next = max(due, ?), generation = generation + 1 WHERE id = ?"
)
POSTPONE: Final = "UPDATE timers SET next = ?, attempts = attempts + 1 WHERE id = ?"
REFUSED: Final = "UPDATE timers SET next = ?, attempts = attempts + 1, refused = ? WHERE id = ?"
OLDER_TOO: Final = (
    "UPDATE timers SET next = :next WHERE id IN (SELECT id FROM timers WHERE refused IS NOT NULL"
    " AND next < :next AND due <= :due AND id <> :id"
    " AND room = (SELECT room FROM timers WHERE id = :id) LIMIT :most)"
)
AFTER_IT: Final[Millis] = 60_000
"""How much later those are looked at that one of them is tried for."""
PORTION: Final = 1_000
"""Of those, and of what is let go when one of them has gone; each next one sees to as many more."""
RELEASE: Final = (
    "UPDATE timers SET refused = NULL, attempts = 0, next = min(next, :now) WHERE id IN"
    " (SELECT id FROM timers WHERE refused IS NOT NULL"
    " AND room = (SELECT room FROM timers WHERE id = :id) LIMIT :most)"
)
TELL_ANEW: Final = "UPDATE rooms SET stuck = 0 WHERE id = (SELECT room FROM timers WHERE id = ?)"
PENDING: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM timers"
    " WHERE room = (SELECT id FROM rooms WHERE room_id = ?) LIMIT ?)"
)
FIRST: Final = (
    "SELECT min(due) FROM (SELECT due, refused FROM timers"
    " WHERE room = (SELECT id FROM rooms WHERE room_id = ?) AND backlog = ? ORDER BY next LIMIT ?)"
    " WHERE refused IS NULL"
)


class Timers:
    """The timers of all rooms. A row leaves only when its message is gone for certain."""

    _db: Database

    async def due(self, now: Millis, share: int, *, backlog: bool = False) -> list[Timer]:
        """Return up to `share` timers of each room that may act, whose time has come.

        `backlog`: those that were overdue when they were stored; else the live ones.
        """
        async with self._db.transaction() as db:
            wanted = {"backlog": backlog, "now": now, "share": share}
            found = await db.rows(DUE, **wanted, patient=now - PATIENCE, few=FEW)
        return [_timer(row) for row in found]

    async def overdue(self, now: Millis) -> int:
        """Return how many messages are due in rooms that may act, and not removed yet."""
        async with self._db.transaction() as db:
            row = await db.one(OVERDUE, now, MANY)
        return int(row[0]) if row else 0

    async def next_due(self, after: Millis) -> Millis | None:
        """Return when, after this time, the next timer of a room that may act wants something."""
        async with self._db.transaction() as db:
            row = await db.one(NEXT, after=after)
        return None if row is None or row[0] is None or row[0] == 1 << 62 else int(row[0])

    async def sent(self, timer: Timer, now: Millis, check_at: Millis) -> None:
        """A redaction was accepted; the timer stays until it has been seen.

        If it was refused before, so may others of the room be no longer.
        """
        async with self._db.transaction() as db:
            if timer.refused:
                await db.rows(RELEASE, now=now, id=timer.id, most=PORTION)
                await db.rows(TELL_ANEW, timer.id)
            await db.rows(SENT, now, check_at, timer.id)

    async def unsent(self, timer: Timer, at: Millis) -> None:
        """A redaction was accepted and did not happen: do it anew then, as another request."""
        await run(self._db, UNSENT, at, timer.id)

    async def postpone(self, timer: Timer, until: Millis) -> None:
        """Let only this timer wait."""
        await run(self._db, POSTPONE, until, timer.id)

    async def refused(self, timer: Timer, until: Millis, older_than: Millis) -> None:
        """The homeserver refuses this one, though the message stands; 0: not for its age.

        If it is too old still, so are those that were refused and are older: one is tried for all.
        """
        async with self._db.transaction() as db:
            await db.rows(REFUSED, until, older_than, timer.id)
            if timer.refused and older_than:
                at, own = until + AFTER_IT, timer.id
                await db.rows(OLDER_TOO, next=at, due=timer.due, id=own, most=PORTION)

    async def drop(self, timer: Timer) -> None:
        """The message is gone for certain."""
        await run(self._db, DROP, timer.id)

    async def any_timer(self) -> bool:
        """Whether any message waits to be redacted."""
        async with self._db.transaction() as db:
            return await db.one("SELECT 1 FROM timers LIMIT 1") is not None

    async def pending(self, room_id: RoomID) -> tuple[int, Millis | None]:
        """Return how many timers the room has, and when the first is due that is not refused.

        As many as `MANY` are counted; the first is looked for among those tried next.
        """
        async with self._db.transaction() as db:
            row = await db.one(PENDING, room_id, MANY)
            lanes = [await db.one(FIRST, room_id, backlog, PORTION) for backlog in (0, 1)]
        first = [int(lane[0]) for lane in lanes if lane is not None and lane[0] is not None]
        return (int(row[0]) if row else 0), min(first, default=None)


def _timer(row: Row) -> Timer:
    return Timer(
        id=row[0],
        room_id=RoomID(row[1]),
        event_id=EventID(row[2]),
        due=row[3],
        attempts=row[4],
        generation=row[5],
        sent_at=row[6],
        looked=bool(row[7]),
        refused=bool(row[8]),
    )
