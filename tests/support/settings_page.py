"""Makes docs/settings.md from the settings' model and the sentences of config.example.yaml."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from bot.config import Settings, values
from bot.config.loading import KEYS, SECTIONS, variable
from bot.core.durations import compact

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

INTRODUCTION: Final = """\
# Settings

Settings stand in `config.yaml`, as in [config.example.yaml](../config.example.yaml). A dot in a
name below is a section there. Only `homeserver`, `user_id` and one way to log in are needed. A
misspelt name is an error. Where that file is, and how to give settings to a container, stands in
[operating](operating.md#settings-of-your-own).

Exactly one of `password`, `password_file`, `access_token_file` and `appservice.token_file` says how
the bot logs in.

Every setting can come from the environment instead, which wins over the file. An empty variable is
the same as `null`, which means: not set. (Only for `invites.allow` it is an error: `[]` is nobody.)
Proxies and certificate authorities of your own are given in
[the usual variables](operating.md#behind-a-proxy): `HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`.
"""

TIME: Final = (
    "a length of time with its unit, such as `30s`, `5m`, `2h`, `7d`, `4w`, `1y` or `1d 12h`"
)

ALLOWED: Final = {
    values.check_url: "an `http` or `https` address",
    values.check_user_id: "a full Matrix id, in quotes",
    values.check_prefix: "one word without white space",
    values.check_glob: (
        "a list of patterns over Matrix ids; in the variable, JSON or patterns between commas"
    ),
    values.check_lifetime: TIME,
    values.check_count: "a whole number, 1 or more",
    values.check_path: "a path; `~` is the home directory",
    values.check_secret: "text",
    values.check_pickle_key: "64 hexadecimal characters",
}
"""What each check of bot.config.values lets through, in words."""


def page(example: str) -> str:
    """Return the page; `example` is the text of config.example.yaml."""
    told = sentences(example)
    parts, shown = [INTRODUCTION], ""
    for key in KEYS:
        section = key.partition(".")[0] if "." in key else "general"
        if section != shown:
            parts.append(f"## {section.capitalize() if section == 'general' else section}\n")
            shown = section
        parts.append(
            f"### `{key}`\n\n{told[key]}\n\n"
            f"- Default: {default(key)}\n- Allowed: {allowed(key)}\n- Variable: `{variable(key)}`\n"
        )
    return "\n".join(parts)


def field(key: str) -> FieldInfo:
    """Return the model's field of a key, such as `lifetime.min`."""
    section, _, name = key.rpartition(".")
    model = Settings.model_fields[section].annotation if section else Settings
    found: FieldInfo = model.model_fields[name]  # type: ignore[union-attr]
    return found


def default(key: str) -> str:
    """Return the default of a key as it is written in YAML, or that there is none."""
    value = field(key).default
    if field(key).is_required():
        return "none; it must be set"
    value = field(key).default
    if value is None:
        return "`null`"
    if values.check_lifetime in checks(key):
        return f"`{compact(value)}`"
    return f"`{str(value).lower()}`"


def allowed(key: str) -> str:
    """Return in words what a key may hold, from its type and its checks."""
    kind = field(key).annotation
    choices = [one for one in (kind, *get_args(kind)) if get_origin(one) is Literal]
    if kind is bool:
        return "`true` or `false`"
    if choices:
        names = [f"`{name}`" for name in get_args(choices[0])]
        return f"{', '.join(names[:-1])} or {names[-1]}"
    (words,) = {ALLOWED[check] for check in checks(key) if check in ALLOWED}
    return f"{words}; or `null`" if type(None) in get_args(kind) else words


def checks(key: str) -> set[Any]:
    """Return the functions that check a key's value."""
    return set(_functions((field(key).annotation, *field(key).metadata)))


def _functions(parts: tuple[Any, ...]) -> list[Any]:
    found = []
    for part in parts:
        found += [part.func] if hasattr(part, "func") else _functions(get_args(part))
    return found


def sentences(example: str) -> dict[str, str]:
    """Return the comment above each key of config.example.yaml, by the key with its section."""
    told: dict[str, str] = {}
    section, comment = "", list[str]()
    for line in example.splitlines():
        if found := re.fullmatch(r"\s*# (.*)", line):
            comment.append(found[1])
        elif found := re.match(r"( *)([a-z_]+):", line):
            indent, name = found.groups()
            if name in SECTIONS and not indent:
                section = name
            else:
                told[f"{section}.{name}" if indent else name] = " ".join(comment)
            comment = []
        else:
            comment = []
    return told
