"""Says in a few words, for the log, what a homeserver answered; never too often."""

from __future__ import annotations

import re
from typing import Final

from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    RateLimited,
    Refused,
    Unreachable,
)
from bot.core.types import Millis

QUIET_FOR: Final[Millis] = 60_000
"""What keeps the bot waiting is said this often, in ms, as long as it stays the same."""
CODE: Final = re.compile(r"[A-Za-z0-9_.]{1,64}")
"""What an error's name looks like; anything else may be somebody's text."""


class Reasons:
    """Knows why the homeserver is waited for: worth a line when that changes, or once a minute."""

    def __init__(self) -> None:
        self._said = ""
        self._quiet_until: Millis = 0

    def news(self, outcome: Outcome, now: Millis) -> str:
        """Return the reason, or an empty text when the log has it already."""
        reason = describe(outcome)
        if reason == self._said and now < self._quiet_until:
            return ""
        self._said, self._quiet_until = reason, now + QUIET_FOR
        return reason


def describe(outcome: Outcome) -> str:
    """Return what an operator has to know of an answer: its status, and its error's name.

    Such as `status 502`, `status 404 M_UNRECOGNIZED`, `ClientConnectorError`. Nothing in it was
    written by a stranger: an error's code that is none is left out.
    """
    match outcome:
        case Unreachable(reason=reason):
            return reason or "no answer"
        case RateLimited():
            return "status 429"
        case Done():
            return "status 200"
        case NotFound():
            return "status 404 M_NOT_FOUND"
        case Forbidden(reason=errcode):
            return _named("status 403", errcode)
        case Failed(status=0, errcode=errcode):
            return _code(errcode) or "no answer that makes sense"
        case Failed(status=status, errcode=errcode) | Refused(status=status, errcode=errcode):
            return _named(f"status {status}", errcode)


def _named(status: str, errcode: str) -> str:
    return f"{status} {_code(errcode)}".rstrip()


def _code(errcode: str) -> str:
    return errcode if CODE.fullmatch(errcode) else ""
