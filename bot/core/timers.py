"""Timers, and what else waits for its turn, as the store gives it to the services."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from bot.core.types import EventID, Millis, RoomID

MANY: Final = 10_000
"""Rows are counted up to this number: to count more of them takes too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """One pending redaction, as the store gives it to the redactor."""

    id: int
    room_id: RoomID
    event_id: EventID
    due: Millis
    attempts: int = 0
    redaction_round: int = 0
    """How many redactions of it reported success and did not happen."""
    redaction_sent_at: Millis | None = None
    """When a redaction was answered with 200 and is waiting to be seen in the timeline."""
    refused: bool = False
    """Whether the homeserver refuses to redact it, though the room's state allows it."""
    relations_loaded: bool = True
    """Whether what belongs to the message is known, so that it can go first."""
    room: int = 0
    """The number of its room in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRelation:
    """A message that belongs to one of which no timer is known: it may be gone already."""

    id: int
    room_id: RoomID
    event_id: EventID
    parent: EventID
    attempts: int = 0
    retry_at: Millis = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file whose messages are gone, to be deleted from the homeserver."""

    media_id: str = field(repr=False)
    owners: frozenset[str]
    """Digests of those who sent the messages."""
    attempts: int = 0
    retry_at: Millis = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A room whose state is to be looked at."""

    room_id: RoomID
    attempts: int = 0
    retry_at: Millis = 0
