"""Decides how many redactions may be on their way at once, by what the homeserver answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from bot.core.due import Vacancy
from bot.core.outcomes import Outcome, Unreachable
from bot.core.redaction import IN_FLIGHT, SPARE
from bot.core.timers import Timer
from bot.core.types import Millis, RoomID

MANY_FAILED: Final = 24
"""So many redactions in a row that fail are hardly the fault of the messages."""
FAILING_PAUSE: Final[Millis] = 5_000
"""Between two requests, while one redaction after the other fails."""
TOLERABLE: Final[Millis] = 30_000
"""What a rate limit may delay before somebody is told."""
FIRST_WIDTH: Final = 8
"""Redactions on their way at once, before the homeserver has shown what it bears."""
REFUSED: Final = 4
"""So many redactions refused one after the other are no chance: a rate limit holds for all."""
REFUSED_AGAIN: Final = 2
"""The same while a rate limit is known to hold."""
REFUSED_SINGLY: Final = 8
"""The same once one was let through while another was told to wait."""
MOST_WAITING: Final = 256
"""So many messages may wait singly."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What is live, or the backlog: how many of it may begin."""

    backlog: bool
    most: int = IN_FLIGHT + SPARE
    spare: int = SPARE
    """So many beyond the width."""
    turn: bool = False
    """Whether it is the backlog's turn, while live messages wait."""


class Lanes:
    """Whose turn it is: live messages go before the backlog, which has one turn in so many."""

    def __init__(self) -> None:
        self._accepted = 0
        self._turn: int | None = None
        """The timer that has the backlog's turn."""

    def accepted(self, timer: Timer) -> None:
        """A redaction was accepted."""
        self._accepted = 0 if timer.id == self._turn else self._accepted + 1

    def begun(self, timer: Timer) -> None:
        """It has the backlog's turn. If it is refused, another one has it."""
        self._turn = timer.id

    def order(self, *, limited: bool, busy: Collection[int]) -> list[Lane]:
        """Return the lanes; `busy` are the timers at work.

        A busy room would keep the backlog for ever, if that had no turn; where the homeserver
        limits the rate, it takes no other's place.
        """
        lanes = [Lane(backlog=False), Lane(backlog=True, spare=0 if limited else SPARE)]
        if self._accepted >= BACKLOG_EVERY and self._turn not in busy:
            lanes.insert(0, Lane(backlog=True, most=1, turn=True))
        return lanes


class InFlight:
    """The timers that have a request on its way."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[Timer, Millis]] = {}
        self._waiting: dict[int, tuple[Timer, Millis]] = {}
        """Those that are not to be tried before a time, while others may be."""
        self._answered_at: Millis = -1
        self._silent: set[RoomID] = set()
        """Rooms whose last request was not answered."""

    def __len__(self) -> int:
        return len(self._since)

    @property
    def rooms(self) -> dict[int, int]:
        """The number of the room of each, by the timer's; of those that wait singly, too."""
        return {number: one.room for number, (one, _) in (self._since | self._waiting).items()}

    @property
    def waiting(self) -> int:
        """How many wait singly."""
        return len(self._waiting)

    def begun(self, timer: Timer) -> Millis:
        """Return when the request of a timer began."""
        return self._since[timer.id][1]

    def wait(self, timer: Timer, until: Millis) -> None:
        """See that it is not begun before then."""
        self._waiting[timer.id] = timer, until

    def end_waits(self, now: Millis | None = None) -> Millis | None:
        """End the waits that are over by then, or all; return when the next one is over."""
        self._waiting = {
            number: one for number, one in self._waiting.items() if now is not None and one[1] > now
        }
        return min((until for _, until in self._waiting.values()), default=None)

    def vacancy(self, *, width: int, most: int, spare: int) -> Vacancy:
        """Say how much may begin, where the limits are those of `begin`."""
        at_work = len(self._since)
        # Beyond the width, only what is of a room that has nothing on its way.
        shut = {one.room for one, _ in self._since.values()} if at_work >= width else set()
        return Vacancy(space=min(most, width + spare - at_work), busy=self.rooms, shut=shut)

    def begin(
        self, timers: list[Timer], now: Millis, *, width: int, most: int, spare: int
    ) -> Iterator[Timer]:
        """Give `most` of those that there is space for, in their order, and count them as begun."""
        for timer in timers:
            busy = timer.id in self._since or timer.id in self._waiting
            if most > 0 and not busy and self._has_space(timer, width, spare):
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
        self._refused_at: Millis = -1
        self._told_until: Millis = -1
        self._share = LimitShare()

    def accepted(self, now: Millis, *, begun: Millis) -> None:
        """A redaction that was begun then was accepted."""
        self.failures = self._failed = self._refused = 0
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
