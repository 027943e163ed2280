"""Remembers invitations from when they come until the bot is in the room, or is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from bot.core.invitations import Invitation, Invite, InviteStage
from bot.core.types import Millis, RoomID, UserID
from bot.store.database import Database, as_json, ask, run
from bot.store.retries import put_off

MOST_OF_ONE: Final = 20
MOST_OF_SERVER: Final = 100
MOST_INVITED: Final = 1_000
"""Invitations that wait at once: of one account, of the accounts of one server, and in all."""
BUSY_OF_ONE: Final = 12
BUSY_OF_SERVER: Final = 18
"""Those that are seen to at once: if none of them is answered, there are places left for others."""

ANEW: Final = (
    "UPDATE invitations SET inviter = ?, server = ?, stage = ?, retry_at = 0, attempts = 0"
    " WHERE room_id = ? AND (stage = ? OR inviter IS NOT ?) RETURNING 1"
)
AGAIN: Final = "UPDATE invitations SET retry_at = 0 WHERE room_id = ? RETURNING 1"
"""One that comes again from the same account is tried at once, and has its end all the same."""
COUNTS: Final = (
    "SELECT (SELECT count(*) FROM invitations WHERE server = ? AND inviter IS ? AND stage <> ?),"
    " (SELECT count(*) FROM invitations WHERE server = ? AND stage <> ?),"
    " (SELECT count(*) FROM invitations WHERE stage <> ?)"
)
CROWDED: Final = (
    "SELECT server, inviter, count(*) FROM invitations WHERE stage <> ? AND (? IS NULL"
    " OR server = ?)"
    " GROUP BY server, inviter ORDER BY count(*) DESC LIMIT 1"
)
LARGEST: Final = (
    "SELECT server, count(*) FROM invitations WHERE stage <> ? GROUP BY server"
    " ORDER BY count(*) DESC LIMIT 1"
)
DISPLACE: Final = (
    "DELETE FROM invitations WHERE id = (SELECT id FROM invitations WHERE server = ?"
    " AND inviter IS ?"
    " AND stage <> ? ORDER BY attempts DESC, id DESC LIMIT 1)"
)
INVITED: Final = "INSERT INTO invitations (room_id, inviter, server) VALUES (?, ?, ?)"
ENDED: Final = "DELETE FROM invitations WHERE id = ?"
NEXT: Final = (
    "SELECT id, room_id, inviter, stage, attempts, retry_at FROM invitations"
    " WHERE stage = ? AND room_id NOT IN (SELECT value FROM json_each(?))"
    " AND server NOT IN (SELECT server FROM invitations WHERE room_id IN"
    " (SELECT value FROM json_each(?)) GROUP BY server HAVING count(*) >= ?)"
    " AND coalesce(inviter, '') NOT IN (SELECT coalesce(inviter, '') FROM invitations"
    " WHERE room_id IN"
    " (SELECT value FROM json_each(?)) GROUP BY inviter HAVING count(*) >= ?)"
    " ORDER BY retry_at, id LIMIT 1"
)
NEVER_CAME: Final = "DELETE FROM invitations WHERE stage = ? AND retry_at < ?"
ROOMS_HELD: Final = (
    "SELECT (SELECT count(*) FROM rooms WHERE left_at IS NULL AND NOT removed)"
    " + (SELECT count(*) FROM invitations WHERE stage IN (?, ?) AND room_id NOT IN"
    " (SELECT room_id FROM rooms WHERE NOT removed))"
)
HELD_FOR: Final = (
    "SELECT (SELECT count(*) FROM rooms WHERE inviter_digest = ? AND left_at IS NULL"
    " AND NOT removed)"
    " + (SELECT count(*) FROM invitations WHERE inviter = ? AND stage IN (?, ?) AND room_id NOT IN"
    " (SELECT room_id FROM rooms WHERE NOT removed))"
)


class Invitations:
    """The invitations that are not done with, each in its stage."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def undecided(self) -> Invitation | None:
        """Return the oldest invitation of which nothing was decided yet."""
        return await self._next(InviteStage.NEW, ())

    async def to_join(self, busy: Collection[RoomID] = ()) -> Invitation | None:
        """Return the invitation to be accepted next."""
        return await self._next(InviteStage.JOINING, busy)

    async def to_decline(self, busy: Collection[RoomID] = ()) -> Invitation | None:
        """Return the invitation to be declined next."""
        return await self._next(InviteStage.DECLINING, busy)

    async def _next(self, stage: InviteStage, busy: Collection[RoomID]) -> Invitation | None:
        rooms = as_json(busy)
        async with self._db.transaction() as db:
            limits = (rooms, BUSY_OF_SERVER, rooms, BUSY_OF_ONE)
            row = await db.one(NEXT, stage, rooms, *limits)
        if row is None:
            return None
        return Invitation(
            id=row[0],
            room_id=RoomID(row[1]),
            inviter=None if row[2] is None else UserID(row[2]),
            stage=InviteStage(row[3]),
            attempts=row[4],
            retry_at=row[5],
        )

    async def move(self, one: Invitation, stage: InviteStage, at: Millis) -> None:
        """Go on to a stage, to be seen to at that time."""
        sql = "UPDATE invitations SET stage = ?, retry_at = ?, attempts = 0 WHERE id = ?"
        await run(self._db, sql, stage, at, one.id)

    async def later(self, one: Invitation, until: Millis, *, counts: bool) -> None:
        """It could not be answered now; `counts`: that was up to this invitation."""
        await put_off(self._db, "invitations", one.id, until, counts=counts)

    async def ended(self, one: Invitation) -> None:
        """Nothing is left to be done."""
        await run(self._db, ENDED, one.id)

    async def rooms_held(self) -> int:
        """Return how many rooms the bot is in, or on its way into."""
        row = await ask(self._db, ROOMS_HELD, InviteStage.JOINING, InviteStage.JOINED)
        return int(row[0]) if row else 0

    async def held_for(self, inviter: UserID, digest: str) -> int:
        """Return in how many rooms the bot is, or will be, because this account wanted it there."""
        async with self._db.transaction() as db:
            stages = (InviteStage.JOINING, InviteStage.JOINED)
            row = await db.one(HELD_FOR, digest, inviter, *stages)
        return int(row[0]) if row else 0


async def remember_invites(db: Database, invited: Sequence[Invite]) -> None:
    """Note invitations, within the bounds. Whoever fills a bound makes room for others."""
    joined = InviteStage.JOINED
    for one in invited:
        server = "" if one.inviter is None else one.inviter.partition(":")[2]
        new = (one.inviter, server, InviteStage.NEW, one.room_id, joined, one.inviter)
        if await db.one(ANEW, *new) or await db.one(AGAIN, one.room_id):
            continue
        row = await db.one(COUNTS, server, one.inviter, joined, server, joined, joined)
        assert row is not None
        own, neighbours, everybody = map(int, row)
        if own >= MOST_OF_ONE:
            continue
        if neighbours >= MOST_OF_SERVER:
            if not await _displace(db, server, than=own):
                continue
        elif everybody >= MOST_INVITED:
            largest = await db.one(LARGEST, joined)
            if largest is None or int(largest[1]) <= neighbours:
                continue
            await _displace(db, largest[0], than=0)
        await db.rows(INVITED, one.room_id, one.inviter, server)


async def forget_never_came(db: Database, now: Millis) -> None:
    """Forget rooms that were joined and never came: the bot was removed at once."""
    await db.rows(NEVER_CAME, InviteStage.JOINED, now)


async def _displace(db: Database, server: str, *, than: int) -> bool:
    """Drop an invitation of the account of a server that has most, if it has more than `than`."""
    joined = InviteStage.JOINED
    found = await db.one(CROWDED, joined, server, server)
    if found is None or int(found[2]) <= than:
        return False
    await db.rows(DISPLACE, found[0], found[1], joined)
    return True


async def take_inviter(db: Database, room_id: RoomID) -> UserID | None:
    """The bot is in a room: its invitation is over; return who sent it."""
    row = await db.one("SELECT id, inviter FROM invitations WHERE room_id = ?", room_id)
    if row is None:
        return None
    await db.rows(ENDED, row[0])
    return None if row[1] is None else UserID(row[1])
