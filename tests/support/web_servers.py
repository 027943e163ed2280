"""Web servers on loopback that are no homeserver, or hardly one; and a proxy before them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from aiohttp import web

from tests.support.federation import HOST, pump, self_signed

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = "/_matrix/client/versions"
WELL_KNOWN = "/.well-known/matrix/client"
BOT = "@bot:example.org"
HOMESERVER: dict[str, Any] = {
    VERSIONS: {"versions": ["v1.1", "v1.11"]},
    "/_matrix/client/v3/login": {"user_id": BOT, "access_token": "token", "device_id": "DEVICE"},
    "/_matrix/client/v3/logout": {},
    "/_matrix/client/v3/account/whoami": {"user_id": BOT, "device_id": "DEVICE"},
}
"""What a homeserver answers to `check`, by path."""


class Site:
    """Answers by path: an object with 200, a text as a web page with 404, or a `Response`."""

    def __init__(self, answers: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        self.answers = answers if answers is not None else dict(HOMESERVER)
        self.asked: list[str] = []
        made = self_signed(folder) if folder else None
        self.certificate: Path | None = made[0] if made else None
        self._key: Path | None = made[1] if made else None
        self._runner: web.ServerRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        tls = None
        if self.certificate is not None and self._key is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(self.certificate, self._key)
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0, ssl_context=tls).start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://{HOST}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        found = self.answers.get(request.path, "<h1>No such page</h1>")
        if isinstance(found, tuple):  # a redirect, which cannot be sent twice as one object
            status, where = found
            return web.Response(status=status, headers={"Location": where})
        if isinstance(found, str):
            return web.Response(status=404, text=found, content_type="text/html")
        return web.json_response(found)


class Proxy:
    """A proxy as operators run them: it tunnels, forwards, and may want a password."""

    def __init__(self, authorization: str = "") -> None:
        self.seen: list[str] = []
        """The first line of every request."""
        self._authorization = authorization
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._pass(reader, writer)
        writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, _, headers = head.partition("\r\n")
        self.seen.append(first)
        method, target, _ = first.split(" ")
        if self._authorization not in headers:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        parts = urlsplit(target if "://" in target else f"//{target}")
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            far_writer.write(f"{method} {parts.path} HTTP/1.1\r\n{headers}".encode())
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


def leads_to(address: Any) -> dict[str, Any]:
    """Return the answers of a web site whose .well-known names a homeserver."""
    return {WELL_KNOWN: {"m.homeserver": {"base_url": address}}}


def config(homeserver: str, folder: Path) -> Path:
    """Write a config for `check`; JSON is YAML."""
    settings = {"homeserver": homeserver, "user_id": BOT, "password": "x"}
    file = folder / "config.yaml"
    file.write_text(json.dumps(settings | {"data_dir": str(folder / "data")}))
    return file
