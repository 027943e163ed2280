"""Remembers which rooms are swept: read backwards for messages that have no timer."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Final

from bot.core.outbox import MessagesMissed, Outgoing
from bot.core.policy import NewTimer
from bot.core.policy_backward import PolicyBackward
from bot.core.timeline import MediaReference, Sweep
from bot.core.types import EventID, Millis, RoomID
from bot.store.database import Database, as_json, ask, run
from bot.store.default_lifetimes import dump_defaults, load_defaults
from bot.store.media import attach
from bot.store.outbox import enqueue
from bot.store.relations import add_timers, not_all_seen
from bot.store.retries import next_ready

BEGIN: Final = (
    "INSERT INTO sweeps (room, whole_room, since, until, gap_given_up) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (room) DO UPDATE SET whole_room = max(whole_room, excluded.whole_room),"
    " gap_given_up = max(gap_given_up, excluded.gap_given_up),"
    " since = min(since, excluded.since), until = max(until, excluded.until),"
    # A long sweep through a room that is not known at all goes on; others follow it.
    " token = CASE WHEN whole_room AND NOT excluded.whole_room THEN token END,"
    " found_this_walk = CASE WHEN whole_room"
    " AND NOT excluded.whole_room THEN found_this_walk ELSE 0 END,"
    " empty_walks = 0, retry_at = 0, attempts = 0"
)
MISSED: Final = "SELECT 1 FROM sweeps WHERE room = ? AND gap_given_up"
"""The room was told that not everything could be read, and waits for this sweep."""
NEXT: Final = next_ready(
    "sweeps",
    "q.whole_room, q.since, q.until, q.token, q.setting, q.earlier_settings, q.defaults,"
    " q.found_this_walk, q.found, q.events_read, q.empty_walks, q.size",
    where="r.left_at IS NULL AND NOT EXISTS (SELECT 1 FROM gaps WHERE room = q.room)"
    # A lifetime that a command has just set holds from its place on, which the sweep cannot see.
    " AND (q.token IS NOT NULL OR NOT r.set_by_command)",
)
LATER: Final = (
    "UPDATE sweeps SET retry_at = ?, attempts = attempts + ?, size = ?"
    " WHERE room = (SELECT id FROM rooms WHERE room_id = ?)"
)
ROW: Final = "SELECT id FROM rooms WHERE room_id = ?"
START: Final = (
    "UPDATE sweeps SET token = (SELECT value FROM meta WHERE key = 'token'), found_this_walk = 0,"
    " earlier_settings = '[]', defaults = (SELECT defaults FROM rooms WHERE id = room),"
    " setting = (SELECT setting FROM rooms WHERE id = room) WHERE room = ?"
)
READ_ON: Final = (
    "UPDATE sweeps SET token = ?, setting = ?, earlier_settings = ?, defaults = ?,"
    " found_this_walk = found_this_walk + ?, found = found + ?, events_read = events_read + ?,"
    " retry_at = ?, attempts = 0"
    " WHERE room = ?"
)
AGAIN: Final = (
    "UPDATE sweeps SET token = NULL, retry_at = ?,"
    " empty_walks = CASE WHEN found_this_walk THEN 0 ELSE empty_walks + 1 END"
    " WHERE room = ?"
)
LEFT: Final = "SELECT count(*) FROM sweeps s JOIN rooms r ON r.id = s.room WHERE r.left_at IS NULL"
KNOWN: Final = (
    "SELECT count(*) FROM timers WHERE room = ? AND event_id IN (SELECT value FROM json_each(?))"
)


async def begin_sweep(db: Database, row: int, sweep: Sweep, *, gap_given_up: bool = False) -> None:
    """Have a room swept, or swept again; `gap_given_up`: it was told that something is missing."""
    await db.rows(BEGIN, row, sweep.whole_room, sweep.since, sweep.until, gap_given_up)


async def _end(db: Database, row: int) -> None:
    await db.rows("DELETE FROM sweeps WHERE room = ?", row)
    await not_all_seen(db, row)


class Sweeps:
    """The sweeps; every page is remembered: a crash resumes."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def begin(self, sweep: Sweep) -> None:
        """Have a room that is known swept."""
        async with self._db.transaction() as db:
            row = await db.one(ROW, sweep.room_id)
            if row is not None:
                await begin_sweep(db, row[0], sweep)

    async def next(self, busy: Collection[RoomID] = ()) -> Sweep | None:
        """Return the sweep to go on with, not of `busy` rooms; a gap is read before its room.

        A walk begins at the sync token, with the setting that the room had there.
        """
        async with self._db.transaction() as db:
            found = await db.one(NEXT, as_json(busy))
            if found is not None and found[6] is None:
                row = await db.one(ROW, found[0])
                assert row is not None
                await db.rows(START, row[0])
                found = await db.one(NEXT, as_json(busy))
        if found is None:
            return None
        return Sweep(
            room_id=RoomID(found[0]),
            attempts=found[1],
            retry_at=found[2],
            whole_room=bool(found[3]),
            since=found[4],
            until=found[5],
            token=found[6],
            setting=found[7],
            earlier_settings=tuple((EventID(one[0]), one[1]) for one in json.loads(found[8])),
            defaults=load_defaults(found[9]),
            found_this_walk=found[10],
            found=found[11],
            events_read=found[12],
            empty_walks=found[13],
            size=found[14],
        )

    async def read_on(
        self,
        sweep: Sweep,
        new_timers: Sequence[NewTimer],
        files: Sequence[MediaReference],
        now: Millis,
        *,
        token: str | None,
        way: PolicyBackward,
        events: int,
    ) -> int:
        """Remember one page of a sweep: what is to get timers, and where the sweep goes on.

        `events` is how many were read. Returns how many messages had no timer.
        """
        async with self._db.transaction() as db:
            row = await db.one(ROW, sweep.room_id)
            if row is None:
                return 0
            own: list[EventID] = [one.event_id for one in new_timers if one.due is not None]
            known = await db.one(KNOWN, row[0], json.dumps(own))
            fresh = len(own) - (int(known[0]) if known else 0)
            await add_timers(db, row[0], new_timers, now, found=True)
            await attach(db, row[0], files)
            before = json.dumps(way.until)
            found = (dump_defaults(way.defaults), fresh, fresh, events, now)
            await db.rows(READ_ON, token, way.setting, before, *found, row[0])
        return fresh

    async def again(self, sweep: Sweep, at: Millis) -> None:
        """The sweep is over; another one begins at that time."""
        async with self._db.transaction() as db:
            row = await db.one(ROW, sweep.room_id)
            if row is not None:
                await db.rows(AGAIN, at, row[0])

    async def later(
        self, sweep: Sweep, until: Millis, *, size: int | None = None, counts: bool = True
    ) -> None:
        """The page could not be had now; `size`: how many events to ask for then.

        `counts`: the page is to blame for it.
        """
        await run(self._db, LATER, until, counts, size or sweep.size, sweep.room_id)

    async def end(self, sweep: Sweep) -> None:
        """The room is swept."""
        async with self._db.transaction() as db:
            row = await db.one(ROW, sweep.room_id)
            if row is not None:
                await _end(db, row[0])

    async def give_up(self, sweep: Sweep) -> None:
        """The room cannot be swept: tell it."""
        async with self._db.transaction() as db:
            row = await db.one(ROW, sweep.room_id)
            if row is not None:
                await _end(db, row[0])
                outgoing = Outgoing(key=f"missed:{sweep.until}", content=MessagesMissed())
                await enqueue(db, row[0], [outgoing])

    async def left(self) -> int:
        """Return how many rooms are still to be swept."""
        row = await ask(self._db, LEFT)
        return int(row[0]) if row else 0
