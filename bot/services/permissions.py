"""Watches what the bot may do in each room: lost and regained power, being removed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, Protocol

from bot.chat.notices import messages
from bot.core.durations import words
from bot.core.lifetimes import LifetimeLimits
from bot.core.outbox import Outgoing, RedactionsRefused, Resumed, Suspended
from bot.core.outcomes import Forbidden, NotFound, OutcomeError
from bot.core.policy import Room, lifetime
from bot.core.ports.homeserver import Membership, RoomState
from bot.core.ports.rooms import ReviewStore, RoomStore, Wakeups
from bot.core.ports.timers import LeftRoomStore, TimerStore
from bot.core.power_levels import Power
from bot.core.timers import Review
from bot.core.topics import Topic
from bot.core.types import Millis, RoomID
from bot.services.clock import Clock
from bot.services.worker import Worker, retry, room_of

log = logging.getLogger(__name__)

Follow = Callable[[RoomID], Awaitable[None]]

WITHIN: Final[Millis] = 90_000
"""How long one look at a room's state may take: some requests."""
LOOK_TWICE: Final[Millis] = 10_000
"""Between two looks for a room that is missing among those that the bot is in."""


class PermissionsHomeserver(RoomState, Membership, Protocol):
    """What this service asks of the homeserver."""


class PermissionsStore(Wakeups, RoomStore, ReviewStore, LeftRoomStore, TimerStore, Protocol):
    """What this service asks of the store."""


class Permissions:
    """Reviews rooms whose state or membership changed, a few at a time."""

    def __init__(
        self,
        homeserver: PermissionsHomeserver,
        store: PermissionsStore,
        clock: Clock,
        *,
        limits: LifetimeLimits,
        random: Random,
        follow: Follow,
    ) -> None:
        """`follow` looks whether a room was replaced."""
        self._homeserver = homeserver
        self._store = store
        self._clock = clock
        self._limits = limits
        self._retry = retry(clock, random, self._later)
        self._follow = follow
        self._missed: dict[RoomID, Millis] = {}
        """When a room that the bot knows was first missing among those that it is in."""
        self._wake = store.listen(Topic.REVIEWS)

    async def run(self) -> None:
        """Keep up until cancelled. Raises `TokenRejectedError`."""
        await self._look_around()
        await Worker(
            self._clock,
            self._wake,
            self._store.next_review,
            lambda one: self.review(one.room_id),
            lane=room_of,
            put_off=self._retry,
            within=WITHIN,
            what="looks at a room's state",
        ).run()

    async def _look_around(self) -> None:
        """Have rooms looked at that the bot may no longer be in: a deleted one says nothing."""
        known = await self._store.rooms()
        if not known:
            return
        try:
            joined = await self._homeserver.joined_rooms()
        except OutcomeError:
            return  # each room is found out when its next timer is due
        for room in known:
            if room.room_id not in joined:
                await self._store.ask_review(room.room_id)

    async def _later(self, one: Review, at: Millis) -> None:
        await self._store.review_later(one.room_id, at)

    async def review(self, room_id: RoomID) -> None:
        """Find out what the bot may do in a room, and say so when that changed.

        Raises `OutcomeError` when it cannot be told now.
        """
        room = await self._store.room(room_id)
        if room is None:
            return
        try:
            power = await self._homeserver.power(room_id)
        except OutcomeError as error:
            if not isinstance(error.outcome, Forbidden | NotFound) or await self._is_in(room):
                raise
            return
        if not await self._is_in(room):
            return  # a room that was left still shows its state
        suspended = not power.may_redact(self._homeserver.own_id)
        refused, older_than = await self._store.refusals(room_id)
        stuck = room.refusal_notified if suspended else refused > 0
        outgoing = await self._news(room, power, suspended=suspended)
        if stuck and not room.refusal_notified:
            outgoing.append(self._stuck(older_than))
        await self._store.reviewed(
            room_id,
            suspended=suspended,
            outgoing=outgoing,
            reviews=room.reviews_asked,
            refusal_notified=stuck,
        )
        await self._look_for_successor(room_id)

    async def _look_for_successor(self, room_id: RoomID) -> None:
        """Whatever becomes of it, the review before it holds."""
        try:
            await self._follow(room_id)
        except OutcomeError:
            await self._store.ask_review(room_id)
            raise

    async def _news(self, room: Room, power: Power, *, suspended: bool) -> list[Outgoing]:
        """Return what to tell a room: each loss of power once, and each return."""
        if suspended == room.suspended or (suspended and room.just_joined):
            return []
        pending, _ = await self._store.pending(room.room_id)
        if lifetime(room.setting, self._limits) is None and pending == 0:
            return []  # there is nothing to remove here, so nothing is paused
        kind = "suspended" if suspended else "resumed"
        log.info("a room is %s", kind)
        have = power.of(self._homeserver.own_id)
        news = Suspended(need=power.to_redact, have=have) if suspended else Resumed()
        return [Outgoing(key=f"{kind}:{self._clock.now()}", content=news)]

    def _stuck(self, older_than: Millis) -> Outgoing:
        """The power suffices, and the homeserver refuses all the same: it has to be told."""
        why = "for a reason of its own; its log may say which"
        if older_than:
            why = (
                f"because they are older than {words(older_than)}: make redaction_allowed_period"
                " in Synapse's configuration longer than the longest lifetime, or take it out"
            )
        log.warning("messages stay in a room that should go: the homeserver refuses, %s", why)
        news = RedactionsRefused(older_than=older_than)
        return Outgoing(key=f"refused:{self._clock.now()}", content=news)

    async def _is_in(self, room: Room) -> bool:
        """Whether the bot is in the room; when it is not, the room is forgotten.

        A homeserver may be behind with one list of many: it has to say so twice, or in a sync too.
        """
        if room.room_id in await self._homeserver.joined_rooms():
            self._missed.pop(room.room_id, None)
            return True
        now = self._clock.elapsed()
        missed = self._missed.setdefault(room.room_id, now)
        if room.removed or now - missed >= LOOK_TWICE // 2:
            self._missed.pop(room.room_id)
            await self._forget(room.room_id)
        else:
            await self._store.review_later(room.room_id, self._clock.now() + LOOK_TWICE)
        return False

    async def _forget(self, room_id: RoomID) -> None:
        """A room that was deleted answers as one that banned the bot and may ask it back."""
        lost = await self._store.forget(room_id, self._clock.now())
        log.warning("no longer in a room: %s there can no longer be removed", messages(lost))
        log.debug("forgot %s", room_id)
