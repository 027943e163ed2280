"""A client that gets a recorded answer, and a homeserver that redacts at once: no network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final, Self

from bot.core.outcomes import Done, Outcome
from bot.core.types import EventID, RoomID
from bot.matrix.encryption.engine import CarefulClient

PIECE: Final = 64 << 10
"""Bytes of an answer that aiohttp hands on at once."""


class Recorded:
    """The answer to a request, as aiohttp would hand it on."""

    status = 200
    content_type = "application/json"
    headers = {"Content-Type": content_type}  # noqa: RUF012

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._raw), PIECE):
            await asyncio.sleep(0)
            yield self._raw[start : start + PIECE]

    def release(self) -> None: ...
    def close(self) -> None: ...
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


class Client(CarefulClient):
    """The bot's client, without a network."""

    raw = b""

    async def send(self, *_: Any, **__: Any) -> Any:
        return Recorded(self.raw)


class Instant:
    """A homeserver that redacts at once; it notes how late it was asked to, in ms."""

    def __init__(self) -> None:
        self.due: dict[EventID, int] = {}
        self.late: list[int] = []

    async def redact(self, _: RoomID, event_id: EventID, __: str) -> Outcome:
        self.late.append(now() - self.due[event_id])
        return Done()

    async def is_gone(self, *_: object) -> bool:
        return True

    async def relations(self, *_: object) -> tuple[list[EventID], bool]:
        return [], True


def now() -> int:
    """Return the time in milliseconds."""
    return time.time_ns() // 1_000_000
