"""Refuses redactions before a homeserver: at random, or as a rate limit does."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from random import Random

from tests.support.fault_proxy import Answer

REDACTION = "PUT .*/redact/"
JSON = {"Content-Type": "application/json"}
TOLD = 500
"""Milliseconds that a refusal at random tells to wait."""

Refuse = Callable[[], Answer | None]


class TokenBucket:
    """Counts like Synapse's rate limit: a refused attempt takes nothing."""

    def __init__(self, per_second: float, burst: int, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Return 0 for what may pass now, or the seconds until something may."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_second


def limited(milliseconds: int) -> Answer:
    """Return what a homeserver answers to what is over a limit."""
    body = {
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "Too Many Requests",
        "retry_after_ms": milliseconds,
    }
    return Answer(429, JSON | {"Retry-After": str(math.ceil(milliseconds / 1000))}, _raw(body))


def _raw(body: object) -> bytes:
    return json.dumps(body).encode()


def at_random(share: float, seed: int) -> Refuse:
    """Refuse this share by 429, each for `TOLD`."""
    random = Random(f"{share} {seed}")
    return lambda: limited(TOLD) if random.random() < share else None


def broken_at_random(share: float, seed: int) -> Refuse:
    """Answer this share by 502, as a gateway does."""
    random = Random(f"{share} {seed}")
    answer = Answer(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>")
    return lambda: answer if random.random() < share else None


def by_rate(per_second: float, burst: int, *, until: float = math.inf) -> Refuse:
    """Refuse what is over a rate, until a `time.monotonic()` at which the limit ends."""
    bucket = TokenBucket(per_second, burst, time.monotonic())

    def refuse() -> Answer | None:
        now = time.monotonic()
        wait = 0.0 if now >= until else bucket.take(now)
        # One more than told by the bucket, so that who comes back then is let through.
        return limited(math.floor(wait * 1000) + 1) if wait else None

    return refuse
