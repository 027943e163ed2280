"""Keeps the device's own keys on the homeserver, and other people's devices known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from nio import AsyncClient, ErrorResponse

from bot.matrix.olm import CarefulOlm
from bot.model import Done, Outcome, Refused, TokenRejectedError, UserID

log = logging.getLogger(__name__)

Request = Callable[[str, str, Any], Awaitable[Outcome]]
"""Method, path and body of a request."""


class Upkeep:
    """Does what the engine asks for between one sync and the next."""

    def __init__(self, client: AsyncClient, request: Request) -> None:
        self._client = client
        self._request = request
        self._keeping_up = asyncio.Lock()
        self.fallback_wanted = True
        """The homeserver has no fallback key of ours that was not used yet."""

    @property
    def _olm(self) -> CarefulOlm:
        engine: CarefulOlm = self._client.olm
        return engine

    async def keep_up(self) -> None:
        """Do what the engine asks for: upload keys, query devices, mend channels.

        What fails is asked for again with the next sync. Raises `TokenRejectedError`.
        """
        try:
            async with self._keeping_up:
                await self._upload()
                await self.query(set())
                await self._mend()
        except TokenRejectedError:
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("encryption keys wait for the homeserver (%s)", type(error).__name__)
        except Exception as error:  # noqa: BLE001 - answers are made of strangers' device keys
            log.warning("encryption keys: %s", type(error).__name__)

    async def _mend(self) -> None:
        """Make new channels where one broke, and send what waits to be sent."""
        client = self._client
        if client.outgoing_to_device_messages:
            await client.send_to_device_messages()
        if client.should_claim_keys:
            await client.keys_claim(client.get_users_for_key_claiming())
            await client.send_to_device_messages()

    async def _upload(self) -> None:
        """Upload what the homeserver lacks of the device's own keys."""
        if not self._client.should_upload_keys and not self.fallback_wanted:
            return
        content = self._olm.keys_to_upload(fallback=self.fallback_wanted)
        outcome = await self._request("POST", "/_matrix/client/v3/keys/upload", content)
        if isinstance(outcome, Done):
            counts = outcome.body.get("one_time_key_counts", {})
            self._olm.uploaded(int(counts.get("signed_curve25519", 0)))
            self.fallback_wanted = False
        elif isinstance(outcome, Refused):
            # A restored store counts its keys from where they were used already: pass over them.
            log.warning("one-time keys were refused (%s): making others", outcome.errcode)
            self._olm.mark_keys_as_published()
            self._olm.save_account()

    async def query(self, users: set[UserID]) -> None:
        """Fetch the devices of `users`, and of all whose devices changed.

        Raises `aiohttp.ClientError` or `TimeoutError`; then they are still to be fetched.
        """
        wanted = self._olm.users_for_key_query
        # Whom somebody waits for is asked for alone: others' troubles are not theirs.
        asked = set(users) or set(wanted)
        try:
            if asked and not await self._query(asked):
                # Somebody's keys are not as keys should be: others' must not be lost with them.
                for user in asked:
                    await self._query({UserID(user)})
        except (aiohttp.ClientError, TimeoutError):
            wanted.update(asked)
            raise

    async def _query(self, users: set[UserID]) -> bool:
        """Fetch devices; `False` when nio could not take in what it got."""
        wanted = self._olm.users_for_key_query
        others = wanted - users
        wanted.clear()
        wanted.update(users)
        try:
            answer = await self._client.keys_query()
        except (aiohttp.ClientError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 - strangers' keys, of any shape
            log.warning("passed over %d people's keys (%s)", len(users), type(error).__name__)
            return False
        finally:
            # A server that is away answers for nobody; its users are asked for when needed.
            wanted.difference_update(users)
            wanted.update(others)
        if isinstance(answer, ErrorResponse):
            transport = answer.transport_response
            if transport is not None and transport.status == 200:
                log.warning("passed over %d people's keys (malformed)", len(users))
                return False
            raise aiohttp.ClientConnectionError
        return True
