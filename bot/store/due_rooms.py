"""Knows, in memory, when the next timer of each room that may act wants something.

A temporary table that triggers keep: whatever writes timers or rooms, it says the same as they do,
and goes back with them when a transaction does. So a room whose turn it is is found without looking
at the others, and without looking at any timer that is not due. It holds two rows a room at most.
"""

from __future__ import annotations

from typing import Final

import aiosqlite

REMEMBER: Final = (
    "INSERT INTO due_rooms (backlog, room, retry_at)"
    " SELECT t.backlog, t.room, t.retry_at FROM timers t JOIN rooms r ON r.id = t.room"
    " WHERE t.room = old.room AND t.backlog = old.backlog"
    # Not `OR IGNORE`: a trigger has to take the conflict clause of the statement that fires it.
    " AND NOT EXISTS (SELECT 1 FROM due_rooms WHERE backlog = old.backlog AND room = old.room)"
    " AND NOT r.suspended AND NOT r.returned_at ORDER BY t.retry_at LIMIT 1;"
)
FORGET: Final = (
    "DELETE FROM due_rooms WHERE backlog = old.backlog AND room = old.room"
    " AND retry_at >= old.retry_at;"
)
ADD: Final = (
    "INSERT INTO due_rooms (backlog, room, retry_at) SELECT new.backlog, id, new.retry_at"
    " FROM rooms WHERE id = new.room AND NOT suspended AND NOT returned_at"
    " ON CONFLICT (backlog, room) DO UPDATE SET retry_at = excluded.retry_at"
    " WHERE excluded.retry_at < due_rooms.retry_at;"
)
ROOM: Final = (
    "INSERT INTO due_rooms (backlog, room, retry_at) SELECT lane.value, r.id,"
    " (SELECT min(retry_at) FROM timers WHERE room = r.id AND backlog = lane.value) AS retry_at"
    " FROM rooms r, json_each('[0, 1]') lane WHERE {which} NOT r.suspended AND NOT r.returned_at"
    " AND EXISTS (SELECT 1 FROM timers WHERE room = r.id AND backlog = lane.value);"
)
SCRIPT: Final = f"""
    CREATE TEMP TABLE due_rooms (
        backlog INTEGER NOT NULL,
        room INTEGER NOT NULL,
        retry_at INTEGER NOT NULL,
        PRIMARY KEY (backlog, room)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX temp.due_rooms_retry ON due_rooms (backlog, retry_at);

    CREATE TEMP TRIGGER timer_made AFTER INSERT ON main.timers BEGIN
        {ADD}
    END;
    CREATE TEMP TRIGGER timer_moved AFTER UPDATE OF retry_at, backlog ON main.timers
    WHEN old.retry_at <> new.retry_at OR old.backlog <> new.backlog BEGIN
        {FORGET}
        {REMEMBER}
        {ADD}
    END;
    CREATE TEMP TRIGGER timer_gone AFTER DELETE ON main.timers BEGIN
        {FORGET}
        {REMEMBER}
    END;
    CREATE TEMP TRIGGER room_changed AFTER UPDATE OF suspended, returned_at ON main.rooms
    WHEN old.suspended <> new.suspended OR old.returned_at <> new.returned_at BEGIN
        DELETE FROM due_rooms WHERE backlog IN (0, 1) AND room = new.id;
        {ROOM.format(which="r.id = new.id AND")}
    END;
    CREATE TEMP TRIGGER room_gone AFTER DELETE ON main.rooms BEGIN
        DELETE FROM due_rooms WHERE backlog IN (0, 1) AND room = old.id;
    END;

    {ROOM.format(which="")}
"""  # noqa: S608


async def begin(connection: aiosqlite.Connection) -> None:
    """Fill the table, and have it kept from now on."""
    await (await connection.executescript(SCRIPT)).close()
