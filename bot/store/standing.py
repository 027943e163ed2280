"""Remembers the bot's standing in rooms: what is to be looked at, what was lost, what it left."""

from __future__ import annotations

from typing import Final

from bot.model import Millis, RoomID
from bot.policy import Owed
from bot.store.database import Database, run
from bot.store.debts import owe
from bot.store.files import OUTLIVE

KEPT_FOR: Final[Millis] = 30 * 24 * 3_600_000
"""How long the timers of a room that the bot was removed from are kept for its return."""

ROOM: Final = (
    "SELECT id, setting, policy_digest, commanded, encrypted, suspended, segment, last_digest,"
    " room_id FROM rooms WHERE room_id = ?"
)
ASK_REVIEW: Final = "UPDATE rooms SET review = review + 1 WHERE room_id = ?"
REVIEWED: Final = (
    "UPDATE rooms SET review = max(0, review - ?), suspended = ?, stuck = ?, greeting = 0"
    " WHERE id = ?"
)
RESUME: Final = (
    "UPDATE timers SET next = due, attempts = 0, refused = NULL"
    " WHERE room = ? AND sent_at IS NULL AND attempts > 0"
)
"""What was tried in vain has not been tried with the power that there is now."""
REFUSALS: Final = (
    "SELECT count(*), max(refused) FROM timers"
    " WHERE refused IS NOT NULL AND room = (SELECT id FROM rooms WHERE room_id = ?)"
)
COUNT: Final = "SELECT count(*) FROM timers WHERE room = ?"
LEAVE: Final = (
    "INSERT OR REPLACE INTO left_behind (room_id, event_id, due, generation, parent, at)"
    " SELECT ?, event_id, due, generation, parent, ? FROM timers WHERE room = ?"
)
RETURN: Final = (
    "INSERT OR IGNORE INTO timers (room, event_id, due, next, generation, parent, backlog)"
    # From now on they wait for what belongs to them, which needs the greater ids for that.
    " SELECT :room, event_id, due, max(due, :now), generation, parent, due <= :now"
    " FROM left_behind WHERE room_id = :room_id ORDER BY due, parent IS NOT NULL RETURNING 1"
)
RETURNED: Final = "DELETE FROM left_behind WHERE room_id = ?"


class Standing:
    """What the bot may do in its rooms, as far as it was looked at."""

    _db: Database

    async def to_review(self) -> list[RoomID]:
        """Return the rooms whose power or membership changed."""
        async with self._db.transaction() as db:
            return [
                RoomID(row[0]) for row in await db.rows("SELECT room_id FROM rooms WHERE review")
            ]

    async def ask_review(self, room_id: RoomID) -> None:
        """Have the room's state looked at."""
        await run(self._db, ASK_REVIEW, room_id)

    async def reviewed(
        self,
        room_id: RoomID,
        *,
        suspended: bool,
        owed: list[Owed],
        reviews: int = 1,
        stuck: bool = False,
    ) -> None:
        """Remember what the room's state says, and what is to be said of it.

        `reviews` is how many looks had been asked for when it was looked at: what was asked
        for since is still to be done. `stuck`: the room knows that refused messages stay.
        """
        async with self._db.transaction() as db:
            row = await db.one(ROOM, room_id)
            if row is None:
                return
            if row[5] and not suspended:
                await db.rows(RESUME, row[0])
            await db.rows(REVIEWED, reviews, suspended, stuck, row[0])
            await owe(db, row[0], owed)

    async def refusals(self, room_id: RoomID) -> tuple[int, Millis]:
        """Return how many messages the homeserver refuses to redact, and from which age on.

        0: it does not say that their age is the reason.
        """
        async with self._db.transaction() as db:
            row = await db.one(REFUSALS, room_id)
        return (int(row[0]), int(row[1] or 0)) if row else (0, 0)

    async def forget(self, room_id: RoomID, now: Millis) -> int:
        """Forget a room that the bot is no longer in; return how many timers it had.

        They are put by for `KEPT_FOR`, should the bot be asked back.
        """
        async with self._db.transaction() as db:
            known = await db.one(ROOM, room_id)
            if known is None:
                return 0
            found = await db.one(COUNT, known[0])
            await db.rows(LEAVE, room_id, now, known[0])
            # What waits there stays, and its files with it; those of messages that went, go.
            await db.rows(OUTLIVE, known[0])
            await db.rows("DELETE FROM rooms WHERE id = ?", known[0])
        return int(found[0]) if found else 0


async def come_back(db: Database, row: int, room_id: RoomID, now: Millis) -> int:
    """The bot is in a room again: what was put by is waiting again; return how much that is."""
    await forget_left_behind(db, now)
    found = await db.rows(RETURN, room=row, room_id=room_id, now=now)
    await db.rows(RETURNED, room_id)
    return len(found)


async def forget_left_behind(db: Database, now: Millis) -> None:
    """Forget what nobody has asked the bot back for."""
    await db.rows("DELETE FROM left_behind WHERE at < ?", now - KEPT_FOR)
