"""Commands as data: what they ask for, the right that it takes, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from bot.core.lifetimes import OFF, POLICY_EVENT, LifetimeLimits, Setting
from bot.core.outbox import (
    Answer,
    AnswerOutsideLimits,
    BotNotAllowed,
    Failure,
    RightUnknown,
    SenderNotAllowed,
)
from bot.core.power_levels import Power
from bot.core.types import EventID, Millis, RoomID, UserID


class Right(Enum):
    """What a person must be allowed to do in a room for a command to count."""

    ANYBODY = "anybody"
    CHANGE_LIFETIME = "whoever may change the room's lifetime"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLifetime:
    """A command that sets the room's lifetime, from its own place in the timeline on."""

    setting: int
    """The lifetime in milliseconds, or `OFF`."""


Effect: TypeAlias = SetLifetime | Answer | Failure
"""What a command comes to: a change, or an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of a person, parsed and authorized."""

    digest: str
    """What is remembered of it, so that it counts once."""
    sender: UserID
    effect: Effect | None
    """`None`: it is over its sender's limit, does nothing, and is not answered."""
    suspends: bool = False
    """The lifetime was set, but the bot lacks the power to redact."""
    event_id: EventID | None = None
    """The message that says it."""
    thread: str = ""
    """The root of the thread that it stands in, and is answered in; empty: none."""
    clear: bool = False
    """It was not encrypted: it counts only where encryption was not on yet."""

    @property
    def setting(self) -> Setting:
        """The lifetime (or `OFF`) that it sets; `None`: it sets nothing."""
        return self.effect.setting if isinstance(self.effect, SetLifetime) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class UndecidedCommand:
    """A command whose sender's right is not known yet."""

    digest: str
    """As of `Command`."""
    event_id: EventID
    sender: UserID
    right: Right
    """What it takes to be allowed it."""
    request: Effect
    """What it comes to if its sender has the right."""
    sent: Millis
    """When its message was sent."""
    read_at: Millis
    """When it was read, in milliseconds since the epoch."""
    device_id: str = ""
    device_key: str = ""
    """The device that encrypted it; both empty when it was said in clear."""
    clear: bool = False
    thread: str = ""
    """Both as of `Command`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCommand:
    """A command that waits in the store to be decided."""

    id: int
    room_id: RoomID
    command: UndecidedCommand
    attempts: int = 0
    retry_at: Millis = 0


def decide_command(
    command: UndecidedCommand, power: Power, *, own_id: UserID, limits: LifetimeLimits
) -> Command:
    """Return what a command comes to in a room with these power levels."""
    sender, request = command.sender, command.request
    if not has_right(command.right, sender, power):
        need, have = power.to_send_state(POLICY_EVENT), power.of(sender)
        return come_to(command, SenderNotAllowed(sender=sender, need=need, have=have))
    if not isinstance(request, SetLifetime):
        return come_to(command, request)
    if request.setting != OFF and not limits.allows(request.setting):
        return come_to(command, AnswerOutsideLimits())
    if not power.may_send_state(own_id, POLICY_EVENT):
        need, have = power.to_send_state(POLICY_EVENT), power.of(own_id)
        return come_to(command, BotNotAllowed(need=need, have=have))
    return replace(come_to(command, request), suspends=not power.may_redact(own_id))


def has_right(right: Right, person: UserID, power: Power) -> bool:
    """Whether a person has a right in a room with these power levels."""
    match right:
        case Right.ANYBODY:
            return True
        case Right.CHANGE_LIFETIME:
            return power.may_send_state(person, POLICY_EVENT)


def come_to(command: UndecidedCommand, effect: Effect | None) -> Command:
    """Return a command with what it comes to, at its own place in the timeline."""
    return Command(
        digest=command.digest,
        sender=command.sender,
        effect=effect,
        event_id=command.event_id,
        thread=command.thread,
        clear=command.clear,
    )


def undecidable(command: UndecidedCommand) -> Command:
    """Return a command that nobody can decide: its sender is told, and may say it again."""
    return come_to(command, RightUnknown(sender=command.sender))
