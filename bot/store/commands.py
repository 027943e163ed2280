"""Remembers what becomes of commands: those that are read late, written down, or taken back."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from bot.core.commands import PendingCommand, Right, UndecidedCommand
from bot.core.outbox import Announce, OutboxItem, Outgoing, RightUnknown
from bot.core.policy import RoomState
from bot.core.types import EventID, Millis, RoomID, UserID
from bot.store.command_json import dump_effect, load_request
from bot.store.database import Database
from bot.store.handled_commands import remember_handled
from bot.store.outbox import content_row, enqueue
from bot.store.retries import first_ready, next_ready, put_off

SYNCED: Final = "SELECT value FROM meta WHERE key = 'token'"
REVISION: Final = "SELECT revision FROM rooms WHERE id = ?"
UNWRITTEN: Final = "SELECT room FROM outbox WHERE id = ? AND kind = 'set'"
WRITTEN: Final = "UPDATE outbox SET kind = ?, args = ?, retry_at = 0, attempts = 0 WHERE id = ?"
SEEN: Final = (
    "UPDATE rooms SET set_by_command = 0, awaited_digest = '' WHERE id = ? AND (? = ''"
    " OR policy_digest = ?)"
)
AWAIT: Final = "UPDATE rooms SET awaited_digest = ? WHERE id = ? AND set_by_command"
TAKE_BACK: Final = (
    "UPDATE rooms SET setting = state_setting, set_by_command = 0, awaited_digest = '' WHERE id = ?"
    " AND set_by_command"
)

LOOK_AGAIN: Final[Millis] = 10_000
"""When to compare a room's lifetime with its state, if that cannot be done now."""
MOST_WAITING: Final = 500
MOST_OF_ONE: Final = 50
"""Commands of one room, and of one sender there, that wait for the homeserver at once."""
KNOWN: Final = "UPDATE pending_commands SET revision = ? WHERE room = ? AND digest = ? RETURNING id"
CROWD: Final = "SELECT count(*), coalesce(sum(sender = ?), 0) FROM pending_commands WHERE room = ?"
WAIT: Final = (
    "INSERT INTO pending_commands (room, digest, event_id, sender, needed_right, request, sent,"
    " read_at, device_id, device_key, thread, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
NEXT: Final = next_ready(
    "pending_commands",
    "q.id, q.digest, q.event_id, q.sender, q.needed_right, q.request, q.sent, q.read_at,"
    " q.device_id, q.device_key, q.thread",
    # One after the other: a later command counts after an earlier one.
    where="NOT EXISTS (SELECT 1 FROM pending_commands e WHERE e.room = q.room AND e.id < q.id)"
    " AND NOT EXISTS (SELECT 1 FROM gaps WHERE room = r.id)",
)
THOSE_AFTER: Final = (
    "UPDATE pending_commands SET revision = revision + 1 WHERE room = ? AND id > ? AND revision = ?"
)
DECIDED: Final = "DELETE FROM pending_commands WHERE id = ? RETURNING revision"


class Commands:
    """What waits to be read or decided, and what is in force but not in the room's state yet."""

    _db: Database

    async def next_pending_command(self, busy: Collection[RoomID] = ()) -> PendingCommand | None:
        """Return the command to be decided next, of each room the oldest, not of `busy` rooms.

        A room with a gap waits until that is read.
        """
        row = await first_ready(self._db, NEXT, busy)
        if row is None:
            return None
        command = UndecidedCommand(
            digest=row[4],
            event_id=EventID(row[5]),
            sender=UserID(row[6]),
            right=Right[row[7]],
            request=load_request(json.loads(row[8])),
            sent=row[9],
            read_at=row[10],
            device_id=row[11],
            device_key=row[12],
            thread=row[13],
        )
        return PendingCommand(
            id=row[3], room_id=RoomID(row[0]), command=command, attempts=row[1], retry_at=row[2]
        )

    async def pending_command_later(self, pending: PendingCommand, until: Millis) -> None:
        """The homeserver did not answer."""
        await put_off(self._db, "pending_commands", pending.id, until)

    # --- in force, and not in the room's state yet ---------------------------------------

    async def written(self, entry: OutboxItem, digest: str, notice: Announce) -> None:
        """The room's state says what was commanded, by the event with this digest: now say so.

        Empty: no event needs to say it. `notice` takes the place of `entry`. Until that event has
        come with the timeline, nobody who walks back knows since when it holds. Nothing happens if
        a later command has taken the entry's place.
        """
        async with self._db.transaction() as db:
            row = await db.one(UNWRITTEN, entry.id)
            if row is not None:
                await db.rows(WRITTEN, *content_row(replace(entry, content=notice)), entry.id)
                await db.rows(SEEN, row[0], digest, digest)
                await db.rows(AWAIT, digest, row[0])

    async def take_back(self, entry: OutboxItem, outgoing: Outgoing) -> None:
        """A commanded lifetime could not be written: what the room's state says holds again.

        What somebody has set since is not touched; nor is anything if the command is written, or
        if a later one has taken the entry's place.
        """
        async with self._db.transaction() as db:
            row = await db.one(UNWRITTEN, entry.id)
            if row is not None:
                await db.rows(TAKE_BACK, row[0])
                await db.rows("DELETE FROM outbox WHERE id = ?", entry.id)
                await enqueue(db, row[0], [outgoing])


async def remember_pending_commands(
    db: Database, row: int, found: Sequence[tuple[UndecidedCommand, RoomState]], now: Millis
) -> None:
    """Note which commands wait for the homeserver, and how the room stood at their place.

    Whoever says more than may wait is told to say it again.
    """
    for one, state in found:
        if await db.one(KNOWN, state.revision, row, one.digest) is not None:
            continue
        crowd = await db.one(CROWD, one.sender, row)
        assert crowd is not None
        if crowd[0] >= MOST_WAITING or crowd[1] >= MOST_OF_ONE:
            await remember_handled(db, [one.digest], [], now)
            answer = RightUnknown(sender=one.sender)
            await enqueue(db, row, [Outgoing(key=one.digest, content=answer, thread=one.thread)])
            continue
        asked = (one.right.name, json.dumps(dump_effect(one.request)))
        values = (row, one.digest, one.event_id, one.sender, *asked, one.sent, one.read_at)
        await db.rows(WAIT, *values, one.device_id, one.device_key, one.thread, state.revision)
