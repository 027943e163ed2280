"""Logs in once and stays one device: its identity, its token and its crypto store."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from nio import AsyncClientConfig
from nio.store import SqliteStore
from peewee import PeeweeException

from bot.matrix.client import Matrix
from bot.matrix.files import write_private
from bot.matrix.olm import CarefulClient
from bot.matrix.paths import path
from bot.matrix.speaking import Client
from bot.model import DiskError, Done, Forbidden, Outcome, Refused, TokenRejectedError, UserID

log = logging.getLogger(__name__)

DEVICE_NAME: Final = "Disappearing messages"
NO_SERVICE: Final = (
    "the homeserver does not know the application service: is its registration in"
    " app_service_config_files, with this token, and was the homeserver restarted since?"
)
NOT_ITS_USER: Final = "{user_id} is not in the namespace of the application service's registration"
UNKNOWN_DEVICE: Final = "M_UNKNOWN_DEVICE"
NO_DEVICE: Final = (
    "the homeserver gives an application service no device (MSC4190): use a newer one,"
    " or another way to log in"
)


class LoginError(Exception):
    """The homeserver does not let the bot in; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The device that the bot is."""

    user_id: UserID
    device_id: str
    access_token: str = field(repr=False)
    appservice: bool = False
    """The token is an application service's: what it stands for is said in every request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the operator gave the bot to log in with: one of the three."""

    homeserver: str
    user_id: UserID
    password: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    as_token: str | None = field(default=None, repr=False)


def lock_secret(data_dir: Path, given: bytes | None) -> str:
    """Return the secret that locks the crypto store: given by the operator, or made once.

    32 random bytes as 64 hexadecimal digits; nio's own default would protect nothing.
    """
    if given is not None:
        return given.hex()
    where = data_dir / "crypto" / "pickle.key"
    if not where.exists():
        write_private(where, secrets.token_hex(32) + "\n")
    return where.read_text(encoding="ascii").strip()


def load_identity(where: Path) -> Identity | None:
    """Return the device that was logged in before. Raises `LoginError` when it is unreadable."""
    try:
        data = json.loads(where.read_text(encoding="utf-8"))
        return Identity(**data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise LoginError(
            f"{where} cannot be read ({error}): move it away to log in anew"
        ) from error


def connect(credentials: Credentials, data_dir: Path, secret: str) -> CarefulClient:
    """Return nio's client, none of its own retries, memories and verdicts switched on."""
    folder = data_dir / "crypto"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = AsyncClientConfig(
        store=SqliteStore,
        store_sync_tokens=False,
        encryption_enabled=True,
        pickle_key=secret,
        max_limit_exceeded=0,
        max_timeouts=0,
        request_timeout=60,
    )
    return CarefulClient(
        credentials.homeserver, credentials.user_id, store_path=str(folder), config=config
    )


Insist = Callable[[Callable[[], Awaitable[Outcome]]], Awaitable[Outcome]]
"""Repeats a request until the homeserver is there to answer it."""


async def open_session(
    client: CarefulClient, credentials: Credentials, data_dir: Path, insist: Insist
) -> Matrix:
    """Return the bot's device on its homeserver, logged in for the first time if need be.

    Raises `LoginError` when it is refused, and `DiskError` when its keys cannot be read.
    """
    where = data_dir / "device.json"
    known = load_identity(where)
    if known is not None and known.user_id != credentials.user_id:
        raise LoginError(
            f"{data_dir} belongs to {known.user_id}:"
            f" give {credentials.user_id} a data_dir of its own"
        )
    serving = credentials.as_token is not None
    if known is not None and known.appservice and not serving:
        known = None  # its token is no longer ours to use
    given = credentials.access_token or credentials.as_token
    if (
        known is not None
        and credentials.access_token is None
        and not any((data_dir / "crypto").glob("*.db"))
    ):
        log.warning("the crypto store is gone: logging in as a new device")
        known = None  # others would never encrypt to new keys under the old device's id
    if known is None or (given is not None and given != known.access_token):
        if serving:
            device_id = known.device_id if known is not None else None
            known = await _serve(client, credentials, device_id, insist)
        else:
            known = await _log_in(Matrix(client), credentials, insist)
        write_private(where, json.dumps(asdict(known)) + "\n")
    if known.appservice:
        client.speak_for(known.user_id, known.device_id)
    try:
        client.restore_login(known.user_id, known.device_id, known.access_token)
    except PeeweeException as error:
        raise DiskError(
            f"{data_dir / 'crypto'}: {error}; if it is damaged, put a backup in its place, or move"
            " device.json and crypto out of data_dir: the bot then logs in as a new device"
        ) from error
    return Matrix(client)


@asynccontextmanager
async def stand_by(credentials: Credentials, device: Identity) -> AsyncIterator[Matrix]:
    """Speak as the bot's device without its crypto store, beside a bot that may be running."""
    client = Client(credentials.homeserver, credentials.user_id)
    client.user_id = credentials.user_id  # nio itself fills it in at the login
    matrix = Matrix(client)
    matrix.use_token(credentials.as_token or credentials.access_token or device.access_token)
    if credentials.as_token or (device.appservice and not credentials.access_token):
        client.speak_for(device.user_id, device.device_id)
    try:
        yield matrix
    finally:
        await client.close()


async def _log_in(matrix: Matrix, credentials: Credentials, insist: Insist) -> Identity:
    if credentials.access_token is not None:
        matrix.use_token(credentials.access_token)
        answer = await insist(lambda: matrix.request("GET", path("account", "whoami")))
        token = credentials.access_token
    else:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": credentials.user_id},
            "password": credentials.password,
            "initial_device_display_name": DEVICE_NAME,
        }
        answer = await insist(lambda: matrix.request("POST", path("login"), body))
        token = ""
    if isinstance(answer, Forbidden | Refused):
        raise LoginError(f"{credentials.user_id}: the homeserver refused the login")
    if not isinstance(answer, Done):
        raise LoginError(f"{credentials.homeserver} does not answer as a homeserver does")
    found, device_id = answer.body.get("user_id"), answer.body.get("device_id")
    token = token or str(answer.body.get("access_token", ""))
    if found != credentials.user_id:
        raise LoginError(f"the login is {found}'s, but user_id says {credentials.user_id}")
    if not isinstance(device_id, str) or not token:
        raise LoginError("the access token belongs to no device: log in with a password")
    log.info("logged in as a new device")
    return Identity(user_id=UserID(found), device_id=device_id, access_token=token)


async def _serve(
    client: Client, credentials: Credentials, device_id: str | None, insist: Insist
) -> Identity:
    """Be a device of an application service's user; both are made if they are not there.

    The device that a password or another token had before is taken over, with its keys.
    spec: application service API, server admin style permissions; devices: MSC4190.
    """
    user_id, token = credentials.user_id, str(credentials.as_token)
    matrix = Matrix(client)
    matrix.use_token(token)
    try:
        await _have_account(matrix, user_id, insist)
        client.speak_for(user_id)
        device_id = await _have_device(matrix, device_id, insist)
        client.speak_for(user_id, device_id)
        answer = await insist(lambda: matrix.request("GET", path("account", "whoami")))
    except TokenRejectedError as error:
        raise LoginError(NO_DEVICE if str(error) == UNKNOWN_DEVICE else NO_SERVICE) from None
    found = answer.body if isinstance(answer, Done) else {}
    if (found.get("user_id"), found.get("device_id")) != (user_id, device_id):
        raise LoginError(NO_DEVICE)
    log.info("logged in as an application service")
    return Identity(user_id=user_id, device_id=device_id, access_token=token, appservice=True)


async def _have_account(matrix: Matrix, user_id: UserID, insist: Insist) -> None:
    body = {
        "type": "m.login.application_service",
        "username": user_id[1:].partition(":")[0],
        "inhibit_login": True,
    }
    answer = await insist(lambda: matrix.request("POST", path("register"), body))
    errcode = answer.errcode if isinstance(answer, Refused) else ""
    if isinstance(answer, Forbidden) or errcode == "M_EXCLUSIVE":
        raise LoginError(NOT_ITS_USER.format(user_id=user_id))
    if not isinstance(answer, Done) and errcode != "M_USER_IN_USE":
        raise LoginError(
            f"{user_id}: the homeserver makes no such account ({errcode or 'refused'})"
        )


async def _have_device(matrix: Matrix, device_id: str | None, insist: Insist) -> str:
    """Return the id of a device: the one that is asked for if it is there, or a new one.

    Whether it was made, only a request as that device tells.
    """
    if device_id is not None:
        where = path("devices", device_id)
        answer = await insist(lambda: matrix.request("GET", where))
        if isinstance(answer, Done):
            return device_id
        # Made anew, it would be without the keys that this device thinks it has uploaded.
        log.warning("the device was deleted: logging in as a new one")
    device_id = secrets.token_hex(5).upper()
    new, body = path("devices", device_id), {"display_name": DEVICE_NAME}
    await insist(lambda: matrix.request("PUT", new, body))
    return device_id
