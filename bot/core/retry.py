"""Decides how long to wait before a request is made again."""

from __future__ import annotations

from typing import Final

from bot.core.outcomes import Failed, Outcome, RateLimited, Unreachable
from bot.core.types import Millis

FIRST_BACKOFF: Final = 1_000
PAUSE_CEILING: Final = 60_000
"""A homeserver that does not answer is tried at least this often, in ms."""
POSTPONE_CEILING: Final = 600_000
"""A single event that cannot be redacted is tried at least this often, in ms."""


def backoff(attempts: int, *, ceiling: Millis, chance: float) -> Millis:
    """Return how long to wait after `attempts` failures in a row: doubling, with jitter.

    `chance` is a random number in [0, 1); the wait lies between half and all of the step.
    """
    step = min(ceiling, FIRST_BACKOFF << min(attempts, 20))
    return int(step * (0.5 + chance / 2))


def retry_in(
    outcome: Outcome, attempts: int, *, chance: float, ceiling: Millis = PAUSE_CEILING
) -> Millis:
    """Return how long to wait before the same is asked again: as long as was asked for, if it was.

    `attempts` and `chance` are those of `backoff`.
    """
    wait = backoff(attempts, ceiling=ceiling, chance=chance)
    asked = outcome.retry_after if isinstance(outcome, RateLimited | Unreachable) else 0
    return max(wait, asked)


def nobody_answered(outcome: Outcome) -> bool:
    """Whether the request itself was never looked at: it may succeed as it is, however late.

    Not for what takes another server, which may be away for ever.
    """
    return isinstance(outcome, RateLimited | Unreachable) or (
        isinstance(outcome, Failed) and outcome.elsewhere
    )
