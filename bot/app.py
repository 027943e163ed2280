"""Builds the bot out of its parts, runs them, and stops them."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

from bot.backfill import Backfill
from bot.clock import Clock, SystemClock
from bot.config import Settings
from bot.identity import Identity
from bot.intake import Intake
from bot.late import Late
from bot.matrix.client import Matrix
from bot.matrix.cross_signing import CrossSigning
from bot.matrix.session import Credentials, LoginError, connect, lock_secret, open_session
from bot.matrix.verification import Verification
from bot.model import Failed, Outcome, RateLimited, TokenRejectedError, Unreachable
from bot.ratchet import Ratchet
from bot.reading import Reader
from bot.redactor import Redactor
from bot.rooms import Rooms
from bot.schedule import PAUSE_CEILING, backoff
from bot.speaker import Speaker
from bot.store import Store, StoreError
from bot.timekeeper import Timekeeper
from bot.upgrades import Upgrades

log = logging.getLogger(__name__)

OK: Final = 0
FAILED: Final = 1
REFUSED: Final = 3
OCCUPIED: Final = 4

STOP_WITHIN: Final = 4.0
"""Seconds that requests in flight get to finish when the bot is told to stop."""
END_WITHIN: Final = 4.5
"""Seconds after which the bot ends in any case."""
TIDY_EVERY: Final = 10_000
"""How often the database is looked at for deleted rows to be wiped, in ms."""


NOT_ACCEPTED: Final = (
    "the homeserver no longer accepts the bot's access token: to log in anew, move device.json"
    " out of the data folder"
)


class OccupiedError(Exception):
    """Another bot holds the data folder."""


class StoppedError(Exception):
    """The bot was told to stop before it had begun."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the data folder, so that no second bot works on the same timers.

    The lock is on the folder itself: it leaves no file, and goes with the process.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OccupiedError(f"{folder}: another bot is running on this folder") from error
    finally:
        os.close(handle)


async def run(settings: Settings) -> int:
    """Run the bot until SIGTERM or SIGINT; return the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    patience = asyncio.timeout(None)

    def told_to_stop() -> None:
        if not stop.is_set():
            stop.set()
            # Whatever is under way, a first login that is not answered too, has an end.
            patience.reschedule(loop.time() + END_WITHIN)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop)
    try:
        async with patience:
            with hold(settings.data_dir):
                await _serve(settings, stop)
    except Exception as error:  # noqa: BLE001 - every end has its status and its line
        return _status(error, stopped=stop.is_set())
    return OK


def _status(error: Exception, *, stopped: bool) -> int:
    """Return the exit status that an error stands for, and say it in the log."""
    tokens = isinstance(error, ExceptionGroup) and error.subgroup(TokenRejectedError)
    if isinstance(error, StoppedError) or (stopped and isinstance(error, TimeoutError)):
        return OK
    if isinstance(error, TokenRejectedError) or tokens:
        return _say(NOT_ACCEPTED, REFUSED)
    if isinstance(error, OccupiedError):
        return _say(error, OCCUPIED)
    if isinstance(error, LoginError):
        return _say(error, REFUSED)
    if isinstance(error, StoreError | OSError):
        return _say(error, FAILED)
    # Where it happened, but not its text, which may be a stranger's: logs.py sees to that.
    log.error("this should not have happened", exc_info=error)
    return FAILED


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
    )


@asynccontextmanager
async def session(settings: Settings, insist: Any) -> AsyncIterator[Matrix]:
    """Be logged in. Raises `LoginError`."""
    credentials = credentials_of(settings)
    secret = lock_secret(settings.data_dir, settings.pickle_key())
    client = connect(credentials, settings.data_dir, secret)
    try:
        yield await open_session(client, credentials, settings.data_dir, insist)
    finally:
        await client.close()


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    async def insist(request: Callable[[], Awaitable[Outcome]]) -> Outcome:
        return await wait_for_homeserver(request, stop, SystemClock(), SystemRandom())

    store = await Store.open(
        settings.data_dir / "timers.db", bounds=settings.bounds, own_id=settings.user_id
    )
    try:
        async with session(settings, insist) as matrix:
            log.info("ready as %s", settings.user_id)
            await _work(settings, matrix, store, stop)
    finally:
        await store.close()
    log.info("stopped")


async def _work(settings: Settings, matrix: Matrix, store: Store, stop: asyncio.Event) -> None:
    """Run the services side by side until `stop`."""
    clock, random = SystemClock(), SystemRandom()
    prefix, bounds = settings.command_prefix, settings.bounds

    def wake() -> None:
        for service in (redactor, backfill, rooms, speaker, late, ratchet, upgrades, timekeeper):
            service.wake.set()

    signing = CrossSigning(matrix, settings.data_dir, settings.recovery_key())
    verification = Verification(matrix, master=lambda: signing.master, now=clock.now)
    matrix.crypto.hear_verification = verification.hear_device
    reader = Reader(
        matrix,
        prefix=prefix,
        bounds=bounds,
        digest=store.digest,
        hear_verification=verification.hear_room,
        signed_only=settings.commands.require_signed_devices,
    )
    intake = Intake(matrix, store, reader, clock, random=random, wake=wake)
    redactor = Redactor(matrix, store, clock, random=random, wake_rooms=wake)
    backfill = Backfill(matrix, store, reader, clock, random=random, wake_others=wake)
    identity = Identity(signing, clock, random=random)
    speaker = Speaker(
        matrix, store, clock, prefix=prefix, bounds=bounds, random=random, identity=identity
    )
    rooms = Rooms(
        matrix,
        store,
        clock,
        allow=settings.allow,
        bounds=bounds,
        random=random,
        wake_others=wake,
    )
    upgrades = Upgrades(
        matrix, store, clock, may_invite=rooms.may_invite, random=random, wake_others=wake
    )
    rooms.follow = upgrades.reviewed
    late = Late(matrix, store, reader, clock, wake_others=wake)
    ratchet = Ratchet(matrix.crypto, store, clock, grace=settings.encryption.grace, bounds=bounds)
    told = (redactor.clock_was_set, ratchet.clock_was_set, wake)
    timekeeper = Timekeeper(clock, store, clock_was_set=told)
    async with asyncio.TaskGroup() as group:
        finishing = [group.create_task(intake.run()), group.create_task(redactor.run())]
        ending: list[Coroutine[Any, Any, None]] = [
            backfill.run(),
            rooms.run(),
            speaker.run(),
            late.run(),
            ratchet.run(),
            upgrades.run(),
            timekeeper.run(),
            keep_tidy(store, clock),
            identity.run(),
            verification.run(),
        ]
        others = [group.create_task(service) for service in ending]
        await stop.wait()
        log.info("stopping")
        intake.stop()
        redactor.stop()
        _, slow = await asyncio.wait(finishing, timeout=STOP_WITHIN)
        for task in [*slow, *others]:
            task.cancel()
    ratchet.scrub()


async def wait_for_homeserver(
    request: Callable[[], Awaitable[Outcome]],
    stop: asyncio.Event,
    clock: Clock,
    random: Random,
) -> Outcome:
    """Repeat a request until there is somebody to answer it, with a line in the log a minute.

    Raises `StoppedError` when the bot is told to stop meanwhile.
    """
    said_at = 0
    failures = 0
    while True:
        outcome = await request()
        if not isinstance(outcome, Unreachable | RateLimited | Failed):
            return outcome
        now = clock.now()
        if now - said_at >= 60_000:
            log.warning("waiting for the homeserver (%s)", type(outcome).__name__)
            said_at = now
        wait = backoff(failures, ceiling=PAUSE_CEILING, chance=random.random())
        if isinstance(outcome, RateLimited):
            wait = outcome.retry_after
        failures += 1
        await clock.wait(stop, now + wait)
        if stop.is_set():
            raise StoppedError


async def keep_tidy(store: Store, clock: Clock) -> None:
    """Wipe from the disk what was deleted: soon when nothing is left to do, else now and then."""
    never = asyncio.Event()
    last = clock.elapsed()
    while True:
        await clock.wait(never, clock.now() + TIDY_EVERY)
        busy = await store.any_timer()
        if not busy or clock.elapsed() - last >= 60 * TIDY_EVERY:
            await store.tidy()
            last = clock.elapsed()
