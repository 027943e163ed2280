"""Logs in once and stays one device: its identity, its token and its crypto store."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import vodozemac
from nio import AsyncClientConfig
from nio.store import SqliteStore
from peewee import PeeweeException

from bot.core.outcomes import DiskError, Done, LoginError, Outcome, OutcomeError
from bot.core.topics import Topics
from bot.matrix.client import Matrix
from bot.matrix.encryption.engine import CarefulClient
from bot.matrix.http.nio_client import Client
from bot.matrix.http.requests import Requests
from bot.matrix.login.appservice import serve
from bot.matrix.login.device import Credentials, Identity, load_identity, save_identity
from bot.matrix.login.login import Insist, Login
from bot.matrix.login.token_renewal import Renewal, wall_clock
from bot.matrix.private_files import write_private

__all__ = ["Credentials", "LoginError", "connect", "lock_secret", "open_session", "stand_by"]

log = logging.getLogger(__name__)

DEVICE: Final = "device.json"
"""Where in the data folder the device is kept."""


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


async def open_session(
    client: CarefulClient,
    credentials: Credentials,
    data_dir: Path,
    insist: Insist,
    topics: Topics | None = None,
) -> Matrix:
    """Return the bot's device on its homeserver, logged in for the first time if need be.

    `topics`: where to tell of keys that came.

    Raises `LoginError` when it is refused, and `DiskError` when its keys cannot be read.
    """
    where = data_dir / DEVICE
    known = load_identity(where)
    if known is not None and known.user_id != credentials.user_id:
        raise LoginError(
            f"{data_dir} belongs to {known.user_id}:"
            f" give {credentials.user_id} a data_dir of its own"
        )
    if known is not None and known.appservice and credentials.as_token is None:
        known = None  # its token is no longer ours to use
    given = credentials.access_token or credentials.as_token
    if (
        known is not None
        and credentials.access_token is None
        and not any((data_dir / "crypto").glob("*.db"))
    ):
        log.warning("the crypto store is gone: logging in as a new device")
        known = None  # others would never encrypt to new keys under the old device's id
    login = Login(Requests(client), wall_clock, asyncio.sleep)
    if known is None or (given is not None and given != known.access_token):
        if credentials.as_token is not None:
            device_id = known.device_id if known is not None else None
            known = await serve(client, credentials, device_id, insist)
            save_identity(where, known)
        elif credentials.access_token is not None:
            # Not written down before it is known that nobody else is this device.
            known = await login.by_token(credentials, credentials.access_token, insist)
        else:
            known = await login.by_password(credentials, None, insist)
            log.info("logged in as a new device")
            save_identity(where, known)
    matrix = _be(client, known, data_dir, topics)
    if known.keys is None and credentials.access_token is not None:
        await _be_alone(matrix, insist)
    ed25519, curve25519 = matrix.crypto.device_keys.own_keys
    known = replace(known, ed25519=ed25519, curve25519=curve25519)
    if known != load_identity(where):
        save_identity(where, known)
    client.renewal = Renewal(client, credentials, where, known, on_login=matrix.crypto.doubt_keys)
    matrix.crypto.doubt_keys()
    return matrix


def _be(client: CarefulClient, known: Identity, data_dir: Path, topics: Topics | None) -> Matrix:
    """Be a device: open its crypto store, which is made if it is not there. Raises `DiskError`."""
    if known.appservice:
        client.speak_for(known.user_id, known.device_id)
    try:
        client.restore_login(known.user_id, known.device_id, known.access_token)
    except PeeweeException as error:
        raise DiskError(
            f"{data_dir / 'crypto'}: {error}; if it is damaged, put a backup in its place, or move"
            " device.json and crypto out of data_dir: the bot then logs in as a new device"
        ) from error
    except vodozemac.LibolmPickleException as error:
        raise DiskError(
            f"{data_dir / 'crypto'}: the pickle key does not open the encryption keys; give the bot"
            " the one it had, or move device.json and crypto out of data_dir: the bot then logs in"
            " as a new device"
        ) from error
    return Matrix(client, topics)


async def _be_alone(matrix: Matrix, insist: Insist) -> None:
    """See that the device is nobody else's, before anything is done as it. Raises `LoginError`."""

    async def prove() -> Outcome:
        try:
            await matrix.crypto.device_keys.prove()
        except OutcomeError as error:
            return error.outcome
        return Done()

    outcome = await insist(prove)
    if not isinstance(outcome, Done):
        raise OutcomeError(outcome)


@asynccontextmanager
async def stand_by(
    credentials: Credentials, device: Identity, data_dir: Path
) -> AsyncIterator[Matrix]:
    """Speak as the bot's device without its crypto store, beside a bot that may be running.

    A token that has ended is renewed: the bot finds the new one on the disk.
    """
    client = Client(credentials.homeserver, credentials.user_id)
    client.user_id = credentials.user_id  # nio itself fills it in at the login
    matrix = Matrix(client)
    matrix.use_token(credentials.as_token or credentials.access_token or device.access_token)
    if credentials.as_token or (device.appservice and not credentials.access_token):
        client.speak_for(device.user_id, device.device_id)
    client.renewal = Renewal(client, credentials, data_dir / DEVICE, device)
    try:
        yield matrix
    finally:
        await client.close()
