"""Says what there is news of, and wakes those who wait for it.

Whoever changes something publishes its topic; whoever is concerned listens. So no service knows
another one, and where nothing changed nobody is woken.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum


class Topic(StrEnum):
    """What there can be news of. The store publishes all but the last three, as it commits."""

    TIMERS = "timers"
    """Messages that are to be redacted."""
    RELATED = "related"
    """What belongs to messages that are gone, and is to be made due."""
    RELATIONS = "relations"
    """Messages whose parent is not known."""
    MEDIA = "media"
    """Files that are to be deleted."""
    GAPS = "gaps"
    """Parts of timelines that are still to be read."""
    SWEEPS = "sweeps"
    """Rooms that are to be read back through."""
    OUTBOX = "outbox"
    """What is to be sent to rooms."""
    COMMANDS = "commands"
    """Commands whose sender's right is not known."""
    UNDECRYPTABLE = "undecryptable"
    """Messages whose key has not come."""
    KEY_USES = "key uses"
    """Room keys that were used, and are to be moved past the message."""
    INVITATIONS = "invitations"
    SUCCESSORS = "successors"
    """Rooms that replace others."""
    ACCESS = "access"
    """Rooms that were left or joined anew, and whether the bot may redact in them."""
    POLICY = "policy"
    """Whether a room's lifetime is still to be written into its state."""
    REVIEWS = "reviews"
    """Rooms whose state is to be looked at."""
    POLICY_CHECKS = "policy checks"
    """Rooms whose lifetime is to be compared with their state."""
    MEMBERS = "members"
    """Rooms in which the bot may be alone."""
    DELETED = "deleted"
    """Something was deleted that can still be read from the disk."""

    ROOM_KEYS = "room keys"
    """Room keys came."""
    DEVICE_KEYS = "device keys"
    """The device's keys were uploaded anew: what signed them is lost."""
    CLOCK = "clock"
    """The clock was set. That concerns all who wait for a time, so it wakes everybody."""


class Topics:
    """One event for each who listens; it stays set until the listener clears it."""

    def __init__(self) -> None:
        self._listeners: defaultdict[Topic, list[asyncio.Event]] = defaultdict(list)

    def listen(self, *topics: Topic) -> asyncio.Event:
        """Return an event that is set whenever there is news of one of these topics.

        Clear it before looking for what is new, so that nothing that comes meanwhile is missed.
        """
        event = asyncio.Event()
        for topic in topics:
            self._listeners[topic].append(event)
        return event

    def publish(self, *topics: Topic) -> None:
        """Wake whoever listens to one of these topics."""
        about: Iterable[Topic] = Topic if Topic.CLOCK in topics else topics
        for topic in about:
            for event in self._listeners[topic]:
                event.set()
