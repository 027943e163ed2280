"""What services ask of the store about what is to be read, decided and sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from bot.core.commands import PendingCommand
from bot.core.default_lifetime import Defaults
from bot.core.outbox import Announce, OutboxItem, Outgoing
from bot.core.policy import NewTimer
from bot.core.policy_backward import PolicyBackward
from bot.core.timeline import Gap, Item, MediaReference, Sweep, Undecryptable
from bot.core.types import EventID, Millis, RoomID


class GapStore(Protocol):
    """Parts of timelines that are still to be read."""

    async def next_gap(self, busy: Collection[RoomID] = ()) -> tuple[Gap, Millis] | None:
        """Return the gap to be read next, not of `busy` rooms, and not before when."""

    async def read_on(
        self, gap: Gap, items: list[Item], token: str, now: Millis, *, done: bool
    ) -> None:
        """Remember one page of a gap (`items` in the timeline's order) and how far it goes."""

    async def later(
        self, gap: Gap, until: Millis, *, size: int | None = None, counts: bool = True
    ) -> None:
        """The page could not be had now; `size`: how many events to ask for then.

        `counts`: the page is to blame for it.
        """

    async def give_up(self, gap: Gap, now: Millis) -> None:
        """The gap cannot be read now: go on with what stands behind it, and tell the room.

        The room is swept, for as long as it takes, for what was in the gap. Until that is done,
        nothing more is said of other gaps.
        """

    async def is_ready(self) -> bool:
        """Whether there is a room of which all was read."""

    async def has_gap(self, room_id: RoomID) -> bool:
        """Whether the room has a gap still to be read."""


class SweepStore(Protocol):
    """Rooms that are read backwards."""

    async def next(self, busy: Collection[RoomID] = ()) -> Sweep | None:
        """Return the sweep to go on with, not of `busy` rooms; a gap is read before its room.

        A walk begins at the sync token, with the setting that the room had there.
        """

    async def read_on(
        self,
        sweep: Sweep,
        new_timers: Sequence[NewTimer],
        files: Sequence[MediaReference],
        now: Millis,
        *,
        token: str | None,
        way: PolicyBackward,
        events: int,
    ) -> int:
        """Remember one page of a sweep: what is to get timers, and where the sweep goes on.

        `events` is how many were read. Returns how many messages had no timer.
        """

    async def again(self, sweep: Sweep, at: Millis) -> None:
        """The sweep is over; another one begins at that time."""

    async def later(
        self, sweep: Sweep, until: Millis, *, size: int | None = None, counts: bool = True
    ) -> None:
        """The page could not be had now; `size`: how many events to ask for then.

        `counts`: the page is to blame for it.
        """

    async def end(self, sweep: Sweep) -> None:
        """The room is swept."""

    async def give_up(self, sweep: Sweep) -> None:
        """The room cannot be swept: tell it."""


class KeyStore(Protocol):
    """Room keys: those that messages wait for, and those that were used."""

    async def waiting(self) -> list[tuple[RoomID, Undecryptable, bool]]:
        """Return what waits for a key: where, what, and whether the key was requested."""

    async def key_requested(self, room_id: RoomID, event_id: EventID) -> None:
        """The key was requested."""

    async def first_key_use(self) -> Millis | None:
        """Return when the first message was read whose key is still to be moved past it."""

    async def to_ratchet(self, before: Millis, limit: int) -> list[tuple[str, int]]:
        """Return sessions and the last message read of each before this time."""

    async def ratcheted(self, done: Sequence[tuple[str, int]]) -> None:
        """These sessions cannot decrypt what was read any more."""

    async def last_used(self, known: Sequence[str], now: Millis) -> dict[str, Millis]:
        """Return when each session was used last; new ones begin to count now."""

    async def sessions_deleted(self, sessions: Sequence[str]) -> None:
        """These sessions are deleted."""


class PendingCommandStore(Protocol):
    """Commands that wait until the homeserver says what their sender may."""

    async def next_pending_command(self, busy: Collection[RoomID] = ()) -> PendingCommand | None:
        """Return the command to be decided next, of each room the oldest, not of `busy` rooms.

        A room with a gap waits until that is read.
        """

    async def pending_command_later(self, pending: PendingCommand, until: Millis) -> None:
        """The homeserver did not answer."""


class OutboxStore(Protocol):
    """What is to be sent to rooms."""

    async def next_to_deliver(
        self, busy: Collection[RoomID] = (), *, setting: bool | None = None
    ) -> OutboxItem | None:
        """Return the entry to be delivered first, not of `busy` rooms.

        With `setting`, a lifetime that is to be set; without, something to be said, which is the
        oldest of its room. `None`: a lifetime if there is one, else words.
        """

    async def delivered(self, entry: OutboxItem, now: Millis = 0) -> None:
        """The entry was delivered; the room's next one comes after those that wait in others."""

    async def deliver_later(self, entry: OutboxItem, until: Millis) -> None:
        """The entry could not be delivered now."""


class SettingStore(Protocol):
    """Lifetimes that were commanded, and are not in the room's state yet."""

    async def written(self, entry: OutboxItem, digest: str, notice: Announce) -> None:
        """The room's state says what was commanded, by the event with this digest: now say so.

        Empty: no event needs to say it. `notice` takes the place of `entry`. Until that event has
        come with the timeline, nobody who
        walks back knows since when it holds. Nothing happens if a later command has taken the
        entry's place.
        """

    async def take_back(self, entry: OutboxItem, outgoing: Outgoing) -> None:
        """A commanded lifetime could not be written: what the room's state says holds again.

        What somebody has set since is not touched; nor is anything if the command is written, or
        if a later one has taken the entry's place.
        """


class DefaultStore(Protocol):
    """What rooms' state says of the operator's defaults."""

    async def defaults_published(self, room_id: RoomID, published: Defaults) -> None:
        """The room's state says this now."""
