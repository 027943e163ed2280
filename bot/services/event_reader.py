"""Reads the events of a room's timeline: decrypts, classifies, authorizes, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from bot.core.events import is_encryption
from bot.core.lifetimes import LifetimeLimits
from bot.core.ports.homeserver import Decryption, VerificationInbox
from bot.core.timeline import Item, is_gone, is_state
from bot.core.types import Event, Millis, RoomID
from bot.services.authorization import Authority, Authorizer
from bot.services.classification import (
    Classifier,
    Damaged,
    DecryptionResult,
    InClear,
    Place,
    RequestedCommand,
    VerificationEvent,
)

ASK_WITHIN = 2.0
"""Seconds that the homeserver gets to say who may do what, while a part of the timeline is read."""
AT_ONCE = 200
"""Events read before others have their turn."""
DECRYPTED = 5
"""Events that take as long to be read as one that is decrypted."""
REST = 0.001
"""Seconds of a turn. Without any, only the event loop would have it: a loop that is always ready
takes the interpreter's lock back before another thread, such as the database's, is awake.
"""


class ReadingHomeserver(Authority, Decryption, Protocol):
    """What this service asks of the homeserver."""


class EventReader:
    """Chains the three stages of reading. Text is looked at in memory and kept nowhere."""

    def __init__(
        self,
        homeserver: ReadingHomeserver,
        *,
        prefix: str,
        limits: LifetimeLimits,
        digest: Callable[[str], str],
        signed_only: bool = False,
        verification: VerificationInbox | None = None,
        media_server: str | None = None,
        per_minute: int = 30,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`media_server`: the server whose files go with their messages, if any do.

        `per_minute`: the commands of one sender that count. `rest` lets others go on for so many
        seconds.
        """
        self._homeserver = homeserver
        self._prefix = prefix
        self._verification = verification
        self._media_server = media_server
        self._rest = rest
        self._read_at_once = 0
        self.digest = digest
        self.authorizer = Authorizer(
            homeserver, limits=limits, signed_only=signed_only, per_minute=per_minute
        )

    async def items(
        self,
        room_id: RoomID,
        events: list[Event],
        *,
        encrypted: bool,
        live: bool,
        since: Millis,
        now: Millis,
        was_clear: bool = False,
        meet: bool = False,
        until: float | None = None,
    ) -> list[Item]:
        """Return what `events`, in the timeline's order, come to.

        `encrypted`: the room is encrypted by now; `was_clear`: it may not have been yet at their
        place, so that what is in clear counts if that is before encryption was turned on.
        `meet`: find out whose devices they are from that are not known; else what such a one
        says to the bot waits, so that nobody's homeserver holds up the rest, and the call raises
        nothing. With it, `OutcomeError` says that the homeserver did not tell.
        `until`: the loop's time until which the homeserver may say who may do what; what cannot be
        decided by then waits, too. `None`: for `ASK_WITHIN`.
        """
        items: list[Item] = []
        if until is None:
            until = asyncio.get_running_loop().time() + ASK_WITHIN
        powers = self.authorizer.powers(room_id, until=until, now=now)
        classifier = self.classifier
        for event in events:
            await self._take_turns()
            if is_encryption(event):
                encrypted, was_clear = True, False
            decrypted: DecryptionResult = InClear()
            if encrypted and self._is_encrypted(event):
                self._read_at_once += DECRYPTED - 1
                decrypted = await self._homeserver.decrypt(room_id, event, meet=meet) or Damaged()
            counts = was_clear or not encrypted
            place = Place(live=live, since=since, now=now, clear_counts=counts)
            for found in classifier.classify(event, decrypted, place):
                match found:
                    case RequestedCommand():
                        command = await self.authorizer.authorize(found, powers)
                        items += [] if command is None else [command]
                    case VerificationEvent():
                        self._hand_on(room_id, found)
                    case _:
                        items.append(found)
        return items

    async def _take_turns(self) -> None:
        """Give others a turn now and then, however few events each room has."""
        self._read_at_once += 1
        if self._read_at_once >= AT_ONCE:
            self._read_at_once = 0
            await self._rest(REST)

    def outline(self, events: list[Event], *, since: Millis, now: Millis) -> list[Item]:
        """Return the messages and changes among `events`, as they stand, without commands."""
        classifier = self.classifier
        return [
            item for event in events for item in classifier.outline(event, since=since, now=now)
        ]

    def state_change(self, event: Event, *, unannounced: bool = False) -> list[Item]:
        """Return what a state event says of the room's lifetime, if anything."""
        return self.classifier.state_change(event, unannounced=unannounced)

    def is_own(self, event: Event) -> bool:
        """Whether the bot itself sent the event."""
        return self.classifier.is_own(event)

    @property
    def classifier(self) -> Classifier:
        """What says, purely, what an event is. The bot's id is known once it has logged in."""
        return Classifier(
            own_id=self._homeserver.own_id,
            prefix=self._prefix,
            digest=self.digest,
            media_server=self._media_server,
        )

    def _is_encrypted(self, event: Event) -> bool:
        """Whether it is to be decrypted: a whole message of somebody else."""
        return (
            event.get("type") == "m.room.encrypted"
            and not is_state(event)
            and not is_gone(event)
            and isinstance(event.get("event_id"), str)
            and isinstance(event.get("sender"), str)
            and isinstance(event.get("content"), dict)
            and not self.is_own(event)
        )

    def _hand_on(self, room_id: RoomID, found: VerificationEvent) -> None:
        """Give what belongs to a verification to whoever verifies."""
        if self._verification is not None:
            self._verification(room_id, found.event, encrypted=found.encrypted)
