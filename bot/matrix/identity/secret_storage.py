"""The account's secret storage on its homeserver: secrets that only the recovery key opens."""

from __future__ import annotations

import hmac
import secrets
import string
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from typing import Any, Final

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from unpaddedbase64 import decode_base64, encode_base64

from bot.core.json_shape import as_object, inside
from bot.core.outcomes import Done, NotFound, OutcomeError
from bot.core.types import Event
from bot.matrix.client import Matrix
from bot.matrix.http.endpoints import path

ALGORITHM: Final = "m.secret_storage.v1.aes-hmac-sha2"
DEFAULT: Final = "m.secret_storage.default_key"
KEY: Final = "m.secret_storage.key."
MOST_KEYS: Final = 10
"""Keys of the account that are tried before a recovery key counts as wrong."""
ID_SIGNS: Final = string.ascii_letters + string.digits


class StorageError(Exception):
    """The secrets cannot be had; the message says why, and quotes none of them."""


def seal(key: bytes, name: str, secret: str) -> dict[str, str]:
    """Return a secret as only who has the key can read it.

    spec: client-server API v1.13, 11.12.7.1.1 m.secret_storage.v1.aes-hmac-sha2.
    """
    iv = _new_iv()
    ciphertext, mac = _encrypt(key, name, iv, secret.encode())
    sealed = {"iv": iv, "ciphertext": ciphertext, "mac": mac}
    return {field: encode_base64(data) for field, data in sealed.items()}


def unseal(key: bytes, name: str, sealed: Any) -> str:
    """Return the secret. Raises `StorageError` when it is not one, or sealed with another key."""
    iv, ciphertext, mac = (_data(sealed, field) for field in ("iv", "ciphertext", "mac"))
    _, mac_key = _keys(key, name)
    if len(iv) != AES.block_size or not hmac.compare_digest(_mac(mac_key, ciphertext), mac):
        raise StorageError(f"{name} in the account's secret storage is damaged")
    plain, _ = _encrypt(key, name, iv, ciphertext)  # counter mode: the same both ways
    return plain.decode(errors="replace")


def describe(key: bytes) -> Event:
    """Return what the account tells of a key: enough to recognise it, and nothing else."""
    iv = _new_iv()
    _, mac = _encrypt(key, "", iv, bytes(32))
    return {"algorithm": ALGORITHM, "iv": encode_base64(iv), "mac": encode_base64(mac)}


def fits(key: bytes, description: Event) -> bool:
    """Whether the account tells this of the key."""
    try:
        iv, mac = _data(description, "iv"), _data(description, "mac")
    except StorageError:
        return False
    if description.get("algorithm") != ALGORITHM or len(iv) != AES.block_size:
        return False
    return hmac.compare_digest(_encrypt(key, "", iv, bytes(32))[1], mac)


def _new_iv() -> bytes:
    iv = bytearray(secrets.token_bytes(AES.block_size))
    iv[8] &= 0x7F  # bit 63: implementations differ in how far their counters carry
    return bytes(iv)


def _keys(key: bytes, name: str) -> tuple[bytes, bytes]:
    made = HKDF(key, 64, bytes(32), SHA256, context=name.encode())
    assert isinstance(made, bytes)
    return made[:32], made[32:]


def _encrypt(key: bytes, name: str, iv: bytes, data: bytes) -> tuple[bytes, bytes]:
    aes_key, mac_key = _keys(key, name)
    cipher = AES.new(aes_key, AES.MODE_CTR, nonce=b"", initial_value=iv)
    ciphertext = cipher.encrypt(data)
    return ciphertext, _mac(mac_key, ciphertext)


def _mac(mac_key: bytes, ciphertext: bytes) -> bytes:
    return hmac.digest(mac_key, ciphertext, "sha256")


def _data(found: Any, field: str) -> bytes:
    """Return a field in base64, padded or not, as bytes. Raises `StorageError`."""
    text = inside(found, field)
    try:
        return decode_base64(text.rstrip("=")) if isinstance(text, str) else _fail(field)
    except (Base64Error, ValueError):
        return _fail(field)


def _fail(field: str) -> bytes:
    raise StorageError(f"the account's secret storage is damaged: no {field}")


class SecretStorage:
    """The secrets of the bot's account. Every method raises `OutcomeError`."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    async def in_use(self) -> bool:
        """Whether the account has a secret storage already."""
        return await self._default() is not None

    async def opens(self, key: bytes) -> bool:
        """Whether the key is the account's default one."""
        return await self._find(key, ()) is not None

    async def put(self, key: bytes, kept: Mapping[str, str]) -> None:
        """Keep secrets under a key, which is the account's default from then on.

        The default is set last: who finds the key finds the secrets too.
        """
        key_id = await self._find(key, kept)
        if key_id is None:
            key_id = "".join(secrets.choice(ID_SIGNS) for _ in range(32))
            await self._write(KEY + key_id, describe(key))
        for name, secret in kept.items():
            await self._write(name, {"encrypted": {key_id: seal(key, name, secret)}})
        await self._write(DEFAULT, {"key": key_id})

    async def get(self, key: bytes, names: Iterable[str]) -> dict[str, str]:
        """Return secrets. Raises `StorageError` when the key does not open them all."""
        names = list(names)
        key_id = await self._find(key, names)
        if key_id is None:
            raise StorageError(
                "the recovery key does not open the account's secret storage"
                if await self.in_use()
                else "the account has no secret storage"
            )
        found = {}
        for name in names:
            sealed = _encrypted(await self._read(name)).get(key_id)
            if sealed is None:
                raise StorageError(f"the account's secret storage does not hold {name}")
            found[name] = unseal(key, name, sealed)
        return found

    async def _find(self, key: bytes, names: Iterable[str]) -> str | None:
        """Return under which id the account knows the key: the default's, or another one's."""
        candidates = dict.fromkeys(filter(None, [await self._default()]))
        for name in names:
            candidates |= dict.fromkeys(_encrypted(await self._read(name)))
        for key_id in list(candidates)[:MOST_KEYS]:
            if fits(key, await self._read(KEY + key_id)):
                return key_id
        return None

    async def _default(self) -> str | None:
        key_id = (await self._read(DEFAULT)).get("key")
        return key_id if isinstance(key_id, str) else None

    async def _read(self, kind: str) -> Event:
        """Return a piece of account data; an empty one when there is none."""
        outcome = await self._matrix.request("GET", self._path(kind))
        if isinstance(outcome, NotFound):
            return {}
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        return outcome.body

    async def _write(self, kind: str, content: Event) -> None:
        outcome = await self._matrix.request("PUT", self._path(kind), content)
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)

    def _path(self, kind: str) -> str:
        return path("user", self._matrix.own_id, "account_data", kind)


def _encrypted(content: Event) -> Event:
    return as_object(content.get("encrypted"))
