"""Says, purely, which room succeeds another, and what of the old room's lifetime goes along."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bot.core.events import read_event
from bot.core.json_shape import inside
from bot.core.lifetimes import Setting
from bot.core.types import Event, Millis, RoomID

LONGEST_ID: Final = 255


class Stage(IntEnum):
    """How far the bot has followed."""

    OUTSIDE = 0
    """It is to join by itself."""
    AWAITED = 1
    """It waits to be in the room: it was refused, and somebody must invite it."""
    INSIDE = 2
    """It is in the room; the claim is to be checked and the lifetime to be taken over."""
    POWERLESS = 3
    """It may not set the lifetime; the next look at the room's state brings it back."""
    DONE = 4
    """Nothing is left to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """A room that another room's tombstone names."""

    room_id: RoomID
    predecessor: RoomID
    setting: Setting
    """The lifetime that goes along; `None` when there is none."""
    via: str
    stage: Stage
    joined_by_bot: bool = False
    """The bot joined it by itself, because of this tombstone."""
    welcome_withheld: bool = False
    """The room was not greeted: what is said of the old room stands in place of that."""
    needs_announced: bool = False
    """The room knows what the bot needs."""
    inviter_digest: str | None = None
    """Digest of who replaced the room: the bot is in the new one for this account."""
    retry_at: Millis = 0
    attempts: int = 0


def replacement(tombstone: Event | None, room_id: RoomID) -> RoomID | None:
    """Return the room that a tombstone names, if it names one, and not its own.

    spec: client-server API v1.13, 11.32 room upgrades. A redacted tombstone names none.
    """
    named = inside(tombstone, "content", "replacement_room")
    if not isinstance(named, str) or not named.startswith("!") or len(named) > LONGEST_ID:
        return None
    return None if named == room_id else RoomID(named)


def predecessor(create: Event | None) -> RoomID | None:
    """Return the room that this one says it succeeds, which its creator alone can say."""
    named = inside(create, "content", "predecessor", "room_id")
    return RoomID(named) if isinstance(named, str) else None


def goes_along(policy: Event | None, tombstone: Event, own_member: Event | None) -> Setting:
    """Return the old room's lifetime, if it held for the bot when the room was replaced.

    Whoever sets one in a room that is over, or brings the bot there, changes nothing elsewhere.
    """
    if policy is None or _later(policy, tombstone) or _later(own_member, tombstone):
        return None
    return read_event(policy)[0]


def _later(event: Event | None, tombstone: Event) -> bool:
    """Whether the event is younger than the tombstone, where the homeserver says so."""
    at, end = inside(event, "origin_server_ts"), tombstone.get("origin_server_ts")
    return isinstance(at, int) and isinstance(end, int) and at > end
