"""How long is waited before something is tried again: by value, and longer each time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random

import pytest

from bot.core.outcomes import DiskError, Done, Failed, Outcome, OutcomeError, RateLimited
from bot.core.outcomes import Unreachable as Away
from bot.core.throughput import FIRST_WIDTH, Behind, Throughput, behind
from bot.core.topics import Topics
from bot.core.types import Millis
from bot.services.device_signing import DeviceSigning
from bot.services.supervisor import Disk, StoppedError, wait_for_homeserver
from bot.store.handled_commands import forget_handled, remember_handled
from tests.services.test_sweeps import hole, put_below, shared_room
from tests.support.fake_homeserver import FakeClock
from tests.support.harness import DAY, MINUTE, SECOND, Harness

DOUBLING = [500, 1_000, 2_000, 4_000, 8_000]
"""Milliseconds, where chance makes every wait the shortest that it may be."""


class Least(Random):
    """Chance that is always the least."""

    def random(self) -> float:
        return 0.0


class Skipping(FakeClock):
    """A clock on which nobody waits, and that notes how long they would have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[Millis] = []

    async def wait(self, wake: asyncio.Event, until: Millis | None) -> None:
        assert until is not None
        self.waited.append(until - self.now())
        self.advance(until - self.now())


AWAY = Away(reason="refused")


async def test_a_homeserver_that_is_away_is_waited_for_longer_each_time() -> None:
    answers: list[Outcome] = [AWAY, AWAY, Failed(status=500), RateLimited(retry_after=7_777)]
    answers += [AWAY, Done(body={"a": 1})]
    clock = Skipping()

    async def request() -> Outcome:
        return answers.pop(0)

    found = await wait_for_homeserver(request, asyncio.Event(), clock, Least())
    assert found == Done(body={"a": 1})
    assert clock.waited == [500, 1_000, 2_000, 7_777, 8_000]


async def test_who_is_told_to_stop_waits_for_no_homeserver() -> None:
    stop, asked = asyncio.Event(), []

    async def request() -> Outcome:
        asked.append(1)
        stop.set()
        return AWAY

    with pytest.raises(StoppedError):
        await wait_for_homeserver(request, stop, Skipping(), Least())
    assert asked == [1]


async def test_a_homeserver_that_is_away_is_told_of_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, told = Skipping(), list[Millis]()

    async def request() -> Outcome:
        told.extend([clock.now()] * (len(caplog.records) - len(told)))
        return AWAY if len(clock.waited) < 20 else Done()

    await wait_for_homeserver(request, asyncio.Event(), clock, Least())
    assert 5 <= len(told) <= 10
    assert all(later - earlier >= MINUTE for earlier, later in pairwise(told))


async def test_a_full_disk_is_waited_for_longer_until_work_goes_well() -> None:
    clock, tries = Skipping(), list[int]()

    async def service() -> None:
        tries.append(1)
        if len(tries) == 6:
            clock.advance(MINUTE + 1)
        if len(tries) < 8:
            raise DiskError("full")

    await Disk(clock, Least()).insist(service)
    assert clock.waited == [*DOUBLING, 500, 1_000]


class Settling:
    """Cross-signing that the homeserver does not answer at first."""

    master = device_id = fingerprint = "x"

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def ensure_signed(self) -> str:
        self.failures -= 1
        if self.failures >= 0:
            raise OutcomeError(AWAY) if self.failures % 2 else OSError("disk")
        return "signed"


async def test_signing_waits_longer_each_time() -> None:
    clock = Skipping()
    identity = DeviceSigning(Settling(5), Topics(), clock, random=Least())
    await identity.sign()
    assert identity.signing_state == "signed"
    assert clock.waited == DOUBLING


# --- bounds by value -----------------------------------------------------------------------------

SOME = Behind(late=9, interval=5_000)


@pytest.mark.parametrize(
    ("before", "late", "interval", "expected"),
    [
        (None, 6, 5_000, None),
        (None, 7, 5_000, Behind(late=7, interval=5_000)),
        (None, 30_001, 1, Behind(late=30_001, interval=1)),
        (SOME, 1, 5_000, Behind(late=1, interval=5_000)),
        (SOME, 1, 1, Behind(late=1, interval=1)),
        (SOME, 0, 5_000, None),
        (SOME, 1, 0, None),
        (None, 0, 0, None),
    ],
)
def test_who_is_behind_is_so_until_nothing_is_late(
    before: Behind | None, late: int, interval: Millis, expected: Behind | None
) -> None:
    assert behind(before, late, interval) == expected


def test_twenty_four_failures_in_a_row_slow_everything_down_for_five_seconds() -> None:
    pace = Throughput()
    for _ in range(23):
        pace.failed(SECOND)
    pace.accepted(SECOND, begun=0)
    for _ in range(23):
        pace.failed(SECOND)
    assert (pace.width, pace.paused_until) == (FIRST_WIDTH + 1, 0)
    pace.failed(SECOND)
    assert (pace.width, pace.paused_until) == (1, 6 * SECOND)


async def test_commands_are_remembered_for_ninety_days_and_surplus_ones_for_one(
    harness: Harness,
) -> None:
    now = harness.clock.now()

    async def kept(at: Millis) -> list[str]:
        async with harness.store._db.transaction() as db:
            await forget_handled(db, at)
            return [
                row[0] for row in await db.rows("SELECT digest FROM handled_commands ORDER BY 1")
            ]

    async with harness.store._db.transaction() as db:
        await remember_handled(db, ["a"], ["surplus"], now)
    assert await kept(now + DAY) == ["a", "surplus"]
    assert await kept(now + DAY + 1) == ["a"]
    assert await kept(now + 90 * DAY) == ["a"]
    assert await kept(now + 90 * DAY + 1) == []


async def test_a_walk_that_finds_nothing_is_repeated_later_and_later(harness: Harness) -> None:
    room = await shared_room(harness)
    harness.homeserver.send(room, "read")
    async with harness.running(harness.sync):
        pass
    await hole(harness, room)

    def walks() -> int:
        return len(harness.homeserver.times("page_back"))

    async with harness.running(harness.backfill, harness.sweeper):
        for late, waits in ((True, AGAIN[1:2]), (False, AGAIN)):
            if late:
                put_below(harness, room, "fetched late")
            for wait in waits:
                before = walks()
                await harness.advance(wait - 1)
                assert walks() == before
                await harness.advance(1)
                assert walks() > before
        assert await harness.store.sweeps.left() == 0


AGAIN = [5 * SECOND, 30 * SECOND, 5 * MINUTE, 20 * MINUTE, 60 * MINUTE]
"""Until the next walk after one that found something, after one that did not, after two…"""
