"""The list of contestants, by the names that tables show."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.contestants.ours import Ours
from benchmarks.figures import OURS
from benchmarks.stage import Room, Stage
from benchmarks.watcher import Watcher

POLITE = "polite, 16 in flight"
IDEAL_16, IDEAL_32 = "ideal, 16 in flight", "ideal, 32 in flight"
PEERS = {
    "burn-bot's algorithm": "burn_bot",
    "maubot-expiringmessages' algorithm": "expiring_messages",
    "a bridge's algorithm": "bridge",
    "APScheduler": "scheduler",
    "a coroutine each": "coroutine_each",
}
_numbers = itertools.count(1)


async def enter(stage: Stage, name: str, homeserver: str = "") -> Contestant:
    """Make a contestant with an account of its own, that talks to the homeserver or a proxy."""
    homeserver = homeserver or stage.homeserver.url
    account = await stage.account("contestant")
    if name == OURS:
        return Ours(homeserver, account, stage.folder / f"bot-{next(_numbers)}")
    if name.startswith(("ideal", "polite")):
        return Program(name, "ideal", homeserver, account, in_flight=int(name.split()[1]))
    return Program(name, PEERS[name], homeserver, account)


@asynccontextmanager
async def at_work(
    stage: Stage, name: str, rooms: dict[int, int], *, homeserver: str = "", encrypted: bool = False
) -> AsyncIterator[tuple[Contestant, list[Room]]]:
    """Start a contestant in fresh rooms: so many for each lifetime in ms."""
    contestant = await enter(stage, name, homeserver)
    invited = name == OURS
    try:
        if invited:
            await contestant.start()
        made = [
            room
            for lifetime, number in rooms.items()
            for room in await stage.rooms(
                number, lifetime, contestant.account, encrypted=encrypted, invited=invited
            )
        ]
        if not invited:
            await contestant.start()
        yield contestant, made
    finally:
        await contestant.stop()


@asynccontextmanager
async def watched(
    stage: Stage, contestant: Contestant, rooms: Sequence[Room], *, pause: float = 0
) -> AsyncIterator[Watcher]:
    """Let another client look on, which tells the contestant what will be due."""
    lifetimes = {room.room_id: room.lifetime for room in rooms}
    async with Watcher(stage.watcher, lifetimes, pause=pause) as watcher:
        watcher.on_message = contestant.expect
        yield watcher
