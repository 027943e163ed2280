"""Decides whether a person may change a room's lifetime, by the room's state as it is now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from bot.core.commands import Command, Right, UndecidedCommand, come_to, decide_command, undecidable
from bot.core.lifetimes import LifetimeLimits
from bot.core.outbox import DeviceUnverified, TooManyCommands
from bot.core.outcome_text import describe
from bot.core.outcomes import Failed, Outcome, OutcomeError, RateLimited, Unreachable
from bot.core.ports.homeserver import Devices, Events, RoomRights
from bot.core.power_levels import Power
from bot.core.rate_limits import MINUTE, RateLimit
from bot.core.types import Millis, RoomID
from bot.services.classification import RequestedCommand

log = logging.getLogger(__name__)


T = TypeVar("T")

SILENT_FOR: Final = MINUTE
"""How long nobody who reads waits for a homeserver that did not say who may do what in a room."""
MOST_SILENT: Final = 1_000


class Authority(RoomRights, Events, Devices, Protocol):
    """What this service asks of the homeserver."""


class Powers:
    """Who may do what in a room, asked once for all that is read together."""

    def __init__(
        self, authority: Authority, room_id: RoomID, *, until: float | None, failed: Outcome | None
    ) -> None:
        self._authority = authority
        self.room_id = room_id
        self._until = until
        self._power: Power | None = None
        self._failed = failed

    async def get(self) -> Power:
        """Return them. Raises `OutcomeError`, and from then on always."""
        if self._power is None:
            self._power = await self.ask(lambda: self._authority.power(self.room_id))
        return self._power

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a question, if it comes in time. Raises `OutcomeError`."""
        if self._failed is not None:
            raise OutcomeError(self._failed)
        try:
            async with asyncio.timeout_at(self._until):
                return await question()
        except TimeoutError:
            self._failed = Unreachable(reason="time limit")
            raise OutcomeError(self._failed) from None
        except OutcomeError as error:
            self._failed = error.outcome
            raise


class Authorizer:
    """Decides whether a command may do what it says."""

    def __init__(
        self, authority: Authority, *, limits: LifetimeLimits, signed_only: bool, per_minute: int
    ) -> None:
        """`per_minute`: the commands of one sender, over all rooms, that count."""
        self._authority = authority
        self._limits = limits
        self._signed_only = signed_only
        self._rate_limit = RateLimit(per_minute, MINUTE)
        self._silent: dict[RoomID, Millis] = {}
        """Rooms of which the homeserver did not say who may do what, and when it did not."""

    def powers(self, room_id: RoomID, *, until: float | None = None, now: Millis = 0) -> Powers:
        """Return who may do what in a room as it is now, to be asked if need be.

        `until`: the loop's time until which there may be an answer. Where there was none at
        `now` or not long before, nobody waits for one. `None`: it is waited for.
        """
        silent = (
            until is not None and abs(now - self._silent.get(room_id, -SILENT_FOR)) < SILENT_FOR
        )
        failed = Unreachable(reason="no answer a moment ago") if silent else None
        return Powers(self._authority, room_id, until=until, failed=failed)

    async def authorize(
        self, asked: RequestedCommand, powers: Powers
    ) -> Command | UndecidedCommand | None:
        """Return what a command comes to, or the command itself where the homeserver is silent.

        `None`: it was said to somebody else.
        """
        command = asked.command
        late = self._over_limit(command)
        if late is not None:
            return late
        if await self._is_for_another(asked, powers):
            return None
        try:
            return await self._decide(command, powers)
        except OutcomeError as error:
            log.info("a command waits to be decided (%s)", describe(error.outcome))
            return command

    async def decide(self, room_id: RoomID, command: UndecidedCommand) -> Command:
        """Return what a command comes to that waited to be decided.

        Raises `OutcomeError` when the homeserver does not answer: ask again later.
        """
        decided = await self._decide(command, self.powers(room_id))
        self._silent.pop(room_id, None)
        return decided

    def _over_limit(self, command: UndecidedCommand) -> Command | None:
        """Return what a command comes to that is one too many, else `None`."""
        sender, digest, sent = command.sender, command.digest, command.sent
        if self._rate_limit.admits(sender, digest, sent):
            return None
        if not self._rate_limit.begins(sender, digest, sent):
            return come_to(command, None)
        log.warning("somebody says too many commands: those over the limit do not count")
        return come_to(command, TooManyCommands(sender=sender))

    async def _is_for_another(self, asked: RequestedCommand, powers: Powers) -> bool:
        """Whether it is said to somebody else, by name or in reply.

        Where it cannot be seen to whom it replies, it is for the bot.
        """
        own_id, about = self._authority.own_id, asked.replies_to
        try:
            if asked.called:
                name = await powers.ask(lambda: self._authority.name_of(powers.room_id, own_id))
                if asked.called.removeprefix("@").casefold() != name.strip().casefold():
                    return True
            if about is None:
                return False
            event = await powers.ask(lambda: self._authority.event(powers.room_id, about))
        except OutcomeError:
            return bool(asked.called)
        return event is None or event.get("sender") != own_id

    async def _decide(self, command: UndecidedCommand, powers: Powers) -> Command:
        """Return what a command comes to. Raises `OutcomeError`: decide again later."""
        if command.right is Right.ANYBODY:
            return come_to(command, command.request)
        sender, device = command.sender, (command.device_id, command.device_key)
        try:
            if self._signed_only and any(device):
                is_signed = self._authority.is_signed
                if not await powers.ask(lambda: is_signed(sender, *device)):
                    return come_to(command, DeviceUnverified(sender=sender))
            power = await powers.get()
        except OutcomeError as error:
            if passes(error.outcome):
                self._fell_silent(powers.room_id, command.read_at)
                raise
            log.warning("a command could not be decided (%s)", describe(error.outcome))
            return undecidable(command)
        return decide_command(command, power, own_id=self._authority.own_id, limits=self._limits)

    def _fell_silent(self, room_id: RoomID, at: Millis) -> None:
        if len(self._silent) >= MOST_SILENT:
            self._silent.clear()
        self._silent[room_id] = at


def passes(outcome: Outcome) -> bool:
    """Whether it is no answer to who may do what, and one may come later."""
    return isinstance(outcome, Unreachable | RateLimited | Failed)
