"""How late messages go: from their time until another client's sync shows the redaction.

    scripts/bench --only lateness

So many messages a second are sent in so many rooms, each with the lifetime that stands behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from benchmarks.contestants.entries import IDEAL_16, PEERS, at_work, watched
from benchmarks.figures import OURS, Figure, Goal, lateness, thin
from benchmarks.scenarios.scenario import PATIENCE, Options, talk, warm_up
from benchmarks.stage import Stage, stage

NAME = "lateness"
GOALS = [
    Goal(scenario=NAME, measure=measure, bound="at most", limit=1.15, beside_ideal=True)
    for measure in ("median", "p99")
]
LOST = "not gone after 90 s"
GOALS.append(Goal(scenario=NAME, measure=LOST, bound="at most", limit=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Who talks how much, where, and for how long each message lives."""

    rooms: int
    rate: float
    lifetime: int
    """In seconds."""
    encrypted: bool = False

    def __str__(self) -> str:
        kind = "encrypted " if self.encrypted else ""
        rooms = f"{self.rooms} {kind}rooms" if self.rooms > 1 else f"1 {kind}room"
        return f"{self.rate:g}/s in {rooms}, {self.lifetime} s"


USUAL = Work(rooms=1, rate=5, lifetime=10)
WORKS = [
    USUAL,
    Work(rooms=1, rate=1, lifetime=5),
    Work(rooms=1, rate=20, lifetime=10),
    Work(rooms=50, rate=20, lifetime=30),
    Work(rooms=1, rate=5, lifetime=10, encrypted=True),
]


async def run(options: Options) -> AsyncIterator[Figure]:
    """The usual work for all, the others for ours and the ideal client."""
    async with stage() as made:
        for work in WORKS[:1] if options.quick else WORKS:
            names = options.of() if work is USUAL else options.of(OURS, IDEAL_16)
            for name in names:
                async for figure in trial(made, name, work, seconds=10 if options.quick else 15):
                    yield figure


async def trial(stage: Stage, name: str, work: Work, seconds: int) -> AsyncIterator[Figure]:
    """One contestant at one work."""
    lifetime = work.lifetime * 1000
    places = {lifetime: work.rooms, 1_000: 1}
    async with at_work(stage, name, places, encrypted=work.encrypted) as (contestant, made):
        *rooms, warm = made
        async with watched(stage, contestant, made) as watcher:
            if name not in PEERS:
                await warm_up(stage, warm, watcher)
            number = int(work.rate * seconds)
            sent = await talk(stage, rooms, number, work.rate, encrypted=work.encrypted)
            await watcher.until_said(sent)
            await watcher.until_gone(sent, work.lifetime + PATIENCE)
            late = [watcher.late(one) for one in sent if one in watcher.gone]
    for measure, value in lateness(late).items() if late else ():
        yield Figure(
            scenario=NAME,
            work=str(work),
            contestant=name,
            measure=measure,
            unit="ms",
            value=value,
            samples=thin(late) if measure == "median" else [],
        )
    lost = len(sent) - len(late)
    yield Figure(scenario=NAME, work=str(work), contestant=name, measure=LOST, unit="", value=lost)
