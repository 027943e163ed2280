"""Walks along a room's timeline, purely: the policy at its own place decides for each message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from bot.defaults import DefaultBegins
from bot.model import Bounds, EventID, Millis, UserID
from bot.pending import Undecided
from bot.policy import MOST_MARKS, UNREADABLE, Owed, RoomState, Stamp, lifetime
from bot.timeline import (
    OFF,
    SURPLUS,
    Attached,
    Change,
    Encrypted,
    Item,
    Message,
    Redaction,
    Said,
    Unheard,
)


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
    undecided: list[tuple[Undecided, RoomState]]
    """Commands that wait for the homeserver, each with how the room stood at its place."""
    stays: list[EventID]
    """Messages that have no lifetime and belong to no other message."""
    default: Millis | None
    """The operator's default, for what follows."""
    suspends: bool = False
    files: list[Attached] = field(default_factory=list)
    """The files that messages show; only those of messages with a timer are remembered."""


def stamp(state: RoomState, items: list[Item], *, bounds: Bounds, own_id: UserID) -> Stamped:
    """Walk along `items` in the timeline's order and give each message its timer.

    The policy in force at a message's own place decides; later changes do not touch it.
    `bounds.default` is the operator's default at the first of `items`.
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
        undecided=walk.undecided,
        stays=walk.stays,
        default=walk.bounds.default,
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


def overtaken(before: Iterable[Owed], owed: Owed) -> list[Owed]:
    """Return what to tell those whose lifetime, not set yet, gives way to another person's.

    Who has changed their own mind needs no word: what is said of the last one answers all.
    """
    return [
        not_held(one.key, one.args)
        for one in before
        if one.kind == "set" and one.args.get("sender") not in {None, owed.args["sender"]}
    ]


def not_held(key: str, said: dict[str, Any]) -> Owed:
    """Return the answer to a command that came to nothing: the lifetime was changed meanwhile."""
    args: dict[str, Any] = {name: said[name] for name in ("sender", "thread") if name in said}
    return Owed(key=f"{key}:over", kind="overtaken", args=args)


class _Walk:
    """How the room stands at the place that was reached, and what has come of it so far."""

    def __init__(self, state: RoomState, bounds: Bounds, own_id: UserID) -> None:
        self.state = state
        self.bounds = bounds
        self._own_id = own_id
        self.timers: list[Stamp] = []
        self.dropped: list[EventID] = []
        self.owed: list[Owed] = []
        self.handled: list[str] = []
        self.surplus: list[str] = []
        self.unheard: list[tuple[Unheard, RoomState]] = []
        self.undecided: list[tuple[Undecided, RoomState]] = []
        self.stays: list[EventID] = []
        self.suspends = False
        self.files: list[Attached] = []

    def pass_by(self, item: Item) -> None:
        """Go on by one item; what concerns only keys, or who walks back, is passed over."""
        match item:
            case Message():
                self._message(item)
            # The state at the start of a timeline tells again what is known.
            case Change() if not item.digest or item.digest != self.state.policy_digest:
                self._change(item)
            case Redaction():
                self._redaction(item)
            # A server can put words in clear into an encrypted room: they do not count.
            case Said() if not (item.clear and self.state.encrypted):
                self._said(item)
            case Undecided() if not (item.clear and self.state.encrypted):
                self.undecided.append((item, self.state))
            case Unheard():
                self.unheard.append((item, self.state))
            case Attached():
                self.files.append(item)
            case Encrypted():
                self.state = replace(self.state, encrypted=True)
            case DefaultBegins():
                self.bounds = replace(self.bounds, default=item.lifetime)

    def _message(self, item: Message) -> None:
        span = lifetime(self.state.setting, self.bounds)
        if span is None and item.parent is None:
            self.stays.append(item.event_id)
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
        was = lifetime(self.state.setting, self.bounds)
        args = item.args | {"base": self.state.policy_digest, "was": was, "sender": item.sender}
        if item.setting is not None:
            marks = [] if item.event_id is None else [(item.event_id, item.setting)]
            args |= {"setting": item.setting, "marks": marks}
            self.state = replace(
                self.state,
                setting=item.setting,
                commanded=True,
                awaits="",
                revision=self.state.revision + 1,
            )
            self.suspends = item.suspends
        owed = Owed(key=item.digest, kind=item.kind, args=args)
        if item.setting is not None:
            over = overtaken(self.owed, owed)
            owed = succeed(self.owed, owed)
            self.owed = [one for one in self.owed if one.kind != "set"] + over
        self.owed.append(owed)

    def _change(self, change: Change, *, cause: str = "") -> None:
        """Apply a state event; what the bot itself set was announced with the command.

        `cause` is the digest of what made the change, where that is not the state event.
        """
        state, setting, said = self.state, change.setting, change.setting
        if change.note == UNREADABLE:
            setting = setting if state.setting is None else state.setting
            said = said if state.stated is None else state.stated
        stated = replace(state, stated=said, policy_digest=change.digest)
        if change.sender == self._own_id:
            if state.commanded and not (state.awaits and change.digest == state.awaits):
                # The echo of an earlier command; a later one counts from its own place already.
                self.state = stated
            else:
                number = state.revision + (setting != state.setting)
                self.state = replace(
                    stated, setting=setting, commanded=False, awaits="", revision=number
                )
            return
        before, after = lifetime(state.setting, self.bounds), lifetime(setting, self.bounds)
        if (before != after or change.note) and not change.quiet:
            args = {
                "sender": change.sender,
                "setting": setting,
                "was": before,
                "note": change.note,
            }
            # The same event may come to hold once more, and is told once more then.
            key = f"change:{cause or change.digest}:{state.revision}"
            self.owed.append(Owed(key=key, kind="changed", args=args))
        self.state = replace(
            stated, setting=setting, commanded=False, awaits="", revision=state.revision + 1
        )
