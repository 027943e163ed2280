"""Decides how many redactions may be on their way at once, by what the homeserver answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bot.core.redaction import IN_FLIGHT
from bot.core.types import Millis

MANY_FAILED: Final = 24
"""So many redactions in a row that fail are hardly the fault of the messages."""
FAILING_PAUSE: Final[Millis] = 5_000
"""Between two requests, while one redaction after the other fails."""
TOLERABLE: Final[Millis] = 30_000
"""What a rate limit may delay before somebody is told."""
FIRST_WIDTH: Final = 8
"""Redactions on their way at once, before the homeserver has shown what it bears."""
REFUSED: Final = 4
"""After so many refusals in a row all wait: that is no coincidence, but a rate limit."""
REFUSED_AGAIN: Final = 2
"""After so many, where all had to wait before."""
REFUSED_SINGLY: Final = 8
"""After so many, where one was let through while another was told to wait."""
LONGER: Final[Millis] = 5_000
"""How long a wait becomes that was told shorter, while nothing is let through after it."""
MOST_WAITING: Final = 256
"""So many messages may wait singly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """More is due than a rate limit lets through."""

    late: int
    interval: Millis
    """Between two messages that may be removed."""

    def __str__(self) -> str:
        return (
            f"the homeserver lets the bot remove one message in {self.interval / 1000:.1f} s, and"
            f" {self.late} are due: messages go late. Lift its rate limit: ephemeral-bot"
            " lift-rate-limit"
        )


@dataclass(slots=True)
class Tally:
    """What was done since the last line in the log."""

    redacted: int = 0
    worst: Millis = 0
    waited: int = 0
    unconfirmed: int = 0
    since: Millis = 0

    def __str__(self) -> str:
        return (
            f"redacted {self.redacted}, at worst {self.worst / 1000:.1f} s late;"
            f" {self.waited} must wait, {self.unconfirmed} did not happen"
        )


def behind(before: Behind | None, late: int, interval: Millis) -> Behind | None:
    """Say whether more is due than is let through; an episode ends when nothing is late."""
    begins = late * interval > TOLERABLE
    goes_on = before is not None and late > 0 and interval > 0
    return Behind(late=late, interval=interval) if begins or goes_on else None


class Throughput:
    """What the homeserver bears now: how many at once, and how long to wait.

    A homeserver that refuses a redaction says how long to wait. Some refuse single requests, and
    let others through meanwhile; with most, nothing more is let through by then. So the message
    that was refused waits, and the others go on; but when several are refused one after the other,
    all wait as long as they were told, and begin again with one at once. No rate is computed: a
    homeserver that lets one through every five seconds is asked twice or so for each.
    """

    def __init__(self) -> None:
        self.width = FIRST_WIDTH
        """Requests that may be on their way at once."""
        self.paused_until: Millis = 0
        self.failures = 0
        """Answers in a row that never came."""
        self.limited = False
        """Whether a rate limit is known to hold for all."""
        self._failed = 0
        self._refused = 0
        """Redactions in a row that were refused."""
        self._enough = REFUSED
        self._in_vain = 0
        """How often all waited and nothing was let through afterwards."""
        self._refused_at: Millis = -1
        self._told_until: Millis = -1
        self._share = LimitShare()

    def accepted(self, now: Millis, *, begun: Millis) -> None:
        """A redaction that was begun then was accepted."""
        self.failures = self._failed = self._refused = self._in_vain = 0
        self._share.accepted += 1
        if now >= self.paused_until:
            self.width = min(IN_FLIGHT, self.width + 1)
        if self._refused_at < begun and now < self._told_until:
            self._enough = REFUSED_SINGLY
        if self._enough == REFUSED_SINGLY or self.width == IN_FLIGHT:
            self.limited = False

    def refused(self, now: Millis, until: Millis, *, waiting: int) -> bool:
        """A redaction was refused until then; whether only its message is to wait.

        `waiting`: so many others wait singly.
        """
        self._refused += 1
        self._refused_at, self._told_until = now, until
        if self._refused < self._enough and waiting < MOST_WAITING:
            return True
        longer = min(LONGER, (until - now) << min(self._in_vain, 20))
        until = max(until, now + longer)
        self._in_vain += 1
        self._share.add(max(now, self.paused_until), until)
        self.paused_until = max(self.paused_until, until)
        self.width, self.limited = 1, True
        self._refused, self._enough, self._told_until = 0, REFUSED_AGAIN, -1
        return False

    def unanswered(self, now: Millis, until: Millis, *, again: bool) -> None:
        """A request was not answered: nothing is asked until then, and gently afterwards.

        `again`: the same message met that before. It may be the reason, so others need not wait
        as long.
        """
        if now >= self.paused_until:  # what was on its way together failed together: once
            self.width = 1
            self.failures += 1
            self.paused_until = min(until, now + FAILING_PAUSE) if again else until

    def failed(self, now: Millis) -> None:
        """A redaction failed. After many, the homeserver is not to get them all."""
        self._failed += 1
        if self._failed >= MANY_FAILED:
            self.width = 1
            # No longer than that: should it be the messages, others are waiting.
            self.paused_until = max(self.paused_until, now + FAILING_PAUSE)

    def interval(self, now: Millis) -> Millis:
        """Return how long a redaction took since this was last asked, if a rate limit was why."""
        interval = self._share.interval(now)
        self._share = self._share.next(now)
        return interval

    def clock_was_set(self) -> None:
        """No pause by the old clock holds."""
        self.paused_until = 0
        self._refused_at = self._told_until = -1
        self._share = LimitShare()


@dataclass(slots=True)
class LimitShare:
    """How much of a stretch of time rate limits took, and what was let through in it."""

    since: Millis = 0
    until: Millis = 0
    """When the last pause ends."""
    paused: Millis = 0
    """All pauses together, the one that has not ended included."""
    accepted: int = 0

    def add(self, begin: Millis, end: Millis) -> None:
        """A limit lets nothing through in between."""
        self.paused += max(0, end - begin)
        self.until = max(self.until, end)

    def interval(self, now: Millis) -> Millis:
        """Return the time for each that was let through; 0 where no limit took most of it."""
        left = max(0, self.until - now)
        passed = now - self.since
        if passed <= 0 or 2 * (self.paused - left) < passed:
            return 0
        return (passed + left * (not self.accepted)) // max(1, self.accepted)

    def next(self, now: Millis) -> LimitShare:
        """Return the stretch that begins now."""
        return LimitShare(since=now, until=self.until, paused=max(0, self.until - now))
