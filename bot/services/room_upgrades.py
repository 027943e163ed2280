"""Follows a room that was replaced into its successor, and takes its lifetime along."""

from __future__ import annotations

import logging
from random import Random
from typing import Final, Protocol

from bot.core.invitations import Invite
from bot.core.lifetimes import POLICY_EVENT, Setting
from bot.core.outbox import MovedHere, News, Outgoing, PowerNeededHere, RoomReplaced, Welcome
from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    OutcomeError,
    RateLimited,
    Unreachable,
)
from bot.core.policy import Room, policy_content, read_setting
from bot.core.ports.homeserver import Membership, PolicyWriting, RoomState
from bot.core.ports.rooms import Digests, RoomStore, SuccessorStore, Wakeups
from bot.core.power_levels import Power
from bot.core.retry import POSTPONE_CEILING
from bot.core.successors import Stage, Successor, goes_along, predecessor, replacement
from bot.core.topics import Topic
from bot.core.types import Event, Millis, RoomID, UserID
from bot.services.clock import Clock
from bot.services.worker import Worker, retry, room_of

log = logging.getLogger(__name__)

WITHIN: Final[Millis] = 240_000
"""How long one step may take: it looks at two rooms, and may join one."""
WIDTH: Final = 4
SLOW: Final = 4
TRIES: Final = 12
"""How often the homeserver may fail on one request; then the same counts as refused."""


class RoomUpgradesHomeserver(RoomState, Membership, PolicyWriting, Protocol):
    """What this service asks of the homeserver."""


class RoomUpgradesStore(Wakeups, Digests, RoomStore, Protocol):
    """What this service asks of the store."""

    @property
    def successors(self) -> SuccessorStore:
        """Rooms that replace others."""


class Admission(Protocol):
    """What this service asks of whoever answers invitations."""

    async def admits(self, invite: Invite) -> bool: ...  # noqa: D102
    async def has_space(self) -> bool: ...  # noqa: D102


class RoomUpgrades:
    """Goes on in the successor as in the old room, when both rooms say that it is one."""

    def __init__(
        self,
        homeserver: RoomUpgradesHomeserver,
        store: RoomUpgradesStore,
        clock: Clock,
        *,
        admission: Admission,
        random: Random,
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._successors = store.successors
        self._clock = clock
        self._admission = admission
        self._retry = retry(clock, random, store.successors.later, ceiling=POSTPONE_CEILING)
        self._wake = store.listen(Topic.SUCCESSORS)

    async def run(self) -> None:
        """Follow until cancelled. Raises `TokenRejectedError`."""
        await Worker(
            self._clock,
            self._wake,
            self._successors.next,
            self._see_to,
            lane=room_of,
            put_off=self._retry,
            within=WITHIN,
            what="rooms that succeed others",
            width=WIDTH,
            slow=SLOW,
        ).run()

    async def _see_to(self, one: Successor) -> None:
        """Take one step with a successor. Raises `OutcomeError`."""
        await (self._enter(one) if one.stage == Stage.OUTSIDE else self._take_over(one))

    # --- the old room ----------------------------------------------------------------------

    async def reviewed(self, room_id: RoomID) -> None:
        """A room's state has changed: was it replaced, or may the bot do more in it now?

        Raises `OutcomeError` when it cannot be told now.
        """
        await self._successors.look_again(room_id)
        tombstone = await self._homeserver.state(room_id, "m.room.tombstone")
        named = replacement(tombstone, room_id)
        if named is None or tombstone is None or await self._successors.is_known(named, room_id):
            return
        sender = UserID(str(tombstone.get("sender", "")))
        known = await self._store.room(named)
        admitted = await self._admission.admits(Invite(room_id=named, inviter=sender))
        stage = Stage.OUTSIDE if admitted else Stage.AWAITED
        found = Successor(
            room_id=named,
            predecessor=room_id,
            setting=await self._goes_along(room_id, tombstone),
            via=sender.partition(":")[2],
            stage=stage if known is None else Stage.INSIDE,
            inviter_digest=self._store.digest(sender),
        )
        log.info("a room was replaced by another")
        closed = [self._closed(found)] if found.stage == Stage.AWAITED else []
        await self._successors.claim(found, *closed, now=self._clock.now())

    async def _goes_along(self, room_id: RoomID, tombstone: Event) -> Setting:
        """Return the lifetime to take along: the room's own, or what it was to inherit itself."""
        policy = await self._homeserver.state(room_id, POLICY_EVENT)
        if policy is None:
            before = [one for one in await self._successors.of(room_id) if one.setting is not None]
            true = await self._homeserver.state(room_id, "m.room.create") if before else None
            return next(
                (one.setting for one in before if one.predecessor == predecessor(true)), None
            )
        member = await self._homeserver.state(room_id, "m.room.member", self._homeserver.own_id)
        return goes_along(policy, tombstone, member)

    def _closed(self, one: Successor) -> Outgoing:
        return Outgoing(key=f"closed:{one.room_id}", content=RoomReplaced())

    # --- the way into the new one ----------------------------------------------------------

    async def _enter(self, one: Successor) -> None:
        """Join the successor, or say in the old room that somebody must open the door."""
        if one.room_id in await self._homeserver.joined_rooms():
            # Its coming is in a sync that was not read yet, or is being read.
            stage = Stage.AWAITED if await self._store.room(one.room_id) is None else Stage.INSIDE
            await self._successors.move(one, stage, where=one.predecessor)
            return
        if not await self._admission.has_space():
            await self._successors.move(
                one, Stage.AWAITED, self._closed(one), where=one.predecessor
            )
            return
        await self._successors.follow(one)
        outcome = await self._homeserver.join(one.room_id, one.via)
        if isinstance(outcome, RateLimited | Unreachable):
            raise OutcomeError(outcome)
        if isinstance(outcome, Failed) and one.attempts < TRIES:
            raise OutcomeError(outcome)
        notices = [] if isinstance(outcome, Done) else [self._closed(one)]
        log.info("%s a successor", "could not join" if notices else "joined")
        if await self._store.room(one.room_id) is None:
            await self._successors.move(one, Stage.AWAITED, *notices, where=one.predecessor)

    # --- in the new one ----------------------------------------------------------------------

    async def _take_over(self, one: Successor) -> None:
        """Check that both rooms say the same, and set the lifetime, unless somebody else has."""
        room = await self._store.room(one.room_id)
        if room is None:  # it was thrown out already; it may be asked in again
            await self._successors.move(one, Stage.AWAITED, where=one.room_id)
            return
        true = predecessor(await self._homeserver.state(one.room_id, "m.room.create"))
        if true != one.predecessor:
            await self._turn_back(one, true)
        elif not await self._names(one.predecessor, one.room_id):
            await self._done(one, self._greeting(one))  # the tombstone was taken back
        elif one.setting is None:
            await self._done(one, self._greeting(one))
        else:
            await self._set(one, room, one.setting)

    async def _set(self, one: Successor, room: Room, setting: int) -> None:
        own = self._homeserver.own_id
        policy = await self._homeserver.state(one.room_id, POLICY_EVENT)
        if policy is None and room.setting is None:
            power = await self._homeserver.power(one.room_id)
            if not power.may_send_state(own, POLICY_EVENT):
                await self._say_what_it_needs(one, power, setting)
                return
            outcome = await self._homeserver.set_policy(one.room_id, policy_content(setting))
            if not isinstance(outcome, Done):
                if one.attempts >= TRIES and isinstance(outcome, Failed):
                    await self._done(one, self._greeting(one))
                    return
                raise OutcomeError(outcome)
            log.info("took a room's lifetime over to its successor")
        elif policy is None or not self._is_own(policy, setting):
            await self._done(one, self._greeting(one))  # somebody has set one: that holds
            return
        await self._done(one, [_outgoing(one, "moved", MovedHere(setting=setting))])

    def _is_own(self, policy: Event, setting: int) -> bool:
        """Whether the bot has set it, and was interrupted before it could say so."""
        own = policy.get("sender") == self._homeserver.own_id
        return own and read_setting(policy.get("content"))[0] == setting

    async def _say_what_it_needs(self, one: Successor, power: Power, setting: int) -> None:
        need = max(power.to_send_state(POLICY_EVENT), power.to_redact)
        have = power.of(self._homeserver.own_id)
        news = PowerNeededHere(setting=setting, need=need, have=have)
        notices = [] if one.needs_announced else [_outgoing(one, "needs", news)]
        await self._successors.move(
            one, Stage.POWERLESS, *notices, where=one.room_id, needs_announced=True
        )

    async def _turn_back(self, one: Successor, true: RoomID | None) -> None:
        """The room does not say that it succeeds the one whose tombstone names it."""
        log.warning("a tombstone names a room that is no successor")
        if one.joined_by_bot and not await self._belongs(one.room_id, true):
            outcome = await self._homeserver.leave(one.room_id)
            if isinstance(outcome, RateLimited | Unreachable | Failed) and one.attempts < TRIES:
                raise OutcomeError(outcome)
            await self._done(one, [])
        else:
            await self._done(one, self._greeting(one))

    async def _belongs(self, room_id: RoomID, true: RoomID | None) -> bool:
        """Whether a room that the bot is in leads here all the same."""
        known = true is not None and await self._store.room(true) is not None
        return known and true is not None and await self._names(true, room_id, unless=False)

    async def _names(self, old: RoomID, new: RoomID, *, unless: bool = True) -> bool:
        """Whether the old room's tombstone names the new one; `unless`: it cannot be looked at."""
        try:
            tombstone = await self._homeserver.state(old, "m.room.tombstone")
        except OutcomeError as error:
            if isinstance(error.outcome, Forbidden | NotFound):
                return unless
            raise
        return replacement(tombstone, old) == new

    async def _done(self, one: Successor, notices: list[Outgoing]) -> None:
        await self._successors.move(one, Stage.DONE, *notices, where=one.room_id)

    def _greeting(self, one: Successor) -> list[Outgoing]:
        withheld = one.welcome_withheld and not one.needs_announced
        return [_outgoing(one, "welcome", Welcome())] if withheld else []


def _outgoing(one: Successor, key: str, news: News) -> Outgoing:
    return Outgoing(key=f"{key}:{one.predecessor}", content=news)
