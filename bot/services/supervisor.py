"""Runs a part again after the disk took nothing, and waits for a homeserver that is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Final

from bot.core.outcome_text import Reasons
from bot.core.outcomes import DiskError, Failed, Outcome, RateLimited, Unreachable
from bot.core.retry import PAUSE_CEILING, backoff
from bot.core.types import Millis
from bot.services.clock import Clock

log = logging.getLogger(__name__)

QUIET_FOR: Final[Millis] = 60_000
"""All services meet the same disk: one line in the log a minute is enough."""


class Disk:
    """Waits for a disk that is full, read-only or held by somebody else.

    A service keeps in the database what may not be lost, so that beginning it anew is the same
    as going on: what was not stored was not acknowledged, and is done again.
    """

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._quiet_until: Millis = 0

    async def insist(self, service: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a service, again and again if need be; other errors than `DiskError` are raised."""
        failures = 0
        while True:
            began = self._clock.now()
            reason = ""
            try:
                await service()
            except* DiskError as group:
                reason = str(_first(group))
            if not reason:
                return
            if self._clock.now() - began > QUIET_FOR:
                failures = 0
            await self._rest(reason, failures)
            failures += 1

    async def _rest(self, reason: str, failures: int) -> None:
        now = self._clock.now()
        if now >= self._quiet_until:
            log.error("nothing can be stored (%s); it is tried until it can", reason)
            self._quiet_until = now + QUIET_FOR
        chance = self._random.random()
        until = now + backoff(failures, ceiling=PAUSE_CEILING, chance=chance)
        never = asyncio.Event()
        while self._clock.now() < until:
            await self._clock.wait(never, until)


def _first(group: BaseExceptionGroup[DiskError]) -> BaseException:
    """Return one of the errors in a group of groups."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


class StoppedError(Exception):
    """The bot was told to stop before it had begun."""


async def wait_for_homeserver(
    request: Callable[[], Awaitable[Outcome]],
    stop: asyncio.Event,
    clock: Clock,
    random: Random,
) -> Outcome:
    """Repeat a request until there is somebody to answer it, and say why in the log.

    Raises `StoppedError` when the bot is told to stop meanwhile.
    """
    reasons, failures = Reasons(), 0
    while True:
        outcome = await request()
        if not isinstance(outcome, Unreachable | RateLimited | Failed):
            return outcome
        now = clock.now()
        if reason := reasons.news(outcome, now):
            log.warning("waiting for the homeserver (%s)", reason)
        wait = backoff(failures, ceiling=PAUSE_CEILING, chance=random.random())
        if isinstance(outcome, RateLimited):
            wait = outcome.retry_after
        failures += 1
        await clock.wait(stop, now + wait)
        if stop.is_set():
            raise StoppedError
