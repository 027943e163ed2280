"""Reads a long JSON text in portions, so that others have turns while an answer is read.

The outer levels are gone through here, and what stands in them is left to the standard library's
parser, which gives nobody a turn before it is at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""Work that is done in portions: each `yield` is a place where others may have their turn."""

PORTION: Final = 128 << 10
"""Characters read without a turn for others: two or three milliseconds."""

_SPACE: Final = re.compile(r"[ \t\n\r]*+")


def run_through(steps: Steps[T]) -> T:
    """Do all of it at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


class Portions:
    """One reading of one text."""

    def __init__(self, text: str, scan: Callable[[str, int], tuple[Any, int]], levels: int) -> None:
        """`scan` reads the value that begins at a place, and returns it with where it ends.

        It raises `ValueError` where there is none. `levels`: of objects and lists that are gone
        through here.
        """
        self._text = text
        self._scan = scan
        self._levels = levels
        self._turn_at = PORTION

    def steps(self) -> Steps[Any]:
        """Return what the text says. Raises `ValueError` when it is no JSON."""
        found, end = yield from self._value(self._skip(0), 0)
        if self._skip(end) != len(self._text):
            raise ValueError(end)
        return found

    def _value(self, at: int, depth: int) -> Steps[tuple[Any, int]]:
        sign = self._text[at : at + 1]
        if depth < self._levels and sign == "{":
            return (yield from self._object(at, depth))
        if depth < self._levels and sign == "[":
            return (yield from self._list(at, depth))
        found, end = self._scan(self._text, at)
        if end >= self._turn_at:
            self._turn_at = end + PORTION
            yield
        return found, end

    def _object(self, at: int, depth: int) -> Steps[tuple[dict[str, Any], int]]:
        found: dict[str, Any] = {}
        at = self._skip(at + 1)
        if self._text[at : at + 1] == "}":
            return found, at + 1
        while True:
            if self._text[at : at + 1] != '"':
                raise ValueError(at)
            key, at = self._scan(self._text, at)
            at = self._skip(at)
            if self._text[at : at + 1] != ":":
                raise ValueError(at)
            found[key], at = yield from self._value(self._skip(at + 1), depth + 1)
            at, over = self._next(at, "}")
            if over:
                return found, at

    def _list(self, at: int, depth: int) -> Steps[tuple[list[Any], int]]:
        found: list[Any] = []
        at = self._skip(at + 1)
        if self._text[at : at + 1] == "]":
            return found, at + 1
        while True:
            one, at = yield from self._value(at, depth + 1)
            found.append(one)
            at, over = self._next(at, "]")
            if over:
                return found, at

    def _next(self, at: int, closing: str) -> tuple[int, bool]:
        """Go on behind a value; return where, and whether that was the last one."""
        at = self._skip(at)
        sign = self._text[at : at + 1]
        if sign not in {",", closing}:
            raise ValueError(at)
        return (at + 1, True) if sign == closing else (self._skip(at + 1), False)

    def _skip(self, at: int) -> int:
        """Return where the next sign stands that is no space."""
        if self._text[at : at + 1] not in " \t\n\r":
            return at
        found = _SPACE.match(self._text, at)
        return found.end() if found else at
