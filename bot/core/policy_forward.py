"""Decides when messages are due: along the timeline, by the policy at each one's own place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bot.core.commands import Command, SetLifetime, UndecidedCommand
from bot.core.default_lifetime import DefaultBegins
from bot.core.lifetimes import OFF, LifetimeLimits, SettingStart
from bot.core.outbox import AnnounceChange, Outgoing, Overtaken, SetPolicy
from bot.core.policy import MOST_MARKS, UNREADABLE, NewTimer, RoomState, lifetime
from bot.core.timeline import (
    Change,
    Encrypted,
    Item,
    MediaReference,
    Message,
    Redaction,
    Undecryptable,
)
from bot.core.types import EventID, Millis, UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a part of the timeline comes to, to be committed at once with its sync token."""

    state: RoomState
    timers: list[NewTimer]
    dropped: list[EventID]
    outgoing: list[Outgoing]
    handled: list[str]
    surplus: list[str]
    """Digests of commands over the limit of their sender."""
    undecryptable: list[tuple[Undecryptable, RoomState]]
    """Messages that may turn out to be commands, each with how the room stood at its place."""
    undecided: list[tuple[UndecidedCommand, RoomState]]
    """Commands that wait for the homeserver, each with how the room stood at its place."""
    stays: list[EventID]
    """Messages that have no lifetime and belong to no other message."""
    default: Millis | None
    """The operator's default, for what follows."""
    suspends: bool = False
    files: list[MediaReference] = field(default_factory=list)
    """The files that messages show; only those of messages with a timer are remembered."""


def decide(
    state: RoomState, items: list[Item], *, limits: LifetimeLimits, own_id: UserID
) -> Decision:
    """Walk along `items` in the timeline's order and give each message its timer.

    The policy in force at a message's own place decides; later changes do not touch it.
    `limits.default` is the operator's default at the first of `items`.
    """
    walk = _Walk(state, limits, own_id)
    for item in items:
        walk.pass_by(item)
    return Decision(
        state=walk.state,
        timers=walk.timers,
        dropped=walk.dropped,
        outgoing=walk.outgoing,
        handled=walk.handled,
        surplus=walk.surplus,
        undecryptable=walk.undecryptable,
        undecided=walk.undecided,
        stays=walk.stays,
        default=walk.limits.default,
        suspends=walk.suspends,
        files=walk.files,
    )


def succeed(before: Sequence[Outgoing], outgoing: Outgoing) -> list[Outgoing]:
    """Let a lifetime that is to be set take the place of those `before`, which were not set yet.

    Returns it with the places where those held, which nobody else remembers, and what to tell
    whose lifetime gives way to another person's. Who has changed their own mind needs no word:
    what is said of the last one answers all.
    """
    new = outgoing.content
    assert isinstance(new, SetPolicy)
    places = {mark[0] for mark in new.marks}
    marks: list[SettingStart] = []
    answers: list[Outgoing] = []
    for one in before:
        if isinstance(one.content, SetPolicy):
            marks += [mark for mark in one.content.marks if mark[0] not in places]
            if one.content.sender != new.sender:
                answers.append(overtaken(one.key, one.content.sender, one.thread))
    held = (*marks, *new.marks)[-MOST_MARKS:]
    return [*answers, replace(outgoing, content=replace(new, marks=held))]


def overtaken(key: str, sender: UserID, thread: str) -> Outgoing:
    """Return the answer to a command that came to nothing: the lifetime was changed meanwhile."""
    return Outgoing(key=f"{key}:over", content=Overtaken(sender=sender), thread=thread)


class _Walk:
    """How the room stands at the place that was reached, and what has come of it so far."""

    def __init__(self, state: RoomState, limits: LifetimeLimits, own_id: UserID) -> None:
        self.state = state
        self.limits = limits
        self._own_id = own_id
        self.timers: list[NewTimer] = []
        self.dropped: list[EventID] = []
        self.outgoing: list[Outgoing] = []
        self.handled: list[str] = []
        self.surplus: list[str] = []
        self.undecryptable: list[tuple[Undecryptable, RoomState]] = []
        self.undecided: list[tuple[UndecidedCommand, RoomState]] = []
        self.stays: list[EventID] = []
        self.suspends = False
        self.files: list[MediaReference] = []

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
            case Command() if not (item.clear and self.state.encrypted):
                self._command(item)
            case UndecidedCommand() if not (item.clear and self.state.encrypted):
                self.undecided.append((item, self.state))
            case Undecryptable():
                self.undecryptable.append((item, self.state))
            case MediaReference():
                self.files.append(item)
            case Encrypted():
                self.state = replace(self.state, encrypted=True)
            case DefaultBegins():
                self.limits = replace(self.limits, default=item.lifetime)

    def _message(self, item: Message) -> None:
        span = lifetime(self.state.setting, self.limits)
        if span is None and item.parent is None:
            self.stays.append(item.event_id)
            return
        due = None if span is None else item.sent + span
        # Where nobody ever set a lifetime, nothing has gone that this could belong to.
        ask = item.parent is not None and (span is not None or self.state.setting is not None)
        timer = NewTimer(
            event_id=item.event_id, due=due, parent=item.parent, from_local_clock=item.live, ask=ask
        )
        self.timers.append(timer)

    def _redaction(self, item: Redaction) -> None:
        self.dropped.append(item.target)
        if item.target_digest == self.state.policy_digest and self.state.policy_digest:
            # Redacting the state event empties it, which is how the room reads `off`.
            change = Change(setting=OFF, sender=item.sender, digest=self.state.policy_digest)
            self._change(change, cause=item.digest)

    def _command(self, command: Command) -> None:
        if command.effect is None:
            self.surplus.append(command.digest)
            return
        self.handled.append(command.digest)
        if isinstance(command.effect, SetLifetime):
            self._set(command, command.effect.setting)
        else:
            self.outgoing.append(
                Outgoing(key=command.digest, content=command.effect, thread=command.thread)
            )

    def _set(self, command: Command, setting: int) -> None:
        event_id, state = command.event_id, self.state
        policy = SetPolicy(
            setting=setting,
            sender=command.sender,
            base=state.policy_digest,
            was=lifetime(state.setting, self.limits),
            marks=() if event_id is None else ((event_id, setting),),
        )
        self.state = replace(
            state,
            setting=setting,
            set_by_command=True,
            awaited_digest="",
            revision=state.revision + 1,
        )
        self.suspends = command.suspends
        outgoing = Outgoing(key=command.digest, content=policy, thread=command.thread)
        others = [one for one in self.outgoing if not isinstance(one.content, SetPolicy)]
        self.outgoing = [*others, *succeed(self.outgoing, outgoing)]

    def _change(self, change: Change, *, cause: str = "") -> None:
        """Apply a state event; what the bot itself set was announced with the command.

        `cause` is the digest of what made the change, where that is not the state event.
        """
        state, setting, said = self.state, change.setting, change.setting
        if change.note == UNREADABLE:
            setting = setting if state.setting is None else state.setting
            said = said if state.state_setting is None else state.state_setting
        stated = replace(state, state_setting=said, policy_digest=change.digest)
        if change.sender == self._own_id:
            if state.set_by_command and not (
                state.awaited_digest and change.digest == state.awaited_digest
            ):
                # The echo of an earlier command; a later one counts from its own place already.
                self.state = stated
            else:
                number = state.revision + (setting != state.setting)
                self.state = replace(
                    stated,
                    setting=setting,
                    set_by_command=False,
                    awaited_digest="",
                    revision=number,
                )
            return
        before, after = lifetime(state.setting, self.limits), lifetime(setting, self.limits)
        if (before != after or change.note) and not change.unannounced:
            key = f"change:{cause or change.digest}"
            if change.resolved:  # it was told when the timeline showed it, and is told again
                key += f":{state.revision}"
            news = AnnounceChange(setting=setting, sender=change.sender, note=change.note)
            self.outgoing.append(Outgoing(key=key, content=news))
        self.state = replace(
            stated,
            setting=setting,
            set_by_command=False,
            awaited_digest="",
            revision=state.revision + 1,
        )
