"""Remembers what the bot may do in its rooms: which are to be looked at, and what was found."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from bot.core.outbox import Outgoing
from bot.core.successors import Stage
from bot.core.timers import MANY, Review
from bot.core.types import Millis, RoomID
from bot.store.database import Database, Row, ask, run
from bot.store.default_lifetimes import publish_defaults
from bot.store.outbox import enqueue
from bot.store.retries import first_ready, next_check

ROOM: Final = (
    "SELECT id, setting, policy_digest, set_by_command, encrypted, suspended, timeline_part,"
    " last_event_digest, room_id FROM rooms WHERE room_id = ?"
)
ASK_REVIEW: Final = "UPDATE rooms SET reviews_asked = reviews_asked + 1 WHERE room_id = ?"
REMOVED: Final = (
    "UPDATE rooms SET reviews_asked = reviews_asked + 1, review_at = 0, removed = 1"
    " WHERE room_id = ?"
)
"""The homeserver says of itself that the bot is no longer in the room."""
NEXT_REVIEW: Final = next_check(
    "review_at", "review_attempts", index="rooms_review", where="reviews_asked > 0"
)
REVIEW_LATER: Final = (
    "UPDATE rooms SET review_at = ?, review_attempts = review_attempts + 1 WHERE room_id = ?"
)
REVIEWED: Final = (
    "UPDATE rooms SET reviews_asked = max(0, reviews_asked - ?), suspended = ?,"
    " refusal_notified = ?, just_joined = 0, review_at = 0, review_attempts = 0 WHERE id = ?"
)
RESUME: Final = (
    "UPDATE timers SET retry_at = due, attempts = 0, refused_age = NULL"
    " WHERE room = ? AND redaction_sent_at IS NULL AND attempts > 0"
)
"""What was tried in vain has not been tried with the power that there is now."""
REFUSALS: Final = (
    "SELECT count(*), max(refused_age) FROM (SELECT refused_age FROM timers"
    " WHERE refused_age IS NOT NULL AND room = (SELECT id FROM rooms WHERE room_id = ?) LIMIT ?)"
)
HELD_BY: Final = "UPDATE rooms SET inviter_digest = ? WHERE id = ?"
NEWS_OF_MEMBERS: Final = (
    "UPDATE rooms SET alone_check_at = CASE WHEN ? THEN coalesce(alone_check_at, ?) END"
    " WHERE id = ?"
)
NEXT_ALONE: Final = next_check(
    "alone_check_at", "0", index="rooms_alone", where="alone_check_at IS NOT NULL"
)
ASK_POLICY_CHECK: Final = (
    "UPDATE rooms SET policy_check_at = coalesce(policy_check_at, ?) WHERE id = ?"
)
NEXT_POLICY_CHECK: Final = next_check(
    "policy_check_at",
    "policy_check_attempts",
    index="rooms_policy_check",
    where="policy_check_at IS NOT NULL",
)
CHECK_POLICY_AT: Final = (
    "UPDATE rooms SET policy_check_at = ?, policy_check_attempts = CASE WHEN ? THEN"
    " policy_check_attempts + 1 ELSE 0 END WHERE room_id = ?"
)
WAITS: Final = (
    "SELECT EXISTS (SELECT 1 FROM gaps WHERE room = r.id)"
    " OR EXISTS (SELECT 1 FROM outbox WHERE room = r.id)"
    " OR EXISTS (SELECT 1 FROM undecryptable WHERE room = r.id)"
    " OR EXISTS (SELECT 1 FROM pending_commands WHERE room = r.id)"
    " OR EXISTS (SELECT 1 FROM sweeps WHERE room = r.id)"
    " OR EXISTS (SELECT 1 FROM successors WHERE predecessor = r.room_id AND stage IN (?, ?))"
    # Nobody is left who could give the bot the power that it lacks.
    " OR (NOT r.suspended AND EXISTS (SELECT 1 FROM timers WHERE room = r.id))"
    " FROM rooms r WHERE r.room_id = ?"
)


class Permissions:
    """What the bot may do in its rooms, as far as it was looked at."""

    _db: Database

    async def to_review(self) -> list[RoomID]:
        """Return the rooms whose power or membership changed."""
        async with self._db.transaction() as db:
            return [
                RoomID(row[0])
                for row in await db.rows("SELECT room_id FROM rooms WHERE reviews_asked")
            ]

    async def next_review(self, busy: Collection[RoomID] = ()) -> Review | None:
        """Return the room whose state is to be looked at next, none of `busy`."""
        return _review(await first_ready(self._db, NEXT_REVIEW, busy))

    async def review_later(self, room_id: RoomID, until: Millis) -> None:
        """The room's state could not be looked at now."""
        await run(self._db, REVIEW_LATER, until, room_id)

    async def ask_review(self, room_id: RoomID) -> None:
        """Have the room's state looked at."""
        await run(self._db, ASK_REVIEW, room_id)

    async def reviewed(
        self,
        room_id: RoomID,
        *,
        suspended: bool,
        outgoing: list[Outgoing],
        reviews: int = 1,
        refusal_notified: bool = False,
    ) -> None:
        """Remember what the room's state says, and what is to be said of it.

        `reviews` is how many looks had been asked for when it was looked at: what was asked
        for since is still to be done. `refusal_notified`: the room knows that messages stay which
        the homeserver refuses to redact.
        """
        async with self._db.transaction() as db:
            row = await db.one(ROOM, room_id)
            if row is None:
                return
            if row[5] and not suspended:
                await db.rows(RESUME, row[0])
            await db.rows(REVIEWED, reviews, suspended, refusal_notified, row[0])
            await publish_defaults(db, row[0])  # it may be allowed now
            await enqueue(db, row[0], outgoing)

    async def refusals(self, room_id: RoomID) -> tuple[int, Millis]:
        """Return how many messages the homeserver refuses to redact, and from which age on.

        As many as `MANY` are counted. 0: it does not say that their age is the reason.
        """
        row = await ask(self._db, REFUSALS, room_id, MANY)
        return (int(row[0]), int(row[1] or 0)) if row else (0, 0)

    async def next_alone(self, busy: Collection[RoomID] = ()) -> Review | None:
        """Return the room in which the bot may be alone that is to be looked at next."""
        return _review(await first_ready(self._db, NEXT_ALONE, busy))

    async def look_for_others(self, room_id: RoomID, at: Millis | None) -> None:
        """Look then whether the bot is alone in the room; `None`: it is not."""
        await run(self._db, "UPDATE rooms SET alone_check_at = ? WHERE room_id = ?", at, room_id)

    async def next_policy_check(self, busy: Collection[RoomID] = ()) -> Review | None:
        """Return the room whose lifetime is to be compared with its state next, none of `busy`."""
        return _review(await first_ready(self._db, NEXT_POLICY_CHECK, busy))

    async def check_policy_at(self, room_id: RoomID, at: Millis | None) -> None:
        """Compare the room's lifetime with its state then; `None`: they agree."""
        await run(self._db, CHECK_POLICY_AT, at, at is not None, room_id)

    async def has_work(self, room_id: RoomID) -> bool:
        """Whether anything waits in the room that the bot can still do."""
        row = await ask(self._db, WAITS, Stage.OUTSIDE, Stage.INSIDE, room_id)
        return row is not None and bool(row[0])


def _review(row: Row | None) -> Review | None:
    if row is None:
        return None
    return Review(room_id=RoomID(row[0]), attempts=row[1], retry_at=row[2])
