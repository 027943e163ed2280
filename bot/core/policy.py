"""A room's policy: its lifetime, how it is written in the room's state, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bot.core import durations
from bot.core.default_lifetime import Defaults
from bot.core.json_shape import inside
from bot.core.lifetimes import OFF, LifetimeLimits, Setting, SettingStart
from bot.core.types import EventID, Millis, RoomID

SINCE: Final = "io.github.matrix-ephemeral-bot.since"
"""In the bot's own state events: since which messages what it set holds."""
MOST_MARKS: Final = 20

LARGEST: Final = durations.LONGEST
"""The longest lifetime: larger numbers cannot have come through a homeserver."""

BY_READING: Final = frozenset({"after_read", "after_read_by_recipient"})
UNREADABLE: Final = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomState:
    """What is known of a room at one point of its timeline."""

    setting: Setting = None
    """What is in force: what a command set, where the room's state does not say it yet."""
    state_setting: Setting = None
    """What the room's own state event says, and what holds when a command is taken back."""
    policy_digest: str = ""
    """Digest of the state event that `state_setting` was read from."""
    set_by_command: bool = False
    """A command has changed the lifetime, and its state event has not come back yet."""
    awaited_digest: str = ""
    """Digest of that state event, once it is written."""
    revision: int = 0
    """How many commands, and changes by others, have counted: tells whether one did since."""
    encrypted: bool = False
    """Encryption is on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the bot knows of a room it is in."""

    room_id: RoomID
    setting: Setting
    encrypted: bool
    suspended: bool
    last_event_digest: str
    policy_digest: str = ""
    reviews_asked: int = 0
    """How often a look at the room's state was asked for since the last one."""
    just_joined: bool = False
    """The bot has just come, and its greeting says what it lacks."""
    refusal_notified: bool = False
    """The room was told that the homeserver refuses to redact some of its messages."""
    defaults: Defaults = ()
    """Since when which default of the operator's holds, where nobody has set a lifetime."""
    published_defaults: Defaults = ()
    """What the bot has written into the room's state of that."""
    removed: bool = False
    """A sync said that the bot is no longer in the room."""
    state_setting: Setting = None
    set_by_command: bool = False
    revision: int = 0
    """These three as of `RoomState`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTimer:
    """When a message is to go."""

    event_id: EventID
    due: Millis | None
    """By its own lifetime; `None`: only when the message goes that it belongs to."""
    parent: EventID | None = None
    from_local_clock: bool = False
    """Counted by the bot's own clock."""
    ask: bool = False
    """Should no timer of `parent` be known: it may be gone already."""


def lifetime(setting: Setting, limits: LifetimeLimits) -> Millis | None:
    """Return the lifetime in force under `setting`, or `None` when messages stay.

    A setting outside the operator's bounds counts as the nearest bound.
    """
    if setting is None:
        return limits.default
    return None if setting == OFF else limits.clamp(setting)


def read_setting(content: Any) -> tuple[Setting, str]:
    """Read the content of `com.beeper.disappearing_timer`; return the setting and a note.

    Off is only an empty one, or a timer of 0. Every type counts from sending, the earliest, so that
    nothing outlives what was asked for: the note is `after_read` or `unknown`. Where the timer is
    no number, the note is `unreadable`.
    """
    if not isinstance(content, dict):
        return None, UNREADABLE
    kind, given = content.get("type"), content.get("timer")
    timer = durations.given(given)
    if timer == 0 or (kind in (None, "") and given is None):
        return OFF, ""
    if timer is None:
        return None, UNREADABLE
    known = "after_read" if str(kind) in BY_READING else "unknown"
    return timer, "" if kind == "after_send" else known


def policy_content(setting: int, marks: Sequence[SettingStart] = ()) -> dict[str, Any]:
    """Return the content that says `setting` in the room's state, and since which messages.

    A lifetime counts from the command on, which may stand long before the state event.
    """
    content: dict[str, Any] = {} if setting == OFF else {"type": "after_send", "timer": setting}
    return content | ({SINCE: [list(mark) for mark in marks]} if marks else {})


def read_marks(content: Any) -> tuple[SettingStart, ...]:
    """Read since which messages the bot's own state event says that its setting holds."""
    marks = inside(content, SINCE)
    if not isinstance(marks, list) or len(marks) > MOST_MARKS:
        return ()
    match [tuple(mark) for mark in marks if isinstance(mark, list)]:
        case found if len(found) == len(marks) and all(map(_is_mark, found)):
            return tuple((EventID(mark[0]), int(mark[1])) for mark in found)
    return ()


def _is_mark(mark: tuple[Any, ...]) -> bool:
    return len(mark) == 2 and isinstance(mark[0], str) and type(mark[1]) is int
