"""Decides when a sync token is worth nothing, so that the rooms are read anew."""

from __future__ import annotations

import re
from typing import Final

from bot.core.outcomes import Outcome, Refused
from bot.core.types import Millis

TOKEN: Final = re.compile(r"[sm]([0-9]{1,18})(?:~[0-9]{1,9}\.[0-9]{1,18})*(?:_[0-9m~.]*)+")
"""A sync token that begins with its place in the stream of events, such as `s123_4_0`, or
`m56~1.58_4_0` where there are several writers: all of them have been at the first number."""
ANEW_EVERY: Final[Millis] = 3_600_000
"""A timeline that goes back again so soon is not read anew again: it may be a worker that lags."""
REFUSALS: Final = 2
"""How often in a row a token is refused before it is given up."""


def went_back(since: str | None, after: str) -> bool:
    """Whether the homeserver has forgotten what it said before `since`: a backup was put back.

    `after` is the token that it gave to who asked for what came after `since`. Tokens are opaque.
    Those of Synapse and Dendrite begin with a number that grows with each event; no others are
    compared.
    """
    before, now = (TOKEN.fullmatch(token or "") for token in (since, after))
    return before is not None and now is not None and int(now[1]) < int(before[1])


class SyncRestart:
    """Decides when a sync token is worth nothing, so that everything has to be read anew."""

    def __init__(self) -> None:
        self.wanted = False
        """The next sync is to go without the token. It is kept until that was answered."""
        self._refusals = 0
        self._at: Millis | None = None

    def went_back(self, now: Millis) -> bool:
        """The timeline went back; return whether to read anew. `now`: the time that has elapsed."""
        if self._at is None or now - self._at >= ANEW_EVERY:
            self.wanted, self._at = True, now
        return self.wanted

    def refused(self, outcome: Outcome) -> bool:
        """Take notice of a sync that failed; return whether its token is given up just now."""
        if not isinstance(outcome, Refused) or outcome.status != 400:
            self._refusals = 0
            return False
        if self.wanted:
            self.wanted, self._refusals = False, 0  # so it was not the token
            return False
        self._refusals += 1
        self.wanted = self._refusals >= REFUSALS
        return self.wanted

    def answered(self) -> None:
        """A sync was answered, and what it brought was stored."""
        self.wanted, self._refusals = False, 0
