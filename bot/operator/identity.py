"""What an operator does with the bot's identity: shows it, replaces it, keeps it safe."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bot.app import FAILED, NOT_ACCEPTED, OCCUPIED, OK, REFUSED, credentials_of, locate, session
from bot.chat.notices import grouped
from bot.config import Settings
from bot.core import recovery_key
from bot.core.json_shape import as_object, inside, objects
from bot.core.outcome_text import describe
from bot.core.outcomes import LoginError, Outcome, OutcomeError, Refused, TokenRejectedError
from bot.core.types import Event
from bot.matrix.client import Matrix
from bot.matrix.identity.cross_signing import CrossSigning, SigningState
from bot.matrix.identity.secret_storage import SecretStorage, StorageError
from bot.matrix.login.device import Identity, load_identity
from bot.matrix.login.session import stand_by
from bot.matrix.private_files import write_private
from bot.services.device_signing import REMEDIES
from bot.store.folder_lock import LockError, OccupiedError, hold

WARNING: Final = """\
This gives {user_id} a new identity. The apps of people who share an encrypted room with it will
say that its identity was reset. Who had verified it may be kept from writing there until they have
verified it anew; what to compare, `{prefix} fingerprint` shows in any room.\
"""
STALE: Final = (
    "The account's secret storage still holds the old identity. To keep the new one:"
    " ephemeral-bot identity backup --replace"
)
TAKEN: Final = (
    "the account has a secret storage already, made by an earlier backup or by somebody's app."
    " With --replace, the bot's identity is kept under a new key, and that becomes the account's"
    " default: what else is in there, apps find with the old key only"
)
UNCONFIRMED: Final = (
    "The homeserver did not confirm it. Keep this recovery key until another backup has worked,"
    " for it may be the one in force: {key}"
)
SHOWN_ONCE: Final = """\
The bot's identity is kept in the account's secret storage. This is the recovery key that opens it:

    {key}

Write it down, and keep it where the bot is not. It is not shown again.\
"""


UNUSABLE: Final = 2
"""The exit status when something that was named on the command line cannot be used."""


class OperatorError(Exception):
    """It was not done: the reason in one line, and the exit status."""

    def __init__(self, reason: str, status: int = FAILED) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """How to speak with whoever sits there."""

    say: Callable[[str], None]
    agrees: Callable[[str], bool]
    password: Callable[[str], str]


async def show(settings: Settings, say: Callable[[str], None]) -> int:
    """Show the keys that people can compare, and how the device stands."""
    with explained():
        device = _device(settings)
        settings = await locate(settings, once)
        async with stand_by(credentials_of(settings), device, settings.data_dir) as matrix:
            return await _show(settings, matrix, device.device_id, say)


async def reset(settings: Settings, operator: Operator) -> int:
    """Make a new identity, and sign the device with it. The bot must not be running."""
    with explained(), hold(settings.data_dir):
        operator.say(WARNING.format(user_id=settings.user_id, prefix=settings.command_prefix))
        if not operator.agrees("Make a new identity?"):
            raise OperatorError("nothing was changed")
        settings = await locate(settings, once)
        async with session(settings, once) as matrix:
            signing = CrossSigning(matrix, settings.data_dir)
            outcome = await signing.replace(_authorise(settings, operator))
            if isinstance(outcome, Refused):
                raise OperatorError("the homeserver does not accept the password", REFUSED)
            status = await _show(settings, matrix, signing.device_id, operator.say)
            await _renew(settings, matrix, signing, operator.say)
            return status


async def backup(
    settings: Settings, say: Callable[[str], None], *, file: Path | None, replace: bool
) -> int:
    """Keep the identity in the account's secret storage, under a new recovery key."""
    with explained():
        device = _device(settings)
        settings = await locate(settings, once)
        async with stand_by(credentials_of(settings), device, settings.data_dir) as matrix:
            kept = await CrossSigning(matrix, settings.data_dir).secrets()
            if kept is None:
                raise OperatorError("the identity of the account is not here: see identity show")
            storage = SecretStorage(matrix)
            if not replace and await storage.in_use():
                raise OperatorError(TAKEN)
            key = secrets.token_bytes(recovery_key.LENGTH)
            _write(file, recovery_key.write(key))
            confirmed = False
            try:
                await storage.put(key, kept)
                confirmed = await storage.get(key, kept) == kept
            finally:
                if not confirmed:
                    # It may be in force all the same, and then nothing else opens the storage.
                    where = str(file) if file else recovery_key.write(key)
                    say(UNCONFIRMED.format(key=where))
            if not confirmed:
                raise OperatorError("the homeserver did not keep the identity as it was given")
        if file is None:
            say(SHOWN_ONCE.format(key=recovery_key.write(key)))
        else:
            say(f"The bot's identity is kept in the account's secret storage; {file} opens it.")
        return OK


async def _show(
    settings: Settings, matrix: Matrix, device_id: str, say: Callable[[str], None]
) -> int:
    signing = CrossSigning(matrix, settings.data_dir)
    signing_state, device = await signing.look(device_id)
    found = inside(device, "keys", f"ed25519:{device_id}")
    say(f"account   {settings.user_id}")
    if signing.master:
        say(f"identity  {grouped(signing.master)}")
    say(f"device    {device_id} {grouped(_plain(found)) if found else 'has no keys'}")
    if signing_state is SigningState.SIGNED:
        say("signed    yes")
        return OK
    say(f"signed    no ({signing_state}): {REMEDIES[signing_state]}")
    return FAILED


async def _renew(
    settings: Settings, matrix: Matrix, signing: CrossSigning, say: Callable[[str], None]
) -> None:
    """Keep a new identity where the old one was kept, if its recovery key is here."""
    storage, key = SecretStorage(matrix), settings.recovery_key()
    kept = await signing.secrets()
    if key is not None and kept is not None and await storage.opens(key):
        await storage.put(key, kept)
        say("The account's secret storage holds it too.")
    elif await storage.in_use():
        say(STALE)


def _device(settings: Settings) -> Identity:
    device = load_identity(settings.data_dir / "device.json")
    if device is None or device.user_id != settings.user_id:
        raise OperatorError(f"{settings.user_id} has not run on this data_dir: start it once")
    return device


def _authorise(
    settings: Settings, operator: Operator
) -> Callable[[Event], Awaitable[Event | None]]:
    """Return what answers the homeserver's demand for the password."""

    async def answer(demand: Event) -> Event:
        stages = [flow.get("stages") for flow in objects(demand.get("flows"))]
        if ["m.login.password"] not in stages:
            raise OperatorError(_elsewhere(demand), REFUSED)
        password = settings.password_text()
        return {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": settings.user_id},
            "password": password or operator.password(f"Password of {settings.user_id}"),
            "session": demand.get("session"),
        }

    return answer


def _elsewhere(demand: Event) -> str:
    """Say how to go on where the homeserver takes no password."""
    stages = objects(list(as_object(demand.get("params")).values()))
    urls = [stage["url"] for stage in stages if "url" in stage]
    if urls:
        return f"the homeserver wants this allowed at {_plain(urls[0])} first: then do it again"
    return "the homeserver wants more than a password for this"


def _plain(text: object) -> str:
    """Return what a homeserver wrote without signs that steer a terminal."""
    return "".join(sign for sign in str(text) if sign.isprintable())


def _write(file: Path | None, key: str) -> None:
    """Have the key in a file, if one is wanted, before anything depends on it."""
    if file is None:
        return
    if file.exists():
        raise OperatorError(f"{file} exists already: name a new file")
    write_private(file, key + "\n")


@contextmanager
def explained() -> Iterator[None]:
    """Turn what can go wrong into a line for the operator."""
    try:
        yield
    except OccupiedError:
        raise OperatorError("the bot is running: stop it first", OCCUPIED) from None
    except LoginError as error:
        raise OperatorError(str(error), REFUSED) from None
    except TokenRejectedError:
        raise OperatorError(NOT_ACCEPTED, REFUSED) from None
    except OutcomeError as error:
        raise OperatorError(f"the homeserver did not do it ({_short(error.outcome)})") from None
    except (StorageError, LockError) as error:
        raise OperatorError(str(error)) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise OperatorError(f"{error.filename or 'data_dir'}: {reason}") from None


async def once(request: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """Make a request once: an operator is there to try again."""
    return await request()


def _short(outcome: Any) -> str:
    return describe(outcome)
