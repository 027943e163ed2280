"""What services ask of the store about messages that are to go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from bot.core.due import Candidate
from bot.core.timers import PendingRelation, Timer, UnusedMedia
from bot.core.types import EventID, Millis, RoomID

T = TypeVar("T")


class DueTimers(Protocol):
    """Timers whose time has come, by rooms."""

    async def rooms_due(self, now: Millis, last: int, most: int, *, backlog: bool) -> list[int]:
        """Return up to `most` rooms that may act and in which something is due, by their numbers.

        Those after the room `last` come first. `backlog`: what was overdue when it was stored,
        or fell behind; else what is live.
        """

    async def due(
        self, now: Millis, rooms: Sequence[int], share: int, *, backlog: bool
    ) -> list[Candidate]:
        """Return the first `share` timers of each of these rooms whose time has come."""

    async def children_due(
        self, now: Millis, parents: Sequence[int], share: int
    ) -> list[Candidate]:
        """Return the first `share` that belong to each of these timers, are due and not tried."""


class TimersAtOnce(Protocol):
    """Timers whose time has come, several questions at once."""

    async def at_once(self, work: Callable[[DueTimers], Coroutine[Any, Any, T]]) -> T:
        """Run `work`, which awaits nothing but what it is given, and return what it returns."""


class TimerStore(DueTimers, TimersAtOnce, Protocol):
    """Pending redactions. A row leaves only when its message is gone for certain."""

    async def first_due(self, *, backlog: bool | None = None) -> Millis | None:
        """Return when the first timer of those in rooms that may act wants something.

        Of the live ones or of the backlog; `None`: of both.
        """

    async def fall_behind(self, before: Millis) -> None:
        """Let what wanted something up to then, and is live, belong to the backlog from now on.

        One call sees to a portion of it.
        """

    async def next_due(self, after: Millis, rooms: Collection[int] = ()) -> Millis | None:
        """Return when, after this time, the next room that may act begins to want something.

        Of `rooms`, whatever the next timer is that wants something after this time.
        """

    async def overdue(self, now: Millis) -> int:
        """Return how many messages are due in rooms that may act, and not removed yet.

        As many as `MANY` are counted.
        """

    async def any_timer(self) -> bool:
        """Whether any message waits to be redacted."""

    async def pending(self, room_id: RoomID) -> tuple[int, Millis | None]:
        """Return how many timers the room has, and when the first is due that is not refused.

        As many as `MANY` are counted; the first is looked for among those tried next.
        """

    async def sent(self, timer: Timer, now: Millis, check_at: Millis) -> None:
        """A redaction was accepted; the timer stays until it has been seen.

        If it was refused before, so may others of the room be no longer.
        """

    async def unsent(self, timer: Timer, at: Millis) -> None:
        """A redaction was accepted and did not happen: do it anew then, as another request."""

    async def postpone(self, timer: Timer, until: Millis) -> None:
        """Let only this timer wait."""

    async def refused(self, timer: Timer, until: Millis, older_than: Millis) -> None:
        """The homeserver refuses this one, though the message stands; 0: not for its age.

        If it is too old still, so are those that were refused and are older: one is tried for all.
        """

    async def drop(self, timer: Timer) -> None:
        """The message is gone for certain."""


class RelationStore(Protocol):
    """Edits, reactions and votes, and the messages that they belong to."""

    async def found(self, timer: Timer, children: Sequence[EventID], *, loaded: bool) -> None:
        """What belongs to the timer's message was looked up: it goes first.

        `loaded`: that is all of it.
        """

    async def make_due(self) -> bool:
        """Make a portion of what belongs to messages that are gone due; whether there is more."""

    async def next_pending(self, busy: Collection[RoomID] = ()) -> PendingRelation | None:
        """Return the message whose parent is to be asked about next, not of `busy` rooms."""

    async def later(self, relation: PendingRelation, until: Millis) -> None:
        """The parent could not be asked about now."""

    async def answered(self, relation: PendingRelation, now: Millis, *, gone: bool) -> None:
        """The parent is gone, and the message is due at once; or it stands on its own."""


class MediaStore(Protocol):
    """Files of messages that are gone."""

    async def next_media(self, busy: Collection[str] = ()) -> UnusedMedia | None:
        """Return the file to be deleted next, none of `busy`.

        No message that still has a timer shows it.
        """

    async def media_done(self, file: UnusedMedia) -> None:
        """The file is gone, or is not to be deleted."""

    async def media_later(self, file: UnusedMedia, until: Millis) -> None:
        """The file could not be deleted now."""


class LeftRoomStore(Protocol):
    """Rooms that the bot has left, and those that it has come back to."""

    async def forget(self, room_id: RoomID, now: Millis) -> int:
        """Forget a room that the bot is no longer in; return how many timers it had, up to `MANY`.

        What waits there is put by for `KEPT_FOR`, should the bot be asked back.
        """

    async def put_in_order(self) -> bool:
        """Do a portion of what is to be done to rooms that came back; whether there is more."""

    async def next_expiry(self) -> Millis | None:
        """Return when the room that was left first is to be forgotten."""

    async def delete_expired_room(self, now: Millis) -> bool:
        """Delete a portion of what nobody has asked the bot back for; whether there is more."""


class ClockStore(Protocol):
    """What was computed by a clock that turned out to be ahead."""

    @property
    def latest_timer(self) -> int:
        """The id of the timer made last; later ones are greater."""

    async def clock_set_back(self, by: Millis, now: Millis, *, after: int, upto: int) -> None:
        """The clock was set back by so much, to `now`: nothing may wait longer for that.

        Timers whose ids lie after `after` and up to `upto` were made while it was ahead.
        """


class Disk(Protocol):
    """The file itself."""

    async def look_through(self) -> None:
        """Find damage that was not looked for when a large file was opened."""

    async def wipe(self) -> None:
        """See that nothing deleted can still be read from the disk."""
