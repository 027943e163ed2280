"""Remembers the gaps: timeline still to be read, and what was read of it so far."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Final

from bot.core.commands import Command, UndecidedCommand
from bot.core.default_lifetime import DefaultBegins, DefaultSaid
from bot.core.missing_events import Chunk
from bot.core.outbox import MessagesMissed, Outgoing
from bot.core.timeline import (
    Change,
    Encrypted,
    Gap,
    Item,
    KeyUse,
    MediaReference,
    Message,
    Redaction,
    Sweep,
    Undecryptable,
)
from bot.core.types import Millis, RoomID
from bot.store.command_json import dump_command, load_command, load_undecided
from bot.store.database import Database, Row, ask, run
from bot.store.megolm_sessions import FIRST, remember_key_uses
from bot.store.outbox import enqueue
from bot.store.relations import not_all_seen
from bot.store.retries import first_ready, next_ready
from bot.store.sweeps import MISSED, begin_sweep

CHUNK: Final = 500
"""Rows taken over at once, so that other work gets its turn between."""

BEGIN: Final = (
    "INSERT INTO gaps (room, timeline_part, token, stop_digest, stop_at, since, until, reread,"
    " encrypted, policy_digest) SELECT id, ?, ?, ?, ?, ?, ?, ?, ?,"
    # What is read once more may have the room's state event in it.
    " CASE WHEN ? THEN '' ELSE policy_digest END FROM rooms WHERE id = ?"
)
NEXT_GAP: Final = next_ready(
    "gaps",
    "q.id, q.token, q.stop_digest, q.stop_at, q.since, q.until, q.policy_digest, q.size,"
    " q.encrypted, EXISTS (SELECT 1 FROM sweeps WHERE room = q.room AND gap_given_up)",
    where="NOT q.done AND r.left_at IS NULL",
)
LATER: Final = "UPDATE gaps SET retry_at = ?, attempts = attempts + ?, size = ? WHERE id = ?"
READ_ON: Final = (
    "UPDATE gaps SET token = ?, position = position - ?, attempts = 0, retry_at = ?, done = ?"
    " WHERE id = ?"
)
READY: Final = (
    "SELECT r.id, r.room_id FROM gaps g CROSS JOIN rooms r ON r.id = g.room WHERE g.room > ?"
    " AND r.left_at IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM gaps WHERE room = g.room AND NOT done) ORDER BY g.room LIMIT 1"
)
NOT_FROM_THE_START: Final = (
    "DELETE FROM gap_items WHERE room = ? AND timeline_part = ? AND position = ?"
    " AND json_extract(item, '$.digest') = ?"
)
ENCRYPTED_WITHIN: Final = (
    "DELETE FROM gap_items WHERE room = ? AND timeline_part = ? AND position < ? AND item = ?"
)
ENCRYPTED_NOW: Final = "UPDATE rooms SET encrypted = 1 WHERE id = ?"
TAKE: Final = (
    "SELECT timeline_part, position, event_id, sent, parent, item FROM gap_items WHERE room = ?"
    " ORDER BY timeline_part, position LIMIT ?"
)
PUT: Final = (
    "INSERT OR REPLACE INTO gap_items"
    " (room, timeline_part, position, event_id, sent, parent, item) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
HAS_GAP: Final = "SELECT 1 FROM gaps g JOIN rooms r ON r.id = g.room WHERE r.room_id = ? LIMIT 1"
KINDS: Final[dict[str, type[Item]]] = {
    "change": Change,
    "redaction": Redaction,
    "encrypted": Encrypted,
    "command": Command,
    "undecided_command": UndecidedCommand,
    "undecryptable": Undecryptable,
    "media": MediaReference,
    "default_begins": DefaultBegins,
}
NAMES: Final = {kind: name for name, kind in KINDS.items()}


class Gaps:
    """Gaps and what waits behind them.

    A room's unread items stand in parts: each gap, walked backwards, gets an even one, and
    what came after it the odd one that follows. In the order (part, position) they are the
    timeline.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def next_gap(self, busy: Collection[RoomID] = ()) -> tuple[Gap, Millis] | None:
        """Return the gap to be read next, not of `busy` rooms, and not before when."""
        row = await first_ready(self._db, NEXT_GAP, busy)
        if row is None:
            return None
        gap = Gap(
            room_id=RoomID(row[0]),
            attempts=row[1],
            id=row[3],
            token=row[4],
            stop_digest=row[5],
            stop_at=row[6],
            since=row[7],
            until=row[8],
            policy_digest=row[9],
            size=row[10],
            encrypted=bool(row[11]),
            another_given_up=bool(row[12]),
        )
        return gap, int(row[2])

    async def read_on(
        self, gap: Gap, items: list[Item], token: str, now: Millis, *, done: bool
    ) -> None:
        """Remember one page of a gap (`items` in the timeline's order) and how far it goes."""
        async with self._db.transaction() as db:
            where = await db.one(
                "SELECT room, timeline_part, position FROM gaps WHERE id = ?", gap.id
            )
            if where is None:
                return  # the room was left meanwhile
            row, part, position = where
            await remember_key_uses(db, items)
            for change in items:
                # What was set within the gap does not count from the gap's beginning.
                if isinstance(change, Change):
                    await db.rows(NOT_FROM_THE_START, row, part, FIRST, change.digest)
                elif isinstance(change, Encrypted):
                    await db.rows(ENCRYPTED_NOW, row)
                    if change.first:
                        await db.rows(ENCRYPTED_WITHIN, row, part, FIRST // 2, _json(Encrypted()))
            await _put(db, row, part, position - len(items), items)
            # `now`: the gaps of other rooms come first.
            await db.rows(READ_ON, token, len(items), now, done, gap.id)

    async def has_gap(self, room_id: RoomID) -> bool:
        """Whether the room has a gap still to be read."""
        return await ask(self._db, HAS_GAP, room_id) is not None

    async def later(
        self, gap: Gap, until: Millis, *, size: int | None = None, counts: bool = True
    ) -> None:
        """The page could not be had now; `size`: how many events to ask for then.

        `counts`: the page is to blame for it.
        """
        await run(self._db, LATER, until, counts, size or gap.size, gap.id)

    async def give_up(self, gap: Gap, now: Millis) -> None:
        """The gap cannot be read now: go on with what stands behind it, and tell the room.

        The room is swept, for as long as it takes, for what was in the gap. Until that is done,
        nothing more is said of other gaps.
        """
        async with self._db.transaction() as db:
            await db.rows("UPDATE gaps SET done = 1 WHERE id = ?", gap.id)
            row = await db.one("SELECT id FROM rooms WHERE room_id = ?", gap.room_id)
            if row is not None:
                if await db.one(MISSED, row[0]) is None:
                    await enqueue(
                        db, row[0], [Outgoing(key=f"missed:{gap.id}", content=MessagesMissed())]
                    )
                sweep = Sweep(room_id=gap.room_id, whole_room=True, since=0, until=now)
                await begin_sweep(db, row[0], sweep, gap_given_up=True)

    async def is_ready(self) -> bool:
        """Whether there is a room of which all was read."""
        return await ask(self._db, READY, 0) is not None


async def begin_gap(db: Database, row: int, gap: Gap, found: list[Item]) -> None:
    """Add a gap to a room; `found` counts from its beginning, unless it is found within."""
    part = await _part(db, row) // 2 * 2 + 2
    await db.rows("UPDATE rooms SET timeline_part = ? WHERE id = ?", part + 1, row)
    values = (gap.token, gap.stop_digest, gap.stop_at, gap.since, gap.until, gap.reread)
    await db.rows(BEGIN, part, *values, gap.encrypted, gap.reread, row)
    await _put(db, row, part, FIRST, found)


async def has_gap(db: Database, row: int) -> bool:
    """Whether the room has a gap, so that new items wait behind it."""
    return await db.one("SELECT 1 FROM gaps WHERE room = ? LIMIT 1", row) is not None


async def append(db: Database, row: int, items: list[Item]) -> None:
    """Put what came after the gap behind what waits already."""
    part = await _part(db, row)
    sql = "SELECT coalesce(max(position), 0) FROM gap_items WHERE room = ? AND timeline_part = ?"
    found = await db.one(sql, row, part)
    await _put(db, row, part, int(found[0]) + 1 if found else 1, items)


async def next_chunk(db: Database, after: int) -> Chunk | None:
    """Return a chunk of what was read, of the room that follows the one with this number."""
    room = await db.one(READY, after) or await db.one(READY, 0)
    if room is None:
        return None
    row = int(room[0])
    found = await db.rows(TAKE, row, CHUNK)
    reread = await db.one("SELECT 1 FROM gaps WHERE room = ? AND reread LIMIT 1", row)
    return Chunk(
        row=row,
        room_id=RoomID(room[1]),
        items=[_item(one) for one in found],
        places=[(one[0], one[1]) for one in found],
        reread=reread is not None,
        last=len(found) < CHUNK,
    )


async def end_chunk(db: Database, chunk: Chunk) -> None:
    """A chunk was decided on; with the last one the room's gaps are over."""
    await db.many(
        "DELETE FROM gap_items WHERE room = ? AND timeline_part = ? AND position = ?",
        [(chunk.row, *place) for place in chunk.places],
    )
    if chunk.last:
        await db.rows("DELETE FROM gaps WHERE room = ?", chunk.row)
        await db.rows("UPDATE rooms SET timeline_part = 0 WHERE id = ?", chunk.row)
        await not_all_seen(db, chunk.row)


async def _part(db: Database, row: int) -> int:
    """Return the part of the timeline in which new items of a room stand."""
    found = await db.one("SELECT timeline_part FROM rooms WHERE id = ?", row)
    assert found is not None
    return int(found[0])


async def _put(db: Database, row: int, part: int, first: int, items: list[Item]) -> None:
    rows: list[Row] = []
    gone: list[Row] = []
    for position, item in enumerate(items, start=first):
        if isinstance(item, Redaction):
            gone.append((row, item.target))
        match item:
            case Message():
                message = (item.event_id, item.sent, item.parent)
                rows.append((row, part, position, *message, None))
            case KeyUse() | DefaultSaid():
                pass  # remembered at once, by whoever reads
            case _:
                rows.append((row, part, position, None, None, None, _json(item)))
    await db.many(PUT, rows)
    await db.many("DELETE FROM gap_items WHERE room = ? AND event_id = ?", gone)


def _json(item: Item) -> str:
    data = dump_command(item) if isinstance(item, Command | UndecidedCommand) else asdict(item)
    return json.dumps(data | {"is": NAMES[type(item)]})


def _item(row: Row) -> Item:
    event_id, sent, parent, other = row[2:]
    if event_id is not None:
        return Message(event_id=event_id, sent=sent, parent=parent)
    data = json.loads(other)
    kind = KINDS[data.pop("is")]
    if kind is Command:
        return load_command(data)
    return load_undecided(data) if kind is UndecidedCommand else kind(**data)
