"""Keeps what the bot needs to be the same device again: its ids, its tokens, its public keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bot.core.outcomes import DiskError, LoginError
from bot.core.types import Millis, UserID
from bot.matrix.private_files import write_private

TIMES: Final = ("expires_at", "renew_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The device that the bot is."""

    user_id: UserID
    device_id: str
    access_token: str = field(repr=False)
    appservice: bool = False
    """The token is an application service's: what it stands for is said in every request."""
    refresh_token: str | None = field(default=None, repr=False)
    """Gives the next access token, and with it the next refresh token."""
    expires_at: Millis | None = None
    """When the access token ends; `None`: that is not known."""
    renew_at: Millis | None = None
    """When to have the next one, ahead of its end."""
    ed25519: str = ""
    curve25519: str = ""
    """The device's public keys; empty: not known here yet."""

    @property
    def keys(self) -> tuple[str, str] | None:
        """The device's Ed25519 and Curve25519 keys; `None`: not known here yet."""
        return (self.ed25519, self.curve25519) if self.ed25519 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the operator gave the bot to log in with: one of the three."""

    homeserver: str
    user_id: UserID
    password: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    as_token: str | None = field(default=None, repr=False)
    reread: Callable[[], Credentials] | None = field(default=None, repr=False, compare=False)
    """Reads the operator's files again: one may hold something new."""


def load_identity(where: Path) -> Identity | None:
    """Return the device that was logged in before. Raises `LoginError` when it is unreadable."""
    try:
        data = json.loads(where.read_text(encoding="utf-8"))
        found = Identity(**data | {name: _read_time(data[name]) for name in TIMES if name in data})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LoginError(
            f"{where} cannot be read ({error}): move it away to log in anew"
        ) from error
    return found


def save_identity(where: Path, identity: Identity) -> None:
    """Have the device on the disk, whole or as it was before. Raises `DiskError`."""
    data = {name: value for name, value in asdict(identity).items() if value not in {None, ""}}
    data |= {name: _write_time(data[name]) for name in TIMES if name in data}
    try:
        write_private(where, json.dumps(data) + "\n")
    except OSError as error:
        raise DiskError(f"{where}: {error.strerror or type(error).__name__}") from error


def _write_time(at: Millis) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")


def _read_time(text: str) -> Millis:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
