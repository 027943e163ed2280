"""The ids, times and raw events that every part of the bot speaks of."""

from __future__ import annotations

from typing import Any, NewType

RoomID = NewType("RoomID", str)
EventID = NewType("EventID", str)
UserID = NewType("UserID", str)

Millis = int
"""Milliseconds: a length of time, or since the epoch where the name says when (`due`, `now`)."""

Event = dict[str, Any]
"""An event as the homeserver wrote it. Nothing in it may be relied on before it was looked at."""
