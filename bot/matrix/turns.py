"""Cuts long work into pieces, so that the event loop is never held for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

PIECE: Final = 0.015
"""Seconds of work after which others have their turn; what is begun is finished first."""
MOST: Final = 50
"""Things done in one piece, however fast the machine is: a piece is one write to the disk."""


class Piece:
    """One turn: so many things, or so much time."""

    def __init__(self, most: int, longest: float, elapsed: Callable[[], float]) -> None:
        self._left = most
        self._elapsed = elapsed
        self._until = elapsed() + longest
        self._begun = False

    def goes_on(self) -> bool:
        """Whether one thing more may be done in this turn; always one, so that work moves on."""
        self._left -= 1
        begun, self._begun = self._begun, True
        return not begun or (self._left >= 0 and self._elapsed() < self._until)


class Turns:
    """Hands out pieces, and rests between them."""

    def __init__(
        self,
        elapsed: Callable[[], float] = time.monotonic,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        most: int = MOST,
    ) -> None:
        """`elapsed` tells the seconds since some moment; `rest` waits for so many."""
        self.elapsed = elapsed
        self.rest = rest
        self._most = most

    def piece(self, longest: float = PIECE) -> Piece:
        """Begin a piece of at most `longest` seconds."""
        return Piece(self._most, longest, self.elapsed)
