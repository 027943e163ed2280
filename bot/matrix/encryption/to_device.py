"""Opens what is sent to the bot's device, a piece at a time: anybody can send, and any number."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from nio import AsyncClient
from nio.events import ToDeviceEvent
from peewee import OperationalError

from bot.core.outcomes import DiskError
from bot.core.types import Event
from bot.matrix.encryption.engine import CarefulOlm
from bot.matrix.encryption.time_slices import TimeSlices
from bot.matrix.encryption.to_device_queue import Inbox
from bot.matrix.private_files import disk

log = logging.getLogger(__name__)

AT_ONCE: Final = 100
"""Events opened before the rest of their sync is read; Synapse sends as many with one sync."""
AT_ONCE_WITHIN: Final = 0.25
"""Seconds after which they wait too: the timers of the sync do not."""
REST: Final = 0.02
"""Seconds of rest after each piece of what waits: about as long as a piece takes."""
TELL_EVERY: Final = 1.0
"""Seconds after which it is told that keys came, though more wait."""


class ToDevice:
    """Takes to-device events in."""

    def __init__(
        self,
        client: AsyncClient,
        slices: TimeSlices,
        admits: Callable[[Event], bool],
        verification: Callable[[Event], None],
    ) -> None:
        self._client = client
        self._slices = slices
        self._admits = admits
        self._verification = verification
        self._box: Inbox | None = None
        self._some_wait = asyncio.Event()
        self._in_doubt: CarefulOlm | None = None
        """The engine whose last piece nobody waited for: the disk may not have taken it."""

    @property
    def _olm(self) -> CarefulOlm:
        engine: CarefulOlm = self._client.olm
        return engine

    @property
    def _inbox(self) -> Inbox:
        """What waits; begun anew with a store that was loaded again."""
        if self._box is None or self._box.store is not self._olm.store:
            with disk():
                self._box = Inbox(self._olm.store)
        return self._box

    def take(self, events: list[Any]) -> None:
        """Take all events of an answer, and what waits. Raises `DiskError`."""
        with self._all_or_again():
            for event in events:
                self._offer(self._inbox, event)
            self._inbox.answer_ends()
        while len(self._inbox):
            with self._all_or_again(), self._olm.store.piece():
                self._open_some(len(self._inbox))

    async def take_by_slices(self, events: list[Any]) -> None:
        """Take the events of an answer, the first at once and others by turns with everybody else.

        When it returns, all of them are on the disk, opened or not: the sync's token may be
        stored. Raises `DiskError`: then they come again with the next sync.
        """
        with self._all_or_again():
            inbox = self._inbox
        rest, nothing = iter(events), object()
        event: Any = None
        while event is not nothing:
            piece = self._slices.piece()
            while piece.goes_on() and (event := next(rest, nothing)) is not nothing:
                self._offer(inbox, event)
            await self._rest(inbox)
        with self._all_or_again():
            inbox.answer_ends()
        left, until = AT_ONCE, self._slices.elapsed() + AT_ONCE_WITHIN
        while left > 0 and len(inbox) and self._slices.elapsed() < until:
            left -= await self._piece(left)
            await self._rest(inbox)
        with self._all_or_again():
            await inbox.keep()
        if len(inbox):
            self._some_wait.set()

    async def _rest(self, inbox: Inbox) -> None:
        """Give others their turn. Raises `DiskError` when they met one, and forgot the answer."""
        await self._slices.rest(0)
        if self._inbox is not inbox:
            raise DiskError("the crypto store: it was loaded again meanwhile")

    async def until_waiting(self) -> None:
        """Return when something waits."""
        if not len(self._inbox):
            await self._some_wait.wait()
        self._some_wait.clear()

    async def take_rest(self, tell: Callable[[], None]) -> None:
        """Take what waits, in pieces with a rest after each; `tell` of it now and then.

        Raises `DiskError`.
        """
        told_at = self._slices.elapsed()
        while len(self._inbox):
            await self._piece(len(self._inbox))
            if self._slices.elapsed() - told_at >= TELL_EVERY:
                told_at = self._slices.elapsed()
                tell()
            await self._slices.rest(REST)
        tell()

    def _offer(self, inbox: Inbox, event: Any) -> None:
        if not isinstance(event, dict):
            return
        if str(event.get("type")).startswith("m.key.verification."):
            self._verification(event)
        # Key requests are not answered: the bot has nobody's trust to give.
        if event.get("type") == "m.room.encrypted" and self._admits(event):
            inbox.put(event)

    async def _piece(self, most: int) -> int:
        """Open at most so many of what waits, as one transaction; return how many it were."""
        opened = 0
        with self._all_or_again():
            async with self._olm.store.piece_aside():
                opened = self._open_some(most)
        return opened

    def _open_some(self, most: int) -> int:
        piece, opened = self._slices.piece(), 0
        while opened < most and len(self._inbox) and piece.goes_on():
            self._open(self._inbox.next())
            opened += 1
        return opened

    def _open(self, event: Event) -> None:
        """Open one event.

        Anybody who knows the bot's id can send one, and eight malformed kinds raise inside nio.
        None of them may stop the sync, or spoil the others.
        """
        try:
            parsed = ToDeviceEvent.parse_event(event)
            if parsed is not None:
                self._olm.handle_to_device_event(parsed)
        except OperationalError:
            raise  # the disk's, not the event's
        except Exception as error:  # noqa: BLE001 - a stranger's input, of any shape
            log.warning("passed over a to-device event (%s)", type(error).__name__)

    @contextmanager
    def _all_or_again(self) -> Iterator[None]:
        """Raise `DiskError` when the disk does not take it, all of it forgotten.

        What was opened in memory only could not be opened again.
        """
        if self._in_doubt is self._olm:
            with disk():
                self._client.load_again()
        before = self._olm
        try:
            with disk():
                yield
        except asyncio.CancelledError:
            self._in_doubt = before
            raise
        except DiskError:
            if self._olm is before:  # nobody else met it too, and was first
                with disk():
                    self._client.load_again()
            raise
