"""Keeps the device's own keys on the homeserver, and other people's devices known."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import aiohttp
from nio import AsyncClient

from bot.core.json_shape import inside
from bot.core.outcome_text import describe
from bot.core.outcomes import Done, LoginError, OutcomeError, Refused, TokenRejectedError
from bot.core.topics import Topic, Topics
from bot.core.types import Event, UserID
from bot.matrix.encryption.device_lists import CLAIMED, Devices, Request, portions
from bot.matrix.encryption.engine import CarefulOlm
from bot.matrix.http.endpoints import path
from bot.matrix.private_files import disk

log = logging.getLogger(__name__)

TAKEN: Final = (
    "the login that the bot was given is a device that has other keys already: it is in use, such"
    " as by an app that the token was copied from, and in encrypted rooms nobody could write to"
    " both. Nothing was changed there. Give the bot ({user_id}) a login of its own: a password, or"
    " the token of a login that no app has used; and move device.json and crypto out of data_dir"
)


class DeviceKeys:
    """Does what the engine asks for between one sync and the next."""

    def __init__(
        self, client: AsyncClient, request: Request, devices: Devices, topics: Topics
    ) -> None:
        self._client = client
        self._request = request
        self._devices = devices
        self._topics = topics
        self._keeping_up = asyncio.Lock()
        self.fallback_wanted = True
        """The homeserver has no fallback key of ours that was not used yet."""
        self.unproven = False
        """Whether the homeserver's copy of the device has to be looked at before all else."""
        self._lost = False

    @property
    def _olm(self) -> CarefulOlm:
        engine: CarefulOlm = self._client.olm
        return engine

    @property
    def own_keys(self) -> tuple[str, str]:
        """The Ed25519 and Curve25519 keys of this device."""
        own = self._olm.account.identity_keys
        return str(own["ed25519"]), str(own["curve25519"])

    async def keep_up(self) -> None:
        """Do what the engine asks for: upload keys, query devices, mend channels.

        What fails is asked for again with the next sync. Raises `TokenRejectedError`.
        """
        try:
            async with self._keeping_up:
                if self.unproven:
                    await self.prove()
                await self._upload()
                await self.query(set())
                await self._mend()
        except TokenRejectedError:
            raise
        except OutcomeError as error:
            log.info("encryption keys wait for the homeserver (%s)", describe(error.outcome))
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("encryption keys wait for the homeserver (%s)", _why(error))
        except Exception as error:  # noqa: BLE001 - answers are made of strangers' device keys
            log.warning("encryption keys: %s", type(error).__name__)

    async def prove(self) -> None:
        """See that the homeserver's copy of the device, if it has one, is this device.

        One that was deleted has lost its keys there: they are to be uploaded anew. Raises
        `OutcomeError` when it cannot be told now, and `LoginError` when it is somebody else's.
        """
        own_id, device_id = self._client.user_id, self._client.device_id
        body = {"device_keys": {own_id: [device_id]}}
        outcome = await self._request("POST", path("keys", "query"), body)
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        found = device_keys(outcome.body, own_id, device_id)
        if found is None:
            if self._olm.account.shared:
                log.warning("the homeserver has lost the device's keys: they are uploaded anew")
                self._lost, self.fallback_wanted = True, True
                self._olm.account.shared = False
                self._olm.uploaded_key_count = 0
                with disk():
                    self._olm.save_account()
        elif found != self.own_keys:
            raise LoginError(TAKEN.format(user_id=own_id))
        self.unproven = False

    async def _mend(self) -> None:
        """Make new channels where one broke, and send what waits to be sent."""
        await self._send_waiting()
        for portion in portions(list(self._olm.wedged_devices), CLAIMED):
            before = [self._olm.channel_to(one) for one in portion]
            await self._devices.open_channels(portion)
            messages = []
            async with self._olm.store.piece_aside():
                for device, channel in zip(portion, before, strict=True):
                    # One that gave no key is tried again with its next message.
                    self._olm.wedged_devices.remove(device)
                    if self._olm.channel_to(device) is not channel:
                        messages += self._olm.unwedge(device)
            self._client.outgoing_to_device_messages.extend(messages)
        await self._send_waiting()

    async def _send_waiting(self) -> None:
        """Send what waits to be sent to single devices, one after the other."""
        for message in list(self._client.outgoing_to_device_messages):
            await self._client.to_device(message)

    async def _upload(self) -> None:
        """Upload what the homeserver lacks of the device's own keys."""
        if not self._client.should_upload_keys and not self.fallback_wanted:
            return
        async with self._olm.store.piece_aside():
            content = self._olm.keys_to_upload(fallback=self.fallback_wanted)
        outcome = await self._request("POST", "/_matrix/client/v3/keys/upload", content)
        if isinstance(outcome, Done):
            counts = outcome.body.get("one_time_key_counts", {})
            async with self._olm.store.piece_aside():
                self._olm.uploaded(int(counts.get("signed_curve25519", 0)))
            self.fallback_wanted = False
            if self._lost:
                self._lost = False
                self._topics.publish(Topic.DEVICE_KEYS)
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


def device_keys(answer: Event, user_id: str, device_id: str) -> tuple[str, str] | None:
    """Return a device's Ed25519 and Curve25519 keys by `/keys/query`; `None` if it has none.

    A key that is no text is an empty one.
    """
    found = inside(answer, "device_keys", user_id, device_id, "keys")
    if not isinstance(found, dict):
        return None
    keys = [found.get(f"{kind}:{device_id}") for kind in ("ed25519", "curve25519")]
    first, second = (key if isinstance(key, str) else "" for key in keys)
    return first, second


def _why(error: Exception) -> str:
    """Return what stands in an error of our own, else its name: others quote what they got."""
    own = type(error) is aiohttp.ClientConnectionError and str(error).startswith("status ")
    return str(error) if own else type(error).__name__
