"""Lengths of time: the only place that turns text into milliseconds and back."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bot.core.types import Millis

SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
YEAR: Final = 365 * DAY
"""Milliseconds, like every unit here. A year is 365 days; a month has no length and no unit."""

LONGEST: Final = 2**53 - 1
"""The longest length that `parse` gives back: the greatest integer canonical JSON can hold.

What was parsed therefore always fits a room's state and a 64-bit column (spec: appendices v1.16,
canonical JSON).
"""

# Of each unit: the letter that `compact` writes, the two forms that `words` writes, and others.
_SPELLINGS: Final = {
    YEAR: ("y", "year", "years", "yr", "yrs"),
    WEEK: ("w", "week", "weeks", "wk", "wks"),
    DAY: ("d", "day", "days"),
    HOUR: ("h", "hour", "hours", "hr", "hrs"),
    MINUTE: ("m", "minute", "minutes", "min", "mins"),
    SECOND: ("s", "second", "seconds", "sec", "secs"),
}
_UNITS: Final = {name: unit for unit, names in _SPELLINGS.items() for name in names}

_MOST_CHARACTERS: Final = 100
# ASCII keeps out digits of other scripts, and letters that case-folding would turn into ours.
_FLAGS: Final = re.ASCII | re.IGNORECASE
_PART: Final = re.compile("([0-9]+) ?([a-z]+)", _FLAGS)
_LINE: Final = re.compile(f"{_PART.pattern}(?:(?: and | ?){_PART.pattern})*", _FLAGS)

# Why a line is no length of time: the first pattern found in it decides.
_REASONS: Final = (
    (re.compile("^-"), "A length of time cannot be negative."),
    (re.compile("[0-9][.,][0-9]"), "Only whole numbers work: one and a half hours are 1h30m."),
    (re.compile("[0-9]$"), "A number needs a unit, such as 30s, 5m or 2h."),
    (re.compile(""), "Write numbers and units, such as 30s, 1h30m or 2 days."),
)


_UNKNOWN: Final = "The units are seconds, minutes, hours, days, weeks and years"
_MONTHS: Final = dict.fromkeys(("month", "months", "mo", "mos"), "; a month may be 30 days.")


class DurationError(ValueError):
    """A text is no length of time.

    The message is one sentence that may be shown to whoever wrote the text. It never repeats the
    text, which could be a wall of it or hold markup.
    """


def parse(text: str) -> Millis:
    """Return the length of time that `text` means, from one second to `LONGEST` milliseconds.

    Understands `30s`, `1d2h30m`, `1h 30m`, `90 seconds` and `1 hour and 30 minutes`, in any case,
    with the units in any order and each at most once. A text of more than a hundred characters is
    refused unread. Raises DurationError, and nothing else, for everything that is not understood.
    """
    if len(text) > _MOST_CHARACTERS:
        raise DurationError("That is too much text for a length of time.")
    line = " ".join(text.split())
    if not _LINE.fullmatch(line):
        raise DurationError(next(why for pattern, why in _REASONS if pattern.search(line)))
    counts: dict[Millis, int] = {}
    for count, name in _PART.findall(line):
        unit = _UNITS.get(name.lower())
        if unit is None:
            raise DurationError(_UNKNOWN + _MONTHS.get(name.lower(), "."))
        if unit in counts:
            raise DurationError("Each unit may be used only once.")
        counts[unit] = int(count)
    total = sum(unit * count for unit, count in counts.items())
    if total == 0:
        raise DurationError("A length of time must be longer than nothing.")
    if total > LONGEST:
        raise DurationError("That is longer than can be counted.")
    return total


def given(number: object) -> Millis | None:
    """Return the milliseconds that JSON gives as a number, or as text; `None` when it gives none.

    A part of one counts as a whole, and more than `LONGEST` as `LONGEST`.
    """
    if isinstance(number, str) and re.fullmatch("[0-9]{1,100}", number):
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return min(math.ceil(number), LONGEST) if 0 <= number < math.inf else None


def compact(ms: Millis) -> str:
    """Return the shortest text that `parse` reads as `ms`, such as `1d2h30m`.

    Years and weeks are written only when they come out even: `1y`, `4w`, but `8d`. Raises
    ValueError when `ms` is not a whole, positive number of seconds.
    """
    if ms % SECOND:
        raise ValueError("not a whole number of seconds")
    return "".join(f"{count}{_SPELLINGS[unit][0]}" for count, unit in _split(ms))


def words(ms: Millis) -> str:
    """Return `ms` in English, exact to the millisecond: `1 minute 30.5 seconds`.

    `parse` reads it back when it is a whole number of seconds. Raises ValueError when `ms` is not
    positive.
    """
    return " ".join(
        f"{count} {_SPELLINGS[unit][1 if count == '1' else 2]}" for count, unit in _split(ms)
    )


def _split(ms: Millis) -> list[tuple[str, Millis]]:
    """Return the numbers and units that make up `ms`, greatest first, as people would say it."""
    if ms <= 0:
        raise ValueError("not a positive length of time")
    for unit in (YEAR, WEEK):
        if ms % unit == 0:
            return [(str(ms // unit), unit)]
    parts = []
    for unit in (DAY, HOUR, MINUTE):
        count, ms = divmod(ms, unit)
        if count:
            parts.append((str(count), unit))
    if ms:
        seconds = f"{ms // SECOND}.{ms % SECOND:03}".rstrip("0").rstrip(".")
        parts.append((seconds, SECOND))
    return parts
