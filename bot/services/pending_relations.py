"""Asks about messages whose parent has no timer: what belongs to a gone message goes at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from random import Random
from typing import Final, Protocol

from bot.core.outcome_text import describe
from bot.core.outcomes import OutcomeError, Refused, Unreachable
from bot.core.retry import nobody_answered, retry_in
from bot.core.timeline import is_gone
from bot.core.timers import PendingRelation
from bot.core.types import Event, EventID, Millis, RoomID
from bot.services.clock import Clock
from bot.services.worker import Worker

log = logging.getLogger(__name__)

WITHIN: Final[Millis] = 60_000
"""How long one question may take."""
TRIES: Final = 5
"""How often a parent is asked about that the homeserver fails on."""


class Homeserver(Protocol):
    """What this service asks of the homeserver."""

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None: ...  # noqa: D102


class Orphans(Protocol):
    """What this service asks of the store for what belongs to what."""

    async def next_orphan(self, busy: Collection[RoomID] = ()) -> PendingRelation | None: ...  # noqa: D102
    async def later(self, orphan: PendingRelation, until: Millis) -> None: ...  # noqa: D102
    async def answered(self, orphan: PendingRelation, now: Millis, *, gone: bool) -> None: ...  # noqa: D102


class Memory(Protocol):
    """What this service asks of the store."""

    @property
    def kin(self) -> Orphans: ...  # noqa: D102


class PendingRelations:
    """Works through the orphans, of each room one after another."""

    def __init__(
        self,
        homeserver: Homeserver,
        memory: Memory,
        clock: Clock,
        *,
        random: Random,
        wake_others: Callable[[], None],
    ) -> None:
        self._homeserver = homeserver
        self._memory = memory
        self._clock = clock
        self._random = random
        self._wake_others = wake_others
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Ask about orphans until cancelled. Raises `TokenRejectedError`."""
        await Worker(
            self._clock,
            self.wake,
            self._memory.kin.next_orphan,
            self.ask,
            lane=lambda orphan: orphan.room_id,
            overdue=self._overdue,
            within=WITHIN,
            what="questions about messages that belong to others",
        ).run()

    async def ask(self, orphan: PendingRelation) -> str | None:
        """Find out whether the parent is gone; return why the question is put off, if it is.

        One that the homeserver does not show is not: it may be hidden from the bot alone.
        """
        try:
            parent = await self._homeserver.event(orphan.room_id, orphan.parent)
        except OutcomeError as error:
            if await self._failed(orphan, error):
                return describe(error.outcome)
            parent = None
        gone = parent is not None and is_gone(parent)
        await self._memory.kin.answered(orphan, self._clock.now(), gone=gone)
        if gone:
            self._wake_others()
        return None

    async def _overdue(self, orphan: PendingRelation) -> None:
        """Nobody answered in time: put the question off."""
        await self._failed(orphan, OutcomeError(Unreachable(reason="time limit")))

    async def _failed(self, orphan: PendingRelation, error: OutcomeError) -> bool:
        """Put the question off; `False` when it is given up, and the orphan stands on its own."""
        outcome = error.outcome
        passing = nobody_answered(outcome)
        if not passing and (isinstance(outcome, Refused) or orphan.attempts >= TRIES):
            log.warning("not known whether a message is gone (%s)", describe(outcome))
            return False
        wait = retry_in(outcome, orphan.attempts, chance=self._random.random())
        await self._memory.kin.later(orphan, self._clock.now() + wait)
        return True
