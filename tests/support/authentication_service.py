"""Stands in for a Matrix Authentication Service: it says whose a token is, and no more."""

from __future__ import annotations

from typing import Any, Self

from aiohttp import web

SECRET = "between the two of them"
API = "urn:matrix:client:api:*"
ISSUER = "https://account.example.org/"


class StandIn:
    """Answers Synapse's two questions: who it is, and about a token (RFC 7662)."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._metadata)
        app.router.add_post("/oauth2/introspect", self._introspect)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def config(self) -> dict[str, Any]:
        """What makes a Synapse rely on it."""
        assert self._runner is not None
        endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        service = {"enabled": True, "endpoint": endpoint, "secret": SECRET}
        return {"matrix_authentication_service": service, "password_config": {"enabled": False}}

    def grant(self, token: str, name: str, device_id: str | None, **more: Any) -> None:
        """Let a token be somebody's; without `expires_in` it does not end."""
        self.tokens[token] = {"active": True, "scope": API, "username": name, "sub": name} | more
        if device_id is not None:
            self.tokens[token]["device_id"] = device_id

    async def _metadata(self, _: web.Request) -> web.Response:
        found = {"issuer": ISSUER, "account_management_uri": f"{ISSUER}account/"}
        return web.json_response(found)

    async def _introspect(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {SECRET}"
        token = (await request.post())["token"]
        return web.json_response(self.tokens.get(str(token), {"active": False}))
