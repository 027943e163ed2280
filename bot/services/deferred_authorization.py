"""Authorizes commands whose sender's right could not be looked up when they were read."""

from __future__ import annotations

import logging
from random import Random
from typing import Final, Protocol

from bot.core.commands import PendingCommand, undecidable
from bot.core.outcome_text import describe
from bot.core.outcomes import Failed, Outcome, OutcomeError, TokenRejectedError
from bot.core.ports.reading import PendingCommandStore
from bot.core.ports.rooms import Wakeups
from bot.core.retry import retry_in
from bot.core.topics import Topic
from bot.core.types import Millis
from bot.services.authorization import Authorizer, passes
from bot.services.clock import Clock
from bot.services.timeline_writer import TimelineWriter
from bot.services.worker import Worker, room_of

log = logging.getLogger(__name__)

WITHIN: Final[Millis] = 90_000
"""How long one decision may take: up to three requests."""
CEILING: Final[Millis] = 10_000
"""What waits is tried at least this often."""
WAIT_FOR: Final[Millis] = 3_600_000
"""How long a command waits; then its sender is told, and may say it again."""


class DeferredAuthorizationStore(Wakeups, PendingCommandStore, Protocol):
    """What this service asks of the store."""


class DeferredAuthorization:
    """Works through what waits to be decided, of each room one after the other."""

    def __init__(
        self,
        store: DeferredAuthorizationStore,
        timeline: TimelineWriter,
        authorizer: Authorizer,
        clock: Clock,
        *,
        random: Random,
    ) -> None:
        self._store = store
        self._timeline = timeline
        self._authorizer = authorizer
        self._clock = clock
        self._random = random
        self._wake = store.listen(Topic.COMMANDS, Topic.GAPS)

    async def run(self) -> None:
        """Decide until cancelled. Raises `TokenRejectedError`."""
        await Worker(
            self._clock,
            self._wake,
            self._store.next_pending_command,
            self.decide,
            lane=room_of,
            put_off=self._put_off,
            within=WITHIN,
            what="commands to be decided",
        ).run()

    async def decide(self, pending: PendingCommand) -> str | None:
        """Decide one command, or put it off; return why."""
        try:
            decided = await self._authorizer.decide(pending.room_id, pending.command)
        except OutcomeError as error:
            return await self._put_off(pending, error.outcome)
        except TokenRejectedError:
            raise
        except Exception as error:  # noqa: BLE001 - it is on the disk, and would come again
            return await self._put_off(pending, Failed(status=0, errcode=type(error).__name__))
        await self._timeline.command_decided(pending, decided, self._clock.now())
        return None

    async def _put_off(self, pending: PendingCommand, outcome: Outcome) -> str | None:
        """Put a decision off, or give it up."""
        now = self._clock.now()
        if passes(outcome) and now < pending.command.read_at + WAIT_FOR:
            chance = self._random.random()
            wait = retry_in(outcome, pending.attempts, chance=chance, ceiling=CEILING)
            await self._store.pending_command_later(pending, now + wait)
            return describe(outcome)
        log.warning("a command is given up: nobody says who may do what in its room")
        await self._timeline.command_decided(pending, undecidable(pending.command), now)
        return None
