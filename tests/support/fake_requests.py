"""The way of a request to the homeserver in memory: counted, held up, and failing when told to."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bot.core.outcomes import Outcome, OutcomeError
from bot.core.types import Millis, RoomID, UserID
from tests.support.fake_clock import FakeClock
from tests.support.fake_rooms import BOT, FakeRooms


def _open() -> asyncio.Event:
    sender_bounds = asyncio.Event()
    sender_bounds.set()
    return sender_bounds


class FakeRequests(FakeRooms):
    """Rooms, and what lies between them and the bot."""

    def __init__(self, clock: FakeClock, own_id: UserID = BOT) -> None:
        super().__init__(clock, own_id)
        self.asked: list[tuple[str, Millis]] = []
        """The requests made, and when."""
        self.in_flight = Counter[RoomID]()
        """Redactions on their way, by room."""
        self.most_in_flight = 0
        self._failures: list[tuple[str | None, Outcome | Exception]] = []
        self._gates: dict[tuple[str, bool], asyncio.Event] = defaultdict(_open)
        self._stuck: dict[tuple[str, RoomID], asyncio.Event] = defaultdict(_open)

    def fail_next(self, *answers: Outcome | Exception, on: str | None = None) -> None:
        """Let the next requests, or the next ones to a method, get these answers, in order."""
        self._failures += [(on, answer) for answer in answers]

    def recover(self) -> None:
        """Forget the failures that were not used."""
        self._failures.clear()

    def hold(self, method: str, *, answer: bool = False) -> None:
        """Hold up requests before they take effect, or their answers after it."""
        self._gates[method, answer].clear()

    def hang(self, method: str, room_id: RoomID) -> None:
        """Leave requests that concern one room without an answer, until `release`."""
        self._stuck[method, room_id].clear()

    def give_way(self, method: str) -> None:
        """Let go on what is held up, but for what hangs."""
        for answer in (False, True):
            self._gates[method, answer].set()

    def release(self, method: str) -> None:
        """Let go on what is held up."""
        self.give_way(method)
        for (stuck, _), sender_bounds in self._stuck.items():
            if stuck == method:
                sender_bounds.set()

    def times(self, method: str) -> list[Millis]:
        """Return when a method was asked for."""
        return [at for name, at in self.asked if name == method]

    @asynccontextmanager
    async def request(
        self, method: str, room_id: RoomID | None = None
    ) -> AsyncIterator[Outcome | None]:
        """Take the way of one request; gives the failure that it is to be answered with."""
        self.asked.append((method, self.clock.now()))
        counted = [room_id] if room_id is not None and method == "redact" else []
        self.in_flight.update(counted)
        self.most_in_flight = max(self.most_in_flight, self.in_flight.total())
        try:
            await self._gates[method, False].wait()
            if room_id is not None:
                await self._stuck[method, room_id].wait()
            yield self._failure(method)
            await self._gates[method, True].wait()
        finally:
            self.in_flight.subtract(counted)

    @asynccontextmanager
    async def question(self, method: str, room_id: RoomID | None = None) -> AsyncIterator[None]:
        """Take the way of a request that raises what it fails with."""
        async with self.request(method, room_id) as failure:
            if failure is not None:
                raise OutcomeError(failure)
            yield

    def _failure(self, method: str) -> Outcome | None:
        for found in self._failures:
            if found[0] in {None, method}:
                self._failures.remove(found)
                if isinstance(found[1], Exception):
                    raise found[1]
                return found[1]
        return None
