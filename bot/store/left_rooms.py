"""Keeps what waits in a room that the bot was removed from, until it is asked back or for a month.

Nothing is copied: the room's row gets a name that nobody looks for, and its timers and gaps stay
where they are. So leaving and coming back cost the same with one timer or a million; what has to be
done to each timer is done a portion at a time.
"""

from __future__ import annotations

from typing import Final

from bot.core.timers import MANY
from bot.core.types import Millis, RoomID
from bot.store.database import Database, ask
from bot.store.relations import not_all_seen
from bot.store.sweeps import START

KEPT_FOR: Final[Millis] = 30 * 24 * 3_600_000
"""How long what waits in a room that the bot was removed from is kept for its return."""
LEFT_OF_ONE: Final = 100
"""Rooms that are kept so for one account that wanted the bot there; the newest."""
PORTION: Final = 200
"""Rows that one transaction changes or deletes."""

PREFIX: Final = "left "
"""Before the id of a room that was left."""

COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM timers WHERE room = ? LIMIT ?)"
WAITS: Final = (
    "SELECT EXISTS (SELECT 1 FROM timers WHERE room = ?)"
    " OR EXISTS (SELECT 1 FROM gaps WHERE room = ?)"
    " OR EXISTS (SELECT 1 FROM sweeps WHERE room = ?)"
)
PASSING: Final = (
    "DELETE FROM outbox WHERE room = ?",
    "DELETE FROM undecryptable WHERE room = ?",
    "DELETE FROM pending_commands WHERE room = ?",
    "DELETE FROM pending_relations WHERE room = ?",
)
"""What is of use only while the bot is in the room; each has a bound."""
SWEEP_ON: Final = f"{START} AND token IS NULL"
"""A sweep that has not begun: it is to begin here, and not at the bot's return."""
OUTLIVE: Final = "UPDATE media SET room = NULL WHERE timer IS NULL AND room = ?"
"""The files of messages that are gone go too, without the room."""
LEAVE: Final = (
    "UPDATE rooms SET room_id = ? || room_id, left_at = ?, suspended = 1, reviews_asked = 0,"
    " review_at = 0, review_attempts = 0, removed = 0, alone_check_at = NULL, returned_at = 0,"
    " policy_check_at = NULL, policy_check_attempts = 0, just_joined = 0, refusal_notified = 0,"
    " setting = state_setting, set_by_command = 0, awaited_digest = '', policy_digest = ''"
    " WHERE id = ?"
)
"""Suspended: nothing is due there. The room's state is read anew, whatever it is then."""
EARLIER: Final = "UPDATE rooms SET room_id = 'over ' || id, left_at = 0 WHERE room_id = ?"
"""What is left of an earlier time in the room, and is being deleted, makes room."""
SURPLUS: Final = (
    "UPDATE rooms SET left_at = 0 WHERE left_at > 0 AND inviter_digest ="
    " (SELECT inviter_digest FROM rooms WHERE id = ?) AND id NOT IN"
    " (SELECT id FROM rooms WHERE left_at > 0 AND inviter_digest ="
    " (SELECT inviter_digest FROM rooms WHERE id = ?) ORDER BY left_at DESC, id DESC LIMIT ?)"
)
RETURN: Final = (
    "UPDATE rooms SET room_id = ?, left_at = NULL, suspended = 0, returned_at = ?"
    " WHERE room_id = ? AND left_at >= ? RETURNING id"
)
FORGET_SETTING: Final = (
    "UPDATE rooms SET setting = NULL, state_setting = NULL WHERE id = ? AND NOT EXISTS"
    " (SELECT 1 FROM gaps WHERE room = rooms.id)"
)
"""Where a gap is still to be read, what stands in it has the setting from before."""
OVERDUE: Final = (
    "UPDATE timers SET backlog = 1, relations_loaded = 0, attempts = 0, refused_age = NULL"
    " WHERE id IN (SELECT id FROM timers WHERE room = ? AND backlog = 0 AND retry_at <= ?"
    " ORDER BY retry_at LIMIT ?) RETURNING 1"
)
"""What has become overdue waits behind what is live; much may have been added to it meanwhile."""
EXPIRED: Final = "SELECT id FROM rooms WHERE left_at < ? LIMIT 1"
TIMERS_OF: Final = "SELECT id FROM timers WHERE room = ? LIMIT ?"
DROP_FILES: Final = "DELETE FROM media WHERE timer = ?"
DROP_TIMERS: Final = "DELETE FROM timers WHERE id = ?"
GAP_ITEMS_OF: Final = "SELECT timeline_part, position FROM gap_items WHERE room = ? LIMIT ?"
DROP_GAP_ITEMS: Final = (
    "DELETE FROM gap_items WHERE room = ? AND timeline_part = ? AND position = ?"
)


class LeftRooms:
    """Rooms that the bot has left, and those that it has come back to."""

    _db: Database

    async def forget(self, room_id: RoomID, now: Millis) -> int:
        """Forget a room that the bot is no longer in; return how many timers it had, up to `MANY`.

        What waits there is put by for `KEPT_FOR`, should the bot be asked back.
        """
        async with self._db.transaction() as db:
            room = await db.one("SELECT id FROM rooms WHERE room_id = ?", room_id)
            if room is None:
                return 0
            row = int(room[0])
            found, waits = await db.one(COUNT, row, MANY), await db.one(WAITS, row, row, row)
            await db.rows(OUTLIVE, row)
            if waits is None or not waits[0]:
                await db.rows("DELETE FROM rooms WHERE id = ?", row)
                return 0
            for statement in (*PASSING, SWEEP_ON):
                await db.rows(statement, row)
            await db.rows(EARLIER, PREFIX + room_id)
            await db.rows(LEAVE, PREFIX, now, row)
            await db.rows(SURPLUS, row, row, LEFT_OF_ONE)
        return int(found[0]) if found else 0

    async def put_in_order(self) -> bool:
        """Do a portion of what is to be done to rooms that came back; whether there is more."""
        async with self._db.transaction() as db:
            room = await db.one("SELECT id, returned_at FROM rooms WHERE returned_at LIMIT 1")
            if room is None:
                return False
            done = await db.rows(OVERDUE, room[0], room[1], PORTION)
            if len(done) < PORTION:
                await db.rows("UPDATE rooms SET returned_at = 0 WHERE id = ?", room[0])
        return True

    async def next_expiry(self) -> Millis | None:
        """Return when the room that was left first is to be forgotten."""
        row = await ask(self._db, "SELECT min(left_at) FROM rooms")
        return None if row is None or row[0] is None else int(row[0]) + KEPT_FOR + 1

    async def delete_expired_room(self, now: Millis) -> bool:
        """Delete a portion of what nobody has asked the bot back for; whether there is more."""
        async with self._db.transaction() as db:
            room = await db.one(EXPIRED, now - KEPT_FOR)
            if room is None:
                return False
            row = int(room[0])
            timers = await db.rows(TIMERS_OF, row, PORTION)
            await db.many(DROP_FILES, timers)
            await db.many(DROP_TIMERS, timers)
            gaps = [] if timers else await db.rows(GAP_ITEMS_OF, row, PORTION)
            await db.many(DROP_GAP_ITEMS, [(row, *one) for one in gaps])
            if not timers and not gaps:
                await db.rows("DELETE FROM rooms WHERE id = ?", row)
        return True


async def come_back(db: Database, room_id: RoomID, now: Millis) -> int:
    """The bot is in a room again that it had left: what was put by goes on.

    Returns how many messages that are, up to `MANY`.
    """
    known = await db.one("SELECT 1 FROM rooms WHERE room_id = ?", room_id)
    if known is not None:
        return 0
    room = await db.one(RETURN, room_id, now, PREFIX + room_id, now - KEPT_FOR)
    if room is None:
        return 0
    await db.rows(FORGET_SETTING, room[0])
    await not_all_seen(db, room[0])
    found = await db.one(COUNT, room[0], MANY)
    return int(found[0]) if found else 0
