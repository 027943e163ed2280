"""Moves Megolm sessions past what was read, and deletes old ones: the disk then opens nothing."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from bot.core.lifetimes import LifetimeLimits
from bot.core.policy import lifetime
from bot.core.ports.homeserver import KeyRing
from bot.core.ports.reading import KeyStore
from bot.core.ports.rooms import RoomStore, Wakeups
from bot.core.topics import Topic
from bot.core.types import Millis, RoomID
from bot.services.clock import Clock

log = logging.getLogger(__name__)

BATCH: Final = 10
"""Keys moved in one piece; the event loop waits for it."""
FORGOTTEN: Final = 100
"""Keys deleted in one piece."""
UNUSED_FOR: Final[Millis] = 8 * 24 * 3_600_000
"""Clients begin a new session after a week; one that rests longer is not used again."""
NOWHERE: Final = RoomID("")
SWEEP_EVERY: Final[Millis] = 3_600_000
SCRUB_EVERY: Final[Millis] = 60_000


class KeyExpiryStore(Wakeups, RoomStore, Protocol):
    """What this service asks of the store."""

    @property
    def keys(self) -> KeyStore:
        """Room keys."""


class KeyExpiry:
    """Takes the key of a message away, `grace` milliseconds after the message was read."""

    def __init__(
        self,
        crypto: KeyRing,
        store: KeyExpiryStore,
        clock: Clock,
        *,
        grace: Millis,
        limits: LifetimeLimits,
    ) -> None:
        self._crypto = crypto
        self._store = store
        self._keys = store.keys
        self._clock = clock
        self._grace = grace
        self._limits = limits
        self._swept_at: Millis = 0
        self._scrubbed_at: Millis = 0
        self._dirty = False
        self._wake = store.listen(Topic.KEY_USES)
        self._clock_set = store.listen(Topic.CLOCK)

    async def run(self) -> None:
        """Take keys away until cancelled."""
        while True:
            self._wake.clear()
            await self._clock.wait(self._wake, await self.turn())

    async def turn(self) -> Millis:
        """Take away what is due; return when to do so again."""
        now = self._clock.now()
        if self._clock_set.is_set():  # sweep and scrub by the new one
            self._clock_set.clear()
            self._swept_at = self._scrubbed_at = 0
        while found := await self._keys.to_ratchet(now - self._grace, BATCH):
            await self._crypto.ratchet(found)
            await self._keys.ratcheted(found)
            self._dirty = True
        if now - self._swept_at >= SWEEP_EVERY:
            await self._sweep(now)
        if self._dirty and now - self._scrubbed_at >= SCRUB_EVERY:
            await self.scrub()
        due = await self._keys.first_key_use()
        later = [self._swept_at + SWEEP_EVERY]
        if due is not None:
            later.append(due + self._grace)
        if self._dirty:
            later.append(self._scrubbed_at + SCRUB_EVERY)
        return min(later)

    async def _sweep(self, now: Millis) -> None:
        """Delete keys that rest longer than any client uses one, and than their room's lifetime.

        Those of a room that the bot is not in, which anybody can send, go with the second sweep.
        """
        self._swept_at = now
        sessions = self._crypto.sessions
        used = await self._keys.last_used(list(sessions), now)
        rooms = await self._store.rooms()
        lifetimes = {room.room_id: lifetime(room.setting, self._limits) or 0 for room in rooms}
        unused = [
            session
            for session, at in used.items()
            if now - at > _kept_for(lifetimes.get(sessions.get(session, NOWHERE)))
        ]
        if unused:
            for at in range(0, len(unused), FORGOTTEN):
                await self._crypto.forget(unused[at : at + FORGOTTEN])
                await self._keys.sessions_deleted(unused[at : at + FORGOTTEN])
            self._dirty = True
            log.info("deleted %d room keys that are no longer used", len(unused))

    async def scrub(self) -> None:
        """Rewrite the crypto store: replaced keys leave copies where SQLite moved rows."""
        if self._dirty:
            await self._crypto.scrub()
            self._scrubbed_at = self._clock.now()
            self._dirty = False


def _kept_for(lifetime: Millis | None) -> Millis:
    """Return how long an unused key is kept in a room with that lifetime; `None`: not in it."""
    return SWEEP_EVERY // 2 if lifetime is None else max(UNUSED_FOR, lifetime)
