"""What a sync brings, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from bot.core.invitations import Invite
from bot.core.types import Event, RoomID


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomBatch:
    """What one sync says of one joined room. `state` is the state at the timeline's start."""

    room_id: RoomID
    state: list[Event]
    timeline: list[Event]
    limited: bool = False
    full: bool = False
    """As many events as are sent at once: what is missing may just not have fitted in."""
    prev_batch: str = ""
    members: int | None = None
    """How many are in the room, the bot included, where the homeserver says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRoomKey:
    """An encrypted event whose room key has not come."""

    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncBatch:
    """One answer of `GET /sync` as plain data (spec: client-server API v1.13, syncing)."""

    next_batch: str
    joined: list[RoomBatch] = field(default_factory=list)
    invited: list[Invite] = field(default_factory=list)
    left: list[RoomID] = field(default_factory=list)
