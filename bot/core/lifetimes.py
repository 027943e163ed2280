"""Where a room's lifetime is kept, and which lifetimes the operator allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bot.core.types import Millis

POLICY_EVENT: Final = "com.beeper.disappearing_timer"
"""The state event that holds a room's lifetime; deployed clients and bridges read it."""


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
