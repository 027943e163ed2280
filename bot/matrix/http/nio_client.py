"""nio's client, which keeps to a login that lasts, and can speak for an application service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

import aiohttp
from nio import AsyncClient

from bot.core.outcome_text import describe
from bot.core.outcomes import OutcomeError
from bot.matrix.http import responses
from bot.matrix.http.connections import new_session
from bot.matrix.http.response_body import LARGE, read

T = TypeVar("T")


class Renewal(Protocol):
    """Sees that requests are made with a token that is accepted."""

    async def carry(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request, and once more with another token if its own has ended."""
        ...


class Client(AsyncClient):  # type: ignore[misc]
    """Makes every request in one place: the bot's own and those that nio makes by itself."""

    client_session: aiohttp.ClientSession | None
    speaks_for: dict[str, str] | None = None
    """Whom an application service's token stands for; such a token alone names nobody."""
    renewal: Renewal | None = None
    """Without it, a token that has ended is an error at once."""

    def speak_for(self, user_id: str, device_id: str | None = None) -> None:
        """Say in every request from now on whose it is.

        spec: application service API, identity assertion; `device_id`: MSC4326.
        """
        self.speaks_for = {"user_id": user_id}
        if device_id:
            self.speaks_for["device_id"] = device_id

    async def send(self, method: str, path: str, *arguments: Any, **options: Any) -> Any:
        """Make one request. Raises aiohttp's errors and `TimeoutError`."""
        if self.client_session is None:  # nio's own would know no proxy
            within = self.config.request_timeout
            self.client_session = new_session(self.homeserver, within=within)
        if self.speaks_for:
            path += ("&" if "?" in path else "?") + urlencode(self.speaks_for)
        return await super().send(method, path, *arguments, **options)

    async def _send(self, *arguments: Any, **options: Any) -> Any:
        """Make one of nio's own requests, with a token that is accepted.

        Raises aiohttp's errors, `TimeoutError` and `TokenRejectedError`.
        """
        ask = super()._send
        if self.renewal is None:
            return await ask(*arguments, **options)
        try:
            return await self.renewal.carry(lambda: ask(*arguments, **options))
        except OutcomeError as error:
            raise aiohttp.ClientConnectionError(describe(error.outcome)) from error

    async def parse_body(self, transport_response: aiohttp.ClientResponse) -> dict[Any, Any]:
        """Read an answer as the bot's own requests do; raises `TokenRejectedError` as they do."""
        raw = await read(transport_response, LARGE)
        return responses.read_object(raw or b"")
