"""The private cross-signing keys, and the files they are kept in."""

from __future__ import annotations

import json
import secrets
from binascii import Error as Base64Error
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from signedjson.key import decode_signing_key_base64
from signedjson.sign import sign_json
from signedjson.types import SigningKey
from unpaddedbase64 import decode_base64, encode_base64

from bot.core.types import Event, UserID
from bot.matrix.private_files import write_private

USAGES: Final = ("master", "self_signing", "user_signing")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKeys:
    """The secret halves of the three keys, as unpadded base64 of 32 bytes each.

    Raises `ValueError` for anything else.
    """

    user_id: UserID
    master: str = field(repr=False)
    self_signing: str = field(repr=False)
    user_signing: str = field(repr=False)

    def __post_init__(self) -> None:
        for usage in USAGES:
            private_key = getattr(self, usage)
            if not isinstance(private_key, str) or not _is_private_key(private_key):
                raise ValueError(f"the seed of the {usage} key is not 32 bytes in base64")

    @classmethod
    def make(cls, user_id: UserID) -> PrivateKeys:
        """Make new ones."""
        made = {usage: encode_base64(secrets.token_bytes(32)) for usage in USAGES}
        return cls(user_id=user_id, **made)

    @classmethod
    def load(cls, where: Path) -> PrivateKeys | None:
        """Return the private keys kept in a file; `None` when there is none.

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
        private_key = getattr(self, usage)
        public = encode_base64(
            bytes(decode_signing_key_base64("ed25519", "", private_key).verify_key)
        )
        return decode_signing_key_base64("ed25519", public, private_key)

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


def _is_private_key(text: str) -> bool:
    try:
        return len(decode_base64(text)) == 32
    except (Base64Error, ValueError):
        return False


class PrivateKeyFile:
    """The file of the private keys; beside it, while they are replaced, that of the old ones.

    Whether a replacement that was cut off has happened, only the homeserver knows: the seeds that
    count are those of the keys that it has published.
    """

    def __init__(self, where: Path) -> None:
        self._where = where
        self._aside = where.with_name(where.name + ".old")

    def load(self, published: str | None) -> PrivateKeys | None:
        """Return the private keys of the `published` master key; else those that are there, if any.

        Raises `ValueError` when a file holds something else.
        """
        try:
            old = PrivateKeys.load(self._aside)
        except ValueError:
            old = None
        if old is not None and old.public("master") == published:
            return old
        return PrivateKeys.load(self._where)

    def save(self, private_keys: PrivateKeys) -> None:
        """Keep new private keys."""
        private_keys.save(self._where)

    def set_aside(self) -> None:
        """Keep the present private keys apart: new ones are about to be saved."""
        if self._where.exists():
            self._where.replace(self._aside)

    def end_replacement(self, private_keys: PrivateKeys) -> None:
        """End a replacement: `private_keys` are those that count."""
        if self._aside.exists():
            private_keys.save(self._where)
            self._aside.unlink()
