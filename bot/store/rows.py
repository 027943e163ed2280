"""The rows of one transaction, for the service that decides between reading and writing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bot.core.commands import UndecidedCommand
from bot.core.default_lifetime import Defaults
from bot.core.invitations import Invite
from bot.core.missing_events import Chunk
from bot.core.outbox import Outgoing
from bot.core.policy import RoomState
from bot.core.policy_forward import Decision
from bot.core.timeline import Gap, Item, MediaReference, Sweep
from bot.core.types import EventID, Millis, RoomID, UserID
from bot.store import (
    default_lifetimes,
    gaps,
    handled_commands,
    invitations,
    left_rooms,
    media,
    megolm_sessions,
    outbox,
    permissions,
    relations,
    rooms,
    successors,
    sweeps,
)
from bot.store.commands import DECIDED, REVISION, THOSE_AFTER, remember_pending_commands
from bot.store.database import Database

ROW: Final = "SELECT id FROM rooms WHERE room_id = ?"
ENTER: Final = "INSERT INTO rooms (room_id) VALUES (?)"
SEEN: Final = (
    "UPDATE rooms SET encrypted = encrypted OR ?, reviews_asked = reviews_asked + ?, removed = 0,"
    " review_at = CASE WHEN ? THEN 0 ELSE review_at END,"
    " last_event_digest = coalesce(nullif(?, ''), last_event_digest) WHERE id = ?"
)
SAVE_META: Final = (
    "INSERT INTO meta (key, value) VALUES (?, ?)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
JUST_JOINED: Final = "UPDATE rooms SET just_joined = 1 WHERE id = ?"
META: Final = "SELECT value FROM meta WHERE key = ?"


class Rows:
    """What may be read and written. A room is named by the number of its row."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # --- how far was read ----------------------------------------------------------------

    async def position(self) -> tuple[str | None, Millis | None]:
        """Return the sync token and when it came; `None`: no sync was remembered yet."""
        token, at = [await self._db.one(META, key) for key in ("token", "synced_at")]
        return (str(token[0]) if token else None), (int(at[0]) if at else None)

    async def save_position(self, token: str, now: Millis) -> None:
        """Remember the sync token, and that it came now."""
        await self._db.rows(SAVE_META, "token", token)
        await self._db.rows(SAVE_META, "synced_at", now)

    async def forget_old(self, now: Millis) -> None:
        """Forget what is kept for a time only, and whose time is over."""
        await handled_commands.forget_handled(self._db, now)
        await invitations.forget_never_came(self._db, now)
        await successors.forget_successors(self._db, now)

    # --- rooms that come and go ----------------------------------------------------------

    async def row_of(self, room_id: RoomID) -> int | None:
        """Return the number of a room that is known."""
        found = await self._db.one(ROW, room_id)
        return None if found is None else int(found[0])

    async def add_room(self, room_id: RoomID) -> int:
        """Add a room; return its number."""
        await self._db.rows(ENTER, room_id)
        row = await self.row_of(room_id)
        assert row is not None
        return row

    async def come_back(self, room_id: RoomID, now: Millis) -> int:
        """Bring back what was kept of a room that was left; return how many messages wait there."""
        return await left_rooms.come_back(self._db, room_id, now)

    async def remove(self, room_id: RoomID) -> None:
        """A sync says that the bot is not in the room, or no longer invited to it."""
        await self._db.rows(permissions.REMOVED, room_id)
        await invitations.take_inviter(self._db, room_id)

    async def add_invitations(self, invites: Sequence[Invite]) -> None:
        """Remember invitations."""
        await invitations.remember_invites(self._db, invites)

    async def take_inviter(self, room_id: RoomID) -> UserID | None:
        """Return who invited the bot, and end the invitation: the bot has come."""
        return await invitations.take_inviter(self._db, room_id)

    async def save_inviter(self, row: int, digest: str) -> None:
        """Note for which account the bot is in a room."""
        await self._db.rows(permissions.HELD_BY, digest, row)

    async def enter_successor(self, room_id: RoomID) -> bool:
        """Go on with a room that replaces another; return whether this one does."""
        return await successors.enter(self._db, room_id)

    async def just_joined(self, row: int) -> None:
        """The bot has just come: it is not told at once what it lacks."""
        await self._db.rows(JUST_JOINED, row)

    async def note_sync(
        self, row: int, *, encrypted: bool, review: bool, last_event_digest: str
    ) -> None:
        """Note what a sync says of a room; `review`: its state is to be looked at."""
        await self._db.rows(SEEN, encrypted, review, review, last_event_digest, row)

    async def check_policy(self, row: int, now: Millis) -> None:
        """Have the room's lifetime compared with its state."""
        await self._db.rows(permissions.ASK_POLICY_CHECK, now, row)

    async def check_policy_at(self, room_id: RoomID, at: Millis | None) -> None:
        """Compare them then; `None`: they agree."""
        await self._db.rows(permissions.CHECK_POLICY_AT, at, at is not None, room_id)

    async def note_members(self, row: int, *, alone: bool, look_at: Millis) -> None:
        """Note whether the bot may be alone in a room, and when to look."""
        await self._db.rows(permissions.NEWS_OF_MEMBERS, alone, look_at, row)

    # --- gaps and sweeps -----------------------------------------------------------------

    async def has_gap(self, row: int) -> bool:
        """Whether something of the room's timeline is still to be read."""
        return await gaps.has_gap(self._db, row)

    async def begin_gap(self, row: int, gap: Gap, found: list[Item]) -> None:
        """Add a gap; `found` counts from its beginning, unless it is found within."""
        await gaps.begin_gap(self._db, row, gap, found)

    async def append(self, row: int, items: list[Item]) -> None:
        """Put items behind what waits in the room."""
        await gaps.append(self._db, row, items)

    async def next_chunk(self, after: int) -> Chunk | None:
        """Return some of what was read in gaps, of the room that follows this number."""
        return await gaps.next_chunk(self._db, after)

    async def end_chunk(self, chunk: Chunk) -> None:
        """The chunk was decided on."""
        await gaps.end_chunk(self._db, chunk)

    async def begin_sweep(self, row: int, sweep: Sweep) -> None:
        """Have a room read back through."""
        await sweeps.begin_sweep(self._db, row, sweep)

    # --- the operator's default ----------------------------------------------------------

    async def all_defaults(self) -> list[tuple[int, Defaults]]:
        """Return for every room since when which default held."""
        return await default_lifetimes.all_defaults(self._db)

    async def save_defaults(
        self, row: int, defaults: Defaults, published: Defaults | None = None
    ) -> None:
        """Save since when which default held; `published`: what the room's state says of that."""
        await default_lifetimes.save_defaults(self._db, row, defaults, published)

    async def note_published(self, row: int, published: Defaults) -> None:
        """The room's state says this."""
        await default_lifetimes.note_published_defaults(self._db, row, published)

    async def publish_defaults(self, row: int) -> None:
        """Have it written into the room's state, where no lifetime of its own holds there."""
        await default_lifetimes.publish_defaults(self._db, row)

    async def default_lifetime(self, row: int) -> Millis | None:
        """Return the default where the room's timeline was read to."""
        return await default_lifetimes.default_lifetime(self._db, row)

    async def save_default_lifetime(self, row: int, default: Millis | None) -> None:
        """This default holds for what follows."""
        await default_lifetimes.inherit(self._db, row, default)

    # --- what was decided ----------------------------------------------------------------

    async def state(self, row: int) -> RoomState:
        """Return how the room stands where its timeline was read to."""
        return await rooms.load_state(self._db, row)

    async def revision(self, row: int) -> int:
        """Return how often the room's lifetime was changed."""
        found = await self._db.one(REVISION, row)
        assert found is not None
        return int(found[0])

    async def save_state(
        self, row: int, state: RoomState, default: Millis | None, *, suspends: bool
    ) -> None:
        """Save how the room stands; `suspends`: the bot's power is to be looked at again."""
        values = (*rooms.state_row(state), default, suspends, suspends)
        await self._db.rows(rooms.SAVE_STATE, *values, row)

    async def not_counted_before(self, items: list[Item]) -> list[Item]:
        """Leave out commands that were counted before."""
        return await handled_commands.count_once(self._db, items)

    async def save_decision(
        self, row: int, decision: Decision, now: Millis, *, reread: bool
    ) -> None:
        """Write down what items come to; `reread`: they were decided on before."""
        db = self._db
        if reread:
            await relations.take_back(db, row, decision.stays)
        await relations.add_timers(db, row, decision.timers, now, reread=reread)
        await media.attach(db, row, decision.files)
        await relations.drop_targets(db, row, decision.dropped, now)
        await handled_commands.remember_handled(db, decision.handled, decision.surplus, now)
        await megolm_sessions.remember_undecryptable(db, row, decision.undecryptable)
        await outbox.enqueue(db, row, decision.outgoing)
        await remember_pending_commands(db, row, decision.undecided, now)

    async def enqueue(self, row: int, outgoing: list[Outgoing]) -> None:
        """Add what is to be sent to a room."""
        await outbox.enqueue(self._db, row, outgoing)

    async def note_handled(self, digests: Sequence[str], now: Millis) -> None:
        """These commands are done with."""
        await handled_commands.remember_handled(self._db, digests, [], now)

    async def note_key_uses(self, items: Sequence[Item]) -> None:
        """Note which room keys were used."""
        await megolm_sessions.remember_key_uses(self._db, items)

    async def attach(self, row: int, files: Sequence[MediaReference]) -> None:
        """Note which files messages show."""
        await media.attach(self._db, row, files)

    # --- what is read or decided late ----------------------------------------------------

    async def end_undecryptable(self, row: int, event_id: EventID) -> int | None:
        """End the waiting for a key; return the room's revision there, `None`: nobody waits."""
        found = await self._db.one(megolm_sessions.HEARD, row, event_id)
        return None if found is None else int(found[0])

    async def end_pending_command(self, number: int) -> int | None:
        """End the waiting of a command; return the room's revision there, `None`: it was gone."""
        found = await self._db.one(DECIDED, number)
        return None if found is None else int(found[0])

    async def later_commands_follow(self, row: int, number: int, revision: int) -> None:
        """Commands behind this one stood where its lifetime holds: none is overtaken by it."""
        await self._db.rows(THOSE_AFTER, row, number, revision)

    async def add_pending_commands(
        self, row: int, found: Sequence[tuple[UndecidedCommand, RoomState]], now: Millis
    ) -> None:
        """Have commands wait until the homeserver says what their sender may."""
        await remember_pending_commands(self._db, row, found, now)
