"""Gives a room's devices the key that the bot writes with: new ones get it, who left ends it.

nio gives a new key to all devices whenever one of them comes or goes, in one piece, and takes
it as given whatever the homeserver said.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from nio import Api
from nio.crypto import OlmDevice, OutboundGroupSession
from peewee import OperationalError

from bot.core.outcome_text import describe
from bot.core.outcomes import Done, Failed, Outcome, OutcomeError, RateLimited, Unreachable
from bot.core.types import Event, RoomID, UserID
from bot.matrix.encryption.device_lists import CLAIMED, Devices, Request, portions
from bot.matrix.encryption.engine import CarefulOlm
from bot.matrix.encryption.megolm import MEGOLM
from bot.matrix.encryption.time_slices import TimeSlices
from bot.matrix.http.endpoints import path
from bot.matrix.private_files import disk

log = logging.getLogger(__name__)

PORTION: Final = 20
"""Devices that one request gives the key to."""
ALONE_AFTER: Final = 3
"""How often a portion may be refused before each device of it gets a request of its own."""
BAD_PORTIONS: Final = 2
"""Portions that may fail in one try: then it is not them, and the rest is not asked for."""
FREE: Final = 50
"""Devices that may have a new key as often as their members change."""
REST: Final = 0.1
"""Seconds that a room waits between two keys for each device over that: ten devices a second."""
LONGEST_REST: Final = 300.0
MOST_HELD: Final = 100_000
"""Devices remembered over all rooms; the room not written to for longest begins anew."""
TOLD_FROM: Final = 100
"""Devices from which on the log says that they were given a key."""

Device = tuple[str, str, str]
"""User, device and its Curve25519 key: one that has another key is another device."""


@dataclass(slots=True, kw_only=True)
class Outbound:
    """The key that a room is written to with, and who has it."""

    session: OutboundGroupSession
    began: float
    size: int = 0
    """How many devices were in the room when it was written to last."""
    held: dict[Device, bool] = field(default_factory=dict)
    """Who may have it, since it was sent; `True`: since the homeserver said so."""
    refused: dict[Device, int] = field(default_factory=dict)
    unclaimed: int = 0
    """How often in a row one-time keys could not be asked for."""


class RoomKeys:
    """The keys of all rooms that the bot writes to. A room's calls come one after the other."""

    def __init__(
        self,
        engine: Callable[[], CarefulOlm],
        request: Request,
        devices: Devices,
        slices: TimeSlices,
    ) -> None:
        self._engine = engine
        self._request = request
        self._devices = devices
        self._slices = slices
        self._rooms: OrderedDict[RoomID, Outbound] = OrderedDict()
        self._locks: WeakValueDictionary[RoomID, asyncio.Lock] = WeakValueDictionary()

    @property
    def _olm(self) -> CarefulOlm:
        return self._engine()

    def turn_of(self, room_id: RoomID) -> asyncio.Lock:
        """Return what is held while a room is written to; rooms do not wait for each other."""
        return self._locks.setdefault(room_id, asyncio.Lock())

    async def share(self, room_id: RoomID) -> Outbound:
        """See that every device of the room's members has the key that is written with next.

        What was done stays done when this is cancelled, or raises: the next call goes on there.
        Devices that give no one-time key are passed over for some time. Raises `OutcomeError`
        with what is in the way, and `TokenRejectedError`.
        """
        members = await self._members(room_id)
        await self._devices.query(self._devices.unknown(members))
        here = await self._devices_of(members)
        outbound = self._current(room_id, here)
        outbound.size = len(here)
        missing = [here[one] for one in here if not outbound.held.get(one)]
        if missing:
            await self._open_channels(outbound, missing)
            await self._give(room_id, outbound, missing)
        self._forget_some(room_id)
        return outbound

    def encrypt(self, room_id: RoomID, outbound: Outbound, kind: str, content: Event) -> Event:
        """Return the content of an encrypted event; `share` just gave `outbound`.

        The relation stays readable, as the homeserver needs it.
        spec: client-server API v1.13, 11.12.4.2 `m.megolm.v1.aes-sha2`.
        """
        session = outbound.session
        text = Api.to_json({"type": kind, "content": content, "room_id": room_id})
        sealed = {
            "algorithm": MEGOLM,
            "sender_key": self._olm.account.identity_keys["curve25519"],
            "ciphertext": session.encrypt(text),
            "session_id": session.id,
            "device_id": self._olm.device_id,
        }
        relation = content.get("m.relates_to")
        return sealed | ({"m.relates_to": relation} if relation else {})

    def progress(self, room_id: RoomID) -> tuple[int, int]:
        """Return how many devices have the room's key, and how many there are."""
        outbound = self._rooms.get(room_id)
        if outbound is None:
            return 0, 0
        return sum(outbound.held.values()), outbound.size

    # --- who is there --------------------------------------------------------------------

    async def _members(self, room_id: RoomID) -> list[UserID]:
        outcome = await self._request("GET", path("rooms", room_id, "joined_members"))
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        found = outcome.body.get("joined")
        if not isinstance(found, dict):
            raise OutcomeError(Failed(status=200))
        return [UserID(one) for one in found]

    async def _devices_of(self, members: Sequence[UserID]) -> dict[Device, OlmDevice]:
        found: dict[Device, OlmDevice] = {}
        own = (self._olm.user_id, self._olm.device_id)
        waiting = iter(members)
        member: UserID | None = None
        while True:
            piece = self._slices.piece()
            while piece.goes_on() and (member := next(waiting, None)) is not None:
                for one in self._olm.device_store.active_user_devices(member):
                    if (one.user_id, one.id) != own:
                        found[one.user_id, one.id, one.curve25519] = one
            if member is None:
                return found
            await self._slices.rest(0)

    def _current(self, room_id: RoomID, here: dict[Device, OlmDevice]) -> Outbound:
        """Return the key to write with: a new one where somebody has it who is not there any more.

        A key for many devices takes its time. So a big room waits with its words between two.
        """
        now, outbound = self._slices.elapsed(), self._rooms.get(room_id)
        if outbound is not None:
            left = outbound.held.keys() - here.keys()
            if not left and not outbound.session.expired:
                self._rooms.move_to_end(room_id)
                return outbound
            rest = min(LONGEST_REST, max(0, max(outbound.size, len(here)) - FREE) * REST)
            wait = outbound.began + rest - now
            if wait > 0 and any(outbound.held.values()):
                log.info("a room of %d devices waits %d s for a new key", len(here), wait)
                raise OutcomeError(RateLimited(retry_after=int(wait * 1000) + 1))
        session = OutboundGroupSession()
        session.mark_as_shared()
        outbound = self._rooms[room_id] = Outbound(session=session, began=now)
        self._rooms.move_to_end(room_id)
        return outbound

    def _forget_some(self, room_id: RoomID) -> None:
        total = sum(len(one.held) for one in self._rooms.values())
        for name in list(self._rooms):
            if total <= MOST_HELD or name == room_id:
                return
            total -= len(self._rooms.pop(name).held)

    # --- giving --------------------------------------------------------------------------

    async def _open_channels(self, outbound: Outbound, devices: Sequence[OlmDevice]) -> None:
        """Open channels to the devices that have none.

        What cannot be asked for twice in a row holds nothing up any more: others have channels.
        """
        bad = 0
        for portion in portions(self._devices.without_channel(devices), CLAIMED):
            try:
                await self._devices.open_channels(portion)
                if bad == 0:
                    outbound.unclaimed = 0
            except OutcomeError as error:
                bad += 1
                outbound.unclaimed += 1
                if outbound.unclaimed == 1:
                    raise
                outcome = describe(error.outcome)
                log.warning("%d devices stay without keys (%s)", len(portion), outcome)
                if bad >= BAD_PORTIONS:
                    return

    async def _give(
        self, room_id: RoomID, outbound: Outbound, devices: Sequence[OlmDevice]
    ) -> None:
        """Send the key to devices, portion by portion. Raises `OutcomeError`."""
        began, given, bad = self._slices.elapsed(), 0, 0
        waiting = self._in_order(outbound, devices)
        again: Outcome | None = None
        while waiting:
            alone = outbound.refused.get(_name(waiting[0]), 0) >= ALONE_AFTER
            named, messages = await self._seal(room_id, outbound, waiting, 1 if alone else PORTION)
            if not named:
                await self._slices.rest(0)
                continue
            outbound.held |= dict.fromkeys(named, False)
            outcome = await self._send(messages)
            if isinstance(outcome, Done):
                outbound.held |= dict.fromkeys(named, True)
                given += len(named)
                continue
            if isinstance(outcome, RateLimited | Unreachable):
                raise OutcomeError(outcome)
            for one in named:
                outbound.refused[one] = outbound.refused.get(one, 0) + 1
            if not alone:
                again, bad = outcome, bad + 1
            if bad >= BAD_PORTIONS:
                break
        if given >= TOLD_FROM:
            took = self._slices.elapsed() - began
            log.info("a room's key was given to %d devices in %.1f s", given, took)
        if again is not None:
            raise OutcomeError(Failed(status=getattr(again, "status", 0)))

    def _in_order(self, outbound: Outbound, devices: Sequence[OlmDevice]) -> deque[OlmDevice]:
        """Return the devices that can be written to; those that were refused come last."""
        open_to = [one for one in devices if self._olm.channel_to(one) is not None]
        return deque(sorted(open_to, key=lambda one: outbound.refused.get(_name(one), 0)))

    async def _seal(
        self, room_id: RoomID, outbound: Outbound, waiting: deque[OlmDevice], most: int
    ) -> tuple[list[Device], dict[str, dict[str, Event]]]:
        """Take devices off `waiting`; return who they are, and the message for each.

        The channels are on the disk before anything that went through them can be sent: a
        channel that goes back after a crash would use a key twice.
        """
        content = {
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": outbound.session.id,
            "session_key": outbound.session.session_key,
        }
        named: list[Device] = []
        messages: dict[str, dict[str, Event]] = {}
        with disk():
            async with self._olm.store.piece_aside():
                piece = self._slices.piece()
                while waiting and len(named) < most and piece.goes_on():
                    device = waiting.popleft()
                    sealed = self._sealed(device, content)
                    if sealed is not None:
                        named.append(_name(device))
                        messages.setdefault(device.user_id, {})[device.id] = sealed
        return named, messages

    def _sealed(self, device: OlmDevice, content: Event) -> Event | None:
        """Return the message for a device; `None` where there is none to be made."""
        try:
            return self._olm.seal(device, "m.room_key", content)
        except OperationalError:
            raise  # the disk's, not the device's
        except Exception as error:  # noqa: BLE001 - made of a stranger's keys
            log.warning("a device's key could not be sealed (%s)", type(error).__name__)
            return None

    async def _send(self, messages: dict[str, dict[str, Event]]) -> Outcome:
        where = path("sendToDevice", "m.room.encrypted", f"key-{secrets.token_hex(12)}")
        return await self._request("PUT", where, {"messages": messages})


def _name(device: OlmDevice) -> Device:
    return device.user_id, device.id, device.curve25519
