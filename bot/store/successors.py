"""Remembers which rooms were replaced by which, and how far the bot has followed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from bot.core.outbox import Outgoing
from bot.core.successors import Stage, Successor
from bot.core.types import Millis, RoomID
from bot.store.database import Database, Row, ask, run
from bot.store.outbox import enqueue
from bot.store.retries import first_ready

MOST_OF_ONE: Final = 10
"""Rooms that one room may name as its successor, one after another."""
KEPT_FOR: Final[Millis] = 30 * 24 * 3_600_000
"""How long a pair is known once the bot is no longer in the room that was replaced."""

CLAIM: Final = (
    "INSERT OR IGNORE INTO successors (room_id, predecessor, setting, via, stage, inviter_digest,"
    " claimed_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
KNOWN: Final = (
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM successors WHERE room_id = ? AND predecessor = ?)"
    " OR (SELECT count(*) FROM successors WHERE predecessor = ?) >= ?"
)
FORGET_DONE: Final = (
    "DELETE FROM successors WHERE stage = ? AND NOT EXISTS"
    " (SELECT 1 FROM rooms r WHERE r.room_id IN (successors.room_id, successors.predecessor))"
)
FORGET_OLD: Final = (
    "DELETE FROM successors WHERE claimed_at < ? AND NOT EXISTS"
    " (SELECT 1 FROM rooms r WHERE r.room_id = successors.predecessor)"
)
COLUMNS: Final = (
    "SELECT room_id, predecessor, setting, via, stage, joined_by_bot, welcome_withheld,"
    " needs_announced, retry_at, attempts FROM successors"
)
NEXT: Final = (
    f"{COLUMNS} INDEXED BY successors_retry WHERE stage IN (0, 2)"  # noqa: S608
    " AND room_id NOT IN (SELECT value FROM json_each(?)) ORDER BY retry_at, room_id LIMIT 1"
)
"""Of the stages `OUTSIDE` and `INSIDE`."""
OF: Final = f"{COLUMNS} WHERE room_id = ? AND stage <> ?"
ENTER: Final = (
    "UPDATE successors SET stage = ?, welcome_withheld = 1, retry_at = 0, attempts = 0"
    " WHERE room_id = ? AND stage IN (?, ?) RETURNING inviter_digest"
)
HELD_BY: Final = "UPDATE rooms SET inviter_digest = ? WHERE room_id = ?"
AGAIN: Final = (
    "UPDATE successors SET stage = ?, retry_at = 0, attempts = 0 WHERE room_id = ? AND stage = ?"
    " RETURNING 1"
)
MOVE: Final = (
    "UPDATE successors SET stage = ?, needs_announced = needs_announced"
    " OR ?, retry_at = 0, attempts = 0 WHERE room_id = ? AND predecessor = ?"
)
FOLLOWED: Final = "UPDATE successors SET joined_by_bot = 1 WHERE room_id = ? AND predecessor = ?"
LATER: Final = (
    "UPDATE successors SET retry_at = ?, attempts = attempts + 1 WHERE room_id = ?"
    " AND predecessor = ?"
)


class Successors:
    """One row a pair of rooms, kept when all is done: each pair counts once.

    Rows end some time after the bot has left the older room, and one room may name only so many.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def is_known(self, room_id: RoomID, predecessor: RoomID) -> bool:
        """Whether this pair was met before, or the old room has named too many."""
        async with self._db.transaction() as db:
            return await _is_known(db, room_id, predecessor)

    async def claim(self, found: Successor, *outgoing: Outgoing, now: Millis) -> None:
        """Remember a pair, once, and what the old room is to be told of it."""
        async with self._db.transaction() as db:
            if await _is_known(db, found.room_id, found.predecessor):
                return
            await db.rows(FORGET_DONE, Stage.DONE)
            values = (found.room_id, found.predecessor, found.setting, found.via, found.stage)
            await db.rows(CLAIM, *values, found.inviter_digest, now)
            await _enqueue(db, found.predecessor, list(outgoing))

    async def next(self, busy: Collection[RoomID] = ()) -> Successor | None:
        """Return the successor that is to be seen to next, not one of `busy` rooms."""
        row = await first_ready(self._db, NEXT, busy)
        return None if row is None else _successor(row)

    async def of(self, room_id: RoomID) -> list[Successor]:
        """Return what is still to be done of the claims that this room succeeds another."""
        async with self._db.transaction() as db:
            return [_successor(row) for row in await db.rows(OF, room_id, Stage.DONE)]

    async def follow(self, one: Successor) -> None:
        """The bot is about to join by itself: should the claim be false, it leaves again."""
        await run(self._db, FOLLOWED, one.room_id, one.predecessor)

    async def move(
        self,
        one: Successor,
        stage: Stage,
        *outgoing: Outgoing,
        where: RoomID,
        needs_announced: bool = False,
    ) -> None:
        """Go on to a stage, and remember what a room is to be told of it, in one transaction."""
        async with self._db.transaction() as db:
            await db.rows(MOVE, stage, needs_announced, one.room_id, one.predecessor)
            await _enqueue(db, where, list(outgoing))

    async def later(self, one: Successor, until: Millis) -> None:
        """It could not be seen to now."""
        await run(self._db, LATER, until, one.room_id, one.predecessor)

    async def look_again(self, room_id: RoomID) -> bool:
        """The room's state has changed; return whether something had waited for that."""
        return await ask(self._db, AGAIN, Stage.INSIDE, room_id, Stage.POWERLESS) is not None


async def enter(db: Database, room_id: RoomID) -> bool:
    """The bot has come into a room; return whether it succeeds another, so that its greeting waits.

    Part of the transaction that remembers the room.
    """
    row = await db.one(ENTER, Stage.INSIDE, room_id, Stage.OUTSIDE, Stage.AWAITED)
    if row is None:
        return False
    await db.rows(HELD_BY, row[0], room_id)
    return True


async def forget_successors(db: Database, now: Millis) -> None:
    """Forget pairs of which the older room is long left."""
    await db.rows(FORGET_DONE, Stage.DONE)
    await db.rows(FORGET_OLD, now - KEPT_FOR)


async def _is_known(db: Database, room_id: RoomID, predecessor: RoomID) -> bool:
    return await db.one(KNOWN, room_id, predecessor, predecessor, MOST_OF_ONE) is not None


async def _enqueue(db: Database, room_id: RoomID, outgoing: list[Outgoing]) -> None:
    row = await db.one("SELECT id FROM rooms WHERE room_id = ?", room_id)
    if row is not None:
        await enqueue(db, int(row[0]), outgoing)


def _successor(row: Row) -> Successor:
    return Successor(
        room_id=RoomID(row[0]),
        predecessor=RoomID(row[1]),
        setting=row[2],
        via=row[3],
        stage=Stage(row[4]),
        joined_by_bot=bool(row[5]),
        welcome_withheld=bool(row[6]),
        needs_announced=bool(row[7]),
        retry_at=row[8],
        attempts=row[9],
    )
