"""Reads the settings from the YAML file and the environment, and says in one line what is wrong."""

from __future__ import annotations

import difflib
import json
import os
import re
from typing import TYPE_CHECKING, Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from bot.config.settings import MAY_LACK, ConfigError, Settings
from bot.core.proxies import ProxyError, find_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

PREFIX: Final = "EPHEMERAL_BOT_"
"""What the variables of the bot begin with; `__` stands between a section and its key."""

# Kubernetes tells every container the addresses of a service named `ephemeral-bot` in this form.
_KUBERNETES: Final = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)|PORT)(_[0-9A-Z_]+)?")


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (f"{name}.{key}" for key in _keys(kind))
        else:
            yield name


KEYS: Final = tuple(_keys(Settings))
"""Every key, with its section before a dot: `homeserver`, `lifetime.min`."""

SECTIONS: Final = tuple(dict.fromkeys(key.partition(".")[0] for key in KEYS if "." in key))


def load(
    path: Path,
    *,
    required: bool = True,
    environ: Mapping[str, str] | None = None,
    token_to_come: bool = False,
) -> Settings:
    """Return the settings of the file at `path`, each overruled by its environment variable.

    A file that is not `required` may be absent. `environ` is the process's own when it is None.
    `token_to_come`: the file of `appservice.token_file` may be absent too.
    Raises ConfigError, and nothing else, for everything that the operator can get wrong. Its text
    is one line without the file's name, and quotes no text that stands for a value, since that may
    be a secret which was put in the wrong place.
    """
    environ = os.environ if environ is None else environ
    given = _from_environ(environ)
    data = _from_file(path)
    if data is None:
        if required:
            raise ConfigError("no such file")
        if not given:
            raise ConfigError("no such file; copy config.example.yaml, or name one with --config")
        data = {}
    for section in SECTIONS:
        # A section whose keys are all commented out is null in YAML.
        data[section] = _copy(data.get(section))
    for key, value in given.items():
        section, _, name = key.rpartition(".")
        place = data[section] if section else data
        if isinstance(place, dict):
            place[name] = value
    try:
        settings = Settings.model_validate(data, context=MAY_LACK if token_to_come else None)
        find_proxy(settings.homeserver, environ)
    except ProxyError as error:
        problems = str(error)
    except ValidationError as error:
        # Unknown keys first: a misspelt key is why another one is missing.
        found = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        problems = "; also ".join(_line(one, given) for one in found)
    else:
        return settings
    raise ConfigError(problems)


def _copy(section: Any) -> Any:
    return dict(section or {}) if isinstance(section, dict | None) else section


# --- The environment ---------------------------------------------------------------------------


def variable(key: str) -> str:
    """Return the name of the environment variable that sets `key`."""
    return PREFIX + key.upper().replace(".", "__")


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys that the environment sets; an empty variable is null, as an empty key is."""
    names = {variable(key): key for key in KEYS}
    given: dict[str, Any] = {}
    for name in sorted(environ):
        if name in names:
            given[names[name]] = environ[name] or None
        elif name.startswith(PREFIX) and not _KUBERNETES.fullmatch(name):
            raise ConfigError(_unknown(name, [*names]))
    if "invites.allow" in given:
        given["invites.allow"] = _list(variable("invites.allow"), given["invites.allow"])
    return given


def _list(name: str, value: str | None) -> Any:
    if value is None:
        # Null would mean the bot's own server, and whoever leaves a list empty means nobody.
        raise ConfigError(f"{name}: is empty; write [] for nobody, or unset it")
    if not value.lstrip().startswith("["):
        return [item.strip() for item in value.split(",")]
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ConfigError(f"{name}: must be a JSON list or words between commas") from None


# --- The file ----------------------------------------------------------------------------------


def _from_file(path: Path) -> dict[Any, Any] | None:
    """Return what the file holds, or None when there is no such file."""
    try:
        return _mapping(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except yaml.MarkedYAMLError as error:
        # The parser's own words quote the file, and with it, perhaps, a password.
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = f"not YAML{place}; text that begins with @ * & ! % or ` needs quotes"
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except (yaml.YAMLError, ValueError, RecursionError):
        problem = "not YAML"
    raise ConfigError(problem)


def _mapping(text: str) -> dict[Any, Any]:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError("must hold keys and values, such as homeserver: https://example.org")
        _refuse_twice(node)
        data: dict[Any, Any] = loader.construct_document(node)
        return data
    finally:
        loader.dispose()


def _refuse_twice(node: yaml.MappingNode, section: str = "") -> None:
    """Refuse a key that is written twice: YAML would silently keep the last."""
    seen: set[str] = set()
    for key, value in node.value:
        name = f"{section}{key.value}"
        if name in seen:
            raise ConfigError(f"{_shown(name)}: written twice, again in line {_number(key)}")
        seen.add(name)
        # Settings are two levels deep; a loop of aliases is not to be followed.
        if isinstance(value, yaml.MappingNode) and not section:
            _refuse_twice(value, f"{name}.")


def _number(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


# --- What is wrong, in one line ----------------------------------------------------------------

_PROBLEMS: Final = {
    "missing": "missing",
    "string_type": "must be text; a number needs quotes",
    "path_type": "must be text; a number needs quotes",
    "list_type": "must be a list",
    "model_type": "must be a section of keys and values",
}


def _line(error: ErrorDetails, given: Mapping[str, Any]) -> str:
    """Return what is wrong as `key: problem`, with the variable's name if that set the key."""
    key = ".".join(map(str, error["loc"]))
    kind = error["type"]
    if kind == "invalid_key":
        return "a key is not text; YAML reads on, off, yes, no and numbers as something else"
    if kind == "extra_forbidden":
        return _unknown(key, [*KEYS, *SECTIONS])
    text = str(error["ctx"]["error"]) if kind == "value_error" else _problem(error)
    if not key:
        return text  # about several keys, which it names itself
    for name in given:
        if key == name or key.startswith(f"{name}."):
            return f"{key} ({variable(name)}): {text}"
    return f"{_shown(key)}: {text}"


def _problem(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "literal_error":
        return f"must be {error['ctx']['expected']}"
    if kind in {"string_type", "path_type"} and isinstance(error["input"], bool):
        return "must be text; YAML reads a bare on, off, yes or no as true or false: quote it"
    return _PROBLEMS.get(kind, "cannot be used")


def _unknown(name: str, known: list[str]) -> str:
    if name in known:
        section, _, key = name.partition(".")
        return f"{name}: unknown key; write {key} indented below {section}"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{_shown(name)}: unknown key{hint}"


def _shown(name: str) -> str:
    """Return `name` cut where it stops to look like a key: `{password:secret}` is a key in YAML."""
    start = re.match(r"[\w.-]{0,60}", name)
    shown = start.group() if start else ""
    return shown if shown == name else f"{shown}…"
