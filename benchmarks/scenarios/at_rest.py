"""What it costs to wait: CPU, requests, wake-ups and memory while many messages are pending.

    scripts/bench --only at_rest

Contestants that wait disturb nobody: all of them wait at the same time, on one Synapse.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import psutil

from benchmarks.contestants.entries import at_work, watched
from benchmarks.figures import OURS, Figure, Goal
from benchmarks.scenarios.scenario import Options
from benchmarks.stage import Cost, stage
from tests.support.fault_proxy import FaultProxy

NAME = "at_rest"
MEMORY, ASKED, CPU, WAKE = "memory", "requests in a minute", "CPU", "wake-ups in a minute"
GOALS = [
    Goal(scenario=NAME, measure=MEMORY, bound="at most", limit=60),
    Goal(scenario=NAME, measure=ASKED, bound="at most", limit=3),
]
DAY = 86_400_000
SETTLE = 15
"""Seconds after the last message before anything is measured."""


async def run(options: Options) -> AsyncIterator[Figure]:
    """500 pending for all; with `--whole` 100,000 for ours, whose sending takes its time."""
    number = 100_000 if options.whole else 500
    seconds = 30 if options.quick else 60
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(stage())
        waiting = []
        for name in options.of(OURS) if options.whole else options.of():
            proxy = await stack.enter_async_context(FaultProxy(made.homeserver.url))
            work = at_work(made, name, {DAY: 1}, homeserver=proxy.url)
            contestant, rooms = await stack.enter_async_context(work)
            async with watched(made, contestant, rooms) as watcher:
                await watcher.until_said(await made.send(rooms, number), within=60)
            waiting.append((contestant, proxy))
        await asyncio.sleep(SETTLE)
        costs = [(one, Cost(one.pid), proxy, len(proxy.seen)) for one, proxy in waiting]
        await asyncio.sleep(seconds)
        for contestant, cost, proxy, before in costs:
            cost.stop()
            measures = {
                (ASKED, ""): (len(proxy.seen) - before) * 60 / cost.seconds,
                (WAKE, ""): cost.switches * 60 / cost.seconds,
                (CPU, "s an hour"): cost.cpu * 3600 / cost.seconds,
                (MEMORY, "MB"): psutil.Process(contestant.pid).memory_info().rss / 2**20,
            }
            for (measure, unit), value in measures.items():
                yield Figure(
                    scenario=NAME,
                    work=f"{number:,} pending",
                    contestant=contestant.name,
                    measure=measure,
                    unit=unit,
                    value=value,
                )
