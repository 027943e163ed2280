"""Makes one request and names its answer, of which it never reads more than there is use for."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

import aiohttp

from bot.core.outcomes import Done, Outcome, OutcomeError, Unreachable
from bot.core.types import Event
from bot.matrix.http import responses
from bot.matrix.http.connections import reason
from bot.matrix.http.nio_client import Client
from bot.matrix.http.response_body import SMALL, read

log = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 30.0
"""Seconds for one request; a long poll gets its own time on top."""
LEVELS: Final = 2
"""Levels of an answer down to what it is long for: the answer itself, and its events or members."""
SYNC_LEVELS: Final = 6
"""Those of a sync's answer down to an event: answer, rooms, join, room, timeline, events."""


class Requests:
    """One account's way to its homeserver."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def request(
        self,
        method: str,
        where: str,
        body: Any = None,
        *,
        within: float = ANSWER_WITHIN,
        most: int = SMALL,
        trim: bool = False,
        parts: int | None = None,
    ) -> Outcome:
        """Make one request, once; return the outcome's name.

        An answer of more than `most` bytes, or of more objects and lists than `parts`, is not
        read: the outcome is `answers.TOO_LARGE`. `trim`: it answers a sync, see `read`. Where the
        access token has ended, there is a new one first; where it cannot be had now, the outcome
        says why. Raises `TokenRejectedError` when the bot has no way to log in any more, and
        `DiskError` when a new token cannot be stored.
        """
        renewal = self._client.renewal

        async def ask() -> Outcome:
            return await self.once(
                method, where, body, within=within, most=most, trim=trim, parts=parts
            )

        try:
            return await (ask() if renewal is None else renewal.carry(ask))
        except OutcomeError as error:
            return error.outcome

    async def once(
        self,
        method: str,
        where: str,
        body: Any = None,
        *,
        token: str | None = None,
        within: float = ANSWER_WITHIN,
        most: int = SMALL,
        trim: bool = False,
        parts: int | None = None,
    ) -> Outcome:
        """Make one request as it is; `token` in place of the bot's own, none if it is empty.

        Raises `TokenRejectedError` when the token is not accepted.
        """
        headers = {"Content-Type": "application/json"}
        token = self._client.access_token if token is None else token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body)
        timeout: Any = aiohttp.ClientTimeout(total=within)
        try:
            response = await self._client.send(method, where, data, headers, timeout=timeout)
            async with response:
                raw = await read(response, most, trim=trim)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Unreachable(reason=reason(error))
        if raw is None or (parts is not None and raw.count(b"{") + raw.count(b"[") > parts):
            return responses.TOO_LARGE
        levels = SYNC_LEVELS if trim else LEVELS
        found = await responses.parse_by_portions(raw, levels)
        return responses.name(response.status, found, response.headers)

    async def must(self, method: str, where: str, body: Any = None, *, most: int = SMALL) -> Event:
        """Make a request that has to succeed; return its answer. Raises `OutcomeError`."""
        outcome = await self.request(method, where, body, most=most)
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        return outcome.body
