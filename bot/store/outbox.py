"""Remembers what is to be sent to rooms: answers to commands, warnings, state events."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Final

from bot.core.policy import OutboxItem, Outgoing
from bot.core.policy_forward import overtaken, succeed
from bot.core.types import Millis, RoomID
from bot.store.database import Database, Row, as_list
from bot.store.retries import next_ready, put_off

ENQUEUE: Final = "INSERT OR IGNORE INTO outbox (room, key, kind, args) VALUES (?, ?, ?, ?)"
OWING: Final = "SELECT count(*) FROM outbox WHERE room = ?"
MOST_OUTGOING: Final = 100
"""Answers that wait for one room at once; more were asked for than anybody reads."""
MUST: Final = frozenset(
    {"set", "announce", "default", "reverted", "suspended", "resumed", "welcome", "moved", "needs"}
)
"""What is owed all the same: it tells whether messages disappear."""
MOST_MUST: Final = 200
"""With those, a room whose notices cannot be sent is owed no more than this; a lifetime is set."""
SUPERSEDE: Final = "DELETE FROM outbox WHERE room = ? AND kind = 'set' RETURNING key, args"
NEXT_SETTING: Final = next_ready(
    "outbox", "q.id, q.key, q.kind, q.args", index="outbox_setting", where="q.kind = 'set'"
)
NEXT_WORDS: Final = next_ready(
    "outbox",
    "q.id, q.key, q.kind, q.args",
    index="outbox_words",
    where="q.kind <> 'set'"
    " AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.room = q.room AND e.id < q.id)",
)
DELIVERED: Final = "DELETE FROM outbox WHERE id = ?"
WAIT_TURN: Final = "UPDATE outbox SET retry_at = max(retry_at, ?) WHERE room = ? AND kind <> 'set'"


class Outbox:
    """What is still to be answered or said; a crash forgets none of it."""

    _db: Database

    async def next_to_deliver(
        self, busy: Collection[RoomID] = (), *, setting: bool | None = None
    ) -> OutboxItem | None:
        """Return the entry to be delivered first, not of `busy` rooms.

        With `setting`, a lifetime that is to be set; without, something to be said, which is the
        oldest that is owed to its room. `None`: a lifetime if there is one, else words.
        """
        kinds = {True: (NEXT_SETTING,), False: (NEXT_WORDS,), None: (NEXT_SETTING, NEXT_WORDS)}
        row: Row | None = None
        async with self._db.transaction() as db:
            for sql in kinds[setting]:
                row = row or await db.one(sql, as_list(busy))
        if row is None:
            return None
        return OutboxItem(
            room_id=RoomID(row[0]),
            attempts=row[1],
            retry_at=row[2],
            id=row[3],
            key=row[4],
            kind=row[5],
            args=json.loads(row[6]),
        )

    async def delivered(self, entry: OutboxItem, now: Millis = 0) -> None:
        """The entry was delivered; the room's next one comes after those that wait in others."""
        async with self._db.transaction() as db:
            row = await db.one("SELECT id FROM rooms WHERE room_id = ?", entry.room_id)
            await db.rows(DELIVERED, entry.id)
            if row is not None:
                await db.rows(WAIT_TURN, now, row[0])

    async def deliver_later(self, entry: OutboxItem, until: Millis) -> None:
        """The entry could not be delivered now."""
        await put_off(self._db, "outbox", entry.id, until)


async def enqueue(db: Database, row: int, outgoing: list[Outgoing]) -> None:
    """Add what is owed to a room, once each; a new lifetime takes the place of one not set yet.

    Of answers, no more than somebody may read.
    """
    if any(one.kind == "set" for one in outgoing):
        before = [
            Outgoing(key=one[0], kind="set", args=json.loads(one[1]))
            for one in await db.rows(SUPERSEDE, row)
        ]
        new = next(one for one in outgoing if one.kind == "set")
        last = succeed(before, new)
        outgoing = overtaken(before, new) + [last if one is new else one for one in outgoing]
    found = await db.one(OWING, row) if outgoing else None
    free = max(0, MOST_OUTGOING - int(found[0])) if found else 0
    answers = [one for one in outgoing if one.kind not in MUST]
    if len(answers) > free:
        dropped = {one.key for one in answers[free:]}
        outgoing = [one for one in outgoing if one.kind in MUST or one.key not in dropped]
    free = max(0, MOST_MUST - int(found[0])) if found else 0
    others = [one for one in outgoing if one.kind != "set"][:free]
    outgoing = [one for one in outgoing if one.kind == "set" or one in others]
    await db.many(
        ENQUEUE, [(row, one.key, one.kind, json.dumps(asdict(one)["args"])) for one in outgoing]
    )
