"""A proxy before a homeserver that does to requests and answers whatever networks do to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from yarl import URL

PAGE: Final = "<html><head><title>Sorry</title></head><body>Back soon.</body></html>"
HOP_BY_HOP: Final = frozenset(
    {"connection", "content-length", "host", "keep-alive", "server", "date", "transfer-encoding"}
)
CHUNK: Final = 64 * 1024

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Rule:
    """A fault for some requests: for the next `left` of them, or for all."""

    match: re.Pattern[str]
    act: Fault
    left: int | None = None
    hits: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came: `GET /path`, when, and whether a fault befell it."""

    what: str
    at: float
    faulty: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the homeserver said."""

    status: int
    headers: dict[str, str]
    body: bytes

    def respond(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class FaultProxy:
    """Stands at `url` before the homeserver at `target`. The first rule that fits decides.

    `match` is a regular expression, searched in `METHOD /path?query`; `times` is for how many
    requests the fault lasts, and without it, until `mend`.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.seen: list[Seen] = []
        self.longest = 0
        """How many bytes of one flood were taken by the other side, at most."""
        self._rules: list[Rule] = []
        self._mended = asyncio.Event()
        self._http: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        patience = aiohttp.ClientTimeout(total=120)
        self._http = aiohttp.ClientSession(timeout=patience, auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.mend()
        assert self._runner is not None
        assert self._http is not None
        await self._runner.cleanup()
        await self._http.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def count(self, match: str = "", since: float = 0.0, until: float = float("inf")) -> int:
        """Return how many requests came in a stretch of `time.monotonic()`."""
        return sum(
            re.search(match, one.what) is not None for one in self.seen if since <= one.at < until
        )

    def mend(self) -> None:
        """End all faults; stalled requests are answered."""
        self._rules.clear()
        self._mended.set()
        self._mended = asyncio.Event()

    # --- faults

    def answer(
        self,
        match: str,
        *,
        status: int,
        body: Any = b"",
        headers: dict[str, str] | None = None,
        times: int | None = None,
    ) -> Rule:
        """Answer in the homeserver's place: JSON for anything but text and bytes."""
        raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else None
        kind = "application/json" if raw is None else "text/html"
        raw = json.dumps(body).encode() if raw is None else raw

        async def act(_: web.Request) -> web.StreamResponse:
            named = {"Content-Type": kind} | (headers or {})
            return web.Response(status=status, headers=named, body=raw)

        return self._add(match, act, times)

    def stall(self, match: str, seconds: float, times: int | None = None) -> Rule:
        """Say nothing for so long, or until `mend`; then answer truly."""

        async def act(request: web.Request) -> web.StreamResponse:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._mended.wait()
            return (await self._ask(request)).respond()

        return self._add(match, act, times)

    def reset(self, match: str, *, after: float | None = None, times: int | None = None) -> Rule:
        """Reset the connection: at once, or in the middle of the true answer's body.

        `after` is how much of the body is sent, between 0 and 1.
        """

        async def act(request: web.Request) -> web.StreamResponse:
            if after is not None:
                await self._part(request, await self._ask(request), after)
                await asyncio.sleep(0.05)
            return _reset(request)

        return self._add(match, act, times)

    def swallow(self, match: str, times: int | None = None) -> Rule:
        """Let the homeserver do it, and reset the connection instead of telling."""
        return self.reset(match, after=0.0, times=times)

    def cut(self, match: str, *, honest: bool = False, times: int | None = None) -> Rule:
        """End in the middle of the true answer; `honest`: with a length that says so."""

        async def act(request: web.Request) -> web.StreamResponse:
            answer = await self._ask(request)
            if honest:
                body = answer.body[: len(answer.body) // 2]
                return Answer(answer.status, answer.headers, body).respond()
            response = await self._part(request, answer, 0.5)
            if request.transport is not None:
                request.transport.close()
            return response

        return self._add(match, act, times)

    def drip(self, match: str, *, size: int, every: float, times: int | None = None) -> Rule:
        """Give the true answer out in pieces of `size` bytes, one `every` so many seconds."""

        async def act(request: web.Request) -> web.StreamResponse:
            answer, mended = await self._ask(request), self._mended
            response = await _begin(request, answer, len(answer.body))
            for place in range(0, len(answer.body), size):
                await response.write(answer.body[place : place + size])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every):
                        await mended.wait()
            return response

        return self._add(match, act, times)

    def flood(self, match: str, total: int, times: int | None = None) -> Rule:
        """Answer with `total` bytes of garbage; `longest` says how many of them were taken."""

        async def act(request: web.Request) -> web.StreamResponse:
            answer = Answer(200, {"Content-Type": "application/json"}, b"")
            response = await _begin(request, answer, None)
            piece = b'{"rubbish": "' + b"x" * (CHUNK - 13)
            for number in range(total // CHUNK):
                await response.write(piece)
                self.longest = max(self.longest, (number + 1) * CHUNK)
                # A kernel may hold more than any bound; so whoever reads gets a turn to.
                await asyncio.sleep(0)
            return response

        return self._add(match, act, times)

    def twice(self, match: str, times: int | None = None) -> Rule:
        """Send the request to the homeserver twice, at once; give the second answer back."""

        async def act(request: web.Request) -> web.StreamResponse:
            await request.read()
            _, second = await asyncio.gather(self._ask(request), self._ask(request))
            return second.respond()

        return self._add(match, act, times)

    def repeat(self, match: str, times: int | None = None) -> Rule:
        """Give the answer to the first of these requests to all of them."""
        known: list[Answer] = []

        async def act(request: web.Request) -> web.StreamResponse:
            if not known:
                known.append(await self._ask(request))
            return known[0].respond()

        return self._add(match, act, times)

    def gate(self, match: str, refuse: Callable[[], Answer | None]) -> Rule:
        """Ask about each of these requests: the answer in the homeserver's place, if any."""

        async def act(request: web.Request) -> web.StreamResponse:
            return (refuse() or await self._ask(request)).respond()

        return self._add(match, act, None)

    # --- inside

    def _add(self, match: str, act: Fault, times: int | None) -> Rule:
        self._rules.append(Rule(match=re.compile(match), act=act, left=times))
        return self._rules[-1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        what = f"{request.method} {request.rel_url.raw_path_qs}"
        rule = next((r for r in self._rules if r.left != 0 and r.match.search(what)), None)
        self.seen.append(Seen(what, time.monotonic(), rule is not None))
        if rule is None:
            return (await self._ask(request)).respond()
        rule.hits += 1
        rule.left = None if rule.left is None else rule.left - 1
        return await rule.act(request)

    async def _ask(self, request: web.Request) -> Answer:
        """Ask the homeserver; where there is none, say what gateways say."""
        assert self._http is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        url = URL(self.target + request.rel_url.raw_path_qs, encoded=True)
        body = await request.read()
        try:
            async with self._http.request(
                request.method, url, headers=headers, data=body
            ) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
                return Answer(answer.status, kept, await answer.read())
        except aiohttp.ClientError:
            return Answer(502, {"Content-Type": "text/html"}, PAGE.encode())

    async def _part(self, request: web.Request, answer: Answer, share: float) -> web.StreamResponse:
        """Send the beginning of an answer whose head promises all of it."""
        response = await _begin(request, answer, len(answer.body))
        await response.write(answer.body[: int(len(answer.body) * share)])
        return response


async def _begin(request: web.Request, answer: Answer, length: int | None) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = length
    await response.prepare(request)
    return response


def _reset(request: web.Request) -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        # Without lingering, closing resets: the other side gets ECONNRESET, not an end.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()
