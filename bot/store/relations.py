"""Remembers relations: edits, reactions and votes go with their message, and before it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Final

from bot.core.policy import NewTimer
from bot.core.timers import PendingRelation, Timer
from bot.core.types import EventID, Millis, RoomID
from bot.store.database import Database
from bot.store.retries import first_ready, next_ready, put_off

ADD: Final = (
    "INSERT INTO timers (room, event_id, due, retry_at, backlog, from_local_clock)"
    " VALUES {rows} ON CONFLICT (room, event_id) DO "
)
AT_ONCE: Final = 100
"""Timers of one statement: one that fires triggers costs most by itself, and less for each row."""
KEEP: Final = "NOTHING"
RENEW: Final = (
    "UPDATE SET due = excluded.due, retry_at = excluded.due WHERE redaction_sent_at IS NULL"
)
ADD_CHILD: Final = (
    "INSERT INTO timers (room, event_id, due, retry_at, backlog, parent, relations_loaded,"
    " from_local_clock) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (room, event_id) DO "
)
SOONER: Final = (
    "UPDATE SET parent = excluded.parent, due = excluded.due,"
    " retry_at = min(retry_at, excluded.due) WHERE excluded.due < due AND redaction_sent_at IS NULL"
)
FOLLOW: Final = (
    "UPDATE SET parent = excluded.parent, due = excluded.due, retry_at = excluded.retry_at"
    " WHERE redaction_sent_at IS NULL"
)
UNSENT: Final = (
    "SELECT id FROM timers WHERE room = ? AND redaction_sent_at IS NULL"
    " AND event_id IN (SELECT value FROM json_each(?))"
)
# The timer of a message that waits to be read once more says nothing: it may be taken back.
PARENT: Final = (
    "SELECT due FROM timers t WHERE room = ? AND event_id = ? AND NOT EXISTS"
    " (SELECT 1 FROM gap_items u WHERE u.room = t.room AND u.event_id = t.event_id)"
)
ADOPT: Final = (
    "INSERT OR IGNORE INTO timers (room, event_id, due, retry_at, backlog, parent,"
    " relations_loaded, from_local_clock) SELECT o.room, o.event_id, p.due, p.retry_at, p.backlog,"
    " o.parent, TRUE, FALSE FROM pending_relations o JOIN timers p ON p.room = o.room"
    " AND p.event_id = o.parent WHERE o.room = ? AND o.parent IN (SELECT value FROM json_each(?))"
    " RETURNING event_id"
)
ANY_ORPHAN: Final = "SELECT 1 FROM pending_relations WHERE room = ? LIMIT 1"
ANY_CHILD: Final = "SELECT 1 FROM timers WHERE room = ? AND parent IS NOT NULL LIMIT 1"
ANSWERED: Final = (
    "DELETE FROM pending_relations WHERE room = ? AND parent IN (SELECT value FROM json_each(?))"
)
MOST_PENDING: Final = 2_000
"""Of one room, to be asked about one after another; those beyond stand on their own."""
ADD_PENDING: Final = (
    "INSERT OR IGNORE INTO pending_relations (room, event_id, parent) SELECT :room, :event, :parent"
    " WHERE (SELECT count(*) FROM pending_relations WHERE room = :room) < :most"
)
LOWER: Final = (
    "UPDATE timers SET due = p.due, retry_at = min(timers.retry_at, p.due) FROM timers AS p"
    " WHERE p.room = ? AND p.event_id IN (SELECT value FROM json_each(?)) AND timers.room = p.room"
    " AND timers.parent = p.event_id AND timers.due > p.due RETURNING timers.event_id"
)
DROP: Final = "DELETE FROM timers WHERE room = ? AND event_id = ?"
CHILDREN: Final = (
    "SELECT id FROM timers WHERE room = ? AND parent = ? AND id > ? ORDER BY id LIMIT ?"
)
DUE_NOW: Final = (
    "UPDATE timers SET due = min(due, ?), retry_at = min(retry_at, ?)"
    " WHERE id IN (SELECT value FROM json_each(?)) AND redaction_sent_at IS NULL RETURNING event_id"
)
NOWHERE_ALL_SEEN: Final = (
    "UPDATE rooms SET unseen_up_to = (SELECT coalesce(max(id), 0) FROM timers)"
)
NOT_ALL_SEEN: Final = f"{NOWHERE_ALL_SEEN} WHERE id = ?"
PORTION: Final = 100
"""Children of a message that is gone that one transaction makes due; it may have any number."""
KEEP_GONE_PARENT: Final = (
    "INSERT OR REPLACE INTO gone_parents (room, parent, gone_at, last_child) VALUES (?, ?, ?, ?)"
)
NEXT_GONE_PARENT: Final = "SELECT room, parent, gone_at, last_child FROM gone_parents LIMIT 1"
ALL_DUE: Final = "DELETE FROM gone_parents WHERE room = ? AND parent = ?"
NEXT_PENDING: Final = next_ready("pending_relations", "q.id, q.event_id, q.parent")
DEPTH: Final = 8
"""Generations that are followed: a vote on an edit of an edit… Clients make two."""


async def add_timers(
    db: Database,
    row: int,
    new_timers: Sequence[NewTimer],
    now: Millis,
    *,
    reread: bool = False,
    found: bool = False,
) -> None:
    """Give messages their timers; a child's is due with its parent's, or before.

    What is overdue already is backlog, and waits behind what is live. `reread`: a timer that is
    there is not kept, be it sooner or later than the new one. `found`: who found them saw less
    than whoever made the timers that are there, so only a parent's shorter life changes those.
    """
    plain = [one for one in new_timers if one.parent is None and one.due is not None]
    for at in range(0, len(plain), AT_ONCE):
        await _add(db, row, plain[at : at + AT_ONCE], now, RENEW if reread else KEEP)
    timed = [one.event_id for one in plain]
    for new_timer in new_timers:
        if new_timer.parent is None:
            continue
        parent = await db.one(PARENT, row, new_timer.parent)
        known = [] if parent is None else [int(parent[0])]
        due = min(known if new_timer.due is None else [*known, new_timer.due], default=None)
        if due is not None:
            local = new_timer.from_local_clock and due == new_timer.due
            # What comes after its time is nothing its parent waits for: some add for ever.
            first = max(due, now) if new_timer.from_local_clock else due
            values = (
                due,
                first,
                _overdue(new_timer, now),
                new_timer.parent,
                parent is not None,
                local,
            )
            there = KEEP if found else FOLLOW if reread else SOONER
            await db.rows(ADD_CHILD + there, row, new_timer.event_id, *values)
            timed.append(new_timer.event_id)
        elif reread:
            await take_back(db, row, [new_timer.event_id])
        if parent is None and new_timer.ask:
            question = {"room": row, "event": new_timer.event_id, "parent": new_timer.parent}
            await db.rows(ADD_PENDING, **question, most=MOST_PENDING)
    # A child may have come before its parent.
    await _adopt(db, row, timed)
    await _lower(db, row, [one.event_id for one in new_timers])


async def _add(
    db: Database, row: int, new_timers: Sequence[NewTimer], now: Millis, there: str
) -> None:
    """Add timers of messages that belong to none; `there`: what is done where one has its timer."""
    values = [
        value
        for one in new_timers
        for value in (
            *(row, one.event_id, one.due, one.due),
            *(_overdue(one, now), one.from_local_clock),
        )
    ]
    rows = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(new_timers))
    await db.rows(ADD.format(rows=rows) + there, *values)


async def _adopt(db: Database, row: int, parents: Sequence[EventID]) -> None:
    """Give the children that waited for these messages the timers that these have now."""
    if await db.one(ANY_ORPHAN, row) is None:
        return
    for _ in range(DEPTH):
        if not parents:
            return
        adopted = await db.rows(ADOPT, row, json.dumps(parents))
        await db.rows(ANSWERED, row, json.dumps(parents))
        parents = [EventID(one[0]) for one in adopted]


async def not_all_seen(db: Database, row: int) -> None:
    """A part of the room's timeline was not seen in a sync, or only later.

    So what belongs to the messages that have timers by now may not all be known.
    """
    await db.rows(NOT_ALL_SEEN, row)


async def take_back(db: Database, row: int, stays: Sequence[EventID]) -> None:
    """These messages turn out to have no lifetime: they stay, and so do their files."""
    unsent = json.dumps([one[0] for one in await db.rows(UNSENT, row, json.dumps(list(stays)))])
    # First the files: one that has lost its timer is one whose message is gone.
    for table, column in (("media", "timer"), ("timers", "id")):
        sql = f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"  # noqa: S608
        await db.rows(sql, unsent)


async def drop_targets(db: Database, row: int, gone: Sequence[EventID], now: Millis) -> None:
    """These messages are gone: their timers too, and what belongs to them is due at once."""
    for event_id in gone:
        await db.rows(DROP, row, event_id)
        last = await _make_due(db, row, event_id, now, 0)
        if last is not None:
            await db.rows(KEEP_GONE_PARENT, row, event_id, now, last)


async def _make_due(db: Database, row: int, parent: EventID, now: Millis, after: int) -> int | None:
    """Make a portion of what belongs to a message due; return its last timer if there is more."""
    children = [int(one[0]) for one in await db.rows(CHILDREN, row, parent, after, PORTION)]
    bereft = await db.rows(DUE_NOW, now, now, json.dumps(children))
    await _lower(db, row, [EventID(one[0]) for one in bereft])
    return children[-1] if len(children) == PORTION else None


async def _lower(db: Database, row: int, parents: Sequence[EventID]) -> None:
    """Let nothing be due later than the message it belongs to."""
    if await db.one(ANY_CHILD, row) is None:
        return
    for _ in range(DEPTH):
        if not parents:
            return
        lowered = await db.rows(LOWER, row, json.dumps(parents))
        parents = [EventID(one[0]) for one in lowered]


def _overdue(new_timer: NewTimer, now: Millis) -> bool:
    return new_timer.due is not None and new_timer.due <= now


class Relations:
    """Messages that belong to others, where the timers alone do not tell."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def found(self, timer: Timer, children: Sequence[EventID], *, loaded: bool) -> None:
        """What belongs to the timer's message was looked up: it goes first.

        `loaded`: that is all of it.
        """

        async def work(db: Database) -> None:
            found = await db.one("SELECT room, due, backlog FROM timers WHERE id = ?", timer.id)
            if found is None:
                return
            row, due, backlog = found
            for child in children:
                values = (due, due, backlog, timer.event_id, False, False)
                await db.rows(ADD_CHILD + SOONER, row, child, *values)
            await db.rows("UPDATE timers SET relations_loaded = ? WHERE id = ?", loaded, timer.id)

        await self._db.whole(work)

    async def make_due(self) -> bool:
        """Make a portion of what belongs to messages that are gone due; whether there is more."""

        async def work(db: Database) -> bool:
            found = await db.one(NEXT_GONE_PARENT)
            if found is None:
                return False
            row, parent, at, after = found
            last = await _make_due(db, row, parent, at, after)
            if last is None:
                await db.rows(ALL_DUE, row, parent)
            else:
                await db.rows(KEEP_GONE_PARENT, row, parent, at, last)
            return True

        return await self._db.whole(work)

    async def next_pending(self, busy: Collection[RoomID] = ()) -> PendingRelation | None:
        """Return the message whose parent is to be asked about next, not of `busy` rooms."""
        found = await first_ready(self._db, NEXT_PENDING, busy)
        if found is None:
            return None
        return PendingRelation(
            room_id=RoomID(found[0]),
            attempts=found[1],
            retry_at=found[2],
            id=found[3],
            event_id=EventID(found[4]),
            parent=EventID(found[5]),
        )

    async def later(self, relation: PendingRelation, until: Millis) -> None:
        """The parent could not be asked about now."""
        await put_off(self._db, "pending_relations", relation.id, until)

    async def answered(self, relation: PendingRelation, now: Millis, *, gone: bool) -> None:
        """The parent is gone, and the message is due at once; or it stands on its own."""
        async with self._db.transaction() as db:
            room = await db.one("SELECT room FROM pending_relations WHERE id = ?", relation.id)
            if room is None:
                return
            await db.rows("DELETE FROM pending_relations WHERE id = ?", relation.id)
            if gone:
                values = (now, now, False, relation.parent, False, False)
                await db.rows(ADD_CHILD + SOONER, room[0], relation.event_id, *values)
                await _lower(db, room[0], [relation.event_id])
