"""Tells an operator, line by line, what works and what to do about what does not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from bot.config import Settings
from bot.core.outcomes import Done, LoginError, OutcomeError, TokenRejectedError
from bot.matrix.client import Matrix
from bot.matrix.encryption.device_keys import TAKEN, device_keys
from bot.matrix.http.discovery import find
from bot.matrix.http.endpoints import path
from bot.matrix.http.nio_client import Client
from bot.matrix.identity.cross_signing import CrossSigning, SigningState, read_private_keys
from bot.matrix.identity.secret_storage import StorageError
from bot.matrix.login.device import Identity, load_identity
from bot.matrix.synapse.admin import Admin
from bot.matrix.synapse.media import Media
from bot.operator.environment_check import surroundings
from bot.operator.login_check import Finding, Visit, as_it_is, files, rate, short
from bot.services.device_signing import REMEDIES, WORDS
from bot.store.folder_lock import LockError, try_lock

OLDEST: Final = (1, 5)
"""The oldest version of the client-server API whose requests are all that the bot uses."""
NO_LOGIN: Final = Finding(
    good=False, what="encryption keys: no login", remedy="mend the login first"
)


async def check(
    settings: Settings, admin_token_file: Path | None = None, console: Console | None = None
) -> bool:
    """Print what works and what does not; return whether everything does."""
    console = console or Console(highlight=False)
    good = True
    async for finding in findings(settings, admin_token_file):
        good = good and finding.good
        sign, style = ("✗", "bold red") if not finding.good else ("✓", "green")
        if finding.good and finding.remedy:
            sign, style = "•", "yellow"
        line = Text(f"{sign} {finding.what}")
        line.stylize(style, 0, 1)
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"  → {finding.remedy}"), soft_wrap=True)
    return good


async def findings(
    settings: Settings, admin_token_file: Path | None = None
) -> AsyncIterator[Finding]:
    """Look at one thing after another. Nothing is changed, and a running bot is not disturbed."""
    yield _folder(settings.data_dir)
    for finding in surroundings(settings.homeserver, os.environ):
        yield finding
    homeserver, address = await _homeserver(settings.homeserver)
    yield homeserver
    if not homeserver.good:
        return
    settings = settings.model_copy(update={"homeserver": address})
    client = Client(settings.homeserver, settings.user_id)
    client.user_id = settings.user_id  # nio itself fills it in at the login
    matrix = Matrix(client)
    visit = Visit(matrix, settings)
    try:
        try:
            known = load_identity(settings.data_dir / "device.json")
        except LoginError as error:
            yield Finding(good=False, what="login", remedy=str(error))
            return
        if known is not None and known.appservice and not settings.as_token_text():
            known = None  # the bot will log in anew
        if settings.as_token_text():
            client.speak_for(settings.user_id, known.device_id if known else None)
        login = await visit.log_in(known)
        yield login
        yield await rate(settings, admin_token_file)
        carry = visit.carry if login.good else as_it_is
        try:
            keys = await carry(lambda: _keys(matrix, settings, known, visit.device_id))
            yield keys
            if keys.good and known is not None:
                for finding in await carry(partial(_identity, matrix, settings, known)):
                    yield finding
        except TokenRejectedError:
            yield NO_LOGIN
        token = settings.admin_token_text()
        if token is not None:
            yield await files(Media(Admin(settings.homeserver, token), settings.own_server))
    finally:
        await visit.leave()
        await client.close()


def _folder(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
        try_lock(folder)
    except LockError as error:
        return Finding(good=False, what=f"data folder {folder} cannot be locked", remedy=str(error))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        return Finding(
            good=False,
            what=f"data folder {folder} cannot be written ({reason})",
            remedy=f"make it writable for user {os.getuid()}, or set data_dir to another folder",
        )
    return Finding(good=True, what=f"data folder {folder} can be written and locked")


async def _homeserver(url: str) -> tuple[Finding, str]:
    """Find the homeserver; return what there is to say of it, and its own address."""
    try:
        outcome = await find(url)
    except LoginError as error:
        return Finding(good=False, what=f"homeserver {url}", remedy=str(error)), url
    if not isinstance(outcome, Done):
        what = f"homeserver {url} does not answer as a homeserver ({short(outcome)})"
        remedy = "is it running, and is homeserver the address that clients connect to?"
        return Finding(good=False, what=what, remedy=remedy), url
    found = outcome.body["homeserver"]
    what = f"homeserver {url}" if found == url else f"homeserver {found}, where {url} leads to,"
    spoken = sorted(filter(None, map(_version, outcome.body["versions"])))
    newest = f"v{spoken[-1][0]}.{spoken[-1][1]}" if spoken else "no version we know"
    if not spoken or spoken[-1] < OLDEST:
        remedy = f"upgrade it: the bot needs v{OLDEST[0]}.{OLDEST[1]} or newer"
        what = f"{what} speaks Matrix up to {newest}"
        return Finding(good=False, what=what, remedy=remedy), found
    what = f"{what} answers; it speaks Matrix up to {newest}"
    return Finding(good=True, what=what), found


def _version(text: object) -> tuple[int, int] | None:
    major, dot, minor = str(text).removeprefix("v").partition(".")
    if str(text).startswith("v") and dot and major.isdigit() and minor.isdigit():
        return int(major), int(minor)
    return None


async def _keys(
    matrix: Matrix, settings: Settings, known: Identity | None, device_id: str | None
) -> Finding:
    if device_id is None:
        return Finding(good=True, what="encryption keys: will be made when the bot first runs")
    ours = known is not None and known.device_id == device_id
    if ours and not any((settings.data_dir / "crypto").glob("*.db")):
        remedy = "restart the bot: it logs in as a new device"
        if settings.access_token_text():
            remedy = "restore them from a backup, or give the bot the token of a new login"
        what = "encryption keys: the crypto store is gone"
        return Finding(good=False, what=what, remedy=remedy)
    query = {"device_keys": {settings.user_id: [device_id]}}
    outcome = await matrix.request("POST", path("keys", "query"), query)
    answer = outcome.body if isinstance(outcome, Done) else {}
    found = device_keys(answer, settings.user_id, device_id)
    if found is None and not ours:
        return Finding(good=True, what="encryption keys: will be made when the bot first runs")
    if found is None:
        return Finding(
            good=False,
            what="encryption keys: the homeserver does not have them",
            remedy="start the bot and look at its log",
        )
    if known is None or not ours or known.keys not in {None, found}:
        return Finding(
            good=False,
            what=f"encryption keys: device {device_id} has others",
            remedy=TAKEN.format(user_id=settings.user_id),
        )
    return Finding(good=True, what="encryption keys are in place")


async def _identity(matrix: Matrix, settings: Settings, known: Identity) -> list[Finding]:
    """Look at the cross-signing keys and, if there is a recovery key, at what it opens."""
    signing, found = CrossSigning(matrix, settings.data_dir), list[Finding]()
    try:
        signing_state, _ = await signing.look(known.device_id)
        found.append(_signed(signing_state))
        key = settings.recovery_key()
        if key is not None:
            found.append(await _recovery(matrix, key, signing.master))
    except OutcomeError as error:
        what = f"cross-signing: {short(error.outcome)}"
        found.append(Finding(good=False, what=what, remedy="try again later"))
    return found


def _signed(signing_state: SigningState) -> Finding:
    if signing_state is SigningState.SIGNED:
        return Finding(good=True, what="cross-signing: the device is signed")
    what = WORDS.get(signing_state, "the device is not signed")
    return Finding(good=False, what=f"cross-signing: {what}", remedy=REMEDIES[signing_state])


async def _recovery(matrix: Matrix, key: bytes, master: str) -> Finding:
    try:
        private_keys = await read_private_keys(matrix, key)
        problem = (
            "" if not master or private_keys.public("master") == master else "it opens an old one"
        )
    except StorageError as error:
        problem = str(error)
    if problem:
        return Finding(
            good=False,
            what=f"recovery key: {problem}",
            remedy="ephemeral-bot identity backup --replace makes a new one",
        )
    return Finding(good=True, what="recovery key: it opens the identity kept for the account")
