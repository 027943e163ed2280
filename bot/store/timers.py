"""Remembers the timers: one row a pending redaction, in the order in which they are due."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final, TypeVar

from bot.core.due import Candidate
from bot.core.ports.timers import DueTimers
from bot.core.timers import MANY, Timer
from bot.core.types import EventID, Millis, RoomID
from bot.store.database import Database, Row, ask, run
from bot.store.retries import put_off

T = TypeVar("T")

ROOMS_DUE: Final = (
    "SELECT room FROM (SELECT room FROM due_rooms WHERE backlog = :backlog AND room > :last"
    " AND retry_at <= :now ORDER BY room LIMIT :most)"
    " UNION ALL SELECT room FROM (SELECT room FROM due_rooms WHERE backlog = :backlog"
    " AND room <= :last AND retry_at <= :now ORDER BY room LIMIT :most) LIMIT :most"
)
CANDIDATE: Final = (
    "SELECT t.id, t.room, r.room_id, t.event_id, t.due, t.attempts, t.redaction_round,"
    " t.redaction_sent_at,"
    # Not known while a part of the timeline is still to be read.
    " t.relations_loaded OR (:synced AND t.id > r.unseen_up_to AND r.timeline_part = 0"
    " AND NOT EXISTS (SELECT 1 FROM sweeps WHERE room = t.room)),"
    " t.refused_age IS NOT NULL, t.retry_at, t.parent IS NOT NULL, count(c.retry_at),"
    " coalesce(sum(c.retry_at <= t.retry_at), 0) FROM json_each(:of) j CROSS JOIN timers t"
    " JOIN rooms r ON r.id = t.room LEFT JOIN timers c ON c.retry_at <= :now AND c.id IN"
    # `id`: nothing waits for what came before it, or two could wait for each other.
    " (SELECT id FROM timers WHERE room = t.room AND parent = t.event_id AND id > t.id"
    " AND redaction_sent_at IS NULL AND attempts = 0 ORDER BY id LIMIT 64)"
)
"""Of what belongs to a timer's message, no more than 64 are counted."""
DUE: Final = CANDIDATE + (  # noqa: S608
    " WHERE t.id IN (SELECT id FROM timers WHERE room = j.value AND backlog = :backlog"
    " AND retry_at <= :now ORDER BY retry_at, redaction_sent_at, id LIMIT :share) GROUP BY t.id"
)
CHILDREN: Final = CANDIDATE + (  # noqa: S608
    " WHERE t.id IN (SELECT k.id FROM timers p CROSS JOIN timers k WHERE p.id = j.value"
    " AND k.room = p.room AND k.parent = p.event_id AND k.id > p.id AND k.redaction_sent_at IS NULL"
    " AND k.attempts = 0 AND k.retry_at <= :now ORDER BY k.id LIMIT :share) GROUP BY t.id"
)
NEXT: Final = (
    "SELECT min(retry_at) FROM (SELECT min(retry_at) AS retry_at FROM due_rooms WHERE backlog = 0"
    " AND retry_at > :after UNION ALL SELECT min(retry_at) FROM due_rooms WHERE backlog = 1"
    " AND retry_at > :after UNION ALL SELECT (SELECT min(retry_at) FROM timers"
    " WHERE room = room.value"
    " AND backlog = lane.value AND retry_at > :after)"
    " FROM json_each(:rooms) room CROSS JOIN json_each('[0, 1]') lane)"
)
OVERDUE: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM due_rooms d CROSS JOIN timers t ON t.room = d.room"
    " AND t.backlog = d.backlog AND t.retry_at <= :now AND t.redaction_sent_at IS NULL"
    " WHERE d.backlog IN (0, 1) AND d.retry_at <= :now LIMIT :most)"
)
FALL_BEHIND: Final = (
    "UPDATE timers SET backlog = 1 WHERE id IN (SELECT t.id FROM due_rooms d CROSS JOIN timers t"
    " ON t.room = d.room AND t.backlog = 0 AND t.retry_at <= :before"
    " WHERE d.backlog = 0 AND d.retry_at <= :before LIMIT :most)"
)
DROP: Final = "DELETE FROM timers WHERE id = ?"
SENT: Final = "UPDATE timers SET redaction_sent_at = ?, retry_at = ?, attempts = 0 WHERE id = ?"
UNSENT: Final = (
    "UPDATE timers SET redaction_sent_at = NULL, retry_at = max(due, ?),"
    " redaction_round = redaction_round + 1 WHERE id = ?"
)
REFUSED: Final = (
    "UPDATE timers SET retry_at = ?, attempts = attempts + 1, refused_age = ? WHERE id = ?"
)
OLDER_TOO: Final = (
    "UPDATE timers SET retry_at = :later WHERE id IN (SELECT id FROM timers"
    " WHERE refused_age IS NOT NULL"
    " AND retry_at < :later AND due <= :due AND id <> :id"
    " AND room = (SELECT room FROM timers WHERE id = :id) LIMIT :most)"
)
AFTER_IT: Final[Millis] = 60_000
"""How much later those are looked at that one of them is tried for."""
PORTION: Final = 1_000
"""Of those, and of what is let go when one of them has gone; each next one sees to as many more."""
RELEASE: Final = (
    "UPDATE timers SET refused_age = NULL, attempts = 0, retry_at = min(retry_at, :now) WHERE id IN"
    " (SELECT id FROM timers WHERE refused_age IS NOT NULL"
    " AND room = (SELECT room FROM timers WHERE id = :id) LIMIT :most)"
)
TELL_ANEW: Final = (
    "UPDATE rooms SET refusal_notified = 0 WHERE id = (SELECT room FROM timers WHERE id = ?)"
)
PENDING: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM timers"
    " WHERE room = (SELECT id FROM rooms WHERE room_id = ?) LIMIT ?)"
)
FIRST: Final = (
    "SELECT min(due) FROM (SELECT due, refused_age FROM timers"
    " WHERE room = (SELECT id FROM rooms WHERE room_id = ?) AND backlog = ?"
    " ORDER BY retry_at LIMIT ?)"
    " WHERE refused_age IS NULL"
)


class Timers:
    """The timers of all rooms. A row leaves only when its message is gone for certain."""

    _db: Database

    async def rooms_due(
        self, now: Millis, last: int, most: int, *, backlog: bool = False
    ) -> list[int]:
        """Return up to `most` rooms that may act and in which something is due, by their numbers.

        Those after the room `last` come first. `backlog`: what was overdue when it was stored,
        or fell behind; else what is live.
        """
        wanted = {"backlog": backlog, "now": now, "last": last, "most": most}
        found = await run(self._db, ROOMS_DUE, **wanted)
        return [int(row[0]) for row in found]

    async def due(
        self, now: Millis, rooms: Sequence[int], share: int, *, backlog: bool = False
    ) -> list[Candidate]:
        """Return the first `share` timers of each of these rooms whose time has come."""
        wanted = {"of": json.dumps(rooms), "now": now, "share": share, "backlog": backlog}
        found = await run(self._db, DUE, **wanted, synced=self._db.synced)
        return [_candidate(row) for row in found]

    async def children_due(
        self, now: Millis, parents: Sequence[int], share: int
    ) -> list[Candidate]:
        """Return the first `share` that belong to each of these timers, are due and not tried."""
        wanted = {"of": json.dumps(parents), "now": now, "share": share}
        found = await run(self._db, CHILDREN, **wanted, synced=self._db.synced)
        return [_candidate(row) for row in found]

    async def overdue(self, now: Millis) -> int:
        """Return how many messages are due in rooms that may act, and not removed yet.

        As many as `MANY` are counted.
        """
        row = await ask(self._db, OVERDUE, now=now, most=MANY)
        return int(row[0]) if row else 0

    async def at_once(self, work: Callable[[DueTimers], Coroutine[Any, Any, T]]) -> T:
        """Run `work`, which awaits nothing but what it is given, in one transaction."""
        return await self._db.whole(lambda db: work(Timers.within(db)))

    @classmethod
    def within(cls, db: Database) -> Timers:
        """Return the timers as a transaction sees them."""
        timers = cls()
        timers._db = db
        return timers

    async def first_due(self, *, backlog: bool | None = None) -> Millis | None:
        """Return when the first timer of those in rooms that may act wants something.

        Of the live ones or of the backlog; `None`: of both. By the last commit; nobody has to wait
        for one that is under way.
        """
        live, late = self._db.first_due
        if backlog is None:
            return min((at for at in (live, late) if at is not None), default=None)
        return late if backlog else live

    async def fall_behind(self, before: Millis) -> None:
        """Let what wanted something up to then, and is live, belong to the backlog from now on.

        One call sees to a portion of it.
        """
        await run(self._db, FALL_BEHIND, before=before, most=PORTION)

    async def next_due(self, after: Millis, rooms: Collection[int] = ()) -> Millis | None:
        """Return when, after this time, the next room that may act begins to want something.

        Of `rooms`, whatever the next timer is that wants something after this time.
        """
        wanted = {"after": after, "rooms": json.dumps(list(rooms))}
        row = await ask(self._db, NEXT, **wanted)
        return None if row is None or row[0] is None else int(row[0])

    async def sent(self, timer: Timer, now: Millis, check_at: Millis) -> None:
        """A redaction was accepted; the timer stays until it has been seen.

        If it was refused before, so may others of the room be no longer.
        """

        async def work(db: Database) -> None:
            if timer.refused:
                await db.rows(RELEASE, now=now, id=timer.id, most=PORTION)
                await db.rows(TELL_ANEW, timer.id)
            await db.rows(SENT, now, check_at, timer.id)

        await self._db.whole(work)

    async def unsent(self, timer: Timer, at: Millis) -> None:
        """A redaction was accepted and did not happen: do it anew then, as another request."""
        await run(self._db, UNSENT, at, timer.id)

    async def postpone(self, timer: Timer, until: Millis) -> None:
        """Let only this timer wait."""
        await put_off(self._db, "timers", timer.id, until)

    async def refused(self, timer: Timer, until: Millis, older_than: Millis) -> None:
        """The homeserver refuses this one, though the message stands; 0: not for its age.

        If it is too old still, so are those that were refused and are older: one is tried for all.
        """
        async with self._db.transaction() as db:
            await db.rows(REFUSED, until, older_than, timer.id)
            if timer.refused and older_than:
                at, own = until + AFTER_IT, timer.id
                await db.rows(OLDER_TOO, later=at, due=timer.due, id=own, most=PORTION)

    async def drop(self, timer: Timer) -> None:
        """The message is gone for certain."""
        await run(self._db, DROP, timer.id)

    async def any_timer(self) -> bool:
        """Whether any message waits to be redacted."""
        return await ask(self._db, "SELECT 1 FROM timers LIMIT 1") is not None

    async def pending(self, room_id: RoomID) -> tuple[int, Millis | None]:
        """Return how many timers the room has, and when the first is due that is not refused.

        As many as `MANY` are counted; the first is looked for among those tried next.
        """
        async with self._db.transaction() as db:
            row = await db.one(PENDING, room_id, MANY)
            lanes = [await db.one(FIRST, room_id, backlog, PORTION) for backlog in (0, 1)]
        first = [int(lane[0]) for lane in lanes if lane is not None and lane[0] is not None]
        return (int(row[0]) if row else 0), min(first, default=None)


def _candidate(row: Row) -> Candidate:
    timer = Timer(
        id=row[0],
        room=row[1],
        room_id=RoomID(row[2]),
        event_id=EventID(row[3]),
        due=row[4],
        attempts=row[5],
        redaction_round=row[6],
        redaction_sent_at=row[7],
        relations_loaded=bool(row[8]),
        refused=bool(row[9]),
    )
    return Candidate(
        timer=timer, retry_at=row[10], child=bool(row[11]), children=row[12], earlier=row[13]
    )
