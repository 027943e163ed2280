"""Turns what is to be sent to a room into a row, a stable name and JSON, and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import cache
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from bot.core import outbox
from bot.core.outbox import Content

KINDS: Final[dict[str, type[Content]]] = {
    "set": outbox.SetPolicy,
    "default": outbox.WriteDefault,
    "announce": outbox.Announce,
    "help": outbox.AnswerHelp,
    "status": outbox.AnswerStatus,
    "fingerprint": outbox.AnswerFingerprint,
    "invalid": outbox.AnswerInvalid,
    "outside_limits": outbox.AnswerOutsideLimits,
    "sender_not_allowed": outbox.SenderNotAllowed,
    "bot_not_allowed": outbox.BotNotAllowed,
    "device_unverified": outbox.DeviceUnverified,
    "too_many_commands": outbox.TooManyCommands,
    "key_never_came": outbox.KeyNeverCame,
    "right_unknown": outbox.RightUnknown,
    "overtaken": outbox.Overtaken,
    "write_refused": outbox.WriteRefused,
    "changed": outbox.AnnounceChange,
    "welcome": outbox.Welcome,
    "suspended": outbox.Suspended,
    "resumed": outbox.Resumed,
    "redactions_refused": outbox.RedactionsRefused,
    "messages_missed": outbox.MessagesMissed,
    "room_replaced": outbox.RoomReplaced,
    "moved_here": outbox.MovedHere,
    "power_needed_here": outbox.PowerNeededHere,
}
"""The names in the database. One that was used once never means anything else."""
NAMES: Final = {kind: name for name, kind in KINDS.items()}

T = TypeVar("T")


class UnreadableRowError(ValueError):
    """A row that this version does not know, or that is damaged. Its text quotes nothing of it."""


def dump(content: Content) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of what is to be sent; these are JSON."""
    return NAMES[type(content)], asdict(content)


def load(name: str, args: Any) -> Content:
    """Return what is to be sent. Raises `UnreadableRowError`."""
    kind = KINDS.get(name)
    if kind is None:
        raise UnreadableRowError("a kind that is not known")
    return build(kind, args)


def build(kind: type[T], args: Any) -> T:
    """Return an object of a dataclass from JSON. Raises `UnreadableRowError`."""
    dataclass: Any = kind
    hints = _hints(dataclass)
    if not isinstance(args, dict) or not args.keys() <= hints.keys():
        raise UnreadableRowError("arguments that are not known")
    try:
        return kind(**{name: _value(hints[name], found) for name, found in args.items()})
    except TypeError:
        raise UnreadableRowError("arguments that are missing") from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _value(hint: Any, found: Any) -> Any:
    """Return a value of the type that `hint` names: numbers, text, `None`, and tuples of them."""
    hint = getattr(hint, "__supertype__", hint)
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if not isinstance(found, list):
            raise UnreadableRowError("a value of another type")
        if inner[-1] is ...:
            inner = inner[:1] * len(found)
        if len(inner) != len(found):
            raise UnreadableRowError("a value of another length")
        return tuple(map(_value, inner, found))
    allowed = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    if type(found) not in allowed:
        raise UnreadableRowError("a value of another type")
    return found
