"""What a service reads and writes in one transaction of the store, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bot.core.commands import UndecidedCommand
from bot.core.default_lifetime import Defaults
from bot.core.invitations import Invite
from bot.core.missing_events import Chunk
from bot.core.outbox import Outgoing
from bot.core.policy import RoomState
from bot.core.policy_forward import Decision
from bot.core.timeline import Gap, Item, MediaReference, Sweep
from bot.core.types import EventID, Millis, RoomID, UserID


class Rows(Protocol):
    """The rows of one transaction. A room is named by the number of its row."""

    async def position(self) -> tuple[str | None, Millis | None]:
        """Return the sync token and when it came; `None`: no sync was remembered yet."""

    async def save_position(self, token: str, now: Millis) -> None:
        """Remember the sync token, and that it came now."""

    async def forget_old(self, now: Millis) -> None:
        """Forget what is kept for a time only, and whose time is over."""

    async def row_of(self, room_id: RoomID) -> int | None:
        """Return the number of a room that is known."""

    async def add_room(self, room_id: RoomID) -> int:
        """Add a room; return its number."""

    async def come_back(self, room_id: RoomID, now: Millis) -> int:
        """Bring back what was kept of a room that was left; return how many messages wait there."""

    async def remove(self, room_id: RoomID) -> None:
        """A sync says that the bot is not in the room, or no longer invited to it."""

    async def add_invitations(self, invites: Sequence[Invite]) -> None:
        """Remember invitations."""

    async def take_inviter(self, room_id: RoomID) -> UserID | None:
        """Return who invited the bot, and end the invitation: the bot has come."""

    async def save_inviter(self, row: int, digest: str) -> None:
        """Note for which account the bot is in a room."""

    async def enter_successor(self, room_id: RoomID) -> bool:
        """Go on with a room that replaces another; return whether this one does."""

    async def just_joined(self, row: int) -> None:
        """The bot has just come: it is not told at once what it lacks."""

    async def note_sync(
        self, row: int, *, encrypted: bool, review: bool, last_event_digest: str
    ) -> None:
        """Note what a sync says of a room; `review`: its state is to be looked at."""

    async def check_policy(self, row: int, now: Millis) -> None:
        """Have the room's lifetime compared with its state."""

    async def check_policy_at(self, room_id: RoomID, at: Millis | None) -> None:
        """Compare them then; `None`: they agree."""

    async def note_members(self, row: int, *, alone: bool, look_at: Millis) -> None:
        """Note whether the bot may be alone in a room, and when to look."""

    async def has_gap(self, row: int) -> bool:
        """Whether something of the room's timeline is still to be read."""

    async def begin_gap(self, row: int, gap: Gap, found: list[Item]) -> None:
        """Add a gap; `found` counts from its beginning, unless it is found within."""

    async def append(self, row: int, items: list[Item]) -> None:
        """Put items behind what waits in the room."""

    async def next_chunk(self, after: int) -> Chunk | None:
        """Return some of what was read in gaps, of the room that follows this number."""

    async def end_chunk(self, chunk: Chunk) -> None:
        """The chunk was decided on."""

    async def begin_sweep(self, row: int, sweep: Sweep) -> None:
        """Have a room read back through."""

    async def all_defaults(self) -> list[tuple[int, Defaults]]:
        """Return for every room since when which default held."""

    async def save_defaults(
        self, row: int, defaults: Defaults, published: Defaults | None = None
    ) -> None:
        """Save since when which default held; `published`: what the room's state says of that."""

    async def note_published(self, row: int, published: Defaults) -> None:
        """The room's state says this."""

    async def publish_defaults(self, row: int) -> None:
        """Have it written into the room's state, where no lifetime of its own holds there."""

    async def default_lifetime(self, row: int) -> Millis | None:
        """Return the default where the room's timeline was read to."""

    async def save_default_lifetime(self, row: int, default: Millis | None) -> None:
        """This default holds for what follows."""

    async def state(self, row: int) -> RoomState:
        """Return how the room stands where its timeline was read to."""

    async def revision(self, row: int) -> int:
        """Return how often the room's lifetime was changed."""

    async def save_state(
        self, row: int, state: RoomState, default: Millis | None, *, suspends: bool
    ) -> None:
        """Save how the room stands; `suspends`: the bot's power is to be looked at again."""

    async def not_counted_before(self, items: list[Item]) -> list[Item]:
        """Leave out commands that were counted before."""

    async def save_decision(
        self, row: int, decision: Decision, now: Millis, *, reread: bool
    ) -> None:
        """Write down what items come to; `reread`: they were decided on before."""

    async def enqueue(self, row: int, outgoing: list[Outgoing]) -> None:
        """Add what is to be sent to a room."""

    async def note_handled(self, digests: Sequence[str], now: Millis) -> None:
        """These commands are done with."""

    async def note_key_uses(self, items: Sequence[Item]) -> None:
        """Note which room keys were used."""

    async def attach(self, row: int, files: Sequence[MediaReference]) -> None:
        """Note which files messages show."""

    async def end_undecryptable(self, row: int, event_id: EventID) -> int | None:
        """End the waiting for a key; return the room's revision there, `None`: nobody waits."""

    async def end_pending_command(self, number: int) -> int | None:
        """End the waiting of a command; return the room's revision there, `None`: it was gone."""

    async def later_commands_follow(self, row: int, number: int, revision: int) -> None:
        """Commands behind this one stood where its lifetime holds: none is overtaken by it."""

    async def add_pending_commands(
        self, row: int, found: Sequence[tuple[UndecidedCommand, RoomState]], now: Millis
    ) -> None:
        """Have commands wait until the homeserver says what their sender may."""
