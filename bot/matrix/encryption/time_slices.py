"""Cuts long work into pieces, so that the event loop is never held for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

PIECE: Final = 0.01
"""Seconds of work after which others have their turn; what is begun is finished first.

They are the processor's: a machine that has much else to do makes no piece so small that little
but writing to the disk is left of it. Two pieces of different work may follow on each other.
"""
MOST: Final = 50
"""Things done in one piece, however fast the machine is: a piece is one write to the disk."""


class TimeSlice:
    """One turn: so many things, or so much time."""

    def __init__(self, most: int, busy: Callable[[], float]) -> None:
        self._left = most
        self._busy = busy
        self._until = busy() + PIECE
        self._begun = False

    def goes_on(self) -> bool:
        """Whether one thing more may be done in this turn; always one, so that work moves on."""
        self._left -= 1
        begun, self._begun = self._begun, True
        return not begun or (self._left >= 0 and self._busy() < self._until)


class TimeSlices:
    """Hands out pieces, and rests between them."""

    def __init__(
        self,
        elapsed: Callable[[], float] = time.monotonic,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
        busy: Callable[[], float] = time.thread_time,
        *,
        most: int = MOST,
    ) -> None:
        """`elapsed` tells the seconds since some moment; `rest` waits for so many.

        `busy` tells how many of them this thread has worked.
        """
        self.elapsed = elapsed
        self.rest = rest
        self._busy = busy
        self._most = most

    def piece(self) -> TimeSlice:
        """Begin a piece."""
        return TimeSlice(self._most, self._busy)
