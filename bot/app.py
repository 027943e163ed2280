"""Builds the bot out of its parts, runs them, and stops them."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from random import SystemRandom
from typing import Any, Final

from bot.build import build
from bot.config import Settings
from bot.core.outcomes import (
    ChangedDeviceError,
    DiskError,
    Done,
    LoginError,
    Outcome,
    OutcomeError,
    TokenRejectedError,
)
from bot.core.topics import Topics
from bot.matrix.client import Matrix
from bot.matrix.http.discovery import find
from bot.matrix.identity.cross_signing import CrossSigning
from bot.matrix.login.session import Credentials, connect, lock_secret, open_session
from bot.matrix.synapse.admin import Admin
from bot.matrix.synapse.media import Media
from bot.matrix.verification.responder import Verification
from bot.services.clock import SystemClock
from bot.services.database_maintenance import keep_wiping
from bot.services.device_signing import DeviceSigning
from bot.services.supervisor import Disk, StoppedError, wait_for_homeserver
from bot.store import Store, StoreError
from bot.store.folder_lock import LockError, OccupiedError, hold

log = logging.getLogger(__name__)

OK: Final = 0
FAILED: Final = 1
REFUSED: Final = 3
OCCUPIED: Final = 4

STOP_WITHIN: Final = 4.0
"""Seconds that requests in flight get to finish when the bot is told to stop."""
END_WITHIN: Final = 4.5
"""Seconds after which the bot ends in any case."""


NOT_ACCEPTED: Final = (
    "the homeserver no longer accepts the bot's access token: to log in anew, move device.json"
    " out of the data folder"
)


async def run(settings: Settings) -> int:
    """Run the bot until SIGTERM or SIGINT; return the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    timeout = asyncio.timeout(None)

    def told_to_stop() -> None:
        if not stop.is_set():
            stop.set()
            # Whatever is under way, a first login that is not answered too, has an end.
            timeout.reschedule(loop.time() + END_WITHIN)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop)
    try:
        async with timeout:
            with hold(settings.data_dir):
                await _serve(settings, stop)
    except Exception as error:  # noqa: BLE001 - every end has its status and its line
        return _status(error, stopped=stop.is_set())
    return OK


def _status(error: Exception, *, stopped: bool) -> int:
    """Return the exit status that an error stands for, and say it in the log."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a service's own
    error = _one(error, LoginError) or _one(error, TokenRejectedError) or error
    if isinstance(error, StoppedError) or (stopped and isinstance(error, TimeoutError)):
        return OK
    if isinstance(error, LoginError):
        return _say(error, REFUSED)
    if isinstance(error, TokenRejectedError):
        return _say(NOT_ACCEPTED, REFUSED)
    if isinstance(error, OccupiedError):
        return _say(error, OCCUPIED)
    if isinstance(error, StoreError | DiskError | LockError | OSError):
        return _say(error, FAILED)
    # Where it happened, but not its text, which may be a stranger's: logs.py sees to that.
    log.error("this should not have happened", exc_info=error)
    return FAILED


def _one(error: Exception, kind: type[Exception]) -> Exception | None:
    """Return the first error of a kind among those that several services ended with."""
    if isinstance(error, ExceptionGroup):
        return next(filter(None, (_one(one, kind) for one in error.exceptions)), None)
    return error if isinstance(error, kind) else None


def _say(reason: object, status: int) -> int:
    """Put the one line in the log that explains the exit status."""
    log.error("%s", reason)
    return status


def credentials_of(settings: Settings) -> Credentials:
    """Return what the settings give the bot to log in with."""
    return Credentials(
        homeserver=settings.homeserver,
        user_id=settings.user_id,
        password=settings.password_text(),
        access_token=settings.access_token_text(),
        as_token=settings.as_token_text(),
        reread=lambda: credentials_of(settings.read_again()),
    )


async def locate(settings: Settings, insist: Any) -> Settings:
    """Return the settings with the address at which the homeserver is found.

    Raises `LoginError` when it cannot be, and `OutcomeError` when it cannot be now.
    """
    outcome = await insist(lambda: find(settings.homeserver))
    if not isinstance(outcome, Done):
        raise OutcomeError(outcome)
    return settings.model_copy(update={"homeserver": outcome.body["homeserver"]})


@asynccontextmanager
async def session(
    settings: Settings, insist: Any, topics: Topics | None = None
) -> AsyncIterator[Matrix]:
    """Be logged in; tell of keys that come in `topics`. Raises `LoginError`."""
    credentials = credentials_of(settings)
    secret = lock_secret(settings.data_dir, settings.pickle_key())
    client = connect(credentials, settings.data_dir, secret)
    try:
        yield await open_session(client, credentials, settings.data_dir, insist, topics)
    finally:
        await client.close()


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run the bot until `stop`; again from the start when its login is another device's."""
    while True:
        try:
            return await _be(settings, stop)
        except Exception as error:
            if _one(error, LoginError) or not _one(error, ChangedDeviceError):
                raise
            log.warning("the login is another device's now: beginning anew as that one")
            settings.read_again()


async def _be(settings: Settings, stop: asyncio.Event) -> None:
    async def insist(request: Callable[[], Awaitable[Outcome]]) -> Outcome:
        return await wait_for_homeserver(request, stop, SystemClock(), SystemRandom())

    store = await Store.open(settings.data_dir / "timers.db")
    try:
        settings = await locate(settings, insist)
        async with session(settings, insist, store.topics) as matrix, media_of(settings) as media:
            log.info("ready as %s", settings.user_id)
            await _work(settings, matrix, media, store, stop)
    finally:
        await store.close()
    log.info("stopped")


@asynccontextmanager
async def media_of(settings: Settings) -> AsyncIterator[Media | None]:
    """Give the homeserver's files, if the operator lets the bot delete them."""
    token = settings.admin_token_text()
    if token is None:
        yield None
        return
    media = Media(Admin(settings.homeserver, token), settings.own_server)
    try:
        yield media
    finally:
        await media.close()


async def _work(
    settings: Settings, matrix: Matrix, media: Media | None, store: Store, stop: asyncio.Event
) -> None:
    """Run the services side by side until `stop`."""
    clock, random = SystemClock(), SystemRandom()
    if media is None:
        await store.forget_media()
    signing = CrossSigning(matrix, settings.data_dir, settings.recovery_key())
    verification = Verification(matrix, master=lambda: signing.master, now=clock.now)
    identity = DeviceSigning(signing, store.topics, clock, random=random)
    bot = build(
        settings,
        matrix,
        store,
        clock,
        random,
        crypto=matrix.crypto,
        media=media,
        media_server=media.server if media else None,
        identity=identity,
        verification=verification.hear_room,
    )
    disk = Disk(clock, random)
    # What was imported and built stays. To look through it for garbage takes 30 ms, which everybody
    # would wait for, again and again.
    gc.collect()
    gc.freeze()
    async with asyncio.TaskGroup() as group:
        finishing = [group.create_task(disk.insist(one.run)) for one in (bot.sync, bot.redactor)]
        beside: list[Callable[[], Coroutine[Any, Any, None]]] = [
            matrix.crypto.run,
            verification.run,
            identity.run,
            lambda: keep_wiping(store, clock),
            *(service.run for service in bot.beside),
        ]
        others = [group.create_task(disk.insist(service)) for service in beside]
        await stop.wait()
        log.info("stopping")
        bot.sync.stop()
        bot.redactor.stop()
        _, slow = await asyncio.wait(finishing, timeout=STOP_WITHIN)
        for task in [*slow, *others]:
            task.cancel()
    if bot.key_expiry:
        with suppress(DiskError):  # the next start does it
            await bot.key_expiry.scrub()
