"""Reads JSON that strangers had a hand in: what cannot be represented is cut out, the rest is used.

A homeserver hands on what others send, and not every one holds it to what Python can read. One
event must not make a whole answer unreadable: the answer to a sync comes again until it was read.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any, Final

from bot.matrix.http.json_portions import PORTION, Portions, Steps, run_through

DEEPEST: Final = 100
"""Levels of objects and lists that are read. Python 3.11 takes 1,000 with all that is called, and
whatever is done with an object later may take several calls for each. An event has about ten."""
MOST_DIGITS: Final = 100
"""Digits of an integer; Python refuses more than 4,300, and canonical JSON holds 16."""

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPED: Final = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""An escaped backslash, a whole surrogate pair, or half of one (the group)."""
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]++|[\]}]++', re.DOTALL)
"""A string, or brackets side by side. Possessive: no byte is looked at twice."""


def read(raw: bytes | bytearray) -> tuple[Any, int]:
    """Return what `raw` says, and how many parts of it were cut out; `None` when it is no JSON.

    What is nested too deeply, numbers without end and numbers that are none become null. Bytes
    that are no UTF-8, and halves of surrogate pairs, become U+FFFD. Takes linear time.
    """
    return run_through(_read(raw, 0))


async def read_by_portions(raw: bytes | bytearray, levels: int) -> tuple[Any, int]:
    """Return the same, while others have turns.

    `levels`: of objects and lists that are gone through; what stands in them is short.
    """
    steps = _read(raw, levels if len(raw) > PORTION else 0)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: tuple[Any, int] = end.value
            return found
        await asyncio.sleep(0)


def _read(raw: bytes | bytearray, levels: int) -> Steps[tuple[Any, int]]:
    raw, halves = _whole_pairs(raw)
    yield
    reader = _Reader(halves)
    try:
        return (yield from reader.steps(raw, levels)), reader.cut
    except RecursionError:
        pass
    except ValueError:
        return None, 0
    raw, cuts = yield from _without_depths(raw)
    reader = _Reader(halves + cuts)
    try:
        return (yield from reader.steps(raw, levels)), reader.cut
    except (ValueError, RecursionError):
        return None, 0


class _Reader:
    """Counts what one reading leaves out."""

    def __init__(self, cut: int) -> None:
        self.cut = cut

    def steps(self, raw: bytes | bytearray, levels: int) -> Steps[Any]:
        """Raises `ValueError`, and `RecursionError` where something stands too deep."""
        try:
            text = str(raw, "utf-8-sig")
        except UnicodeDecodeError:
            self.cut += 1
            text = str(raw, "utf-8-sig", "replace")
        decoder = json.JSONDecoder(
            parse_int=self._integer,
            parse_float=self._fraction,
            parse_constant=self._constant,
            strict=False,
        )

        def scan(text: str, at: int) -> tuple[Any, int]:
            found, end = decoder.raw_decode(text, at)
            # Few brackets cannot stand deep. This is quick to see, and true of nearly all events.
            if text.count("{", at, end) + text.count("[", at, end) > DEEPEST - levels and (
                _is_deeper(found, DEEPEST - levels)
            ):
                raise RecursionError
            return found, end

        return (yield from Portions(text, scan, levels).steps())

    def _integer(self, digits: str) -> int | None:
        if len(digits) <= MOST_DIGITS:
            return int(digits)
        self.cut += 1
        return None

    def _fraction(self, digits: str) -> float | None:
        found = float(digits)
        if math.isfinite(found):
            return found
        self.cut += 1
        return None

    def _constant(self, _: str) -> None:
        """Infinity, or what is no number: JSON has neither."""
        self.cut += 1


def _whole_pairs(raw: bytes | bytearray) -> tuple[bytes | bytearray, int]:
    """Replace halves of surrogate pairs, which neither SQLite nor a path can hold."""
    if not _SURROGATE.search(raw):
        return raw, 0
    halves = 0

    def whole(found: re.Match[bytes]) -> bytes:
        nonlocal halves
        if found[1] is None:
            return found[0]
        halves += 1
        return rb"\ufffd"

    mended = _ESCAPED.sub(whole, raw)
    return (mended, halves) if halves else (raw, 0)


def _is_deeper(found: Any, most: int) -> bool:
    """Whether it has more levels; looked at level by level, without recursion."""
    level = [found] if isinstance(found, dict | list) else []
    for _ in range(most):
        if not level:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    return bool(level)


def _without_depths(raw: bytes | bytearray) -> Steps[tuple[bytearray, int]]:
    """Put null where a level too many begins; return what is left, and how often."""
    kept, view = bytearray(), memoryview(raw)
    depth = start = cuts = turns = 0
    for token in _TOKEN.finditer(raw):
        at, end = token.span()
        if at // PORTION > turns:
            turns = at // PORTION
            yield
        sign, size = raw[at], end - at
        if sign in b"[{":
            if depth <= DEEPEST < depth + size:
                kept += view[start : at + DEEPEST - depth]
                kept += b"null"
                cuts += 1
            depth += size
        elif sign in b"]}":
            if depth - size <= DEEPEST < depth:
                start = at + depth - DEEPEST
            depth -= size
    return kept + view[start:], cuts
