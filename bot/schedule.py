"""Decides, purely, what an answer of the homeserver means for a timer and for the redactor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from bot.model import (
    Done,
    EventID,
    Failed,
    Forbidden,
    Millis,
    NotFound,
    Outcome,
    RateLimited,
    Refused,
    Timer,
    Unreachable,
)

IN_FLIGHT: Final = 8
"""Most redactions on their way at once; more only adds to their latency."""
SPARE: Final = 2
"""Redactions beside these, of rooms that have none on its way: a room may never answer."""

CONFIRM_AFTER: Final = 30_000
"""How long a redaction that was answered with 200 may take to be seen in the timeline, in ms."""

FIRST_BACKOFF: Final = 1_000
PAUSE_CEILING: Final = 60_000
"""A homeserver that does not answer is tried at least this often, in ms."""
POSTPONE_CEILING: Final = 600_000
"""A single event that cannot be redacted is tried at least this often, in ms."""

QUIET_FOR: Final[Millis] = 60_000
"""What keeps the bot waiting is said this often, in ms, as long as it stays the same."""
CODE: Final = re.compile(r"[A-Za-z0-9_.]{1,64}")
"""What an error's name looks like; anything else may be somebody's text."""
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


def settle(
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


def transaction_id(event_id: EventID, generation: int) -> str:
    """Return the transaction id of the redaction of `event_id`.

    It derives from the event, so that a redaction repeated after a crash is the same redaction
    (spec: client-server API v1.13, transaction identifiers), and never serves two events:
    a homeserver answers 200 to a reused id without redacting. `generation` moves on only when
    a redaction reported success and did not happen.
    """
    material = f"{event_id}\n{generation}".encode()
    return "redact-" + blake2b(material, digest_size=18).hexdigest()


TOKEN: Final = re.compile(r"[sm]([0-9]{1,18})(?:~[0-9]{1,9}\.[0-9]{1,18})*(?:_[0-9m~.]*)+")
"""A sync token that begins with its place in the stream of events, such as `s123_4_0`, or
`m56~1.58_4_0` where there are several writers: all of them have been at the first number."""
ANEW_EVERY: Final[Millis] = 3_600_000
"""A timeline that goes back again so soon is not read anew again: it may be a worker that lags."""
REFUSALS: Final = 2
"""How often in a row a token is refused before it is given up."""


def went_back(since: str | None, after: str) -> bool:
    """Whether the homeserver has forgotten what it said before `since`: a backup was put back.

    `after` is the token that it gave to who asked for what came after `since`. Tokens are opaque.
    Those of Synapse and Dendrite begin with a number that grows with each event; no others are
    compared.
    """
    before, now = (TOKEN.fullmatch(token or "") for token in (since, after))
    return before is not None and now is not None and int(now[1]) < int(before[1])


class Anew:
    """Decides when a sync token is worth nothing, so that everything has to be read anew."""

    def __init__(self) -> None:
        self.wanted = False
        """The next sync is to go without the token. It is kept until that was answered."""
        self._refusals = 0
        self._at: Millis | None = None

    def went_back(self, now: Millis) -> bool:
        """The timeline went back; return whether to read anew. `now`: the time that has elapsed."""
        if self._at is None or now - self._at >= ANEW_EVERY:
            self.wanted, self._at = True, now
        return self.wanted

    def refused(self, outcome: Outcome) -> bool:
        """Take notice of a sync that failed; return whether its token is given up just now."""
        if not isinstance(outcome, Refused) or outcome.status != 400:
            self._refusals = 0
            return False
        if self.wanted:
            self.wanted, self._refusals = False, 0  # so it was not the token
            return False
        self._refusals += 1
        self.wanted = self._refusals >= REFUSALS
        return self.wanted

    def answered(self) -> None:
        """A sync was answered, and what it brought was stored."""
        self.wanted, self._refusals = False, 0


class Reasons:
    """Knows why the homeserver is waited for: worth a line when that changes, or once a minute."""

    def __init__(self) -> None:
        self._said = ""
        self._quiet_until: Millis = 0

    def news(self, outcome: Outcome, now: Millis) -> str:
        """Return the reason, or an empty text when the log has it already."""
        reason = describe(outcome)
        if reason == self._said and now < self._quiet_until:
            return ""
        self._said, self._quiet_until = reason, now + QUIET_FOR
        return reason


def describe(outcome: Outcome) -> str:
    """Return what an operator has to know of an answer: its status, and its error's name.

    Such as `status 502`, `status 404 M_UNRECOGNIZED`, `ClientConnectorError`. Nothing in it was
    written by a stranger: an error's code that is none is left out.
    """
    match outcome:
        case Unreachable(reason=reason):
            return reason or "no answer"
        case RateLimited():
            return "status 429"
        case Done():
            return "status 200"
        case NotFound():
            return "status 404 M_NOT_FOUND"
        case Forbidden(reason=errcode):
            return _named("status 403", errcode)
        case Failed(status=0, errcode=errcode):
            return _code(errcode) or "no answer that makes sense"
        case Failed(status=status, errcode=errcode) | Refused(status=status, errcode=errcode):
            return _named(f"status {status}", errcode)


def _named(status: str, errcode: str) -> str:
    return f"{status} {_code(errcode)}".rstrip()


def _code(errcode: str) -> str:
    return errcode if CODE.fullmatch(errcode) else ""
