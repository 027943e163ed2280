"""The recovery key as people write it down: 32 bytes in base58, with a prefix and a parity byte."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import Final

ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""Base58 as in Bitcoin: no 0, O, I and l, which look like others."""
PREFIX: Final = b"\x8b\x01"
LENGTH: Final = 32
"""Bytes of a key."""
LONGEST: Final = 100
"""Characters that are looked at; a key has 48, and spaces."""


class RecoveryKeyError(ValueError):
    """The text is no recovery key; the message says why and quotes nothing of it."""


def write(key: bytes) -> str:
    """Return the key in groups of four characters.

    spec: client-server API v1.13, 11.12.7.1.2 key representation.
    """
    plain = PREFIX + key
    digits = _base58(plain + bytes([reduce(xor, plain)]))
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def read(text: str) -> bytes:
    """Return the key that `text` is, with or without spaces. Raises `RecoveryKeyError`."""
    digits = "".join(text.split())
    if not digits or len(digits) > LONGEST or not set(digits) <= set(ALPHABET):
        raise RecoveryKeyError("is no recovery key")
    number = reduce(lambda sum_, digit: sum_ * 58 + ALPHABET.index(digit), digits, 0)
    plain = number.to_bytes(LONGEST)[-len(PREFIX) - LENGTH - 1 :]
    key = plain[len(PREFIX) : -1]
    # All of it must come out again: prefix, parity, and nothing before them.
    if "".join(write(key).split()) != digits:
        raise RecoveryKeyError("is no recovery key, or has a mistake in it")
    return key


def _base58(data: bytes) -> str:
    """Return `data`, which does not begin with a zero byte, in base58."""
    number, digits = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, 58)
        digits = ALPHABET[digit] + digits
    return digits
