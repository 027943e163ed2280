"""Comparing short authentication strings, purely: a client's events in, the answers to them out.

The bot has the part of the one who is asked: the other's client requests, and the other's client
starts. spec: client-server API v1.13, 11.12.2 device verification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import vodozemac
from canonicaljson import encode_canonical_json
from unpaddedbase64 import encode_base64

METHOD: Final = "m.sas.v1"
KEY_AGREEMENT: Final = "curve25519-hkdf-sha256"
HASH: Final = "sha256"
MAC: Final = "hkdf-hmac-sha256.v2"
"""Its predecessor is deprecated: it is left to clients from before 2023."""
STRINGS: Final = ("decimal", "emoji")
LONGEST: Final = 255
"""Characters of a device id, or of what names a transaction."""

TIMEOUT: Final = "m.timeout"
UNKNOWN_TRANSACTION: Final = "m.unknown_transaction"
UNKNOWN_METHOD: Final = "m.unknown_method"
UNEXPECTED: Final = "m.unexpected_message"
KEY_MISMATCH: Final = "m.key_mismatch"
INVALID: Final = "m.invalid_message"
REASONS: Final = {
    TIMEOUT: "the verification took too long",
    UNKNOWN_TRANSACTION: "this verification is not known",
    UNKNOWN_METHOD: "there is no method that both sides know",
    UNEXPECTED: "this message was not expected now",
    KEY_MISMATCH: "the keys are not those that were shown",
    INVALID: "the message makes no sense",
}

EMOJI: Final = tuple(
    """🐶 Dog, 🐱 Cat, 🦁 Lion, 🐎 Horse, 🦄 Unicorn, 🐷 Pig, 🐘 Elephant, 🐰 Rabbit, 🐼 Panda,
    🐓 Rooster, 🐧 Penguin, 🐢 Turtle, 🐟 Fish, 🐙 Octopus, 🦋 Butterfly, 🌷 Flower, 🌳 Tree,
    🌵 Cactus, 🍄 Mushroom, 🌏 Globe, 🌙 Moon, ☁️ Cloud, 🔥 Fire, 🍌 Banana, 🍎 Apple,
    🍓 Strawberry, 🌽 Corn, 🍕 Pizza, 🎂 Cake, ❤️ Heart, 😀 Smiley, 🤖 Robot, 🎩 Hat, 👓 Glasses,
    🔧 Spanner, 🎅 Santa, 👍 Thumbs Up, ☂️ Umbrella, ⌛ Hourglass, ⏰ Clock, 🎁 Gift,
    💡 Light Bulb, 📕 Book, ✏️ Pencil, 📎 Paperclip, ✂️ Scissors, 🔒 Lock, 🔑 Key, 🔨 Hammer,
    ☎️ Telephone, 🏁 Flag, 🚂 Train, 🚲 Bicycle, ✈️ Aeroplane, 🚀 Rocket, 🏆 Trophy, ⚽ Ball,
    🎸 Guitar, 🎺 Trumpet, 🔔 Bell, ⚓ Anchor, 🎧 Headphones, 📁 Folder, 📌 Pin""".replace(
        "\n   ", ""
    ).split(", ")
)
"""spec: client-server API v1.13, 11.12.2.2.6 SAS method: emoji."""

Reply = tuple[str, dict[str, Any]]
"""What follows `m.key.verification.` in an answer's type, and its content but for what ties it to
the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One side: a device, and the public keys that are to be verified, by their ids."""

    user_id: str
    device_id: str
    keys: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What people compare: seven emoji, or three numbers."""

    emoji: tuple[str, ...]
    decimals: tuple[int, int, int]


class Step(Enum):
    """How far it has come."""

    ASKED = auto()
    READY = auto()
    ACCEPTED = auto()
    SHOWN = auto()
    OVER = auto()


class WrongError(Exception):
    """The other's message ends the verification; carries the specification's code for it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Exchange:
    """One verification. No content makes it raise; what is wrong with it ends the exchange."""

    def __init__(self, transaction_id: str, own: Party, other: Party) -> None:
        self._transaction_id = transaction_id
        self._own = own
        self._other = other
        self._sas = vodozemac.Sas()
        self._secret: Any = None
        self._taken: dict[str, bytes] = {}
        self._step = Step.ASKED
        self.shown: Shown | None = None
        """There as soon as it can be compared."""
        self.verified = False
        """The other's client has confirmed, and the keys are those that we know of it."""
        self.ended_by = ""
        """The code of the cancellation, if it was cancelled by either side."""

    @property
    def over(self) -> bool:
        """Whether nothing more will be answered."""
        return self._step is Step.OVER

    def take(self, kind: str, content: dict[str, Any]) -> list[Reply]:
        """Return the answers to an event; `kind` is what follows `m.key.verification.`."""
        if self.over:
            return []
        if kind == "cancel":
            self._step, self.ended_by = Step.OVER, str(content.get("code"))
            return []
        steps = {
            "request": (Step.ASKED, self._request),
            "start": (Step.READY, self._start),
            "key": (Step.ACCEPTED, self._key),
            "mac": (Step.SHOWN, self._mac),
        }
        try:
            digest = hashlib.sha256(encode_canonical_json(content)).digest()
            if self._taken.get(kind) == digest:
                return []  # a sync that was cut off brings the same again
            self._taken[kind] = digest
            due, answer = steps.get(kind, (None, None))
            if answer is None or due is not self._step:
                return self.cancel(UNEXPECTED)
            return answer(content)
        except WrongError as error:
            return self.cancel(error.code)
        except (ValueError, TypeError, RecursionError):
            return self.cancel(INVALID)

    def cancel(self, code: str) -> list[Reply]:
        """End it from this side."""
        if self.over:
            return []
        self._step, self.ended_by = Step.OVER, code
        return [("cancel", {"code": code, "reason": REASONS[code]})]

    def _request(self, content: dict[str, Any]) -> list[Reply]:
        if METHOD not in _texts(content, "methods"):
            raise WrongError(UNKNOWN_METHOD)
        self._step = Step.READY
        return [("ready", {"from_device": self._own.device_id, "methods": [METHOD]})]

    def _start(self, content: dict[str, Any]) -> list[Reply]:
        """Commit to our key before the other's is known: so neither can choose the string."""
        if _text(content, "from_device") != self._other.device_id:
            raise WrongError(INVALID)
        offered = _texts(content, "short_authentication_string")
        agreed = (
            content.get("method") == METHOD
            and KEY_AGREEMENT in _texts(content, "key_agreement_protocols")
            and HASH in _texts(content, "hashes")
            and MAC in _texts(content, "message_authentication_codes")
            and offered & set(STRINGS)
        )
        if not agreed:
            raise WrongError(UNKNOWN_METHOD)
        accept = {
            "method": METHOD,
            "key_agreement_protocol": KEY_AGREEMENT,
            "hash": HASH,
            "message_authentication_code": MAC,
            "short_authentication_string": [one for one in STRINGS if one in offered],
            "commitment": commitment(self._public, content),
        }
        self._step = Step.ACCEPTED
        return [("accept", accept)]

    def _key(self, content: dict[str, Any]) -> list[Reply]:
        """Show the string; and confirm at once: who compares it has no button on this side."""
        key = vodozemac.Curve25519PublicKey.from_base64(_text(content, "key"))
        self._secret = self._sas.diffie_hellman(key)
        own, other = self._own, self._other
        made = self._secret.bytes(
            f"MATRIX_KEY_VERIFICATION_SAS|{other.user_id}|{other.device_id}|{content['key']}"
            f"|{own.user_id}|{own.device_id}|{self._public}|{self._transaction_id}"
        )
        self.shown = Shown(
            emoji=tuple(EMOJI[place] for place in made.emoji_indices), decimals=made.decimals
        )
        info = self._mac_info(own, other)
        macs = {
            key_id: self._secret.calculate_mac(public_key, info + key_id)
            for key_id, public_key in own.keys.items()
        }
        keys = self._secret.calculate_mac(",".join(sorted(macs)), info + "KEY_IDS")
        self._step = Step.SHOWN
        return [("key", {"key": self._public}), ("mac", {"mac": macs, "keys": keys})]

    def _mac(self, content: dict[str, Any]) -> list[Reply]:
        """Check what the other's device says of its own keys; those that we know must be right."""
        macs, info = content.get("mac"), self._mac_info(self._other, self._own)
        if not isinstance(macs, dict):
            raise WrongError(INVALID)
        self._check(",".join(sorted(macs)), info + "KEY_IDS", content.get("keys"))
        known = macs.keys() & self._other.keys.keys()
        for key_id in known:
            self._check(self._other.keys[key_id], info + key_id, macs[key_id])
        if f"ed25519:{self._other.device_id}" not in known:
            raise WrongError(KEY_MISMATCH)
        self._step, self.verified = Step.OVER, True
        return [("done", {})]

    def _check(self, text: str, info: str, mac: Any) -> None:
        if not isinstance(mac, str):
            raise WrongError(INVALID)
        try:
            self._secret.verify_mac(text, info, mac)
        except vodozemac.SasException:
            raise WrongError(KEY_MISMATCH) from None

    @property
    def _public(self) -> str:
        return str(self._sas.public_key.to_base64()).rstrip("=")

    def _mac_info(self, of: Party, to: Party) -> str:
        return (
            f"MATRIX_KEY_VERIFICATION_MAC{of.user_id}{of.device_id}{to.user_id}{to.device_id}"
            f"{self._transaction_id}"
        )


def commitment(public: str, start: dict[str, Any]) -> str:
    """Return the hash that commits to a public key in answer to the content of a `start`."""
    return encode_base64(hashlib.sha256(public.encode() + encode_canonical_json(start)).digest())


def _text(content: dict[str, Any], key: str) -> str:
    """Return a string of the content. Raises `ValueError` when it is none, or too long."""
    found = content.get(key)
    if not isinstance(found, str) or not 0 < len(found) <= LONGEST:
        raise ValueError(key)
    return found


def _texts(content: dict[str, Any], key: str) -> set[str]:
    """Return the strings in a list of the content. Raises `ValueError` when it is none."""
    found = content.get(key)
    if not isinstance(found, list):
        raise ValueError(key)  # noqa: TRY004 - whatever is wrong with it is the same mistake
    return {one for one in found if isinstance(one, str)}
