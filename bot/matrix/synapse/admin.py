"""The homeserver as its administrator knows it: requests to Synapse's admin API."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from bot.core.outcomes import Outcome, Unreachable
from bot.matrix.http import responses
from bot.matrix.http.connections import new_session, reason
from bot.matrix.http.response_body import SMALL, read

BASE: Final = "/_synapse/admin"
ANSWER_WITHIN: Final = 30.0
"""Seconds for one request."""


def path(*parts: str) -> str:
    """Return a path under `/_synapse/admin` with every part quoted: ids hold any sign."""
    return f"{BASE}/{'/'.join(quote(part, safe='') for part in parts)}"


class Admin:
    """Makes requests with the access token of a server administrator, kept apart from the bot's."""

    def __init__(self, homeserver: str, token: str) -> None:
        self._homeserver = homeserver
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        self._http: aiohttp.ClientSession | None = None

    async def request(self, method: str, where: str, body: Any = None) -> Outcome:
        """Make one request, once; `where` comes from `path`. Return the outcome's name.

        `Forbidden`: the token is no administrator's. `Refused` or `Failed` with status 404: this is
        no Synapse, or a proxy keeps its admin API from us. Raises `TokenRejectedError` for an
        unknown token.
        """
        if self._http is None:
            self._http = new_session(self._homeserver, within=ANSWER_WITHIN, headers=self._headers)
        data = None if body is None else json.dumps(body)
        try:
            # Not to be followed: the token is for this address only.
            async with self._http.request(
                method, self._homeserver + where, data=data, allow_redirects=False
            ) as response:
                raw = await read(response, SMALL)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Unreachable(reason=reason(error))
        if raw is None:
            return responses.TOO_LARGE
        return responses.name(response.status, responses.parse(raw), response.headers)

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()
