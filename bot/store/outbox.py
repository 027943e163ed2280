"""Remembers what is to be sent to rooms: answers to commands, warnings, state events."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from typing import Final

from bot.core.outbox import OutboxItem, Outgoing, SetPolicy, admitted
from bot.core.policy_forward import succeed
from bot.core.types import Millis, RoomID
from bot.store.database import Database, Row, as_json
from bot.store.outbox_rows import dump, load
from bot.store.retries import next_ready, put_off

log = logging.getLogger(__name__)

ENQUEUE: Final = "INSERT OR IGNORE INTO outbox (room, key, kind, args) VALUES (?, ?, ?, ?)"
WAITING: Final = "SELECT count(*) FROM outbox WHERE room = ?"
SUPERSEDE: Final = "DELETE FROM outbox WHERE room = ? AND kind = 'set' RETURNING key, kind, args"
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
TAKE_BACK: Final = (
    "UPDATE rooms SET setting = state_setting, set_by_command = 0, awaited_digest = ''"
    " WHERE room_id = ? AND set_by_command"
)
WAIT_TURN: Final = "UPDATE outbox SET retry_at = max(retry_at, ?) WHERE room = ? AND kind <> 'set'"


class Outbox:
    """What is still to be answered or said; a crash forgets none of it."""

    _db: Database

    async def next_to_deliver(
        self, busy: Collection[RoomID] = (), *, setting: bool | None = None
    ) -> OutboxItem | None:
        """Return the entry to be delivered first, not of `busy` rooms.

        With `setting`, a lifetime that is to be set; without, something to be said, which is the
        oldest of its room. `None`: a lifetime if there is one, else words.
        """
        kinds = {True: (NEXT_SETTING,), False: (NEXT_WORDS,), None: (NEXT_SETTING, NEXT_WORDS)}
        dropped, found = 0, None
        async with self._db.transaction() as db:
            for sql in kinds[setting]:
                while found is None and (row := await db.one(sql, as_json(busy))) is not None:
                    found = _item(row)
                    if found is None:
                        dropped += 1
                        await db.rows(DELIVERED, row[3])
                        if row[5] == "set":  # it will never be written: the room's state holds
                            await db.rows(TAKE_BACK, row[0])
        if dropped:
            log.warning("%d entries of the outbox could not be read, and are dropped", dropped)
        return found

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
    """Add what is to be sent to a room, once each; a new lifetime replaces one not set yet.

    Of answers, no more than somebody may read.
    """
    if not outgoing:
        return
    new = next((one for one in outgoing if isinstance(one.content, SetPolicy)), None)
    if new is not None:
        before = [_outgoing(*one) for one in await db.rows(SUPERSEDE, row)]
        *answers, last = succeed([one for one in before if one is not None], new)
        outgoing = answers + [last if one is new else one for one in outgoing]
    waiting = await db.one(WAITING, row)
    assert waiting is not None
    rows = [(row, one.key, *content_row(one)) for one in admitted(outgoing, int(waiting[0]))]
    await db.many(ENQUEUE, rows)


def content_row(outgoing: Outgoing | OutboxItem) -> tuple[str, str]:
    """Return the columns `kind` and `args`; the thread stands among the arguments."""
    name, args = dump(outgoing.content)
    thread = {"thread": outgoing.thread} if outgoing.thread else {}
    return name, json.dumps(args | thread)


def _outgoing(key: str, kind: str, args: str) -> Outgoing | None:
    """Return what these columns say; `None`: they cannot be read."""
    try:
        data = json.loads(args)
        thread = data.pop("thread", "") if isinstance(data, dict) else ""
        return Outgoing(key=key, content=load(kind, data), thread=str(thread))
    except ValueError:
        return None


def _item(row: Row) -> OutboxItem | None:
    found = _outgoing(row[4], row[5], row[6])
    if found is None:
        return None
    return OutboxItem(
        room_id=RoomID(row[0]),
        attempts=row[1],
        retry_at=row[2],
        id=row[3],
        key=found.key,
        content=found.content,
        thread=found.thread,
    )
