"""nio's client, which can also speak for the bot with the token of an application service."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import aiohttp
from nio import AsyncClient

from bot.matrix import answers
from bot.matrix.http import LARGE, read
from bot.matrix.wire import new_session


class Client(AsyncClient):  # type: ignore[misc]
    """Makes every request in one place: the bot's own and those that nio makes by itself."""

    client_session: aiohttp.ClientSession | None
    speaks_for: dict[str, str] | None = None
    """Whom an application service's token stands for; such a token alone names nobody."""

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

    async def parse_body(self, transport_response: aiohttp.ClientResponse) -> dict[Any, Any]:
        """Read an answer as the bot's own requests do: nio reads it whole, however long."""
        raw = await read(transport_response, LARGE)
        found = answers.parse(raw or b"")
        return found if isinstance(found, dict) else {}
