"""Decides what a homeserver's answer to a redaction means for its timer."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    RateLimited,
    Refused,
    Unreachable,
)
from bot.core.retry import PAUSE_CEILING, POSTPONE_CEILING, backoff
from bot.core.timers import Timer
from bot.core.types import EventID, Millis

IN_FLIGHT: Final = 32
"""Most redactions on their way at once; more only adds to their latency."""
PER_ROOM: Final = 10
"""Most of them in one room.

An event follows upon at most ten others there. So with more at once, the room's timeline ends in
more and more places (forward extremities), which slows the room down.
"""
SPARE: Final = 2
"""Redactions beside these, of rooms that have none on its way: a room may never answer."""

CONFIRM_AFTER: Final = 30_000
"""How long a redaction that was answered with 200 may take to be seen in the timeline, in ms."""
LOOKS: Final = 8
"""How often the homeserver may fail to say what belongs to a message: for four minutes."""
NO_SUCH_REQUEST: Final = frozenset({404, 405, 501})
"""Statuses that will be the same the next time."""
UNKNOWN_AGAIN: Final = 2
"""How often one of them is taken for a proxy's whose homeserver is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Answered with 200: gone as soon as the timeline shows it; look it up at `check_at`."""

    check_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Postpone:
    """Only this timer waits."""

    until: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The homeserver takes nothing now: every timer waits."""

    until: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect:
    """The room itself may be the reason: look at its state; meanwhile this timer waits."""

    until: Millis


Step = Sent | Postpone | Pause | Inspect


def next_step(
    outcome: Outcome,
    timer: Timer,
    *,
    now: Millis,
    failures: int,
    chance: float,
    others: bool = False,
) -> Step:
    """Say what follows from the answer to a redaction.

    `failures` counts the answers in a row that never came. `others`: the homeserver
    answered other requests while this one was on its way, so it is not away. No outcome alone
    lets a timer go: that takes the redaction seen in the timeline, or the event read back.
    """
    single = now + backoff(timer.attempts, ceiling=POSTPONE_CEILING, chance=chance)
    match outcome:
        case Done():
            return Sent(check_at=now + CONFIRM_AFTER)
        case RateLimited(retry_after=wait):
            return Pause(until=now + max(wait, 1))
        case Unreachable() if others:
            return Postpone(until=single)
        case Unreachable(retry_after=known):
            wait = known or backoff(failures, ceiling=PAUSE_CEILING, chance=chance)
            return Pause(until=now + wait)
        case Forbidden() | NotFound() | Refused():
            return Inspect(until=single)
        case Failed(elsewhere=True):
            # A redaction takes nobody but the homeserver's own workers: soon one is back.
            return Postpone(
                until=now + backoff(timer.attempts, ceiling=PAUSE_CEILING, chance=chance)
            )
        case Failed():
            return Postpone(until=single)


def may_change(outcome: Outcome, attempts: int) -> bool:
    """Whether a question that failed, `attempts` times before, is worth another try."""
    if isinstance(outcome, RateLimited):
        return True
    if isinstance(outcome, Unreachable):
        # A web page may be all that a proxy has for this one request.
        return outcome.page not in NO_SUCH_REQUEST or attempts < UNKNOWN_AGAIN
    if not isinstance(outcome, Failed):
        return False
    if outcome.status in NO_SUCH_REQUEST:
        return not outcome.errcode and attempts < UNKNOWN_AGAIN
    return attempts < LOOKS


def transaction_id(event_id: EventID, redaction_round: int) -> str:
    """Return the transaction id of the redaction of `event_id`.

    It derives from the event, so that a redaction repeated after a crash is the same redaction
    (spec: client-server API v1.13, transaction identifiers), and never serves two events:
    a homeserver answers 200 to a reused id without redacting. `redaction_round` moves on only when
    a redaction reported success and did not happen.
    """
    material = f"{event_id}\n{redaction_round}".encode()
    return "redact-" + blake2b(material, digest_size=18).hexdigest()
