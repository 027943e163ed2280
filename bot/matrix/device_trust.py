"""Tells whether a person's device is signed by its owner, from the homeserver's key lists."""

from __future__ import annotations

from typing import Any

from signedjson.key import decode_verify_key_bytes
from signedjson.sign import SignatureVerifyException, verify_signed_json
from unpaddedbase64 import decode_base64

from bot.core.types import Event, UserID


def is_cross_signed(answer: Event, user_id: UserID, device_id: str, curve25519: str) -> bool:
    """Whether an answer of `/keys/query` shows the device signed by its owner's own keys.

    The chain is master key, self-signing key, device; a missing or bad link is no. The master
    key itself is taken as the homeserver shows it: nobody here has compared it.
    spec: client-server API v1.13, 11.12.3.4 cross-signing.
    """
    try:
        master = answer["master_keys"][user_id]
        self_signing = answer["self_signing_keys"][user_id]
        device = answer["device_keys"][user_id][device_id]
        if device["keys"][f"curve25519:{device_id}"] != curve25519:
            return False
        _verify(self_signing, user_id, master)
        _verify(device, user_id, self_signing)
    except (KeyError, TypeError, ValueError, AttributeError, SignatureVerifyException):
        return False
    return bool(device["user_id"] == user_id and device["device_id"] == device_id)


def _verify(thing: Event, user_id: UserID, key: Event) -> None:
    """Raise unless `thing` carries a good signature of `key`."""
    ((key_id, public),) = key["keys"].items()
    verify_key: Any = decode_verify_key_bytes(key_id, decode_base64(public))
    verify_signed_json(thing, user_id, verify_key)
