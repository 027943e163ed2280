"""Decides how many redactions may be on their way at once, by what the homeserver answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bot.core.due import Vacancy
from bot.core.outcomes import Outcome, RateLimited, Unreachable
from bot.core.redaction import IN_FLIGHT, SPARE
from bot.core.timers import Timer
from bot.core.types import Millis, RoomID

MANY_FAILED: Final = 24
"""So many redactions in a row that fail are hardly the fault of the messages."""
FAILING_PAUSE: Final[Millis] = 5_000
"""Between two requests, while one redaction after the other fails."""
TOLERABLE: Final[Millis] = 30_000
"""What a rate limit may delay before somebody is told."""
SLOWEST: Final[Millis] = 60_000
FASTEST: Final[Millis] = 100
"""Between two redactions; what is let through faster than that is no limit."""
BURST: Final = 10
"""Redactions at once after a rest; Synapse's own figure."""
PROBE_AFTER: Final = 10
"""Most redactions at the learnt rate before a faster one is tried: the limit may be lifted.

The first try comes after one, since a limit may have passed with the pause; each that is refused
doubles the number.
"""
BACKLOG_EVERY: Final = 8
"""Of so many redactions that are accepted while live messages wait, the backlog has one."""


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


class Lanes:
    """Whose turn it is: live messages go before the backlog, which has one turn in so many."""

    def __init__(self) -> None:
        self._accepted = 0

    def accepted(self) -> None:
        """A redaction was accepted."""
        self._accepted += 1

    def order(self, *, limited: bool) -> list[tuple[bool, int, int]]:
        """Return the lanes (whether it is the backlog), and how many of each may begin.

        So many at most, and so many beyond the width. A busy room would keep the backlog for
        ever, if that had no turn; where the homeserver limits the rate, it takes no other's place.
        """
        most = IN_FLIGHT + SPARE
        lanes = [(False, most, SPARE), (True, most, 0 if limited else SPARE)]
        if self._accepted >= BACKLOG_EVERY:
            self._accepted = 0
            lanes.insert(0, (True, 1, SPARE))
        return lanes


class InFlight:
    """The timers that have a request on its way."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[Timer, Millis]] = {}
        self._answered_at: Millis = -1
        self._silent: set[RoomID] = set()
        """Rooms whose last request was not answered."""

    def __len__(self) -> int:
        return len(self._since)

    @property
    def rooms(self) -> dict[int, int]:
        """The number of the room of each, by the timer's."""
        return {number: one.room for number, (one, _) in self._since.items()}

    def vacancy(self, *, width: int, most: int, spare: int) -> Vacancy:
        """Say how much may begin, where the limits are those of `begin`."""
        busy = self.rooms
        # Beyond the width, only what is of a room that has nothing on its way.
        shut = set(busy.values()) if len(busy) >= width else set()
        return Vacancy(space=min(most, width + spare - len(busy)), busy=busy, shut=shut)

    def begin(
        self, timers: list[Timer], now: Millis, *, width: int, most: int, spare: int
    ) -> Iterator[Timer]:
        """Give `most` of those that there is space for, in their order, and count them as begun."""
        for timer in timers:
            if most > 0 and timer.id not in self._since and self._has_space(timer, width, spare):
                self._since[timer.id] = timer, now
                most -= 1
                yield timer

    def end(self, timer: Timer) -> None:
        """It is done with, whatever came of it."""
        del self._since[timer.id]

    def note(self, timer: Timer, outcome: Outcome, now: Millis) -> bool:
        """Remember what came of a request; return whether only others were answered meanwhile.

        Then it is the room that is silent, and not the homeserver that is away.
        """
        if not isinstance(outcome, Unreachable):
            self._answered_at = now
            self._silent.discard(timer.room_id)
            return False
        self._silent.add(timer.room_id)
        return self._answered_at > self._since[timer.id][1]

    def _has_space(self, timer: Timer, width: int, spare: int) -> bool:
        """Whether it may begin.

        Silent rooms have half of the width together. A room of which nothing is on its way may
        go `spare` beyond: others may be about to turn out silent.
        """
        rooms = [one.room_id for one, _ in self._since.values()]
        if timer.room_id in self._silent:
            return sum(room_id in self._silent for room_id in rooms) < (width + 1) // 2
        return len(rooms) < width + spare * (timer.room_id not in rooms)


class Throughput:
    """What the homeserver bears now: the width, the pauses, and the rate it lets through."""

    def __init__(self) -> None:
        self.width = IN_FLIGHT
        """Requests that may be on their way at once."""
        self.paused_until: Millis = 0
        self.interval: Millis = 0
        """Between two redactions that a rate limit lets through; 0 where there is none."""
        self.failures = 0
        """Answers in a row that never came."""
        self._failed = 0
        self._accepted_at: Millis | None = None
        self._refused = False
        self._streak = 0
        self._probe_after = 1
        self._trial: Millis = 0
        """A shorter interval that is being tried; 0 while none is."""
        self._counted_at: Millis = 0
        self._credit = 0.0
        """Redactions that the rate would let through at once."""

    def accepted(self, now: Millis) -> None:
        """A redaction was accepted."""
        self.failures = self._failed = 0
        if self.interval:
            self._keep_to_the_rate(now)
        if not self.interval:
            self.width = min(IN_FLIGHT, self.width + 1)
        self._accepted_at = now
        self._refused = False

    def _keep_to_the_rate(self, now: Millis) -> None:
        """What was not used of the rate is let through at once later, up to `BURST`."""
        self.interval = self._trial or self.interval
        passed = max(0, now - self._counted_at)
        self._credit = min(BURST, self._credit + passed / self.interval) - 1
        self._counted_at = now
        self._streak += 1
        self._trial = self.interval // 2 if self._streak >= self._probe_after else 0
        interval = self._trial or self.interval
        if interval < FASTEST:
            self.interval, self._trial, self._probe_after = 0, 0, 1
            return
        self.width = min(IN_FLIGHT, max(1, int(self._credit)))
        if self._credit < 1:
            wait = int(interval * min(1, 1 - self._credit))
            self.paused_until = max(self.paused_until, now + wait)

    def paused(self, outcome: Outcome, until: Millis, now: Millis, *, again: bool) -> None:
        """The homeserver takes nothing until then; afterwards gently, with fewer at once.

        `again`: the same message met that before. It may be the reason, so others need not wait
        as long.
        """
        if isinstance(outcome, RateLimited):
            self._learn(until, now)
            self.paused_until = max(self.paused_until, until)
        elif now >= self.paused_until:  # what was on its way together failed together: once
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

    def clock_was_set(self) -> None:
        """No pause by the old clock holds."""
        self.paused_until = self._counted_at = 0
        self._accepted_at = None

    def _learn(self, until: Millis, now: Millis) -> None:
        """From the one accepted last to the next that will be: that is the rate."""
        if not self._refused or not self.interval:
            since = now if self._accepted_at is None else self._accepted_at
            self.interval = min(max(until - since, FASTEST), SLOWEST)
        if self._trial:
            self._probe_after = min(PROBE_AFTER, self._probe_after * 2)
        self._refused, self._trial = True, 0
        self.width = 1
        self._streak = 0
        # When it is let through again, there is room for one.
        self._credit, self._counted_at = 1.0, until
