"""What the scenarios share: how much is asked for, and how lateness is measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.contestants.entries import IDEAL_16, PEERS
from benchmarks.figures import OURS, Figure, Goal
from benchmarks.stage import Room, Stage
from benchmarks.watcher import Watcher
from bot.core.types import EventID

WARM_UP = 20
PATIENCE = 90
"""Seconds after which what is not gone is not waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much of the whole is run."""

    quick: bool = False
    whole: bool = False
    seed: int = 1
    contestants: str = ""
    """Only those whose names contain this."""

    def of(self, *names: str) -> list[str]:
        """Return the contestants that take part: those named, or by default all."""
        known = names or (OURS, IDEAL_16, *PEERS)
        if self.quick:
            known = tuple(name for name in known if name not in PEERS or name in names)
        return [name for name in known if self.contestants in name]


class Scenario(Protocol):
    """A module of this package that measures one thing."""

    NAME: str
    GOALS: Sequence[Goal]

    def run(self, options: Options) -> AsyncIterator[Figure]:
        """Measure; give each figure when it is known."""


async def warm_up(stage: Stage, room: Room, watcher: Watcher) -> None:
    """Have some messages go, so that nobody does anything for the first time."""
    sent = await stage.send([room], WARM_UP)
    await watcher.until_gone(sent, 20)


async def talk(
    stage: Stage, rooms: Sequence[Room], number: int, rate: float, *, encrypted: bool = False
) -> list[str]:
    """Have so many messages sent, so many a second; none waits for the one before."""
    send = (await stage.encrypting()).send_text if encrypted else stage.talker.send
    loop = asyncio.get_running_loop()
    began = loop.time()
    sending: list[asyncio.Task[EventID]] = []
    async with asyncio.TaskGroup() as group:
        for turn in range(number):
            await asyncio.sleep(began + turn / rate - loop.time())
            room = rooms[turn % len(rooms)].room_id
            sending.append(group.create_task(send(room, f"message {turn}")))
    return [task.result() for task in sending]
