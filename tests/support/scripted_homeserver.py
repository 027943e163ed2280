"""A homeserver of a few lines for unit tests: it answers as it is told, and notes what it got."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as it came over the wire."""

    method: str
    parts: tuple[str, ...]
    """The path's parts, unquoted: an id with a slash in it is one part, if it was quoted well."""
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    """The parsed JSON; `None` where there was none."""

    @property
    def where(self) -> tuple[str, ...]:
        """What follows `/_matrix/client/v3`."""
        assert self.parts[:3] == ("_matrix", "client", "v3")
        return self.parts[3:]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: JSON, or bytes as they are."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def error(status: int, errcode: str) -> Answer:
    return Answer(status, {"errcode": errcode, "error": "words for people"})


GONE_WRONG = error(500, "M_UNKNOWN")
NO_SUCH_THING = error(404, "M_NOT_FOUND")
NOT_ALLOWED = error(403, "M_FORBIDDEN")
NOT_KNOWN = error(404, "M_UNRECOGNIZED")

Handler = Callable[[Asked], Answer | Json | Awaitable[Answer | Json]]


class StandIn:
    """Answers with `handler`, or else with `answers`, one after the other."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.answers: list[Answer | Json] = []
        self.handler: Handler = lambda _: self.answers.pop(0) if self.answers else NOT_KNOWN
        self.silent = False
        """While set, requests are taken and not answered."""
        self._over = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        """Take one request."""
        text = await request.text()
        asked = Asked(
            method=request.method,
            parts=tuple(map(unquote, request.raw_path.partition("?")[0].split("/")[1:])),
            query=dict(request.query),
            headers=dict(request.headers),
            body=json.loads(text) if text else None,
        )
        self.asked.append(asked)
        if self.silent:
            await self._over.wait()
        found = self.handler(asked)
        if isinstance(found, Awaitable):
            found = await found
        answer = found if isinstance(found, Answer) else Answer(200, found)
        raw = isinstance(answer.body, bytes)
        return web.Response(
            status=answer.status,
            body=answer.body if raw else json.dumps(answer.body).encode(),
            headers={"Content-Type": "application/json"} | answer.headers,
        )

    def end(self) -> None:
        """Let go of what was not answered."""
        self._over.set()


@asynccontextmanager
async def stand_in_homeserver() -> AsyncIterator[StandIn]:
    """Run one on loopback."""
    made = StandIn()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{tail:.*}", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        made.end()
        await runner.cleanup()
