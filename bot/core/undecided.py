"""A command that waits until the homeserver says whether its sender may. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from bot.core.types import EventID, Millis, RoomID, UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class UndecidedCommand:
    """A command whose sender's right could not be looked up: the homeserver did not answer."""

    digest: str
    """What is remembered of it, so that it counts once."""
    event_id: EventID
    sender: UserID
    setting: int
    """The lifetime (or `OFF`) that it asks for."""
    sent: Millis
    read_at: Millis
    """When it was read, in milliseconds since the epoch."""
    device_id: str = ""
    device_key: str = ""
    """The device that encrypted it; both empty when it was said in clear."""
    clear: bool = False
    """As of `Command`."""
    thread: str = ""
    """The root of the thread that it stands in, and is answered in; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCommand:
    """A command that waits in the store to be decided."""

    id: int
    room_id: RoomID
    command: UndecidedCommand
    attempts: int = 0
    retry_at: Millis = 0
