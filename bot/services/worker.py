"""Works through what waits for its time: a few things at once, never two that share a lane."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

from bot.core.outcome_text import describe
from bot.core.outcomes import Outcome, OutcomeError, Unreachable
from bot.core.retry import PAUSE_CEILING, retry_in
from bot.core.types import Millis, RoomID
from bot.services.clock import Clock

log = logging.getLogger(__name__)

WIDTH: Final = 8
"""Steps that are under way at once, of those that are not slow."""
SLOW_AFTER: Final[Millis] = 3_000
"""A step that takes longer leaves its place to another: it waits for somebody, and costs little."""
MOST_SLOW: Final = 8
"""Slow steps at once; beyond them, new ones wait for one of these to end."""
QUIET_FOR: Final[Millis] = 60_000
"""What was put off is said in the log together, once in this time at most."""


class Waiting(Protocol):
    """Something that is to be seen to at a time."""

    @property
    def retry_at(self) -> Millis:
        """Return when."""
        ...


class Retried(Waiting, Protocol):
    """Something that is tried again later, of one room."""

    @property
    def room_id(self) -> RoomID:
        """Return the room it is of."""
        ...

    @property
    def attempts(self) -> int:
        """Return how often it failed in a row."""
        ...


T = TypeVar("T", bound=Waiting)
L = TypeVar("L", bound=Hashable)
R = TypeVar("R", bound=Retried)

PutOff = Callable[[T, Outcome], Awaitable[str | None]]
"""Puts a thing off for want of an answer, or gives it up; returns why it waits, if it does."""


def room_of(thing: Retried) -> RoomID:
    """Return the room that a thing is of: the lane of most."""
    return thing.room_id


def retry(
    clock: Clock,
    random: Random,
    later: Callable[[R, Millis], Awaitable[object]],
    *,
    ceiling: Millis = PAUSE_CEILING,
) -> PutOff[R]:
    """Return what puts things off, each time for longer, and up to `ceiling` milliseconds.

    `later` remembers a thing and the time at which it is to be tried again.
    """

    async def put_off(thing: R, outcome: Outcome) -> str:
        wait = retry_in(outcome, thing.attempts, chance=random.random(), ceiling=ceiling)
        await later(thing, clock.now() + wait)
        return describe(outcome)

    return put_off


@dataclass(slots=True)
class _Step:
    """One thing that is being seen to."""

    began: Millis
    limit: asyncio.Timeout | None = None
    """Set once the step has its first turn."""
    over: bool = False
    """Whether it was told to end."""


class Worker(Generic[T, L]):
    """Sees to things of one kind, for as long as it runs.

    `find` gives what is to be seen to first, leaving out the lanes that it is told: those are at
    work. `lane` says which lane a thing belongs to; a lane is most often a room, and two things of
    one lane are never seen to at once. `see_to` does one thing, or puts it off and returns the
    reason, for the log. Where it raises `OutcomeError`, or takes longer than `within` milliseconds
    and is cancelled, `put_off` does that. Either way `find` does not give the same again at once.
    `what` names the things in the log. `every`: look at least this often.
    """

    def __init__(
        self,
        clock: Clock,
        wake: asyncio.Event,
        find: Callable[[frozenset[L]], Awaitable[T | None]],
        see_to: Callable[[T], Awaitable[str | None]] | Callable[[T], Awaitable[None]],
        *,
        lane: Callable[[T], L],
        put_off: PutOff[T],
        within: Millis,
        what: str,
        width: int = WIDTH,
        slow: int = MOST_SLOW,
        every: Millis | None = None,
    ) -> None:
        self._clock = clock
        self._wake = wake
        self._find = find
        self._see_to = see_to
        self._lane = lane
        self._put_off = put_off
        self._within = within
        self._too_long = Unreachable(reason=f"no end within {within // 1000} s")
        self._what = what
        self._width = width
        self._most = width + slow
        self._every = every
        self._steps: dict[L, _Step] = {}
        self._reasons = Counter[str]()
        """Why things were put off, since that was last said."""
        self._quiet_until: Millis = 0

    async def run(self) -> NoReturn:
        """Work until cancelled; then no step goes on. Raises what a step raises first."""
        await run_together(self._clock, self._wake, self)

    async def begin(self, group: asyncio.TaskGroup) -> Millis | None:
        """Begin what may be begun now; return when to look again, if nobody wakes us before."""
        self._say()
        again = self._look_at_steps()
        while self._has_room():
            found = await self._find(frozenset(self._steps))
            if found is None:
                every = self._every
                return again if every is None else _sooner(again, self._clock.now() + every)
            if found.retry_at > self._clock.now():
                return _sooner(again, found.retry_at)
            lane, step = self._lane(found), _Step(began=self._clock.elapsed())
            assert lane not in self._steps, "`find` gave what is at work already"
            self._steps[lane] = step
            group.create_task(self._take(found, step))
            again = self._look_at_steps()
        return again

    def _has_room(self) -> bool:
        now = self._clock.elapsed()
        quick = sum(now - step.began < SLOW_AFTER for step in self._steps.values())
        return quick < self._width and len(self._steps) < self._most

    def _look_at_steps(self) -> Millis | None:
        """End the steps that take too long; return when that is to be looked at again."""
        now, again = self._clock.elapsed(), None
        for step in self._steps.values():
            age = now - step.began
            if age >= self._within and step.limit is not None and not step.over:
                step.over = True
                step.limit.reschedule(asyncio.get_running_loop().time())
            elif not step.over:
                left = (SLOW_AFTER if age < SLOW_AFTER else self._within) - age
                again = _sooner(again, self._clock.now() + max(left, 1))
        return again

    async def _take(self, thing: T, step: _Step) -> None:
        """See one thing through one step, whatever comes of it."""
        reason: str | None = None
        try:
            async with asyncio.timeout(None) as step.limit:
                reason = await self._see_to(thing)
        except TimeoutError:
            if not step.over:
                raise
            reason = self._too_long.reason
            await self._put_off(thing, self._too_long)
        except OutcomeError as error:
            reason = await self._put_off(thing, error.outcome)
        finally:
            if reason is not None:
                self._reasons[reason] += 1
            del self._steps[self._lane(thing)]
            self._wake.set()

    def _say(self) -> None:
        """Say in the log what was put off and why, in counts only."""
        now = self._clock.elapsed()
        if self._reasons and now >= self._quiet_until:
            why = ", ".join(f"{reason} ({count})" for reason, count in self._reasons.items())
            level = logging.WARNING if self._too_long.reason in self._reasons else logging.INFO
            log.log(level, "%s: put off, while others go on: %s", self._what, why)
            self._reasons.clear()
            self._quiet_until = now + QUIET_FOR


async def run_together(clock: Clock, wake: asyncio.Event, *workers: Worker[Any, Any]) -> NoReturn:
    """Run workers that are woken together, until cancelled; then no step goes on.

    Raises what a step raises first.
    """
    try:
        async with asyncio.TaskGroup() as group:
            while True:
                wake.clear()
                until: Millis | None = None
                for worker in workers:
                    again = await worker.begin(group)
                    until = until if again is None else _sooner(until, again)
                await clock.wait(wake, until)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    raise AssertionError  # the loop has no end


def _sooner(one: Millis | None, other: Millis) -> Millis:
    return other if one is None else min(one, other)
