"""Decides, purely, when each message of a room is due, from the setting at its own place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bot import durations
from bot.model import Bounds, EventID, Millis, RoomID, UserID
from bot.timeline import (
    OFF,
    SURPLUS,
    Attached,
    Change,
    Item,
    Mark,
    Message,
    Opened,
    Place,
    Redaction,
    Said,
    Setting,
    Unheard,
)

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
    policy_digest: str = ""
    """Digest of the state event that `setting` was read from."""
    commanded: bool = False
    """A command has changed the lifetime, and its state event has not come back yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """Something the bot owes to a room: a state event to set, or words to say."""

    key: str
    kind: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the bot knows of a room it is in."""

    room_id: RoomID
    setting: Setting
    encrypted: bool
    suspended: bool
    last_digest: str
    policy_digest: str = ""
    reviews: int = 0
    """How often a look at the room's state was asked for since the last one."""
    greeting: bool = False
    """The bot has just come, and its greeting says what it lacks."""
    stuck: bool = False
    """The room was told that the homeserver refuses to redact some of its messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """Something owed to a room, as the store gives it back to be paid."""

    id: int
    room_id: RoomID
    key: str
    kind: str
    args: dict[str, Any]
    attempts: int
    next: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """When a message is to go."""

    event_id: EventID
    due: Millis | None
    """By its own lifetime; `None`: only when the message goes that it belongs to."""
    parent: EventID | None = None
    live: bool = False
    """Counted by the bot's own clock."""
    ask: bool = False
    """Should no timer of `parent` be known: it may be gone already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """What a stretch of timeline comes to, to be committed at once with its sync token."""

    state: RoomState
    timers: list[Stamp]
    dropped: list[EventID]
    owed: list[Owed]
    handled: list[str]
    surplus: list[str]
    """Digests of commands over the limit of their sender."""
    unheard: list[tuple[Unheard, RoomState]]
    """Messages that may turn out to be commands, each with how the room stood at its place."""
    suspends: bool = False
    files: list[Attached] = field(default_factory=list)
    """The files that messages show; only those of messages with a timer are remembered."""


def lifetime(setting: Setting, bounds: Bounds) -> Millis | None:
    """Return the lifetime in force under `setting`, or `None` when messages stay.

    A setting outside the operator's bounds counts as the nearest bound.
    """
    if setting is None:
        return bounds.default
    return None if setting == OFF else bounds.clamp(setting)


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


def policy_content(setting: int, marks: Sequence[Mark] = ()) -> dict[str, Any]:
    """Return the content that says `setting` in the room's state, and since which messages.

    A lifetime counts from the command on, which may stand long before the state event.
    """
    content: dict[str, Any] = {} if setting == OFF else {"type": "after_send", "timer": setting}
    return content | ({SINCE: [list(mark) for mark in marks]} if marks else {})


def read_marks(content: Any) -> tuple[Mark, ...]:
    """Read since which messages the bot's own state event says that its setting holds."""
    marks = content.get(SINCE) if isinstance(content, dict) else None
    if not isinstance(marks, list) or len(marks) > MOST_MARKS:
        return ()
    match [tuple(mark) for mark in marks if isinstance(mark, list)]:
        case found if len(found) == len(marks) and all(map(_is_mark, found)):
            return tuple((EventID(mark[0]), int(mark[1])) for mark in found)
    return ()


def _is_mark(mark: tuple[Any, ...]) -> bool:
    return len(mark) == 2 and isinstance(mark[0], str) and type(mark[1]) is int


def stamp(state: RoomState, items: list[Item], *, bounds: Bounds, own_id: UserID) -> Stamped:
    """Walk along `items` in the timeline's order and give each message its timer.

    The policy in force at a message's own place decides; later changes do not touch it.
    """
    walk = _Walk(state, bounds, own_id)
    for item in items:
        walk.pass_by(item)
    return Stamped(
        state=walk.state,
        timers=walk.timers,
        dropped=walk.dropped,
        owed=walk.owed,
        handled=walk.handled,
        surplus=walk.surplus,
        unheard=walk.unheard,
        suspends=walk.suspends,
        files=walk.files,
    )


def succeed(before: Iterable[Owed], owed: Owed) -> Owed:
    """Let a lifetime that is to be set take the place of others, which were not set yet.

    Nobody else remembers since where those held.
    """
    own = owed.args.get("marks", [])
    places = {mark[0] for mark in own}
    others = [mark for one in before if one.kind == "set" for mark in one.args.get("marks", [])]
    marks = [mark for mark in others if mark[0] not in places] + own
    return replace(owed, args=owed.args | {"marks": marks[-MOST_MARKS:]})


class _Walk:
    """How the room stands at the place that was reached, and what has come of it so far."""

    def __init__(self, state: RoomState, bounds: Bounds, own_id: UserID) -> None:
        self.state = state
        self._bounds = bounds
        self._own_id = own_id
        self.timers: list[Stamp] = []
        self.dropped: list[EventID] = []
        self.owed: list[Owed] = []
        self.handled: list[str] = []
        self.surplus: list[str] = []
        self.unheard: list[tuple[Unheard, RoomState]] = []
        self.suspends = False
        self.files: list[Attached] = []

    def pass_by(self, item: Item) -> None:
        match item:
            case Message():
                self._message(item)
            case Change():
                # The state at the start of a timeline tells again what is known.
                if not item.digest or item.digest != self.state.policy_digest:
                    self._change(item)
            case Redaction():
                self._redaction(item)
            case Said():
                self._said(item)
            case Unheard():
                self.unheard.append((item, self.state))
            case Attached():
                self.files.append(item)
            case Opened() | Place():
                pass  # concerns the key, or who walks back

    def _message(self, item: Message) -> None:
        span = lifetime(self.state.setting, self._bounds)
        if span is None and item.parent is None:
            return
        due = None if span is None else item.sent + span
        # Where nobody ever set a lifetime, nothing has gone that this could belong to.
        ask = item.parent is not None and (span is not None or self.state.setting is not None)
        stamp = Stamp(event_id=item.event_id, due=due, parent=item.parent, live=item.live, ask=ask)
        self.timers.append(stamp)

    def _redaction(self, item: Redaction) -> None:
        self.dropped.append(item.target)
        if item.target_digest == self.state.policy_digest and self.state.policy_digest:
            # Redacting the state event empties it, which is how the room reads `off`.
            change = Change(setting=OFF, sender=item.sender, digest=self.state.policy_digest)
            self._change(change, cause=item.digest)

    def _said(self, item: Said) -> None:
        if item.kind == SURPLUS:
            self.surplus.append(item.digest)
            return
        self.handled.append(item.digest)
        was = lifetime(self.state.setting, self._bounds)
        args = item.args | {"base": self.state.policy_digest, "was": was, "sender": item.sender}
        if item.setting is not None:
            marks = [] if item.event_id is None else [(item.event_id, item.setting)]
            args |= {"setting": item.setting, "marks": marks}
            self.state = replace(self.state, setting=item.setting, commanded=True)
            self.suspends = item.suspends
        owed = Owed(key=item.digest, kind=item.kind, args=args)
        if item.setting is not None:
            owed = succeed(self.owed, owed)
            self.owed = [one for one in self.owed if one.kind != "set"]
        self.owed.append(owed)

    def _change(self, change: Change, *, cause: str = "") -> None:
        """Apply a state event; what the bot itself set was announced with the command.

        `cause` is the digest of what made the change, where that is not the state event.
        """
        state, setting = self.state, change.setting
        if change.note == UNREADABLE and state.setting is not None:
            setting = state.setting
        if change.sender == self._own_id:
            if state.commanded and setting != state.setting:
                # The echo of an earlier command; a later one counts from its own place already.
                self.state = replace(state, policy_digest=change.digest)
            else:
                self.state = RoomState(setting=setting, policy_digest=change.digest)
            return
        before, after = lifetime(state.setting, self._bounds), lifetime(setting, self._bounds)
        if (before != after or change.note) and not change.quiet:
            args = {
                "sender": change.sender,
                "setting": setting,
                "was": before,
                "note": change.note,
            }
            key = f"change:{cause or change.digest}"
            self.owed.append(Owed(key=key, kind="changed", args=args))
        self.state = RoomState(setting=setting, policy_digest=change.digest)
