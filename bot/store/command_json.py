"""Turns commands that wait behind a gap into JSON and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from bot.core.commands import Command, Effect, Right, SetLifetime, UndecidedCommand
from bot.core.outbox import Answer, Failure
from bot.store.outbox_rows import UnreadableRowError, build, dump, load

SET_LIFETIME: Final = "set_lifetime"


def dump_command(command: Command | UndecidedCommand) -> dict[str, Any]:
    """Return a command as JSON."""
    data = asdict(command)
    if isinstance(command, UndecidedCommand):
        data["right"] = command.right.name
        data["request"] = dump_effect(command.request)
    else:
        data["effect"] = dump_effect(command.effect)
    return data


def load_command(data: dict[str, Any]) -> Command:
    """Return a command that was authorized. Raises `UnreadableRowError`."""
    return Command(**data | {"effect": _load_effect(data["effect"])})


def load_undecided(data: dict[str, Any]) -> UndecidedCommand:
    """Return a command that was not authorized yet. Raises `UnreadableRowError`."""
    request, right = load_request(data["request"]), Right[data["right"]]
    return UndecidedCommand(**data | {"request": request, "right": right})


def load_request(found: Any) -> Effect:
    """Return what a command asks for. Raises `UnreadableRowError`."""
    request = _load_effect(found)
    if request is None:
        raise UnreadableRowError("a command that asks for nothing")
    return request


def dump_effect(effect: Effect | None) -> tuple[str, dict[str, Any]] | None:
    """Return what a command asks for, or comes to, as JSON."""
    if isinstance(effect, SetLifetime):
        return SET_LIFETIME, asdict(effect)
    return None if effect is None else dump(effect)


def _load_effect(found: Any) -> Effect | None:
    if found is None:
        return None
    name, args = found
    if name == SET_LIFETIME:
        return build(SetLifetime, args)
    content = load(name, args)
    if not isinstance(content, Answer | Failure):
        raise UnreadableRowError("something that no command comes to")
    return content
