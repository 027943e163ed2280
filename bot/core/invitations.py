"""Invitations: who may send them, and how far the bot has come in answering one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from bot.core.types import Millis, RoomID, UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitePolicy:
    """Who may invite the bot, by globs over user ids; how often in an hour.

    And into how many rooms: of all, and of one account; `None` is any number.
    """

    allow: Sequence[str]
    per_inviter: int = 20
    per_hour: int = 100
    max_rooms: int | None = 1_000
    rooms_per_inviter: int | None = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """An invitation: who asks the bot into which room."""

    room_id: RoomID
    inviter: UserID | None


class InviteStage(IntEnum):
    """How far an invitation has come."""

    NEW = 0
    """Nothing was decided."""
    JOINING = 1
    """It is to be accepted."""
    DECLINING = 2
    """It is to be declined."""
    JOINED = 3
    """It was accepted; the room is to come with a sync."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """An invitation as the store gives it to be answered."""

    id: int
    room_id: RoomID
    inviter: UserID | None
    stage: InviteStage
    attempts: int = 0
    retry_at: Millis = 0
