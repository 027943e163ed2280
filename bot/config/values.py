"""What a value of the settings may look like; each refusal says what it must be."""

# No `from __future__ import annotations`: pydantic reads the annotations while the program runs.
import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, SecretStr

from bot.core.durations import DurationError, parse
from bot.core.types import Millis

_SERVER: Final = r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,230})(?::[0-9]{1,5})?"
_USER_ID: Final = re.compile(rf"@[^:\s]{{1,200}}:{_SERVER}")
_PICKLE_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")


def check_url(value: str) -> str:
    """The address of a homeserver, without a slash at its end."""
    problem = "must be an http or https URL, such as https://matrix.example.org"
    try:
        url = urlsplit(value)
        usable = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(problem)
    if "@" in url.netloc or "?" in value or "#" in value:
        raise ValueError(problem + ", without user name, query or fragment")
    return value.rstrip("/")


def check_user_id(value: str) -> str:
    """A full Matrix id."""
    if not _USER_ID.fullmatch(value):
        raise ValueError("must be a full Matrix id in quotes, such as '@bot:example.org'")
    return value


def check_prefix(value: str) -> str:
    """The word that begins a command."""
    if not value or " " in value or not value.isprintable():
        raise ValueError("must be one visible word without white space")
    return value


def check_glob(value: str) -> str:
    """A pattern over user ids."""
    # A pattern that can match no user id would shut out people whom the operator meant to let in.
    if value != "*" and not re.fullmatch(r"[@*][^:\s]*:\S+", value):
        raise ValueError("must look like '*:example.org' or '@alice:*'")
    return value


def check_lifetime(value: object) -> Millis:
    """A length of time with its unit, as milliseconds."""
    if isinstance(value, str):
        try:
            return parse(value)
        except DurationError as error:
            sentence = str(error).rstrip(".")
            raise ValueError(sentence[:1].lower() + sentence[1:]) from None
    # YAML reads a bare 30 as a number; whether it meant seconds, only the operator knows.
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        raise ValueError(f"a number needs a unit: write {value}s for seconds")
    raise ValueError("must be a length of time, such as 30s, 12h or 1y")


def check_count(value: object) -> int:
    """A whole number above 0, from the environment as text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**9:
        raise ValueError("must be a whole number, 1 or more")
    return value


def check_path(value: object) -> object:
    """A path; `~` is the home directory."""
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise ValueError("must be a path")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("must not begin with ~: there is no home directory") from None


def check_secret(value: SecretStr) -> SecretStr:
    """A secret that is not empty."""
    if not value.get_secret_value():
        raise ValueError("must not be empty")
    return value


def check_pickle_key(value: SecretStr) -> SecretStr:
    """32 bytes in hexadecimal."""
    if not _PICKLE_KEY.fullmatch(value.get_secret_value()):
        raise ValueError("must be 64 hexadecimal characters (32 bytes)")
    return value


Count = Annotated[int, BeforeValidator(check_count)]
Lifetime = Annotated[Millis, BeforeValidator(check_lifetime)]
AnyPath = Annotated[Path, BeforeValidator(check_path)]
