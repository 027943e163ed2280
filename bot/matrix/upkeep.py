"""Keeps the device's own keys on the homeserver, and other people's devices known."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from nio import AsyncClient

from bot.matrix.devices import CLAIMED, Devices, Request, portions
from bot.matrix.olm import CarefulOlm
from bot.model import Done, OutcomeError, Refused, TokenRejectedError, UserID

log = logging.getLogger(__name__)


class Upkeep:
    """Does what the engine asks for between one sync and the next."""

    def __init__(self, client: AsyncClient, request: Request, devices: Devices) -> None:
        self._client = client
        self._request = request
        self._devices = devices
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
        except OutcomeError as error:
            log.info("encryption keys wait for the homeserver (%s)", type(error.outcome).__name__)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("encryption keys wait for the homeserver (%s)", type(error).__name__)
        except Exception as error:  # noqa: BLE001 - answers are made of strangers' device keys
            log.warning("encryption keys: %s", type(error).__name__)

    async def _mend(self) -> None:
        """Make new channels where one broke, and send what waits to be sent."""
        await self._send_waiting()
        for portion in portions(list(self._olm.wedged_devices), CLAIMED):
            before = [self._olm.channel_to(one) for one in portion]
            await self._devices.open_channels(portion)
            with self._olm.store.piece():
                for device, channel in zip(portion, before, strict=True):
                    # One that gave no key is tried again with its next message.
                    self._olm.wedged_devices.remove(device)
                    if self._olm.channel_to(device) is not channel:
                        self._olm.unwedge(device)
        await self._send_waiting()

    async def _send_waiting(self) -> None:
        """Send what waits to be sent to single devices, one after the other."""
        for message in list(self._client.outgoing_to_device_messages):
            await self._client.to_device(message)

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
        """Fetch the devices of `users`, or else of all whose devices changed.

        Raises `OutcomeError`; then they are still to be fetched.
        """
        # Whom somebody waits for is asked for alone: others' troubles are not theirs.
        await self._devices.query(users or set(map(UserID, self._olm.users_for_key_query)))
