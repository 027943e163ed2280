"""Where a room's lifetime is kept, and which lifetimes the operator allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from bot.core.types import EventID, Millis

POLICY_EVENT: Final = "com.beeper.disappearing_timer"
"""The state event that holds a room's lifetime; deployed clients and bridges read it."""

Setting: TypeAlias = int | None
"""A room's lifetime as its state event says it: `None` no event, 0 off, else milliseconds."""

OFF: Final = 0

SettingStart: TypeAlias = tuple[EventID, int]
"""A command's message, and the setting (or `OFF`) that holds from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifetimeLimits:
    """What the operator allows: lifetimes between `minimum` and `maximum`, and the default."""

    minimum: Millis
    maximum: Millis
    default: Millis | None = None

    def clamp(self, lifetime: Millis) -> Millis:
        """Return the allowed lifetime nearest to `lifetime`."""
        return max(self.minimum, min(lifetime, self.maximum))

    def allows(self, lifetime: Millis) -> bool:
        """Whether a command may ask for this lifetime."""
        return self.minimum <= lifetime <= self.maximum
