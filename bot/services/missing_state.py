"""Asks for the state of a room that came without it: the bot had lost sight of the room."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import OutcomeError
from bot.core.ports.homeserver import RoomState
from bot.core.types import Event, RoomID

log = logging.getLogger(__name__)

TRIES: Final = 5
"""How often one room's state is asked for while the whole sync waits."""
ENCRYPTION: Final = "m.room.encryption"


class MissingState:
    """Asks for the state of such rooms, and counts how often it was asked for in vain."""

    def __init__(self, homeserver: RoomState) -> None:
        self._homeserver = homeserver
        self._unreadable = Counter[RoomID]()

    async def state(self, room_id: RoomID) -> list[Event]:
        """Return the state events that say whether a room is encrypted, and its lifetime.

        Raises `OutcomeError`: read the sync again. A room that cannot be read does not hold up
        the others for long: then it counts as encrypted, so nothing said in clear is a command.
        """
        try:
            found = [
                await self._homeserver.state(room_id, kind) for kind in (ENCRYPTION, POLICY_EVENT)
            ]
        except OutcomeError:
            self._unreadable[room_id] += 1
            if self._unreadable[room_id] < TRIES:
                raise
            log.warning("a room's state cannot be read: its lifetime counts when it is set again")
            found = [{"type": ENCRYPTION, "content": {}}]
        del self._unreadable[room_id]
        return [event | {"state_key": ""} for event in found if event is not None]
