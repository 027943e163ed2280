"""Keeps up the bot's standing in rooms: invitations, lost and regained power, leaving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from random import Random
from typing import Final, Protocol

from bot.allowance import HOUR, Allowance
from bot.clock import Clock
from bot.durations import words
from bot.model import (
    Bounds,
    Done,
    Failed,
    Forbidden,
    Guests,
    Invite,
    Millis,
    NotFound,
    Outcome,
    OutcomeError,
    RateLimited,
    RoomID,
    Unreachable,
    UserID,
)
from bot.policy import Owed, Room, lifetime
from bot.power import Power
from bot.schedule import PAUSE_CEILING, backoff, retry_in

log = logging.getLogger(__name__)

Follow = Callable[[RoomID], Awaitable[None]]

AT_ONCE: Final = 10
"""Invitations answered in one go; what becomes of the bot's own rooms is looked at between."""
TRIES: Final = 12
"""How often an invitation is tried that the homeserver fails on; the last waits are a minute."""


class Homeserver(Protocol):
    """What this service asks of the homeserver."""

    @property
    def own_id(self) -> UserID: ...  # noqa: D102
    async def power(self, room_id: RoomID) -> Power: ...  # noqa: D102
    async def joined_rooms(self) -> set[RoomID]: ...  # noqa: D102
    async def join(self, room_id: RoomID) -> Outcome: ...  # noqa: D102
    async def leave(self, room_id: RoomID) -> Outcome: ...  # noqa: D102


class Memory(Protocol):
    """What this service asks of the store."""

    async def rooms(self) -> list[Room]: ...  # noqa: D102
    async def room(self, room_id: RoomID) -> Room | None: ...  # noqa: D102
    async def to_review(self) -> list[RoomID]: ...  # noqa: D102
    async def ask_review(self, room_id: RoomID) -> None: ...  # noqa: D102
    async def reviewed(  # noqa: D102
        self, room_id: RoomID, *, suspended: bool, owed: list[Owed], reviews: int, stuck: bool
    ) -> None: ...
    async def refusals(self, room_id: RoomID) -> tuple[int, Millis]: ...  # noqa: D102
    async def forget(self, room_id: RoomID, now: Millis) -> int: ...  # noqa: D102
    async def pending(self, room_id: RoomID) -> tuple[int, Millis | None]: ...  # noqa: D102
    async def next_invite(self) -> tuple[Invite, int, Millis] | None: ...  # noqa: D102
    async def answered(self, invite: Invite) -> None: ...  # noqa: D102
    async def invite_later(self, invite: Invite, until: Millis) -> None: ...  # noqa: D102


class Rooms:
    """Answers invitations, and reviews rooms whose state or membership changed."""

    def __init__(
        self,
        homeserver: Homeserver,
        memory: Memory,
        clock: Clock,
        *,
        guests: Guests,
        bounds: Bounds,
        random: Random,
        wake_others: Callable[[], None],
    ) -> None:
        self._homeserver = homeserver
        self._memory = memory
        self._clock = clock
        self._guests = guests
        self._of_each = Allowance(guests.per_inviter, HOUR)
        self._of_all = Allowance(guests.per_hour, HOUR)
        self._counted: set[RoomID] = set()
        """Invitations that were within the limits, and are still to be answered."""
        self._full = False
        self._bounds = bounds
        self._random = random
        self._wake_others = wake_others
        self.follow: Follow | None = None
        """Looks whether a room was replaced; set once, before `run`."""
        self._failures = 0
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Keep up until cancelled. Raises `TokenRejectedError`."""
        await self._look_around()
        while True:
            self.wake.clear()
            again = await self._reviews()
            invite_at = await self._invites()
            times = [at for at in (again, invite_at) if at is not None]
            await self._clock.wait(self.wake, min(times, default=None))

    async def _look_around(self) -> None:
        """Have rooms looked at that the bot may no longer be in: a deleted one says nothing."""
        known = await self._memory.rooms()
        if not known:
            return
        try:
            joined = await self._homeserver.joined_rooms()
        except OutcomeError:
            return  # each room is found out when its next timer is due
        for room in known:
            if room.room_id not in joined:
                await self._memory.ask_review(room.room_id)

    # --- reviews -------------------------------------------------------------------------

    async def _reviews(self) -> Millis | None:
        """Review what is asked for; return when to try again what could not be looked up."""
        failed = False
        for room_id in await self._memory.to_review():
            try:
                await self.review(room_id)
            except OutcomeError as error:
                log.info("a room's state must wait (%s)", type(error.outcome).__name__)
                failed = True
        self._failures = self._failures + 1 if failed else 0
        if not failed:
            return None
        wait = backoff(self._failures, ceiling=PAUSE_CEILING, chance=self._random.random())
        return self._clock.now() + wait

    async def review(self, room_id: RoomID) -> None:
        """Find out what the bot may do in a room, and say so when that changed.

        Raises `OutcomeError` when it cannot be told now.
        """
        room = await self._memory.room(room_id)
        if room is None:
            return
        try:
            power = await self._homeserver.power(room_id)
        except OutcomeError as error:
            if isinstance(error.outcome, Forbidden | NotFound):
                await self._leave_behind(room_id, error)
                return
            raise
        if room_id not in await self._homeserver.joined_rooms():
            await self._forget(room_id)  # a room that was left still shows its state
            return
        suspended = not power.may_redact(self._homeserver.own_id)
        refused, older_than = await self._memory.refusals(room_id)
        stuck = room.stuck if suspended else refused > 0
        owed = await self._news(room, power, suspended=suspended)
        if stuck and not room.stuck:
            owed.append(self._stuck(older_than))
        await self._memory.reviewed(
            room_id, suspended=suspended, owed=owed, reviews=room.reviews, stuck=stuck
        )
        self._wake_others()
        await self._look_for_successor(room_id)

    async def _look_for_successor(self, room_id: RoomID) -> None:
        """Whatever becomes of it, the review before it holds."""
        try:
            if self.follow is not None:
                await self.follow(room_id)
        except OutcomeError:
            await self._memory.ask_review(room_id)
            raise

    async def _news(self, room: Room, power: Power, *, suspended: bool) -> list[Owed]:
        """Return what to tell a room: each loss of power once, and each return."""
        if suspended == room.suspended or (suspended and room.greeting):
            return []
        pending, _ = await self._memory.pending(room.room_id)
        if lifetime(room.setting, self._bounds) is None and pending == 0:
            return []  # there is nothing to remove here, so nothing is paused
        kind = "suspended" if suspended else "resumed"
        log.info("a room is %s", kind)
        args = {"need": power.to_redact, "have": power.of(self._homeserver.own_id)}
        return [Owed(key=f"{kind}:{self._clock.now()}", kind=kind, args=args)]

    def _stuck(self, older_than: Millis) -> Owed:
        """The power suffices, and the homeserver refuses all the same: it has to be told."""
        why = "for a reason of its own; its log may say which"
        if older_than:
            why = (
                f"because they are older than {words(older_than)}: make redaction_allowed_period"
                " in Synapse's configuration longer than the longest lifetime, or take it out"
            )
        log.warning("messages stay in a room that should go: the homeserver refuses, %s", why)
        args = {"older_than": older_than}
        return Owed(key=f"stuck:{self._clock.now()}", kind="stuck", args=args)

    async def _leave_behind(self, room_id: RoomID, error: OutcomeError) -> None:
        """The room's state is closed to the bot: is it still in the room?"""
        if room_id in await self._homeserver.joined_rooms():
            raise error
        await self._forget(room_id)

    async def _forget(self, room_id: RoomID) -> None:
        """A room that was deleted answers as one that banned the bot and may ask it back."""
        lost = await self._memory.forget(room_id, self._clock.now())
        log.warning("no longer in a room: %d messages there can no longer be removed", lost)
        log.debug("forgot %s", room_id)
        self._wake_others()

    # --- invitations ---------------------------------------------------------------------

    async def _invites(self) -> Millis | None:
        """Answer some invitations; return when the next one is to be answered."""
        for _ in range(AT_ONCE):
            found = await self._memory.next_invite()
            if found is None:
                return None
            invite, attempts, at = found
            if at > self._clock.now():
                return at
            await self._answer(invite, attempts)
        return self._clock.now()

    async def _answer(self, invite: Invite, attempts: int) -> None:
        try:
            welcome = await self._welcomes(invite)
            answer = self._homeserver.join if welcome else self._homeserver.leave
            outcome = await answer(invite.room_id)
        except OutcomeError as error:
            welcome, outcome = False, error.outcome
        transient = isinstance(outcome, Failed) and attempts < TRIES
        if transient or isinstance(outcome, RateLimited | Unreachable):
            wait = retry_in(outcome, attempts, chance=self._random.random())
            await self._memory.invite_later(invite, self._clock.now() + wait)
            return
        if isinstance(outcome, Done):
            log.info("%s an invitation", "accepted" if welcome else "declined")
        else:
            log.info("an invitation could not be answered (%s)", type(outcome).__name__)
        await self._memory.answered(invite)
        self._counted.discard(invite.room_id)

    async def _welcomes(self, invite: Invite) -> bool:
        """Whether to accept an invitation. Raises `OutcomeError`."""
        if not self.may_invite(invite.inviter):
            return False
        if invite.room_id not in self._counted:
            if not self._in_measure(invite, f"{self._clock.now()}"):
                return False
            self._counted.add(invite.room_id)
        return await self.has_space()

    def admits(self, invite: Invite) -> bool:
        """Whether somebody may send the bot into another room now; the same one counts once."""
        return self.may_invite(invite.inviter) and self._in_measure(invite, "")

    def _in_measure(self, invite: Invite, which: str) -> bool:
        """Whether it keeps within the limits of invitations, where it counts from now on."""
        who, what, now = str(invite.inviter), f"{which} {invite.room_id}", self._clock.now()
        for allowance, whose in ((self._of_each, who), (self._of_all, "")):
            if not allowance.admits(whose, what, now):
                if allowance.begins(whose, what, now):
                    log.warning(
                        "too many invitations %s: those over the limit are declined",
                        "by one account" if whose else "in this hour",
                    )
                return False
        return True

    async def has_space(self) -> bool:
        """Whether the bot may be in another room. Raises `OutcomeError`."""
        most = self._guests.max_rooms
        full = most is not None and len(await self._homeserver.joined_rooms()) >= most
        if full and not self._full:
            log.warning("in %d rooms, as many as may be: invitations are declined", most)
        self._full = full
        return not full

    def may_invite(self, inviter: UserID | None) -> bool:
        """Whether the operator lets this person invite the bot."""
        # Only * and ? have a meaning; brackets are part of an IPv6 address.
        globs = [glob.replace("[", "[[]") for glob in self._guests.allow]
        return inviter is not None and any(fnmatchcase(inviter, glob) for glob in globs)
