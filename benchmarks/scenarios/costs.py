"""What each redacted message costs: requests, CPU on both sides, and sync bytes for others.

    scripts/bench --only costs

People talk evenly, and a proxy counts what the contestant asks for until all is gone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import psutil

from benchmarks.contestants.entries import PEERS, at_work, watched
from benchmarks.figures import OURS, Figure, Goal
from benchmarks.limits_proxy import REDACTION
from benchmarks.scenarios.scenario import Options, talk, warm_up
from benchmarks.stage import Cost, Stage, stage
from tests.support.fault_proxy import FaultProxy

NAME = "costs"
KINDS = {"redactions": REDACTION, "syncs": "GET .*/sync", "look-ups of relations": "/relations/"}
OTHERS = "other requests"
CPU = "CPU for each"
GOALS = [
    Goal(scenario=NAME, measure="redactions", bound="at most", limit=1.02),
    Goal(scenario=NAME, measure="syncs", bound="at most", limit=1.1),
    Goal(scenario=NAME, measure="look-ups of relations", bound="at most", limit=0.02),
    Goal(scenario=NAME, measure=OTHERS, bound="at most", limit=0.05),
    Goal(scenario=NAME, measure=CPU, bound="at most", limit=4),
]
LIFETIME, RATE = 5_000, 5
PATIENCE = 90


async def run(options: Options) -> AsyncIterator[Figure]:
    """100 messages at 5/s for each contestant; 50 in quick mode."""
    number = 50 if options.quick else 100
    async with stage() as made:
        for name in options.of():
            for (measure, unit), value in (await trial(made, name, number)).items():
                yield Figure(
                    scenario=NAME,
                    work=f"{number} messages at {RATE}/s",
                    contestant=name,
                    measure=measure,
                    unit=unit,
                    value=value,
                )


async def trial(stage: Stage, name: str, number: int) -> dict[tuple[str, str], float]:
    """Return the measures of one contestant, with their units."""
    async with (
        FaultProxy(stage.homeserver.url) as proxy,
        at_work(stage, name, {LIFETIME: 1, 1_000: 1}, homeserver=proxy.url) as (contestant, rooms),
        watched(stage, contestant, rooms) as watcher,
    ):
        if name not in PEERS:
            await warm_up(stage, rooms[1], watcher)
        if name == OURS:
            await asyncio.sleep(LIFETIME / 1000 + 1)  # What the bot itself said is gone.
        seen, read = len(proxy.seen), watcher.bytes
        own, theirs = Cost(contestant.pid), Cost(stage.homeserver.pid)
        sent = await talk(stage, rooms[:1], number, RATE)
        await watcher.until_said(sent)
        await watcher.until_gone(sent, LIFETIME / 1000 + PATIENCE)
        own.stop()
        theirs.stop()
        gone = sum(one in watcher.gone for one in sent)
        asked = proxy.seen[seen:]
        memory = psutil.Process(contestant.pid).memory_info().rss / 2**20
        read = watcher.bytes - read
    return counted([one.what for one in asked], gone) | {
        (CPU, "ms"): own.cpu / gone * 1000,
        ("homeserver's CPU for each", "ms"): theirs.cpu / gone * 1000,
        ("sync bytes for another for each", ""): read / gone,
        ("memory", "MB"): memory,
    }


def counted(asked: list[str], gone: int) -> dict[tuple[str, str], float]:
    """Return how many requests of each kind there were for each message that went."""
    counts = dict.fromkeys([*KINDS, OTHERS], 0)
    for what in asked:
        fits = (kind for kind, match in KINDS.items() if re.search(match, what))
        counts[next(fits, OTHERS)] += 1
    return {(kind, "each"): count / gone for kind, count in counts.items()}
