"""Which share of the messages is gone in the end where redactions fail at random.

    scripts/bench --only faulty

A proxy answers one redaction in twenty, or in five, with 502, as a gateway does. All contestants
work at the same time: what counts is what goes, not when.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from benchmarks.contestants.entries import at_work, watched
from benchmarks.figures import Figure, Goal
from benchmarks.limits_proxy import REDACTION, broken_at_random
from benchmarks.scenarios.scenario import Options, talk
from benchmarks.stage import Stage, stage
from tests.support.fault_proxy import FaultProxy

NAME = "faulty"
GONE = "gone"
GOALS = [Goal(scenario=NAME, measure=GONE, bound="at least", limit=100)]
SHARES = (0.05, 0.2)
LIFETIME, NUMBER, RATE = 5_000, 100, 2
PATIENCE = 125
"""Two passes of the slowest."""


async def run(options: Options) -> AsyncIterator[Figure]:
    """Both shares at once."""
    async with stage() as made:
        trials = (
            trial(made, name, share, options.seed) for share in SHARES for name in options.of()
        )
        for figures in await asyncio.gather(*trials):
            for figure in figures:
                yield figure


async def trial(stage: Stage, name: str, share: float, seed: int) -> list[Figure]:
    """One contestant before one proxy."""
    async with (
        FaultProxy(stage.homeserver.url) as proxy,
        at_work(stage, name, {LIFETIME: 1}, homeserver=proxy.url) as (contestant, rooms),
        watched(stage, contestant, rooms, pause=0.2) as watcher,
    ):
        proxy.gate(REDACTION, broken_at_random(share, seed))
        sent = await talk(stage, rooms, NUMBER, RATE)
        await watcher.until_said(sent)
        await watcher.until_gone(sent, PATIENCE)
        gone = [one for one in sent if one in watcher.gone]
        late = max((watcher.late(one) for one in gone), default=0.0)
    return [
        Figure(
            scenario=NAME,
            work=f"{share:.0%} of the redactions fail",
            contestant=name,
            measure=measure,
            unit=unit,
            value=value,
        )
        for measure, unit, value in (
            (GONE, "%", 100 * len(gone) / len(sent)),
            ("worst of those gone", "s", late / 1000),
        )
    ]
