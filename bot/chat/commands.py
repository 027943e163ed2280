"""The commands that people may say, one row each: to add one, add its row and its function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from bot.core import durations
from bot.core.commands import Right, SetLifetime
from bot.core.lifetimes import OFF
from bot.core.outbox import Answer, AnswerFingerprint, AnswerHelp, AnswerInvalid, AnswerStatus
from bot.core.types import Millis

T = TypeVar("T")


class ArgumentError(ValueError):
    """What follows a command's name cannot be read; the text is a sentence for who said it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument(Generic[T]):
    """What follows a command's name."""

    written: str
    """How the help writes it; empty: nothing follows."""
    parse: Callable[[str], T]
    """Reads all that follows, in single spaces. Raises `ArgumentError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRow(Generic[T]):
    """One row of the table of commands."""

    names: tuple[str, ...]
    """How it may be called after the prefix, the shortest first; empty: by its argument alone."""
    also: tuple[str, ...] = ()
    """Names that are understood, and not told of."""
    argument: Argument[T]
    right: Right = Right.ANYBODY
    """What a person must be allowed to do in the room; only such a command may change anything."""
    effect: Callable[[T], SetLifetime | Answer]
    """Says what the command comes to, should its sender have the right."""
    help: str

    def usage(self, prefix: str) -> str:
        """Return how the command is written, the shortest way first, with its other names."""
        words = [(prefix, name, self.argument.written) for name in self.names]
        first, *others = [" ".join(filter(None, form)) for form in words]
        return first + (f" (or {', '.join(self.names[1:])})" if others else "")


def _nothing(text: str) -> None:
    if text:
        raise ArgumentError("")


def _lifetime(text: str) -> Millis:
    try:
        return durations.parse(text)
    except durations.DurationError as error:
        raise ArgumentError(str(error)) from None


NOTHING: Final = Argument(written="", parse=_nothing)
LIFETIME: Final = Argument(written="<lifetime>", parse=_lifetime)


def _set(lifetime: Millis) -> SetLifetime:
    return SetLifetime(setting=lifetime)


def _off(_: None) -> SetLifetime:
    return SetLifetime(setting=OFF)


def _status(_: None) -> Answer:
    return AnswerStatus()


def _fingerprint(_: None) -> Answer:
    return AnswerFingerprint()


def _help(_: None) -> Answer:
    return AnswerHelp()


TABLE: Final[tuple[CommandRow[Any], ...]] = (
    CommandRow(
        names=("", "set"),
        also=("after",),
        argument=LIFETIME,
        right=Right.CHANGE_LIFETIME,
        effect=_set,
        help="new messages disappear after this long, such as 30s, 5m, 2h, 7d, 4w, 1y or 1d 12h",
    ),
    CommandRow(
        names=("off", "unset"),
        also=("disable", "stop", "never", "none"),
        argument=NOTHING,
        right=Right.CHANGE_LIFETIME,
        effect=_off,
        help="new messages stay; those sent before still disappear",
    ),
    CommandRow(
        names=("", "status", "show"),
        argument=NOTHING,
        effect=_status,
        help="what is set here, how much is waiting, and whether I can do my work",
    ),
    CommandRow(
        names=("fingerprint",),
        argument=NOTHING,
        effect=_fingerprint,
        help="my keys, to compare with what your app shows of me",
    ),
    CommandRow(names=("help",), argument=NOTHING, effect=_help, help="this list"),
)


def read_command(line: str) -> tuple[Right, SetLifetime | Answer]:
    """Return what a line after the prefix, in single spaces, asks for, and the right it takes.

    The first row that understands it counts. Where none does, the answer is the reason of the
    first that was meant: anybody may be told that.
    """
    reason: str | None = None
    for row, argument in _candidates(line):
        try:
            return row.right, row.effect(row.argument.parse(argument))
        except ArgumentError as error:
            reason = reason if reason is not None else str(error)
    return Right.ANYBODY, AnswerInvalid(reason=reason or "")


def _candidates(line: str) -> Iterator[tuple[CommandRow[Any], str]]:
    """Give the rows that a line may mean, each with what it would take for the argument.

    A command that takes no argument is not meant where something follows its name, and one that
    takes an argument is not meant by an empty line.
    """
    name, _, rest = line.partition(" ")
    called = [(row, rest) for row in TABLE if name and name.casefold() in row.names + row.also]
    nameless = [(row, line) for row in TABLE if "" in row.names]
    for row, argument in called:
        if row.argument.written or not argument:
            yield row, argument
    for row, argument in nameless:
        if bool(row.argument.written) == bool(argument):
            yield row, argument
