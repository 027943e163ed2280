"""A worker sees to a few things at once, of each lane one; a slow one stops no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.outcome_text import describe
from bot.core.outcomes import (
    DiskError,
    Failed,
    Outcome,
    OutcomeError,
    TokenRejectedError,
    Unreachable,
)
from bot.core.types import Millis
from bot.services.worker import MOST_SLOW, QUIET_FOR, SLOW_AFTER, WIDTH, Worker, run_together
from tests.support.fake_homeserver import FakeClock

LIMIT = 60_000
FAILED = Failed(status=500)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something to be seen to."""

    id: int
    lane: str
    retry_at: Millis = 0


class Bench:
    """A worker over things in memory; the lanes in `stuck` never come to an end."""

    def __init__(self, *things: Thing) -> None:
        self.clock = FakeClock()
        self.wake = asyncio.Event()
        self.things = {thing.id: thing for thing in things}
        self.stuck: set[str] = set()
        self.fails: dict[int, Exception] = {}
        self.away: dict[int, Outcome] = {}
        """Things that are put off, and why."""
        self.done: list[int] = []
        self.at_work: list[str] = []
        self.most_at_work = 0
        self.overdue: list[int] = []
        self.never = asyncio.Event()
        self.worker = Worker(
            self.clock,
            self.wake,
            self.find,
            self.see_to,
            lane=lambda thing: thing.lane,
            put_off=self.put_off,
            within=LIMIT,
            what="things",
        )

    async def find(self, busy: frozenset[str]) -> Thing | None:
        free = [thing for thing in self.things.values() if thing.lane not in busy]
        return min(free, key=lambda thing: (thing.retry_at, thing.id), default=None)

    async def see_to(self, thing: Thing) -> str | None:
        assert thing.lane not in self.at_work, "two at once in one lane"
        self.at_work.append(thing.lane)
        self.most_at_work = max(self.most_at_work, len(self.at_work))
        try:
            await asyncio.sleep(0)
            if thing.id in self.fails:
                raise self.fails.pop(thing.id)
            if thing.id in self.away:
                raise OutcomeError(self.away[thing.id])
            if thing.lane in self.stuck:
                await self.never.wait()
            self.done.append(thing.id)
            del self.things[thing.id]
            return None
        finally:
            self.at_work.remove(thing.lane)

    async def put_off(self, thing: Thing, outcome: Outcome) -> str:
        self.overdue.append(thing.id)
        self.things[thing.id] = replace(thing, retry_at=self.clock.now() + LIMIT)
        return describe(outcome)

    def add(self, *things: Thing) -> None:
        self.things |= {thing.id: thing for thing in things}
        self.wake.set()

    async def rest(self) -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    async def advance(self, ms: Millis) -> None:
        self.clock.advance(ms)
        await self.rest()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.worker.run())
            await self.rest()
            yield
            await self.rest()
            task.cancel()


def things(count: int, *, lane: str = "", first: int = 0) -> list[Thing]:
    """Return things, each in a lane of its own, or all in one."""
    return [Thing(id=n, lane=lane or f"lane {n}") for n in range(first, first + count)]


async def test_things_of_one_lane_are_done_in_their_order() -> None:
    bench = Bench(*things(20, lane="one"))
    async with bench.running():
        pass
    assert bench.done == list(range(20))
    assert bench.most_at_work == 1


async def test_a_stuck_lane_holds_up_no_other() -> None:
    bench = Bench(*things(5, lane="stuck"), *things(20, first=5))
    bench.stuck = {"stuck"}
    async with bench.running():
        assert bench.done == list(range(5, 25))
        bench.add(Thing(id=99, lane="new"))
        await bench.rest()
        assert bench.done[-1] == 99


async def test_no_more_than_a_few_are_under_way_at_once() -> None:
    bench = Bench(*things(5 * WIDTH))
    async with bench.running():
        pass
    assert len(bench.done) == 5 * WIDTH
    assert bench.most_at_work == WIDTH


async def test_many_slow_ones_hold_up_others_for_seconds_only() -> None:
    """Ten requests that a dead homeserver never answers are more than there are places."""
    slow = things(WIDTH + MOST_SLOW - 1)
    bench = Bench(*slow)
    bench.stuck = {thing.lane for thing in slow}
    async with bench.running():
        await bench.advance(SLOW_AFTER)
        await bench.advance(SLOW_AFTER)
        bench.add(Thing(id=99, lane="new"))
        await bench.rest()
        assert bench.done == [99]


async def test_slow_ones_do_not_grow_without_end() -> None:
    slow = things(10 * (WIDTH + MOST_SLOW))
    bench = Bench(*slow)
    bench.stuck = {thing.lane for thing in slow}
    async with bench.running():
        for _ in range(15):
            await bench.advance(SLOW_AFTER)
    assert bench.most_at_work == WIDTH + MOST_SLOW


async def test_a_step_ends_at_its_limit_and_is_put_off(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(*things(2, lane="stuck"))
    bench.stuck = {"stuck"}
    caplog.set_level(logging.INFO)
    async with bench.running():
        await bench.advance(LIMIT - 1)
        assert bench.overdue == []
        await bench.advance(1)
        assert bench.overdue == [0]
    (line,) = caplog.messages
    assert line == "things: put off, while others go on: no end within 60 s (1)"
    assert bench.done == []


async def test_steps_over_their_limit_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(*things(WIDTH))
    bench.stuck = {thing.lane for thing in bench.things.values()}
    caplog.set_level(logging.INFO)
    async with bench.running():
        for _ in range(10):
            await bench.advance(QUIET_FOR)
    assert len(bench.overdue) > WIDTH
    assert len(caplog.messages) <= 10


async def test_what_was_put_off_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(*things(9))
    bench.away = {0: FAILED, 1: FAILED, 2: Unreachable(reason="reset")}
    caplog.set_level(logging.INFO)
    async with bench.running():
        bench.away = {10: FAILED}
        bench.add(*things(2, first=10))
        await bench.rest()
        first = "things: put off, while others go on: status 500 (2), reset (1)"
        assert caplog.messages == [first]
        await bench.advance(QUIET_FOR)
    assert caplog.messages == [first, "things: put off, while others go on: status 500 (1)"]
    assert bench.done[:6] == [3, 4, 5, 6, 7, 8]


async def test_what_wakes_nobody_is_looked_for_now_and_then() -> None:
    bench = Bench()
    bench.worker._every = 10_000
    async with bench.running():
        bench.things[1] = Thing(id=1, lane="one")
        await bench.advance(9_999)
        assert bench.done == []
        await bench.advance(1)
        assert bench.done == [1]


async def test_workers_that_are_woken_together_share_no_places() -> None:
    stuck, free = Bench(*things(WIDTH)), Bench()
    stuck.stuck = {thing.lane for thing in stuck.things.values()}
    free.worker._wake = free.wake = stuck.wake
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run_together(stuck.clock, stuck.wake, stuck.worker, free.worker))
        await stuck.rest()
        free.add(*things(3))
        await stuck.rest()
        task.cancel()
    assert sorted(free.done) == [0, 1, 2]
    assert stuck.at_work == []


async def test_what_is_not_due_yet_waits_for_its_time() -> None:
    bench = Bench()
    bench.add(Thing(id=1, lane="one", retry_at=bench.clock.now() + 1_000))
    async with bench.running():
        await bench.advance(999)
        assert bench.done == []
        await bench.advance(1)
        assert bench.done == [1]


async def test_what_is_not_due_yet_comes_beside_a_stuck_lane() -> None:
    bench = Bench(Thing(id=0, lane="stuck"))
    bench.stuck = {"stuck"}
    bench.add(Thing(id=1, lane="one", retry_at=bench.clock.now() + 1_000))
    async with bench.running():
        await bench.advance(1_000)
        assert bench.done == [1]


@pytest.mark.parametrize("error", [TokenRejectedError("M_UNKNOWN_TOKEN"), DiskError("full")])
async def test_an_error_ends_the_worker_and_every_step(error: Exception) -> None:
    bench = Bench(*things(WIDTH))
    bench.stuck = {thing.lane for thing in bench.things.values()}
    bench.fails[3] = error
    with pytest.raises(type(error)) as raised:
        await bench.worker.run()
    assert raised.value is error
    assert bench.at_work == []


async def test_a_steps_own_timeout_is_no_step_over_its_limit() -> None:
    bench = Bench(Thing(id=1, lane="one"))
    bench.fails[1] = TimeoutError("the step's own")
    with pytest.raises(TimeoutError, match="own"):
        await bench.worker.run()
    assert bench.overdue == []


async def test_cancelled_no_step_goes_on() -> None:
    bench = Bench(*things(WIDTH))
    bench.stuck = {thing.lane for thing in bench.things.values()}
    async with bench.running():
        assert len(bench.at_work) == WIDTH
    assert bench.at_work == []
    assert bench.overdue == []


async def test_a_worker_runs_again_after_it_ended() -> None:
    bench = Bench(*things(3))
    bench.fails[1] = DiskError("full")
    with pytest.raises(DiskError):
        await bench.worker.run()
    async with bench.running():
        pass
    assert sorted(bench.done) == [0, 1, 2]


@given(
    lanes=st.lists(st.integers(min_value=0, max_value=9), min_size=1, max_size=40),
    stuck=st.sets(st.integers(min_value=0, max_value=9), max_size=5),
)
async def test_whoever_is_stuck_others_are_done_in_order(lanes: list[int], stuck: set[int]) -> None:
    bench = Bench(*[Thing(id=n, lane=str(lane)) for n, lane in enumerate(lanes)])
    bench.stuck = {str(lane) for lane in stuck}
    async with bench.running():
        pass
    for lane in range(10):
        own = [n for n, other in enumerate(lanes) if other == lane]
        assert [n for n in bench.done if n in own] == ([] if lane in stuck else own)
