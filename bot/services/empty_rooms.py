"""Leaves rooms in which nobody else is, once nothing is left to be done there."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from bot.core.outcome_text import describe
from bot.core.outcomes import Done, Forbidden, NotFound, Outcome
from bot.core.ports.homeserver import Membership
from bot.core.ports.rooms import ReviewStore, Wakeups
from bot.core.rate_limits import HOUR, MINUTE
from bot.core.timers import Review
from bot.core.topics import Topic
from bot.core.types import Millis, RoomID
from bot.services.clock import Clock
from bot.services.worker import Worker, room_of

log = logging.getLogger(__name__)

WITHIN: Final[Millis] = 75_000
"""How long one look may take."""
LOOK_AT_WORK: Final[Millis] = 10 * MINUTE
"""When to look again whether anything waits in the room; that asks nobody."""
LOOK_AGAIN: Final[Millis] = HOUR
"""When to ask again who is in the room, if that could not be told or somebody is invited."""


class EmptyRoomsStore(Wakeups, ReviewStore, Protocol):
    """What this service asks of the store."""


class EmptyRooms:
    """Looks at rooms in which the bot may be alone. A room that it leaves is forgotten."""

    def __init__(self, homeserver: Membership, store: EmptyRoomsStore, clock: Clock) -> None:
        self._homeserver = homeserver
        self._store = store
        self._clock = clock
        self._wake = store.listen(Topic.MEMBERS)

    async def run(self) -> None:
        """Look until cancelled. Raises `TokenRejectedError`."""
        await Worker(
            self._clock,
            self._wake,
            self._store.next_alone,
            self.look,
            lane=room_of,
            put_off=self._put_off,
            within=WITHIN,
            what="looks at who is in a room",
        ).run()

    async def look(self, one: Review) -> None:
        """Leave the room if the bot is alone there for certain, and has nothing to do."""
        room_id = one.room_id
        if await self._store.has_work(room_id):
            await self._later(room_id, LOOK_AT_WORK)
            return
        present, invited = await self._homeserver.others(room_id)
        if present:
            await self._store.look_for_others(room_id, None)
        elif invited:
            await self._later(room_id, LOOK_AGAIN)
        else:
            outcome = await self._homeserver.leave(room_id)
            if isinstance(outcome, Done):
                log.info("left a room in which nobody else was")
            await self._later(room_id, LOOK_AT_WORK)

    async def _put_off(self, one: Review, outcome: Outcome) -> str:
        """A list that cannot be read is no reason to leave."""
        if isinstance(outcome, Forbidden | NotFound):
            await self._store.ask_review(one.room_id)
        await self._later(one.room_id, LOOK_AGAIN)
        return describe(outcome)

    async def _later(self, room_id: RoomID, wait: Millis) -> None:
        await self._store.look_for_others(room_id, self._clock.now() + wait)
