"""Reads back in every room for messages that have no timer, when an operator asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import SystemRandom
from typing import Final

from bot.app import OK, locate, session
from bot.build import build
from bot.config import Settings
from bot.core.default_lifetime import began
from bot.core.outcome_text import describe
from bot.core.outcomes import OutcomeError
from bot.core.timeline import Sweep
from bot.core.types import RoomID
from bot.matrix.client import Matrix
from bot.operator.identity import OperatorError, explained, once
from bot.services.clock import SystemClock
from bot.store import Store
from bot.store.folder_lock import hold

TRIES: Final = 8
"""How often a page is asked for that does not come; then its room is left to the running bot."""
NOBODY: Final = "The bot is in no room where a lifetime was set. There is nothing to read."


async def rebuild(settings: Settings, say: Callable[[str], None]) -> int:
    """Sweep all rooms once; say what was found. The bot must not be running.

    What other homeservers keep back is asked for again when the bot runs.
    """
    with explained(), hold(settings.data_dir):
        store = await Store.open(settings.data_dir / "timers.db")
        try:
            settings = await locate(settings, once)
            async with session(settings, once) as matrix:
                say(await _Rebuild(settings, matrix, store).run(say))
        except OutcomeError as error:
            reason = describe(error.outcome)
            raise OperatorError(f"the homeserver did not answer ({reason}); try again") from None
        finally:
            await store.close()
    return OK


class _Rebuild:
    def __init__(self, settings: Settings, matrix: Matrix, store: Store) -> None:
        self._clock = SystemClock()
        self._store = store
        files = settings.own_server if settings.media.delete else None
        bot = build(
            settings,
            matrix,
            store,
            self._clock,
            SystemRandom(),
            media_server=files,
            sweep_again=(),  # what other homeservers keep back is for the running bot
        )
        self._sync, self._sweeps = bot.sync, bot.sweeps

    async def run(self, say: Callable[[str], None]) -> str:
        """Read until every room was walked through once; return what came of it."""
        token, _ = await self._store.position()
        if token is None:
            await self._sync.once()  # an empty database: begins sweeps by itself
        else:
            await self._begin()
        never, rooms, silent = asyncio.Event(), await self._store.sweeps.left(), set[RoomID]()
        if not rooms:
            return NOBODY
        say(f"Reading back in {_count(rooms, 'room')}.")
        while (sweep := await self._store.sweeps.next(silent)) is not None:
            if sweep.attempts >= TRIES:
                silent.add(sweep.room_id)
            elif sweep.retry_at > self._clock.now():
                await self._clock.wait(never, sweep.retry_at)
            else:
                await self._sweeps.step(sweep)
        tally = self._sweeps.tally
        found, read = _count(tally.found, "message"), _count(tally.events, "event")
        behind = await self._store.sweeps.left()
        later = f" {_count(behind, 'room')} will follow when the bot runs." if behind else ""
        return f"Read {read}: {found} had no timer and got one.{later}"

    async def _begin(self) -> None:
        """Have every room swept that has or had a lifetime."""
        now = self._clock.now()
        for room in await self._store.rooms():
            if room.setting is not None or began(room.defaults) is not None:
                sweep = Sweep(room_id=room.room_id, whole_room=True, since=0, until=now)
                await self._store.sweeps.begin(sweep)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
