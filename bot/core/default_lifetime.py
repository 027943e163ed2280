"""Tells since when the operator's default lifetime holds in a room, and what held before.

`lifetime.default` is the operator's, who may add it, change it or take it out while people talk.
What was said before that is not touched: so each room knows since when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bot.core.json_shape import inside
from bot.core.types import Millis

DEFAULT_EVENT: Final = "io.github.matrix-ephemeral-bot.default"
"""The state event in which the bot itself writes a room's `Defaults` down."""
SINCE: Final = "since"
MOST: Final = 20
"""Changes that are remembered, the newest; under older ones messages stay."""
LARGEST: Final = 2**53 - 1
"""The largest integer in canonical JSON."""

Defaults = tuple[tuple[Millis, Millis | None], ...]
"""Times, the oldest first, and the default from each on; `None`: there is none.

Before the first, and where nothing is known, there is none. Moment 0: since the bot came.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultBegins:
    """The operator's default is another for what follows."""

    lifetime: Millis | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultSaid:
    """The bot's own state event that says since when the operator's default holds here."""

    defaults: Defaults


def defaults_content(defaults: Defaults) -> dict[str, Any]:
    """Return the content of the state event."""
    return {SINCE: [list(one) for one in defaults]}


def read_defaults(found: Any) -> Defaults:
    """Read the content of the bot's own state event; nothing where it cannot be read."""
    since = inside(found, SINCE)
    if not isinstance(since, list) or len(since) > MOST or not all(map(_is_one, since)):
        return ()
    times = [one[0] for one in since]
    return tuple((one[0], one[1]) for one in since) if times == sorted(times) else ()


def _is_one(one: Any) -> bool:
    if not isinstance(one, list) or len(one) != 2:
        return False
    return _is_number(one[0]) and (one[1] is None or (_is_number(one[1]) and one[1] > 0))


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def current(defaults: Defaults) -> Millis | None:
    """Return the default that holds now."""
    return defaults[-1][1] if defaults else None


def held_at(defaults: Defaults, at: Millis | None) -> Millis | None:
    """Return the default that held at a moment; `at`: `None` when nobody knows the moment."""
    if at is None:
        return None
    return next((span for since, span in reversed(defaults) if since <= at), None)


def began(defaults: Defaults) -> Millis | None:
    """Return since when there has been a default at all; `None`: never."""
    return next((since for since, span in defaults if span is not None), None)


def keeps_longer(one: Millis | None, other: Millis | None) -> bool:
    """Whether messages stay longer under one default than under the other."""
    return other is not None and (one is None or one > other)


def change(defaults: Defaults, to: Millis | None, *, ended: Millis, now: Millis) -> Defaults:
    """Return what is known when the bot runs with another default than before.

    Nobody knows at which moment the operator changed it: after `ended`, when the bot followed the
    room last, and before `now`. What was said in between is judged by the default under which it
    stays longer.
    """
    since = ended if keeps_longer(to, current(defaults)) else now + 1
    latest = defaults[-1][0] if defaults else 0
    return (*defaults, (max(since, latest), to))[-MOST:]


def before_event(defaults: Defaults) -> Defaults:
    """Return what holds for what stands before the state event that says `defaults`.

    The newest default did not hold there yet, whatever a message says of its own time; between
    its moment and the writing down, messages stay longer rather than shorter.
    """
    if not defaults or not defaults[-1][0]:
        return defaults
    since, span = defaults[-1]
    earlier = current(defaults[:-1])
    return (*defaults[:-1], (since, earlier if keeps_longer(earlier, span) else span))


def first_defaults(
    published: Defaults, default: Millis | None, *, entered: bool, now: Millis
) -> Defaults:
    """Return since when which default holds in a room that was not known.

    Its state says `published`. `entered`: the bot has just come. Else it was there before its
    database was made, and only the room's state knows anything of that time.
    """
    if current(published) == default:
        return published
    ended = published[-1][0] if published else 0
    return ((0, default),) if entered else change(published, default, ended=ended, now=now)


def published_in(items: Sequence[object]) -> Defaults | None:
    """Return what the bot's own state event says, if it is among some items."""
    found = [item.defaults for item in items if isinstance(item, DefaultSaid)]
    return found[-1] if found else None
