"""Asks about messages whose parent has no timer: if the parent is gone, they are due at once."""

from __future__ import annotations

import logging
from random import Random
from typing import Final, Protocol

from bot.core.outcome_text import describe
from bot.core.outcomes import Outcome, Refused
from bot.core.ports.homeserver import Events
from bot.core.ports.rooms import Wakeups
from bot.core.ports.timers import RelationStore
from bot.core.retry import nobody_answered
from bot.core.timeline import is_gone
from bot.core.timers import PendingRelation
from bot.core.topics import Topic
from bot.core.types import Millis
from bot.services.clock import Clock
from bot.services.worker import Worker, retry, room_of

log = logging.getLogger(__name__)

WITHIN: Final[Millis] = 60_000
"""How long one question may take."""
TRIES: Final = 5
"""How often a parent is asked about that the homeserver fails on."""


class PendingRelationsStore(Wakeups, Protocol):
    """What this service asks of the store."""

    @property
    def relations(self) -> RelationStore:
        """What belongs to messages."""


class PendingRelations:
    """Works through them, of each room one after another."""

    def __init__(
        self,
        homeserver: Events,
        store: PendingRelationsStore,
        clock: Clock,
        *,
        random: Random,
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._clock = clock
        self._retry = retry(clock, random, store.relations.later)
        self._wake = store.listen(Topic.RELATIONS)

    async def run(self) -> None:
        """Ask until cancelled. Raises `TokenRejectedError`."""
        await Worker(
            self._clock,
            self._wake,
            self._store.relations.next_pending,
            self.ask,
            lane=room_of,
            put_off=self._put_off,
            within=WITHIN,
            what="questions about messages that belong to others",
        ).run()

    async def ask(self, relation: PendingRelation) -> None:
        """Find out whether the parent is gone. Raises `OutcomeError`.

        One that the homeserver does not show is not: it may be hidden from the bot alone.
        """
        parent = await self._homeserver.event(relation.room_id, relation.parent)
        gone = parent is not None and is_gone(parent)
        await self._store.relations.answered(relation, self._clock.now(), gone=gone)

    async def _put_off(self, relation: PendingRelation, outcome: Outcome) -> str | None:
        """Put the question off, or give it up: then the message stands on its own."""
        passing = nobody_answered(outcome)
        if not passing and (isinstance(outcome, Refused) or relation.attempts >= TRIES):
            log.warning("not known whether a message is gone (%s)", describe(outcome))
            await self._store.relations.answered(relation, self._clock.now(), gone=False)
            return None
        return await self._retry(relation, outcome)
