"""How late messages go where the homeserver limits the rate, beside a client that does as told.

    scripts/bench --only limits

A proxy before the homeserver refuses redactions: one in five at random, each for 500 ms; or what
is over a true limit, counted as Synapse counts; or the same until the limit ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from benchmarks.contestants.entries import IDEAL_16, PEERS, POLITE, at_work, watched
from benchmarks.figures import OURS, Figure, Goal, lateness
from benchmarks.limits_proxy import REDACTION, Refuse, at_random, by_rate
from benchmarks.scenarios.scenario import Options, talk
from benchmarks.stage import Stage, stage
from tests.support.fault_proxy import FaultProxy

NAME = "limits"
LOST, ASKED = "not gone", "attempts for each"
GOALS = [
    *(
        Goal(scenario=NAME, measure=measure, bound="at most", limit=1.15, beside_ideal=True)
        for measure in ("median", "p99", "worst")
    ),
    Goal(scenario=NAME, measure=LOST, bound="at most", limit=0),
]
LIFETIME = 5_000
BURST = 10
"""Redactions that a true limit lets pass at once; Synapse's own figure."""
PATIENCE = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Messages, and what refuses them; it is made when the contestant is ready."""

    name: str
    number: int
    rate: float
    refuse: Callable[[int], Refuse]
    """By the seed."""


def ending(_: int) -> Refuse:
    """Limit to 0.2/s, until 20 s after the first message is due."""
    return by_rate(0.2, BURST, until=time.monotonic() + LIFETIME / 1000 + 20)


RANDOM = Work(
    name="one in five refused at random",
    number=90,
    rate=5,
    refuse=lambda seed: at_random(0.2, seed),
)
WORKS = [
    Work(name="0.2/s", number=18, rate=20, refuse=lambda _: by_rate(0.2, BURST)),
    Work(name="2/s", number=60, rate=20, refuse=lambda _: by_rate(2, BURST)),
    Work(name="10/s", number=200, rate=40, refuse=lambda _: by_rate(10, BURST)),
    Work(name="0.2/s, which ends after 20 s", number=40, rate=20, refuse=ending),
]


async def run(options: Options) -> AsyncIterator[Figure]:
    """True limits at once, each with a process, and so all peers: they wait most of the time."""
    async with stage() as made:
        for name in options.of(OURS, IDEAL_16, POLITE):
            works = [] if name == POLITE else WORKS[1:2] if options.quick else WORKS
            for some in ([RANDOM], works):
                async for figure in together((made, name, work, options.seed) for work in some):
                    yield figure
        peers = [] if options.quick else options.of(*PEERS)
        async for figure in together((made, name, RANDOM, options.seed) for name in peers):
            yield figure


async def together(
    trials: Iterable[tuple[Stage, str, Work, int]],
) -> AsyncIterator[Figure]:
    """Run trials at the same time."""
    for figures in await asyncio.gather(*(trial(*one) for one in trials)):
        for figure in figures:
            yield figure


async def trial(stage: Stage, name: str, work: Work, seed: int) -> list[Figure]:
    """One contestant at one work."""
    async with (
        FaultProxy(stage.homeserver.url) as proxy,
        at_work(stage, name, {LIFETIME: 1}, homeserver=proxy.url) as (contestant, rooms),
        watched(stage, contestant, rooms) as watcher,
    ):
        await asyncio.sleep(LIFETIME / 1000 + 1)  # What the bot itself said is gone.
        proxy.gate(REDACTION, work.refuse(seed))
        before = proxy.count(REDACTION)
        sent = await talk(stage, rooms, work.number, work.rate)
        await watcher.until_said(sent)
        await watcher.until_gone(sent, PATIENCE)
        attempts = proxy.count(REDACTION) - before
        late = [watcher.late(one) for one in sent if one in watcher.gone]
    measures = {
        **{(measure, "ms"): value for measure, value in (lateness(late) if late else {}).items()},
        (LOST, ""): float(len(sent) - len(late)),
        (ASKED, ""): attempts / len(sent),
    }
    return [
        Figure(
            scenario=NAME,
            work=work.name,
            contestant=name,
            measure=measure,
            unit=unit,
            value=value,
        )
        for (measure, unit), value in measures.items()
    ]
