"""Reads gaps in a room's timeline, back to what is known, so that nothing in them is missed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from bot.clock import Clock
from bot.events import is_own_join
from bot.model import (
    Event,
    Failed,
    Forbidden,
    Millis,
    NotFound,
    OutcomeError,
    Refused,
    RoomID,
    UserID,
)
from bot.policy import Room
from bot.reading import Reader
from bot.schedule import retry_in
from bot.timeline import Gap, Item

log = logging.getLogger(__name__)


TRIES: Final = 60
"""How often a page is asked for that the homeserver fails on: about an hour long."""


class Homeserver(Protocol):
    """What backfill asks of the homeserver."""

    @property
    def own_id(self) -> UserID: ...  # noqa: D102
    async def page_back(  # noqa: D102
        self, room_id: RoomID, token: str
    ) -> tuple[list[Event], str | None]: ...


class Unread(Protocol):
    """What backfill asks of the store for gaps."""

    async def next_gap(self) -> tuple[Gap, Millis] | None: ...  # noqa: D102
    async def read_on(  # noqa: D102
        self, gap: Gap, items: list[Item], token: str, now: Millis, *, done: bool
    ) -> None: ...
    async def later(self, gap: Gap, until: Millis) -> None: ...  # noqa: D102
    async def give_up(self, gap: Gap, now: Millis) -> None: ...  # noqa: D102
    async def take_over(self, now: Millis) -> tuple[RoomID, int] | None: ...  # noqa: D102


class Memory(Protocol):
    """What backfill asks of the store."""

    @property
    def unread(self) -> Unread: ...  # noqa: D102
    async def room(self, room_id: RoomID) -> Room | None: ...  # noqa: D102
    async def ask_review(self, room_id: RoomID) -> None: ...  # noqa: D102


class Backfill:
    """Works through the gaps, one page after another. Every page is remembered: a crash resumes."""

    def __init__(
        self,
        homeserver: Homeserver,
        memory: Memory,
        reader: Reader,
        clock: Clock,
        *,
        random: Random,
        wake_others: Callable[[], None],
    ) -> None:
        self._homeserver = homeserver
        self._memory = memory
        self._reader = reader
        self._clock = clock
        self._random = random
        self._wake_others = wake_others
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Read gaps until cancelled. Raises `TokenRejectedError`."""
        while True:
            self.wake.clear()
            await self.finish()
            found = await self._memory.unread.next_gap()
            if found is None:
                await self._clock.wait(self.wake, None)
            elif found[1] > self._clock.now():
                await self._clock.wait(self.wake, found[1])
            else:
                await self.read(found[0])

    async def finish(self) -> None:
        """Give timers to all that was read of rooms without a gap left."""
        while (done := await self._memory.unread.take_over(self._clock.now())) is not None:
            log.info("caught up with %d events of a room", done[1])
            self._wake_others()

    async def read(self, gap: Gap) -> None:
        """Read one page of a gap and remember it."""
        try:
            events, token = await self._homeserver.page_back(gap.room_id, gap.token)
            room = await self._memory.room(gap.room_id)
            fresh, reached = self._until_known(events, gap)
            items = await self._reader.items(
                gap.room_id,
                fresh,
                encrypted=room is not None and room.encrypted,
                was_clear=not gap.encrypted,
                live=False,
                since=gap.since,
                now=gap.until,
            )
        except OutcomeError as error:
            await self._failed(gap, error)
            return
        # A homeserver that hands out its own token again has nothing more to give.
        done = reached or token is None or token == gap.token
        log.info("read %d events of a gap%s", len(fresh), "" if done else ", more to come")
        now = self._clock.now()
        await self._memory.unread.read_on(gap, items, token or gap.token, now, done=done)

    def _until_known(self, events: list[Event], gap: Gap) -> tuple[list[Event], bool]:
        """Return the events after what was known, oldest first, and whether that was reached.

        Known is the last event that was read, and the state event that the room's lifetime
        was read from: it marks the place should the other be purged.
        """
        known = {gap.stop_digest, gap.policy_digest} - {""}
        fresh: list[Event] = []
        for event in events:
            if gap.stop_digest and self._reader.digest(str(event.get("event_id"))) in known:
                return fresh[::-1], True
            if not gap.stop_digest and is_own_join(event, self._homeserver.own_id):
                return fresh[::-1], True
            if self._is_old(event, gap):
                return fresh[::-1], True
            fresh.append(event)
        return fresh[::-1], False

    def _is_old(self, event: Event, gap: Gap) -> bool:
        """Whether the bot itself sent the event, long before the gap.

        It ends the gap should the known event be gone from the server. The time of other
        people's events tells nothing: bridges and other homeservers write what they like.
        """
        sent = event.get("origin_server_ts")
        own = event.get("sender") == self._homeserver.own_id
        return own and isinstance(sent, int) and sent < gap.stop_at

    async def _failed(self, gap: Gap, error: OutcomeError) -> None:
        wait = retry_in(error.outcome, gap.attempts, chance=self._random.random())
        if isinstance(error.outcome, Forbidden | NotFound):
            await self._memory.ask_review(gap.room_id)
            self._wake_others()
        log.warning("a gap could not be read (%s)", type(error.outcome).__name__)
        if isinstance(error.outcome, Failed | Refused) and gap.attempts >= TRIES:
            # What was said since waits behind the gap, and may not wait for ever.
            log.error("a gap cannot be read: messages in it stay until the room can be swept")
            await self._memory.unread.give_up(gap, self._clock.now())
            return
        await self._memory.unread.later(gap, self._clock.now() + wait)
