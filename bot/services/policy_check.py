"""Compares a room's lifetime with its state, where the timeline may have ended with another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final, Protocol

from bot.core.lifetimes import POLICY_EVENT
from bot.core.policy import Room
from bot.core.ports.homeserver import RoomState
from bot.core.ports.rooms import ReviewStore, RoomStore, Wakeups
from bot.core.timeline import Change, Item
from bot.core.timers import Review
from bot.core.topics import Topic
from bot.core.types import Event, Millis, RoomID
from bot.services.clock import Clock
from bot.services.timeline_writer import TimelineWriter
from bot.services.worker import Worker, retry, room_of

log = logging.getLogger(__name__)

WITHIN: Final[Millis] = 75_000
"""How long one look may take."""
LOOK_TWICE: Final[Millis] = 10_000
"""How long to wait before the second look: a homeserver may be behind with one answer."""


class PolicyCheckStore(Wakeups, RoomStore, ReviewStore, Protocol):
    """What this service asks of the store."""


class PolicyCheck:
    """Applies the state event that a room's state was resolved to, if the timeline showed another.

    When people on two homeservers set a lifetime at the same time, the event that came last in the
    timeline may not be the one that state resolution keeps (spec: room version 2, state
    resolution). A sync does not say so.
    """

    def __init__(
        self,
        homeserver: RoomState,
        store: PolicyCheckStore,
        timeline: TimelineWriter,
        clock: Clock,
        *,
        read: Callable[[Event], list[Item]],
        random: Random,
    ) -> None:
        """`read` says what a state event sets."""
        self._homeserver = homeserver
        self._store = store
        self._timeline = timeline
        self._clock = clock
        self._read = read
        self._retry = retry(clock, random, self._later)
        self._seen: dict[RoomID, str] = {}
        """Digest of the state event that the first look found, where it was not the known one."""
        self._wake = store.listen(Topic.POLICY_CHECKS)

    async def run(self) -> None:
        """Look until cancelled. Raises `TokenRejectedError`."""
        await Worker(
            self._clock,
            self._wake,
            self._store.next_policy_check,
            self.look,
            lane=room_of,
            put_off=self._retry,
            within=WITHIN,
            what="looks at a room's lifetime",
        ).run()

    async def look(self, one: Review) -> None:
        """Ask for the room's state event, and see whether it says another lifetime.

        Raises `OutcomeError`.
        """
        room = await self._store.room(one.room_id)
        if room is None:
            self._seen.pop(one.room_id, None)
            return
        event = await self._homeserver.state(one.room_id, POLICY_EVENT)
        change = self._news(room, event)
        if change is None:
            self._seen.pop(one.room_id, None)
            await self._store.check_policy_at(one.room_id, None)
        elif self._seen.get(one.room_id) != change.digest:
            self._seen[one.room_id] = change.digest
            await self._store.check_policy_at(one.room_id, self._clock.now() + LOOK_TWICE)
        else:
            del self._seen[one.room_id]
            now = self._clock.now()
            if await self._timeline.policy_resolved(
                one.room_id, change, now, revision=room.revision
            ):
                log.info("a room's state holds another lifetime than its timeline ended with")

    def _news(self, room: Room, event: Event | None) -> Change | None:
        """Return what the room's state says, if that is not what the bot knows.

        A commanded lifetime that is still to be written changes the state by itself.
        """
        if room.set_by_command or event is None or not event.get("event_id"):
            return None
        found = [item for item in self._read(event) if isinstance(item, Change)]
        news = next((one for one in found if one.digest != room.policy_digest), None)
        return news and replace(news, resolved=True)

    async def _later(self, one: Review, at: Millis) -> None:
        await self._store.check_policy_at(one.room_id, at)
