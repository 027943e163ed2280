"""The commands people may say: one table, from which parsing and help come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from bot import durations
from bot.timeline import OFF

LONGEST_ARGUMENT: Final = 100
"""Characters after the prefix that can still be a command; an event may carry 64 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One row of the table of commands."""

    kind: str
    names: tuple[str, ...]
    argument: str = ""
    right: str = "anybody"
    help: str


LIFETIME_RIGHT: Final = "whoever may change the room's lifetime"

TABLE: Final = (
    Command(
        kind="set",
        names=("", "set"),
        argument="<lifetime>",
        right=LIFETIME_RIGHT,
        help="new messages disappear after this long, such as 30s, 5m, 2h, 7d, 4w, 1y or 1d 12h",
    ),
    Command(
        kind="off",
        names=("off", "unset"),
        right=LIFETIME_RIGHT,
        help="new messages stay; those sent before still disappear",
    ),
    Command(
        kind="status",
        names=("", "status", "show"),
        help="what is set here, how much is waiting, and whether I can do my work",
    ),
    Command(
        kind="fingerprint",
        names=("fingerprint",),
        help="my keys, to compare with what your app shows of me",
    ),
    Command(kind="help", names=("help",), help="this list"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A line that begins with the prefix: which command it is, or why it is none."""

    kind: str
    setting: int | None = None
    args: dict[str, Any] = field(default_factory=dict)


def usage(command: Command, prefix: str) -> str:
    """Return how the command is written, the shortest way first, with its other names."""
    forms = [" ".join(filter(None, (prefix, name, command.argument))) for name in command.names]
    return forms[0] + (f" (or {', '.join(command.names[1:])})" if len(forms) > 1 else "")


def text_of(content: dict[str, Any], relates_to: Any) -> str | None:
    """Return what a person typed, if the message is one that may be a command.

    Notices, emotes, edits and replies are none: a quoted command must not run again.
    `relates_to` is the relation in clear, which encrypted events carry outside.
    """
    relations = [part for part in (relates_to, content.get("m.relates_to")) if part is not None]
    if content.get("msgtype") != "m.text" or "m.new_content" in content:
        return None
    if any(not _harmless(relation) for relation in relations):
        return None
    body = content.get("body")
    return body if isinstance(body, str) else None


def _harmless(relation: Any) -> bool:
    """Whether a message with this relation is still a message of its own."""
    if not isinstance(relation, dict):
        return False
    if relation.get("rel_type") == "m.thread":
        return "m.in_reply_to" not in relation or relation.get("is_falling_back") is True
    return "rel_type" not in relation and "m.in_reply_to" not in relation


def parse(text: str, prefix: str) -> Parsed | None:
    """Return the command that `text` is, or `None` when it does not begin with the prefix.

    Total and quick for any text, however long.
    """
    start = text[: len(prefix) + 4 * LONGEST_ARGUMENT].lstrip()
    if start[: len(prefix)].casefold() != prefix.casefold():
        return None
    rest = start[len(prefix) :]
    if rest and not rest[0].isspace():
        return None
    rest = rest.strip()
    if len(rest) > LONGEST_ARGUMENT or len(text) > len(prefix) + 4 * LONGEST_ARGUMENT:
        return Parsed(kind="invalid")
    word, _, argument = rest.partition(" ")
    word = word.casefold()
    for command in TABLE:
        if word in command.names and not command.argument and not argument:
            return Parsed(kind="off", setting=OFF) if command.kind == "off" else _plain(command)
    return _lifetime(argument if word == "set" else rest)


def _plain(command: Command) -> Parsed:
    return Parsed(kind=command.kind)


def _lifetime(text: str) -> Parsed:
    try:
        return Parsed(kind="set", setting=durations.parse(text))
    except durations.DurationError as error:
        return Parsed(kind="invalid", args={"reason": str(error)})
