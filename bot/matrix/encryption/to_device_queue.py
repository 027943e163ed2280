"""Holds the to-device events that were not opened yet: of each sender in their order, by turns.

A homeserver forgets them with the next sync. So those that are not opened before a sync is
judged are on the disk before its token can be, encrypted as they came.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Final

from bot.core.types import Event
from bot.matrix.encryption.crypto_store import CryptoStore

log = logging.getLogger(__name__)

MOST_WAITING: Final = 5_000
"""Events that wait at once; of whoever has most waiting, the last are dropped."""
LONGEST_EVENT: Final = 65_536
"""Bytes of an event that is looked at, as of any event in a room; a room key takes 2,000."""
WRITTEN: Final = 500
"""Events written to the disk in one piece."""

CREATE: Final = """
    CREATE TABLE IF NOT EXISTS waiting_events (
        digest TEXT NOT NULL UNIQUE,
        sender TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT"""
SENDERS: Final = "SELECT digest, sender FROM waiting_events ORDER BY rowid"
KEEP: Final = "INSERT OR IGNORE INTO waiting_events (digest, sender, event) VALUES (?, ?, ?)"
READ: Final = "SELECT event FROM waiting_events WHERE digest = ?"
DELETE: Final = "DELETE FROM waiting_events WHERE digest = ?"


@dataclass(slots=True, kw_only=True, eq=False)
class Waiting:
    """An event that waits: in `text`, or on the disk if that is empty."""

    digest: str
    text: str = ""


class Inbox:
    """Gives the events of all senders by turns."""

    def __init__(self, store: CryptoStore) -> None:
        """Begin with what waits on the disk."""
        self.store = store
        self._database = store.database
        self._lanes: OrderedDict[str, deque[Waiting]] = OrderedDict()
        self._digests: set[str] = set()
        """Of all that waits."""
        self._last: set[str] = set()
        self._now: set[str] = set()
        self._database.execute_sql(CREATE)
        for digest, sender in self._database.execute_sql(SENDERS):
            self._add(sender, Waiting(digest=digest))

    def __len__(self) -> int:
        """Return how many events wait."""
        return len(self._digests)

    def put(self, event: Event) -> None:
        """Take an event of an answer; what the last answer brought too counts once."""
        try:
            text = json.dumps(event, separators=(",", ":"))
        except (ValueError, RecursionError):
            return
        if len(text) > LONGEST_EVENT:
            log.info("passed over a to-device event that is too long")
            return
        digest = sha256(text.encode()).hexdigest()
        if digest not in self._last and digest not in self._digests:
            self._add(str(event.get("sender")), Waiting(digest=digest, text=text))
        self._now.add(digest)

    def answer_ends(self) -> None:
        """Take it that this was all of an answer; drop what is too much."""
        self._last, self._now = self._now, set()
        self._trim()

    def _add(self, sender: str, waiting: Waiting) -> None:
        self._lanes.setdefault(sender, deque()).append(waiting)
        self._digests.add(waiting.digest)

    def _trim(self) -> None:
        """Drop what is too much, of whoever has most waiting; of many with one each, the last."""
        dropped: list[Waiting] = []
        while len(self) > MOST_WAITING:
            share = max(map(len, self._lanes.values())) // 2
            for sender in reversed(list(self._lanes)):
                lane = self._lanes[sender]
                while len(self) > MOST_WAITING and len(lane) > share:
                    dropped.append(lane.pop())
                    self._digests.discard(dropped[-1].digest)
                if not lane:
                    del self._lanes[sender]
        if not dropped:
            return
        log.warning("more keys came than can wait: %d were dropped", len(dropped))
        with self.store.piece():
            for one in dropped:
                if not one.text:
                    self._database.execute_sql(DELETE, (one.digest,))

    def next(self) -> Event:
        """Take out the next event, for good once the piece is written that this is part of."""
        sender, lane = next(iter(self._lanes.items()))
        waiting = lane.popleft()
        self._digests.discard(waiting.digest)
        if lane:
            self._lanes.move_to_end(sender)
        else:
            del self._lanes[sender]
        text = waiting.text
        if not text:
            ((text,),) = self._database.execute_sql(READ, (waiting.digest,))
            self._database.execute_sql(DELETE, (waiting.digest,))
        event: Event = json.loads(text)
        return event

    async def keep(self) -> None:
        """Write what waits to the disk, a piece at a time. When it returns, it is there."""
        while next(self._not_there(), None) is not None:
            async with self.store.piece_aside():
                self._keep_some()

    def _not_there(self) -> Iterator[tuple[str, Waiting]]:
        """Give what is not on the disk yet, each with its sender."""
        return ((sender, one) for sender, lane in self._lanes.items() for one in lane if one.text)

    def _keep_some(self) -> None:
        some = list(islice(self._not_there(), WRITTEN))
        rows = [(one.digest, sender, one.text) for sender, one in some]
        self._database.connection().executemany(KEEP, rows)
        for _, one in some:
            one.text = ""  # whoever opens it from now on finds it in the database
