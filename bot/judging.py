"""Judges commands: who may change a room's lifetime, by the room's state as it is now."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from bot.allowance import MINUTE, Allowance
from bot.commands import Parsed
from bot.model import (
    POLICY_EVENT,
    Bounds,
    Event,
    EventID,
    Millis,
    OutcomeError,
    RateLimited,
    RoomID,
    Unreachable,
    UserID,
)
from bot.power import Power
from bot.timeline import OFF, SURPLUS, Said

log = logging.getLogger(__name__)


class Clear(Protocol):
    """A decrypted event."""

    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def content(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def session_id(self) -> str: ...  # noqa: D102
    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def device_id(self) -> str: ...  # noqa: D102
    @property
    def device_key(self) -> str: ...  # noqa: D102
    @property
    def known(self) -> bool: ...  # noqa: D102


class Authority(Protocol):
    """What judging asks of the homeserver."""

    @property
    def own_id(self) -> UserID: ...  # noqa: D102
    async def power(self, room_id: RoomID) -> Power: ...  # noqa: D102
    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None: ...  # noqa: D102
    async def name_of(self, room_id: RoomID, user_id: UserID) -> str: ...  # noqa: D102
    async def is_signed(self, user_id: UserID, device_id: str, device_key: str) -> bool: ...  # noqa: D102


class Judge:
    """Decides whether a command may do what it says."""

    def __init__(
        self, authority: Authority, *, bounds: Bounds, signed_only: bool, per_minute: int
    ) -> None:
        """`per_minute`: the commands of one sender, over all rooms, that count."""
        self._authority = authority
        self._bounds = bounds
        self._signed_only = signed_only
        self._allowance = Allowance(per_minute, MINUTE)
        self._powers: dict[RoomID, Power] = {}

    def look_anew(self, room_id: RoomID) -> None:
        """Judge what comes next by the room's state as it is now."""
        self._powers.pop(room_id, None)

    def over_limit(self, sender: UserID, digest: str, at: Millis) -> Said | None:
        """Return the verdict on a command said at `at` that is one too many, else `None`."""
        if self._allowance.admits(sender, digest, at):
            return None
        if not self._allowance.begins(sender, digest, at):
            return Said(digest=digest, sender=sender, kind=SURPLUS)
        log.warning("somebody says too many commands: those over the limit do not count")
        return Said(digest=digest, sender=sender, kind="hasty")

    async def is_for_another(self, room_id: RoomID, parsed: Parsed) -> bool:
        """Whether it is said to somebody else, by name or in reply.

        Where it cannot be seen to whom it replies, it is for the bot.
        """
        if parsed.called:
            name = await self._authority.name_of(room_id, self._authority.own_id)
            if parsed.called.removeprefix("@").casefold() != name.strip().casefold():
                return True
        if parsed.replies_to is None:
            return False
        try:
            event = await self._authority.event(room_id, parsed.replies_to)
        except OutcomeError:
            return False
        return event is None or event.get("sender") != self._authority.own_id

    async def judge(
        self, room_id: RoomID, sender: UserID, parsed: Parsed, digest: str, clear: Clear | None
    ) -> Said:
        """Return the verdict. `clear` is what was decrypted, in an encrypted room.

        Raises `OutcomeError` when the homeserver does not answer: judge again later.
        """
        if parsed.setting is None:
            return Said(digest=digest, sender=sender, kind=parsed.kind, args=dict(parsed.args))
        try:
            if self._signed_only and clear is not None:
                device = (clear.device_id, clear.device_key)
                if not await self._authority.is_signed(sender, *device):
                    return Said(digest=digest, sender=sender, kind="unsigned")
            power = await self._power(room_id)
        except OutcomeError as error:
            if isinstance(error.outcome, Unreachable | RateLimited):
                raise
            log.warning("a command could not be judged (%s)", type(error.outcome).__name__)
            return Said(digest=digest, sender=sender, kind="unjudged")
        return self._verdict(power, sender, parsed.setting, digest)

    async def _power(self, room_id: RoomID) -> Power:
        """Return who may do what: many commands in one stretch of timeline ask only once."""
        if room_id not in self._powers:
            self._powers[room_id] = await self._authority.power(room_id)
        return self._powers[room_id]

    def _verdict(self, power: Power, sender: UserID, setting: int, digest: str) -> Said:
        own_id, need = self._authority.own_id, power.to_send_state(POLICY_EVENT)
        if not power.may_send_state(sender, POLICY_EVENT):
            args = {"need": need, "have": power.of(sender)}
            return Said(digest=digest, sender=sender, kind="refused", args=args)
        if setting != OFF and not self._bounds.allows(setting):
            return Said(digest=digest, sender=sender, kind="outside")
        if not power.may_send_state(own_id, POLICY_EVENT):
            args = {"need": need, "have": power.of(own_id)}
            return Said(digest=digest, sender=sender, kind="powerless", args=args)
        suspends = not power.may_redact(own_id)
        return Said(digest=digest, sender=sender, kind="set", setting=setting, suspends=suspends)
