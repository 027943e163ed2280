"""Says, purely, how a command counts that was understood after what followed it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from bot.core.commands import Command


class Late(Enum):
    """What becomes of it."""

    SETS_NOTHING = auto()
    """It is answered; when does not matter."""
    OVERTAKEN = auto()
    """The lifetime was changed since: it does not hold, and its sender is told."""
    FROM_ITS_PLACE = auto()
    """It holds for what followed it, which is read once more."""


def how_it_counts(commands: Sequence[Command], *, then: int, now: int) -> Late:
    """Return how the commands of one message count.

    `then` and `now` are the room's revisions, at the message's place and where the room is now.
    """
    if all(command.setting is None for command in commands):
        return Late.SETS_NOTHING
    return Late.FROM_ITS_PLACE if then == now else Late.OVERTAKEN
