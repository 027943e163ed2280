"""Answers invitations: accepts what is within the limits, declines the rest, and has an end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from fnmatch import fnmatchcase
from random import Random
from typing import Final, Protocol

from bot.core.invitations import Invitation, Invite, InvitePolicy, InviteStage
from bot.core.outcome_text import describe
from bot.core.outcomes import Done, Outcome, OutcomeError, RateLimited, Unreachable
from bot.core.ports.homeserver import Membership
from bot.core.ports.rooms import Digests, InvitationStore, Wakeups
from bot.core.rate_limits import HOUR, SECOND, RateLimit
from bot.core.retry import retry_in
from bot.core.topics import Topic
from bot.core.types import Millis, RoomID, UserID
from bot.services.clock import Clock
from bot.services.worker import Worker, room_of, run_together

log = logging.getLogger(__name__)

WAITS: Final[tuple[Millis, ...]] = (2 * SECOND, 8 * SECOND, 30 * SECOND) + 24 * (HOUR,)
"""Between the tries of one invitation. In its first moments another server may not know of it yet;
later it is that server which may come back, within a day."""
WITHIN: Final[Millis] = 75 * SECOND
"""How long one try may take, with the question whether the homeserver answers at all."""

SLOW: Final = 16
"""Tries at once that take long: more than one server may have."""


class AdmissionStore(Wakeups, Digests, Protocol):
    """What this service asks of the store."""

    @property
    def invitations(self) -> InvitationStore:
        """Rooms that the bot is invited into."""


class Invitations:
    """The bot's door: who may bring it into a room, how often, and into how many."""

    def __init__(
        self,
        homeserver: Membership,
        store: AdmissionStore,
        clock: Clock,
        *,
        invite_policy: InvitePolicy,
        random: Random,
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._waiting = store.invitations
        self._clock = clock
        self._invite_policy = invite_policy
        self._random = random
        self._of_each = RateLimit(invite_policy.per_inviter, HOUR)
        self._of_all = RateLimit(invite_policy.per_hour, HOUR)
        self._told = RateLimit(1, HOUR)
        self._full = False
        self._failures = 0
        """Requests in a row that the homeserver did not answer."""
        self._paused_until: Millis = 0
        self._wake = store.listen(Topic.INVITATIONS)

    async def run(self) -> None:
        """Answer invitations until cancelled. Raises `TokenRejectedError`."""
        joins = self._worker("joins", self._next, self._join)
        declines = self._worker("declined invitations", self._next_decline, self._decline)
        await run_together(self._clock, self._wake, joins, declines)

    def _worker(
        self,
        what: str,
        find: Callable[[Collection[RoomID]], Awaitable[Invitation | None]],
        answer: Callable[[Invitation], Awaitable[None]],
    ) -> Worker[Invitation, RoomID]:
        return Worker(
            self._clock,
            self._wake,
            find,
            answer,
            lane=room_of,
            put_off=self._put_off,
            within=WITHIN,
            what=what,
            slow=SLOW,
        )

    # --- deciding --------------------------------------------------------------------------

    async def _next(self, busy: Collection[RoomID]) -> Invitation | None:
        """Decide on what has come, in its order; return the room that is to be joined next."""
        while (one := await self._waiting.undecided()) is not None:
            welcome = await self._welcomes(one)
            stage = InviteStage.JOINING if welcome else InviteStage.DECLINING
            await self._waiting.move(one, stage, self._clock.now())
        return self._not_before(await self._waiting.to_join(busy))

    async def _next_decline(self, busy: Collection[RoomID]) -> Invitation | None:
        return self._not_before(await self._waiting.to_decline(busy))

    def _not_before(self, one: Invitation | None) -> Invitation | None:
        """While the homeserver answers nothing, every invitation waits."""
        return one and replace(one, retry_at=max(one.retry_at, self._paused_until))

    async def _welcomes(self, one: Invitation) -> bool:
        if one.inviter is None or not self.may_invite(one.inviter):
            return False
        if not self._in_measure(one.inviter, one.room_id, f"{one.id}"):
            return False
        return await self._has_room_for(one.inviter, one.room_id) and await self.has_space()

    async def admits(self, invite: Invite) -> bool:
        """Whether somebody may send the bot into another room now; the same one counts once."""
        who = invite.inviter
        if who is None or not self.may_invite(who):
            return False
        if not self._in_measure(who, invite.room_id, ""):
            return False
        return await self._has_room_for(who, invite.room_id)

    def _in_measure(self, inviter: UserID, room_id: RoomID, which: str) -> bool:
        """Whether it keeps within the limits of invitations, where it counts from now on."""
        who, what, now = str(inviter), f"{which} {room_id}", self._clock.now()
        for rate_limit, whose in ((self._of_each, who), (self._of_all, "")):
            if not rate_limit.admits(whose, what, now):
                if rate_limit.begins(whose, what, now):
                    log.warning(
                        "too many invitations %s: those over the limit are declined",
                        "by one account" if whose else "in this hour",
                    )
                return False
        return True

    async def _has_room_for(self, inviter: UserID, room_id: RoomID) -> bool:
        """Whether the bot may be in one more room for the sake of this account."""
        most, now = self._invite_policy.rooms_per_inviter, self._clock.now()
        if most is None:
            return True
        held = await self._waiting.held_for(inviter, self._store.digest(inviter))
        if held < most:
            return True
        if self._told.begins(str(inviter), room_id, now):
            log.warning("in %d rooms for one account, as many as may be: it is declined", held)
        return False

    async def has_space(self) -> bool:
        """Whether the bot may be in another room."""
        most = self._invite_policy.max_rooms
        full = most is not None and await self._waiting.rooms_held() >= most
        if full and not self._full:
            log.warning("in %d rooms, as many as may be: invitations are declined", most)
        self._full = full
        return not full

    def may_invite(self, inviter: UserID) -> bool:
        """Whether the operator lets this person invite the bot."""
        # Only * and ? have a meaning; brackets are part of an IPv6 address.
        globs = [glob.replace("[", "[[]") for glob in self._invite_policy.allow]
        return any(fnmatchcase(inviter, glob) for glob in globs)

    # --- answering -------------------------------------------------------------------------

    async def _join(self, one: Invitation) -> None:
        outcome = await self._homeserver.join(one.room_id)
        if not isinstance(outcome, Done):
            await self._put_off(one, outcome)
            return
        self._failures = 0
        log.info("accepted an invitation")
        await self._waiting.move(one, InviteStage.JOINED, self._clock.now() + HOUR)

    async def _decline(self, one: Invitation) -> None:
        outcome = await self._homeserver.leave(one.room_id)
        if not isinstance(outcome, Done):
            await self._put_off(one, outcome)
            return
        self._failures = 0
        log.info("declined an invitation")
        await self._waiting.ended(one)

    async def _put_off(self, one: Invitation, outcome: Outcome) -> None:
        """Try again, for a day; then decline what cannot be accepted, or let the matter rest."""
        now = self._clock.now()
        if isinstance(outcome, RateLimited) or (
            isinstance(outcome, Unreachable) and not await self._answers()
        ):
            self._failures += 1
            wait = retry_in(outcome, self._failures, chance=self._random.random())
            self._paused_until = now + wait
            await self._waiting.later(one, self._paused_until, counts=False)
            return
        self._failures = 0
        if one.attempts < len(WAITS):
            wait = int(WAITS[one.attempts] * (0.75 + self._random.random() / 4))
            await self._waiting.later(one, self._clock.now() + wait, counts=True)
            return
        log.info("an invitation could not be answered (%s)", describe(outcome))
        if one.stage == InviteStage.JOINING:
            await self._waiting.move(one, InviteStage.DECLINING, now)
        else:
            await self._waiting.ended(one)

    async def _answers(self) -> bool:
        """Whether the homeserver answers at all, so that it is this invitation which fails."""
        try:
            await self._homeserver.joined_rooms()
        except OutcomeError:
            return False
        return True
