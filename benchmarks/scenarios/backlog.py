"""How fast much that is due at once goes, and how late live messages go meanwhile.

    scripts/bench --only backlog

The contestant's process is stopped (SIGSTOP) before the first message is due, as a machine is that
sleeps, and goes on when all are due. Live messages of another room, known before, fall due one
after the other while it works.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence

from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.entries import IDEAL_16, IDEAL_32, PEERS, at_work, watched
from benchmarks.figures import OURS, Figure, Goal, percentile, thin
from benchmarks.scenarios.scenario import Options, talk, warm_up
from benchmarks.stage import Cost, Room, Stage, stage
from benchmarks.watcher import Watcher

NAME = "backlog"
RATE, LAST, LIVE, GONE = "redacted", "last gone after", "live p99 / p99 without", "gone"
CPU = "CPU for each"
GOALS = [
    Goal(scenario=NAME, measure=RATE, bound="at least", limit=0.95, beside_ideal=True),
    Goal(scenario=NAME, measure=LAST, bound="at most", limit=1.15, beside_ideal=True),
    Goal(scenario=NAME, measure=LIVE, bound="at most", limit=1.5),
    Goal(scenario=NAME, measure=GONE, bound="at least", limit=100),
    Goal(scenario=NAME, measure=CPU, bound="at most", limit=1),
]
SENT_PER_SECOND = 50
"""No Synapse is slower at taking messages; so all are sent before the first is due."""
AROUND = 15_000
"""Milliseconds beside the sending: for what is said live, and for a rest."""
CALM_LIFETIME, LIVE_RATE, LIVE_NUMBER = 5_000, 4, 40
PATIENCE = 300
PAUSE = 0.25
"""Seconds between two syncs of who looks on. Times are the homeserver's own here."""


async def run(options: Options) -> AsyncIterator[Figure]:
    """1,000 in one room for all; in 100 rooms, and 10,000, for ours and the ideal client."""
    many = 10_000 if options.whole else 1_000
    async with stage() as made:
        for name in options.of(OURS, IDEAL_16, IDEAL_32, *([] if options.quick else PEERS)):
            async for figure in trial(made, name, 1, 1_000):
                yield figure
        works = [] if options.quick else [(100, 1_000)]
        works += [(1, many), (100, many)] if options.whole else []
        for rooms, number in works:
            for name in options.of(OURS, IDEAL_16):
                async for figure in trial(made, name, rooms, number):
                    yield figure


async def trial(stage: Stage, name: str, rooms: int, number: int) -> AsyncIterator[Figure]:
    """One contestant with one backlog."""
    work = f"{number:,} in {rooms} rooms" if rooms > 1 else f"{number:,} in 1 room"
    lifetime = AROUND + number * 1_000 // SENT_PER_SECOND
    places = {lifetime: rooms, lifetime - 1_000: 1, CALM_LIFETIME: 1, 1_000: 1}
    async with at_work(stage, name, places) as (contestant, made):
        *overdue, live, quiet, warm = made
        async with watched(stage, contestant, made, pause=PAUSE) as watcher:
            calm = 0.0
            if name not in PEERS:
                await warm_up(stage, warm, watcher)
                calm = await without(stage, watcher, quiet)
            sent = await stage.send(overdue, number)
            due = [one.due for one in await watcher.until_said(sent)]
            cost = Cost(contestant.pid)
            began, talked = await fall_due_at_once(stage, contestant, live, due)
            all_gone = await watcher.until_gone([*sent, *talked], PATIENCE)
            cost.stop()
            gone = sorted(watcher.gone[one].redacted - began for one in sent if one in watcher.gone)
            late = by_homeserver(watcher, talked)
    share = 100 * len(gone) / number
    yield figure(work, name, GONE, "%", share)
    if gone:
        yield figure(
            work, name, RATE, "per second", 1000 * len(gone) / max(1, gone[-1]), samples=thin(gone)
        )
    if all_gone:
        yield figure(work, name, CPU, "ms", cost.cpu / (number + len(talked)) * 1000)
        yield figure(work, name, LAST, "s", gone[-1] / 1000)
    if calm and late:
        yield figure(work, name, "live p99", "ms", percentile(late, 0.99))
        yield figure(work, name, LIVE, "", percentile(late, 0.99) / calm)


def figure(
    work: str, name: str, measure: str, unit: str, value: float, *, samples: Sequence[float] = ()
) -> Figure:
    return Figure(
        scenario=NAME,
        work=work,
        contestant=name,
        measure=measure,
        unit=unit,
        value=value,
        samples=list(samples),
    )


async def without(stage: Stage, watcher: Watcher, quiet: Room) -> float:
    """Return how late live messages go (p99, ms) while nothing else is due."""
    sent = await talk(stage, [quiet], LIVE_NUMBER, LIVE_RATE)
    await watcher.until_said(sent)
    await watcher.until_gone(sent, 60)
    return percentile(by_homeserver(watcher, sent), 0.99)


def by_homeserver(watcher: Watcher, sent: list[str]) -> list[float]:
    """Return how many ms late messages were redacted, by the homeserver's own times."""
    return [
        watcher.gone[one].redacted - watcher.said[one].due for one in sent if one in watcher.gone
    ]


async def fall_due_at_once(
    stage: Stage, contestant: Contestant, live: Room, due: list[int]
) -> tuple[int, list[str]]:
    """Stop the process until all is due; return when it went on, in ms, and what was said live.

    What is said live is known before, and falls due one after the other once the process goes on.
    """
    goes_on = max(due) + 100
    await until(goes_on + 200 - live.lifetime)
    talked = await talk(stage, [live], LIVE_NUMBER, LIVE_RATE)
    assert await until(min(due) - 500), "sending took too long"
    os.kill(contestant.pid, signal.SIGSTOP)
    try:
        await until(goes_on)
    finally:
        began = time.time_ns() // 1_000_000
        os.kill(contestant.pid, signal.SIGCONT)
    return began, talked


async def until(moment: int) -> bool:
    """Sleep until a time in ms; return whether it had not passed."""
    left = moment / 1000 - time.time()
    await asyncio.sleep(max(0.0, left))
    return left > 0
