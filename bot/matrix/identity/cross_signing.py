"""The bot's cross-signing keys: made once, restored if lost, and used to sign its own device."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from signedjson.sign import SignatureVerifyException, sign_json, verify_signed_json
from unpaddedbase64 import decode_base64, encode_base64

from bot.core.json_shape import as_object, inside
from bot.core.outcomes import Done, Outcome, OutcomeError, Refused, Unreachable
from bot.core.types import Event, UserID
from bot.matrix.client import Matrix
from bot.matrix.http.endpoints import path
from bot.matrix.identity.private_keys import USAGES, PrivateKeyFile, PrivateKeys
from bot.matrix.identity.secret_storage import SecretStorage, StorageError

log = logging.getLogger(__name__)

FILE: Final = "cross_signing.json"
"""Where in the data folder the private keys are."""


class SigningState(StrEnum):
    """How the bot's device stands with clients that trust signed devices only."""

    SIGNED = "signed"
    """The device is signed by the account's own keys."""
    LOST = "lost"
    """The account has cross-signing keys, and their private keys are not here."""
    REPLACED = "replaced"
    """The account's keys are not those whose private keys are here: somebody made new ones."""
    UNPROVEN = "unproven"
    """The homeserver's copy of the device is not this device: nothing is signed."""
    REFUSED = "refused"
    """The homeserver wants the password before it takes new keys."""
    UNSIGNED = "unsigned"
    """Nothing is in the way, and it is not done yet."""


Authorise = Callable[[Event], Awaitable[Event | None]]
"""Turns the homeserver's demand for interactive authentication into an answer, if there is one."""


class CrossSigning:
    """Brings the account's keys and the device's signature into the state they should have."""

    def __init__(self, matrix: Matrix, data_dir: Path, recovery_key: bytes | None = None) -> None:
        self._matrix = matrix
        self._file = PrivateKeyFile(data_dir / FILE)
        self._recovery_key = recovery_key
        self.master = ""
        """The public half of the master key; empty while the account's is not known to be ours."""

    @property
    def device_id(self) -> str:
        """The id of this device."""
        return self._matrix.crypto.device_id

    @property
    def fingerprint(self) -> str:
        """The Ed25519 key of this device."""
        return self._matrix.fingerprint

    async def ensure_signed(self) -> SigningState:
        """Make keys if the account has none, and sign the device if it is not signed.

        Lost private keys are restored from the account's secret storage, with a recovery key.
        Raises `OutcomeError` when the homeserver did not answer: do it again.
        """
        await self._prepare()
        published = _master(await self._own_keys(), self._matrix.own_id)
        private_keys = self._load(published)
        if published is None:
            if private_keys is None:
                private_keys = PrivateKeys.make(self._matrix.own_id)
                self._file.save(private_keys)
            if isinstance(await self._publish(private_keys, None), Refused):
                return SigningState.REFUSED
        elif private_keys is None or private_keys.public("master") != published:
            restored = await self._restore(published)
            if restored is None:
                return SigningState.LOST if private_keys is None else SigningState.REPLACED
            private_keys = restored
        return await self._sign_device(private_keys)

    async def replace(self, authorise: Authorise) -> SigningState | Refused:
        """Give the account new keys and sign the device with them; or say why it was refused.

        The old private keys are kept until the homeserver has taken the new ones.

        Raises `OutcomeError`.
        """
        await self._prepare()
        old = self._load(_master(await self._own_keys(), self._matrix.own_id))
        if old is not None:
            self._file.end_replacement(old)  # whatever came of an earlier replacement
        self._file.set_aside()
        private_keys = PrivateKeys.make(self._matrix.own_id)
        self._file.save(private_keys)
        outcome = await self._publish(private_keys, authorise)
        if isinstance(outcome, Refused):
            if old is not None:
                self._file.end_replacement(old)
            return outcome
        return await self._sign_device(private_keys)

    async def look(self, device_id: str) -> tuple[SigningState, Event]:
        """Return how a device of ours stands, and the homeserver's copy of it; change nothing.

        It needs no crypto store, so that it can be done beside a bot that runs. Whether the copy
        is the device indeed, only a signature tells. Raises `OutcomeError`.
        """
        own, own_id = await self._own_keys(), self._matrix.own_id
        published = _master(own, own_id)
        private_keys = self._load(published)
        device = as_object(inside(own, "device_keys", own_id, device_id))
        if published is None:
            return SigningState.UNSIGNED, device
        if private_keys is None or private_keys.public("master") != published:
            return SigningState.LOST if private_keys is None else SigningState.REPLACED, device
        self.master = published
        signed = _signed_by(device, own_id, private_keys)
        return SigningState.SIGNED if signed else SigningState.UNSIGNED, device

    async def secrets(self) -> dict[str, str] | None:
        """Return what there is to keep elsewhere: the account's present private keys.

        `None` when they are not here. Raises `OutcomeError`.
        """
        published = _master(await self._own_keys(), self._matrix.own_id)
        private_keys = self._load(published)
        if private_keys is None or private_keys.public("master") != published:
            return None
        return {_secret(usage): getattr(private_keys, usage) for usage in USAGES}

    async def _prepare(self) -> None:
        crypto = self._matrix.crypto
        if not crypto.in_place:
            await crypto.keep_up()
        if not crypto.in_place:
            raise OutcomeError(Unreachable(reason="the device's own keys are not uploaded yet"))

    def _load(self, published: str | None) -> PrivateKeys | None:
        try:
            return self._file.load(published)
        except ValueError as error:
            log.warning("%s cannot be used: %s", FILE, error)
            return None

    async def _restore(self, published: str) -> PrivateKeys | None:
        """Return the account's private keys from its secret storage, kept here again."""
        if self._recovery_key is None:
            return None
        try:
            private_keys = await read_private_keys(self._matrix, self._recovery_key)
        except StorageError as error:
            log.warning("the cross-signing keys were not restored: %s", error)
            return None
        if private_keys.public("master") != published:
            log.warning("the cross-signing keys were not restored: the secret storage has old ones")
            return None
        self._file.save(private_keys)
        log.info("the cross-signing keys were restored from the account's secret storage")
        return private_keys

    async def _publish(
        self, private_keys: PrivateKeys, authorise: Authorise | None
    ) -> Done | Refused:
        """Upload the public keys; `Refused` when that takes an authentication that is not given.

        A first upload takes none on a homeserver that follows MSC3967; replacing keys does.
        Raises `OutcomeError`.
        """
        where = path("keys", "device_signing", "upload")
        body: Event = {f"{usage}_key": key for usage, key in private_keys.objects().items()}
        outcome = await self._matrix.request("POST", where, body)
        if isinstance(outcome, Refused) and outcome.status == 401 and authorise is not None:
            answer = await authorise(outcome.body)
            if answer is not None:
                outcome = await self._matrix.request("POST", where, body | {"auth": answer})
        if isinstance(outcome, Refused) and outcome.status == 401:
            return outcome
        return Done(body=_must(outcome))

    async def _sign_device(self, private_keys: PrivateKeys) -> SigningState:
        """Sign this device with the self-signing key, and the master key with this device.

        Only if the homeserver's copy is this device indeed: a homeserver that lies about it
        gets no signature. Raises `OutcomeError`.
        """
        own_id, crypto = self._matrix.own_id, self._matrix.crypto
        own = await self._own_keys()
        device = as_object(inside(own, "device_keys", own_id, crypto.device_id))
        if not crypto.is_own(device):
            return SigningState.UNPROVEN
        if not _signed_by(device, own_id, private_keys):
            device.pop("unsigned", None)
            sign_json(device, own_id, private_keys.key("self_signing"))
            master = crypto.sign(private_keys.objects()["master"])
            body: Event = {
                own_id: {crypto.device_id: device, private_keys.public("master"): master}
            }
            outcome = await self._matrix.request("POST", path("keys", "signatures", "upload"), body)
            if _must(outcome).get("failures"):
                return SigningState.UNPROVEN
        self._file.end_replacement(private_keys)
        self.master = private_keys.public("master")
        return SigningState.SIGNED

    async def _own_keys(self) -> Event:
        body: Event = {"device_keys": {self._matrix.own_id: []}}
        return _must(await self._matrix.request("POST", path("keys", "query"), body))


async def read_private_keys(matrix: Matrix, recovery_key: bytes) -> PrivateKeys:
    """Return the private keys that the account's secret storage holds.

    Raises `OutcomeError`, and `StorageError` when the key does not open it.
    """
    found = await SecretStorage(matrix).get(recovery_key, map(_secret, USAGES))
    try:
        # Some clients write padding.
        bare = {name: encode_base64(decode_base64(text)) for name, text in found.items()}
        private_keys = {usage: bare[_secret(usage)] for usage in USAGES}
        return PrivateKeys(user_id=matrix.own_id, **private_keys)
    except ValueError:
        raise StorageError("the secret storage holds something else than seeds") from None


def _secret(usage: str) -> str:
    """Return the name under which a private key is kept in secret storage."""
    return f"m.cross_signing.{usage}"


def _master(own: Event, user_id: UserID) -> str | None:
    """Return the public half of the account's master key; `None` when it has none."""
    return next(map(str, as_object(inside(own, "master_keys", user_id, "keys")).values()), None)


def _signed_by(device: Event, own_id: UserID, private_keys: PrivateKeys) -> bool:
    """Whether the device carries a good signature of the self-signing key."""
    key: Any = private_keys.key("self_signing")
    verify = key.verify_key
    verify.version, verify.alg = key.version, key.alg
    try:
        verify_signed_json(device, own_id, verify)
    except (SignatureVerifyException, AttributeError, KeyError, TypeError):
        return False  # the homeserver's copy may have any shape
    return True


def _must(outcome: Outcome) -> Event:
    if not isinstance(outcome, Done):
        raise OutcomeError(outcome)
    return outcome.body
