"""Knows which redactions are on their way, and decides which may begin beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from bot.core.due import Vacancy
from bot.core.outcomes import Outcome, Unreachable
from bot.core.redaction import IN_FLIGHT, PER_ROOM, SPARE
from bot.core.timers import Timer
from bot.core.types import Millis, RoomID

BACKLOG_EVERY: Final = 8
"""Of so many redactions that are accepted while live messages wait, the backlog has one."""


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
        rooms = Counter(one.room for one, _ in self._since.values())
        # Beyond the width, only what is of a room that has nothing on its way.
        most_of_one = PER_ROOM if at_work < width else 1
        shut = {room for room, number in rooms.items() if number >= most_of_one}
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
        if rooms.count(timer.room_id) >= PER_ROOM:
            return False
        if timer.room_id in self._silent:
            return sum(room_id in self._silent for room_id in rooms) < (width + 1) // 2
        return len(rooms) < width + spare * (timer.room_id not in rooms)
