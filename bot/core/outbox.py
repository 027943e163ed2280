"""What is to be sent to a room, as data: state events to write, and notices to send.

Each kind is a small class that holds what cannot be looked up when its turn comes. The store knows
them by stable names (`bot.store.outbox_rows`); the words stand in `bot.chat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from bot.core.lifetimes import Setting, SettingStart
from bot.core.types import Millis, RoomID, UserID

# --- state events to write ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """Write a commanded lifetime into the room's state; then `Announce` takes its place."""

    setting: int
    """The lifetime, or `OFF`."""
    sender: UserID
    """Who commanded it."""
    base: str = ""
    """Digest of the state event that held when it was commanded."""
    was: Millis | None = None
    """The lifetime in force before."""
    marks: tuple[SettingStart, ...] = ()
    """Since which messages which setting holds, the oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteDefault:
    """Write into the room's state since when the operator's default holds."""


# --- answers to commands -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Say that a command set the room's lifetime."""

    setting: int
    sender: UserID
    was: Millis | None = None
    """The lifetime in force before: where it is the same, nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHelp:
    """List the commands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStatus:
    """Say how things stand in the room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFingerprint:
    """Show the bot's public keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerInvalid:
    """Say that a line with the prefix is no command."""

    reason: str = ""
    """Why, in a sentence that holds nothing of the message; empty: it is not understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOutsideLimits:
    """Refuse a lifetime that the operator does not allow."""


# --- commands that came to nothing -------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderNotAllowed:
    """The sender of a command lacks the power for it."""

    sender: UserID
    need: int
    have: int
    """Power levels: what it takes, and the sender's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotNotAllowed:
    """The bot lacks the power to write the room's lifetime."""

    need: int
    have: int
    """Power levels: what it takes, and the bot's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUnverified:
    """A command came from a device that its owner has not verified."""

    sender: UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class TooManyCommands:
    """Somebody's commands are over the limit; the next ones do not count."""

    sender: UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNeverCame:
    """A message, perhaps a command, could not be decrypted in time."""

    sender: UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class RightUnknown:
    """Nobody could say in time whether the sender of a command has the right to it."""

    sender: UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class Overtaken:
    """Somebody else changed the lifetime before this command could count."""

    sender: UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRefused:
    """The homeserver did not let the bot write the commanded lifetime: it holds no more."""


# --- news that nobody asked for ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceChange:
    """Say that somebody changed the lifetime in the room's state, without a command."""

    setting: Setting
    sender: UserID
    note: str = ""
    """As of `Change`: what the bot cannot do as it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Greet a room that the bot has come into."""

    back: int = 0
    """Messages with a timer from before the bot was removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """The bot has lost the power to redact."""

    need: int
    have: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The bot has the power to redact again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionsRefused:
    """The homeserver refuses to redact messages though the bot has the power."""

    older_than: Millis = 0
    """The age from which on it refuses, in milliseconds; 0: it gives no such reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesMissed:
    """The homeserver did not give a part of the timeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomReplaced:
    """The room has a successor that the bot cannot join by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedHere:
    """All goes on as in the room that this one succeeds."""

    setting: Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerNeededHere:
    """What it takes to go on as in the room that this one succeeds."""

    setting: Setting
    need: int
    have: int


State: TypeAlias = SetPolicy | WriteDefault
Answer: TypeAlias = (
    Announce | AnswerHelp | AnswerStatus | AnswerFingerprint | AnswerInvalid | AnswerOutsideLimits
)
Failure: TypeAlias = (
    SenderNotAllowed
    | BotNotAllowed
    | DeviceUnverified
    | TooManyCommands
    | KeyNeverCame
    | RightUnknown
    | Overtaken
    | WriteRefused
)
News: TypeAlias = (
    AnnounceChange
    | Welcome
    | Suspended
    | Resumed
    | RedactionsRefused
    | MessagesMissed
    | RoomReplaced
    | MovedHere
    | PowerNeededHere
)
Notice: TypeAlias = Answer | Failure | News
Content: TypeAlias = State | Notice

MOST_WAITING: Final = 100
"""Answers that wait for one room at once; more were asked for than anybody reads."""
IMPORTANT: Final = (
    Announce,
    WriteDefault,
    WriteRefused,
    Suspended,
    Resumed,
    Welcome,
    MovedHere,
    PowerNeededHere,
)
"""What is sent all the same: it tells whether messages disappear."""
MOST_IMPORTANT: Final = 200
"""With those, no more than this waits for a room that cannot be told; a lifetime is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """Something new that is to be sent to a room."""

    key: str
    """What has the same key is sent once."""
    content: Content
    thread: str = ""
    """The root of the thread that it is said in; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxItem:
    """Something to be sent to a room, as the store gives it back to be delivered."""

    id: int
    room_id: RoomID
    key: str
    content: Content
    thread: str = ""
    attempts: int = 0
    retry_at: Millis = 0


def admitted(outgoing: Sequence[Outgoing], waiting: int) -> list[Outgoing]:
    """Return what of `outgoing` is kept for a room for which `waiting` entries wait already.

    A lifetime is set always. Of the rest, answers stop first.
    """
    important = (SetPolicy, *IMPORTANT)
    answers = [one for one in outgoing if not isinstance(one.content, important)]
    dropped = {one.key for one in answers[max(0, MOST_WAITING - waiting) :]}
    notices = [
        one
        for one in outgoing
        if not isinstance(one.content, SetPolicy)
        and (isinstance(one.content, important) or one.key not in dropped)
    ][: max(0, MOST_IMPORTANT - waiting)]
    return [one for one in outgoing if isinstance(one.content, SetPolicy) or one in notices]
