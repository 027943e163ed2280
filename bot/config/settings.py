"""What the operator decides: every key of the settings, its default, and what it may hold."""

# No `from __future__ import annotations`: pydantic reads the annotations while the program runs.
import re
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from bot.config.values import (
    AnyPath,
    Count,
    Lifetime,
    check_glob,
    check_pickle_key,
    check_prefix,
    check_secret,
    check_url,
    check_user_id,
)
from bot.core import recovery_key
from bot.core.durations import compact, parse
from bot.core.invitations import InvitePolicy
from bot.core.lifetimes import LifetimeLimits
from bot.core.types import UserID

LOGINS: Final = ("password", "password_file", "access_token_file", "appservice.token_file")
"""The keys of which exactly one must be set."""

MAY_LACK: Final = "appservice.token_file"
"""The context of validation in which the file of that key may be absent."""


class ConfigError(Exception):
    """The settings cannot be used: one line that names the key and never quotes its value."""


# --- The settings ------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Invites(_Section):
    """Who may invite the bot: globs over user ids; None is everybody on the bot's own server.

    And how often, in an hour; and how many rooms it is in at most, or None for any number.
    """

    allow: list[Annotated[str, AfterValidator(check_glob)]] | None = None
    per_inviter: Count = 20
    per_hour: Count = 100
    max_rooms: Count | None = 1000
    rooms_per_inviter: Count | None = 100


class Lifetimes(_Section):
    """What lifetimes a room may have, and the one it has before anybody sets one. Milliseconds."""

    default: Lifetime | None = None
    min: Lifetime = parse("5s")
    max: Lifetime = parse("1y")


class Encryption(_Section):
    """What locks the crypto store, opens the lost identity, and how long a used key is kept."""

    pickle_key: Annotated[SecretStr, AfterValidator(check_pickle_key)] | None = None
    pickle_key_file: AnyPath | None = None
    recovery_key_file: AnyPath | None = None
    grace: Lifetime = parse("30s")


class Commands(_Section):
    """Which commands count, and how many of one sender in a minute."""

    require_signed_devices: bool = False
    per_minute: Count = 30


class AppService(_Section):
    """How to log in as an application service."""

    token_file: AnyPath | None = None


class Media(_Section):
    """Whether the files of expired messages are deleted, and by whose right."""

    delete: bool = False
    admin_token_file: AnyPath | None = None


class Log(_Section):
    """How much is logged, and in what form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(_Section):
    """Everything the operator decides; complete and consistent once it exists."""

    homeserver: Annotated[str, AfterValidator(check_url)]
    user_id: Annotated[UserID, AfterValidator(check_user_id)]
    password: Annotated[SecretStr, AfterValidator(check_secret)] | None = None
    password_file: AnyPath | None = None
    access_token_file: AnyPath | None = None
    data_dir: AnyPath = Path("data")
    command_prefix: Annotated[str, AfterValidator(check_prefix)] = "!expire"
    invites: Invites = Invites()
    lifetime: Lifetimes = Lifetimes()
    encryption: Encryption = Encryption()
    commands: Commands = Commands()
    appservice: AppService = AppService()
    media: Media = Media()
    log: Log = Log()

    # Read once, when the settings are: a file that goes away later cannot stop a running bot.
    _password: SecretStr | None = PrivateAttr(None)
    _access_token: SecretStr | None = PrivateAttr(None)
    _as_token: SecretStr | None = PrivateAttr(None)
    _pickle_key: SecretStr | None = PrivateAttr(None)
    _recovery_key: SecretStr | None = PrivateAttr(None)
    _admin_token: SecretStr | None = PrivateAttr(None)

    @property
    def own_server(self) -> str:
        """The server name of the bot's own user id, with its port if it has one."""
        return self.user_id.partition(":")[2]

    @property
    def allow(self) -> list[str]:
        """The globs of those who may invite the bot; an empty list means nobody."""
        return [f"*:{self.own_server}"] if self.invites.allow is None else self.invites.allow

    @property
    def invite_policy(self) -> InvitePolicy:
        """Whose invitations the bot accepts, and how many."""
        return InvitePolicy(**(self.invites.model_dump() | {"allow": self.allow}))

    @property
    def limits(self) -> LifetimeLimits:
        """The lifetimes that rooms may have."""
        lifetime = self.lifetime
        return LifetimeLimits(minimum=lifetime.min, maximum=lifetime.max, default=lifetime.default)

    def password_text(self) -> str | None:
        """Return the password, or None when the bot has an access token instead."""
        return _revealed(self._password)

    def access_token_text(self) -> str | None:
        """Return the access token, or None when the bot logs in with a password."""
        return _revealed(self._access_token)

    def as_token_text(self) -> str | None:
        """Return the token of the application service, or None when the bot is none."""
        return _revealed(self._as_token)

    def pickle_key(self) -> bytes | None:
        """Return the 32 bytes that lock the crypto store, or None when the bot makes its own."""
        text = _revealed(self._pickle_key)
        return None if text is None else bytes.fromhex(text)

    def recovery_key(self) -> bytes | None:
        """Return the key to the account's secret storage, or None when the bot has none."""
        text = _revealed(self._recovery_key)
        return None if text is None else recovery_key.read(text)

    def admin_token_text(self) -> str | None:
        """Return the token by which files are deleted, or None when they stay."""
        return _revealed(self._admin_token) if self.media.delete else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        lifetime = self.lifetime
        if lifetime.min > lifetime.max:
            raise ValueError("lifetime.min: is above lifetime.max")
        if lifetime.default is not None and not self.limits.allows(lifetime.default):
            allowed = f"{compact(lifetime.min)} to {compact(lifetime.max)}"
            raise ValueError(
                f"lifetime.default: is outside lifetime.min to lifetime.max, {allowed}"
            )
        ways = [key for key in LOGINS if attrgetter(key)(self) is not None]
        if not ways:
            raise ValueError(f"password: missing; one of {', '.join(LOGINS)} is needed to log in")
        if len(ways) > 1:
            raise ValueError(f"{', '.join(ways)}: more than one way to log in; keep one")
        return self

    def read_again(self) -> Self:
        """Read the files of the login again; what cannot be used stays as it was read before."""
        for read in (self._read_password, self._read_access_token, self._read_service_token):
            with suppress(ValueError):
                read()
        return self

    def _read_password(self) -> None:
        self._password = self.password or _read("password_file", self.password_file)

    def _read_access_token(self) -> None:
        self._access_token = _read_token("access_token_file", self.access_token_file, "access ")

    def _read_service_token(self) -> None:
        self._as_token = _read_token("appservice.token_file", self.appservice.token_file)

    @model_validator(mode="after")
    def _read_secrets(self) -> Self:
        self._read_password()
        self._read_access_token()
        key, key_file = self.encryption.pickle_key, self.encryption.pickle_key_file
        if key and key_file:
            raise ValueError("encryption.pickle_key, encryption.pickle_key_file: keep one")
        self._pickle_key = key or _read("encryption.pickle_key_file", key_file)
        if self._pickle_key:
            try:
                check_pickle_key(self._pickle_key)
            except ValueError as error:
                raise ValueError(f"encryption.pickle_key_file: {error}") from None
        return self

    @model_validator(mode="after")
    def _read_as_token(self, info: ValidationInfo) -> Self:
        file = self.appservice.token_file
        if info.context != MAY_LACK or file is None or file.exists():
            self._read_service_token()
        return self

    @model_validator(mode="after")
    def _read_recovery_key(self) -> Self:
        key = "encryption.recovery_key_file"
        self._recovery_key = _read(key, self.encryption.recovery_key_file)
        try:
            self.recovery_key()
        except recovery_key.RecoveryKeyError as error:
            raise ValueError(f"{key}: {error}") from None
        return self

    @model_validator(mode="after")
    def _read_admin_token(self) -> Self:
        key = "media.admin_token_file"
        self._admin_token = _read_token(key, self.media.admin_token_file, "access ")
        if self.media.delete and self._admin_token is None:
            raise ValueError(f"media.delete: needs {key}")
        return self


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _read_token(key: str, path: Path | None, kind: str = "") -> SecretStr | None:
    """Return the token that the file at `path` holds."""
    found = _read(key, path)
    if not re.fullmatch(r"[!-~]*", _revealed(found) or ""):
        raise ValueError(f"{key}: must hold one {kind}token and nothing else")
    return found


def _read(key: str, path: Path | None) -> SecretStr | None:
    """Return what the file at `path` holds. The path is not quoted: it may be the secret itself."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{key}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise ValueError(f"{key}: is not UTF-8 text") from None
    if not text:
        raise ValueError(f"{key}: the file is empty")
    return SecretStr(text)
