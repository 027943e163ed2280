"""A homeserver that is nothing but logins: tokens that end, are refreshed, and are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

USER = "@bot:example.org"
PASSWORD = "right"

Answer = tuple[int, Any]
Fault = Callable[[web.Request], Answer | None]


def unknown_token(*, soft: bool = False) -> Answer:
    return 401, {"errcode": "M_UNKNOWN_TOKEN", "error": "no", "soft_logout": soft}


class LoginServer:
    """Answers `/login`, `/refresh`, `/account/whoami`, keys, and any other request with a token."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        """The access tokens that are accepted, and the device of each."""
        self.ended: set[str] = set()
        """Those that are known to have ended: `soft_logout`."""
        self.refresh_tokens: dict[str, str] = {}
        """The refresh tokens that are accepted, and the device of each."""
        self.gives_refresh_tokens = True
        self.lifetime: int | None = 300_000
        self.device_keys: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        """Each request: `POST /login`, and its body."""
        self.used: list[str] = []
        """The token of each request that is not about logging in."""
        self.faults: dict[str, list[Answer]] = {}
        """Answers that the next requests get instead, by `POST /login`; `*`: any other one."""
        self.gate = asyncio.Event()
        self.gate.set()
        """While it is clear, logins and refreshes are not answered."""
        self.reached = asyncio.Event()
        """Set when one of them has come."""
        self._number = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/_matrix/client/v3/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def count(self, what: str) -> int:
        return sum(one == what for one, _ in self.asked)

    def grant(self, device_id: str, *, refreshable: bool) -> dict[str, Any]:
        """Make a token of a device."""
        self._number += 1
        token = f"token-{self._number}"
        self.tokens[token] = device_id
        body: dict[str, Any] = {"access_token": token, "device_id": device_id, "user_id": USER}
        if refreshable:
            body["refresh_token"] = f"refresh-{self._number}"
            self.refresh_tokens[body["refresh_token"]] = device_id
        if self.lifetime is not None:
            body["expires_in_ms"] = self.lifetime
        return body

    def end(self, *, soft: bool = True) -> None:
        """Let every access token end."""
        self.ended = set(self.tokens) if soft else set()
        self.tokens.clear()

    def log_out(self) -> None:
        """Delete every device, as after a password change."""
        self.end(soft=False)
        self.refresh_tokens.clear()
        self.device_keys.clear()

    async def _handle(self, request: web.Request) -> web.Response:
        what = f"{request.method} /{request.match_info['tail']}"
        body = await request.json() if request.can_read_body else None
        self.asked.append((what, body))
        handlers: dict[str, Callable[[Any], Awaitable[Answer]]] = {
            "POST /login": self._login,
            "POST /refresh": self._refresh,
        }
        name = what if what in self.faults else "*"
        if self.faults.get(name) and (what == name or what not in handlers):
            status, answer = self.faults[name].pop(0)
        elif what in handlers:
            self.reached.set()
            await self.gate.wait()
            status, answer = await handlers[what](body)
        else:
            status, answer = self._other(what, request, body)
        if isinstance(answer, str):
            return web.Response(status=status, text=answer, content_type="text/html")
        return web.json_response(answer, status=status)

    async def _login(self, body: Any) -> Answer:
        if body["password"] != PASSWORD:
            return 403, {"errcode": "M_FORBIDDEN", "error": "no"}
        self._number += 1
        device_id = body.get("device_id") or f"NEW{self._number}"
        refreshable = self.gives_refresh_tokens and body.get("refresh_token") is True
        return 200, self.grant(device_id, refreshable=refreshable)

    async def _refresh(self, body: Any) -> Answer:
        device_id = self.refresh_tokens.get(body["refresh_token"])
        if device_id is None:
            return unknown_token()
        return 200, self.grant(device_id, refreshable=True)

    def _other(self, what: str, request: web.Request, body: Any) -> Answer:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.used.append(token)
        device_id = self.tokens.get(token)
        if device_id is None:
            return unknown_token(soft=token in self.ended)
        if what == "GET /account/whoami":
            return 200, {"user_id": USER, "device_id": device_id}
        if what == "POST /keys/upload":
            if "device_keys" in body:
                self.device_keys[device_id] = body["device_keys"]
            return 200, {"one_time_key_counts": {"signed_curve25519": 50}}
        if what == "POST /keys/query":
            return 200, {"device_keys": {USER: self.device_keys}}
        if what.endswith("/joined_members"):
            return 200, {"joined": {USER: {"display_name": None, "avatar_url": None}}}
        return 200, {"event_id": "$event"}
