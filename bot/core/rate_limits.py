"""Counts what one person does in a period of time, and says when it is too much."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from bot.core.types import Millis

SECOND: Final[Millis] = 1_000
MINUTE: Final[Millis] = 60 * SECOND
HOUR: Final[Millis] = 60 * MINUTE

KEPT: Final = 2_000
"""Stretches and episodes remembered; whoever has a new one begin loses only the count of others."""


class RateLimit:
    """So many things in a period of time for each person, in memory: a restart begins anew.

    Time is cut into equal stretches, and each thing counts in the stretch of its own time: what
    waited for the bot for a day is not too much because it is read at once.
    """

    def __init__(self, most: int, span: Millis) -> None:
        """`most` things a person in each `span`."""
        self._most = most
        self._span = span
        self._admitted: OrderedDict[tuple[str, int], set[str]] = OrderedDict()
        self._episodes: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def admits(self, who: str, what: str, at: Millis) -> bool:
        """Whether `who` may do `what`; asked again about the same, it counts once."""
        period = (who, at // self._span)
        admitted = self._admitted.setdefault(period, set())
        self._admitted.move_to_end(period)
        if len(self._admitted) > KEPT:
            self._admitted.popitem(last=False)
        if what in admitted:
            return True
        if len(admitted) >= self._most:
            return False
        admitted.add(what)
        return True

    def begins(self, who: str, what: str, at: Millis) -> bool:
        """Whether `what`, which was not admitted, is the first of an episode.

        An episode lasts until `who` has kept within the limit for a whole stretch of time.
        """
        period = at // self._span
        first, last = self._episodes.get(who, (what, period))
        if abs(period - last) > 1:
            first = what
        self._episodes[who] = (first, period)
        self._episodes.move_to_end(who)
        if len(self._episodes) > KEPT:
            self._episodes.popitem(last=False)
        return first == what
