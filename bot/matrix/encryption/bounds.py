"""Bounds what strangers can send to the bot's device: anybody who knows its id can send to it."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from nio.crypto import SessionStore

from bot.core.rate_limits import HOUR, RateLimit
from bot.core.types import Event
from bot.matrix.encryption.crypto_store import CryptoStore

log = logging.getLogger(__name__)

PER_HOUR: Final = 200
"""Encrypted messages to the device that are opened of one account; most bring a room key."""
PER_DEVICE: Final = 5
"""Olm sessions kept with one device; the protocol itself keeps as many receiving chains."""
MOST_DEVICES: Final = 10_000
"""Devices that Olm sessions are kept with; one that is forgotten makes a new one."""
MOST_KEYS: Final = 20_000
"""Room keys kept in all; the device that gave most of them loses its oldest for one more."""
MOST_REQUESTS: Final = 500
"""Room keys that are asked for at once; the oldest request is given up for a new one."""


class SenderBounds:
    """Counts the messages of each account."""

    def __init__(self, per_hour: int = PER_HOUR) -> None:
        self._rate_limit = RateLimit(per_hour, HOUR)

    def admits(self, event: Event) -> bool:
        """Whether to spend time on an encrypted message; its sender's account is authentic."""
        sender, content = str(event.get("sender")), event.get("content")
        # The same comes again with a sync that was cut off: it counts once.
        what, now = f"{hash(str(content)):x}", int(time.monotonic() * 1000)
        if self._rate_limit.admits(sender, what, now):
            return True
        if self._rate_limit.begins(sender, what, now):
            log.warning("one account sends too many keys: those over the limit are dropped")
        return False


def prune(store: CryptoStore, channels: SessionStore, sender_key: str) -> None:
    """Delete the Olm sessions that were not used for longest: nio keeps them all, and for ever."""
    entries: dict[str, list[Any]] = channels._entries  # noqa: SLF001
    own = entries[sender_key]
    own.sort(key=lambda channel: channel.use_time, reverse=True)
    surplus = own[PER_DEVICE:]
    del own[PER_DEVICE:]
    if len(entries) > MOST_DEVICES:
        for silent in sorted(entries, key=lambda one: _used(entries[one]))[: MOST_DEVICES // 10]:
            surplus += entries.pop(silent)
    if surplus:
        store.drop_sessions(surplus)


def _used(channels: list[Any]) -> float:
    """Return when the last of a device's channels was used; a device that has none: never."""
    return max((channel.use_time.timestamp() for channel in channels), default=0.0)


def make_room(store: CryptoStore, requests: dict[str, Any]) -> None:
    """Give up the oldest requests for room keys, so that there is room for one more."""
    while len(requests) >= MOST_REQUESTS:
        store.remove_outgoing_key_request(requests.pop(next(iter(requests))))
