"""The bot's cross-signing keys: made once, kept apart, and used to sign its own device."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from signedjson.key import decode_signing_key_base64
from signedjson.sign import SignatureVerifyException, sign_json, verify_signed_json
from signedjson.types import SigningKey
from unpaddedbase64 import encode_base64

from bot.matrix.client import Matrix, path
from bot.matrix.files import write_private
from bot.model import Done, Event, Outcome, OutcomeError, Refused, Unreachable, UserID

USAGES: Final = ("master", "self_signing", "user_signing")


class Standing(StrEnum):
    """How the bot's device stands with clients that trust signed devices only."""

    SIGNED = "signed"
    """The device is signed by the account's own keys."""
    LOST = "lost"
    """The account has cross-signing keys, and their seeds are not here."""
    REPLACED = "replaced"
    """The account has other keys than those whose seeds are here: somebody made new ones."""
    UNPROVEN = "unproven"
    """The homeserver's copy of the device is not this device: nothing is signed."""
    REFUSED = "refused"
    """The homeserver wants the password before it takes new keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """The secret halves of the three keys, as unpadded base64 of 32 bytes each."""

    user_id: UserID
    master: str = field(repr=False)
    self_signing: str = field(repr=False)
    user_signing: str = field(repr=False)

    @classmethod
    def make(cls, user_id: UserID) -> Seeds:
        """Make new ones."""
        made = {usage: encode_base64(secrets.token_bytes(32)) for usage in USAGES}
        return cls(user_id=user_id, **made)

    @classmethod
    def load(cls, where: Path) -> Seeds | None:
        """Return the seeds kept in a file; `None` when there is none.

        Raises `ValueError` when the file holds something else.
        """
        try:
            return cls(**json.loads(where.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise ValueError("not the seeds of cross-signing keys") from error

    def save(self, where: Path) -> None:
        """Write them to the disk for good, before anybody hears of the keys."""
        write_private(where, json.dumps(asdict(self)) + "\n")

    def key(self, usage: str) -> SigningKey:
        """Return one of the keys; its id is its own public half."""
        seed = getattr(self, usage)
        public = encode_base64(bytes(decode_signing_key_base64("ed25519", "", seed).verify_key))
        return decode_signing_key_base64("ed25519", public, seed)

    def public(self, usage: str) -> str:
        """Return the public half of one of the keys."""
        return str(self.key(usage).version)

    def objects(self) -> dict[str, Event]:
        """Return the keys as they are published, signed by the master key.

        spec: client-server API v1.13, 11.12.3.4 cross-signing.
        """
        made: dict[str, Event] = {}
        for usage in USAGES:
            public = self.public(usage)
            made[usage] = {
                "user_id": self.user_id,
                "usage": [usage],
                "keys": {f"ed25519:{public}": public},
            }
            if usage != "master":
                sign_json(made[usage], self.user_id, self.key("master"))
        return made


Authorise = Callable[[Event], Awaitable[Event | None]]
"""Turns the homeserver's demand for interactive authentication into an answer, if there is one."""


class CrossSigning:
    """Brings the account's keys and the device's signature into the state they should have."""

    def __init__(self, matrix: Matrix, where: Path) -> None:
        self._matrix = matrix
        self._where = where

    async def settle(self) -> Standing:
        """Make keys if the account has none, and sign the device if it is not signed.

        Raises `OutcomeError` when the homeserver did not answer: do it again.
        """
        crypto = self._matrix.crypto
        if not crypto.in_place:
            await crypto.keep_up()
        if not crypto.in_place:
            raise OutcomeError(Unreachable(reason="the device's own keys are not uploaded yet"))
        seeds = Seeds.load(self._where)
        own = await self._own_keys()
        published = own.get("master_keys", {}).get(self._matrix.own_id)
        if seeds is None and published is not None:
            return Standing.LOST
        if seeds is None:
            seeds = Seeds.make(self._matrix.own_id)
            seeds.save(self._where)
        if published is None:
            if not await self.publish(seeds, None):
                return Standing.REFUSED
        elif f"ed25519:{seeds.public('master')}" not in published.get("keys", {}):
            return Standing.REPLACED
        return await self.sign_device(seeds)

    async def publish(self, seeds: Seeds, password: str | None) -> bool:
        """Upload the public keys; `False` when that takes a password that is not given.

        A first upload takes none on a homeserver that follows MSC3967; replacing keys does.
        Raises `OutcomeError`.
        """
        where = path("keys", "device_signing", "upload")
        body: Event = {f"{usage}_key": key for usage, key in seeds.objects().items()}
        outcome = await self._matrix.request("POST", where, body)
        if isinstance(outcome, Refused) and outcome.status == 401 and password is not None:
            body["auth"] = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": seeds.user_id},
                "password": password,
                "session": outcome.body.get("session"),
            }
            outcome = await self._matrix.request("POST", where, body)
        if isinstance(outcome, Refused) and outcome.status == 401:
            return False
        _must(outcome)
        return True

    async def sign_device(self, seeds: Seeds) -> Standing:
        """Sign this device with the self-signing key, and the master key with this device.

        Only if the homeserver's copy is this device indeed: a homeserver that lies about it
        gets no signature. Raises `OutcomeError`.
        """
        own_id, crypto = self._matrix.own_id, self._matrix.crypto
        own = await self._own_keys()
        device = own.get("device_keys", {}).get(own_id, {}).get(crypto.device_id)
        if not isinstance(device, dict) or not crypto.is_own(device):
            return Standing.UNPROVEN
        if _signed_by(device, own_id, seeds):
            return Standing.SIGNED
        device.pop("unsigned", None)
        sign_json(device, own_id, seeds.key("self_signing"))
        master = crypto.sign(seeds.objects()["master"])
        body: Event = {own_id: {crypto.device_id: device, seeds.public("master"): master}}
        outcome = await self._matrix.request("POST", path("keys", "signatures", "upload"), body)
        failures = _must(outcome).get("failures")
        return Standing.UNPROVEN if failures else Standing.SIGNED

    async def _own_keys(self) -> Event:
        body: Event = {"device_keys": {self._matrix.own_id: []}}
        return _must(await self._matrix.request("POST", path("keys", "query"), body))


def _signed_by(device: Event, own_id: UserID, seeds: Seeds) -> bool:
    """Whether the device carries a good signature of the self-signing key."""
    key: Any = seeds.key("self_signing")
    verify = key.verify_key
    verify.version, verify.alg = key.version, key.alg
    try:
        verify_signed_json(device, own_id, verify)
    except SignatureVerifyException:
        return False
    return True


def _must(outcome: Outcome) -> Event:
    if not isinstance(outcome, Done):
        raise OutcomeError(outcome)
    return outcome.body
