"""Asks the homeserver, and nobody else, what became of messages."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.fault_proxy import FaultProxy
from tests.support.fault_trial import is_gone
from tests.support.people import Person

KINDS = {
    "redact": "/redact/",
    "relations": "/relations/",
    "messages": "/messages",
    "sync": "/sync",
    "event": "/event/",
    "state": "/state",
    "send": "/send/",
    "keys": "/keys/|/room_keys|/sendToDevice",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What the homeserver says of one message. Times are its own, in ms."""

    sent: int
    gone: bool
    redacted: list[int] = field(default_factory=list)
    """When, once for each redaction of it."""

    def late(self, lifetime: int) -> float:
        """Return how many seconds after its time it went; less than 0 is early."""
        return (min(self.redacted) - self.sent - lifetime) / 1000


async def fates(person: Person, room: str) -> dict[str, Fate]:
    """Return the fate of everything that is neither state nor a redaction, by event id."""
    events = await person.messages(room)
    redacted: dict[str, dict[str, int]] = defaultdict(dict)
    for event in events:
        if event["type"] == "m.room.redaction":
            target = str(event["content"].get("redacts") or event.get("redacts"))
            redacted[target][event["event_id"]] = event["origin_server_ts"]
        elif is_gone(event):
            # It may have happened while the pages were read, and stand on none of them.
            because = event["unsigned"]["redacted_because"]
            redacted[event["event_id"]][because["event_id"]] = because["origin_server_ts"]
    return {
        event["event_id"]: Fate(
            sent=event["origin_server_ts"],
            gone=is_gone(event),
            redacted=list(redacted[event["event_id"]].values()),
        )
        for event in events
        if event["type"] != "m.room.redaction" and "state_key" not in event
    }


def spread(seconds: Iterable[float]) -> str:
    """Say the median and the worst."""
    numbers = list(seconds)
    if not numbers:
        return "none"
    return f"median {statistics.median(numbers):.2f} s, worst {max(numbers):.2f} s"


def requests(proxy: FaultProxy, since: float = 0.0) -> str:
    """Say how many requests of each kind went through the proxy since a `time.monotonic()`."""
    made: Counter[str] = Counter()
    for one in proxy.seen:
        if one.at >= since:
            kind = (name for name, match in KINDS.items() if re.search(match, one.what))
            made[next(kind, "other")] += 1
    kinds = ", ".join(f"{kind} {number}" for kind, number in made.most_common())
    return f"{made.total()}: {kinds}"
