"""Gives the bot a mountain of overdue messages, and measures how late others go meanwhile.

    .venv/bin/python -m benchmarks.fairness --only memory

Three trials. `memory`: the bot's services and its real database with 100,000 overdue timers of
one room, over an imaginary homeserver as fast as a Synapse. `synapse`: thousands of messages of one
room, said while the bot was away. `limited`: hundreds on a Synapse with its default limits, where
the bot may redact once in five seconds. In each, messages with a lifetime of 10 s are said in
another room, with the mountain and without. Exit status 0 only if they went in time and memory did
not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.mountain import trial
from benchmarks.verdict import fates, spread
from bot.core.lifetimes import POLICY_EVENT
from bot.core.types import EventID, RoomID
from bot.demo.homeserver import Homeserver
from bot.demo.synapse_config import Limits
from tests.support.bot_process import BotProcess, Bots
from tests.support.people import People, Person

LIFETIME, SHORT = 10_000, 5_000
MB = 15
"""How many MB more than without the mountain are no growth with it."""
MARGIN = 1.0
"""How many seconds later than without the mountain is in time; a redaction takes up to 0.2."""
LIMITED = 11.0
"""The same where one event in five seconds may pass: the next, or the one after that."""


def show(name: str, late: list[float], more: str) -> None:
    print(f"{name:<44} {len(late):>3} live, late: {spread(late):<32} {more}", flush=True)


async def in_memory(timers: int, messages: int) -> bool:
    """Whether live messages go in time beside a mountain of either kind, and memory stays."""
    kinds: dict[str, dict[str, bool]] = {
        "read overdue": {"backlog": True},
        "became overdue": {},
        "read overdue, same room": {"backlog": True, "same_room": True},
    }
    made = {"none overdue": await trial(0, LIFETIME, messages)}
    for name, kind in kinds.items():
        made[f"{timers} {name}"] = await trial(timers, LIFETIME, messages, **kind)
    for name, one in made.items():
        megabytes = f"{one.before:.0f} MB before, {one.after:.0f} MB after"
        show(f"memory: {name}", one.late, f"{megabytes}; {one.moved} overdue redacted")
    calm = made["none overdue"]
    in_time = all(max(one.late) <= max(calm.late) + MARGIN for one in made.values())
    grown = max(one.after - one.before for one in made.values())
    return in_time and grown <= calm.after - calm.before + MB


@dataclass(frozen=True, slots=True)
class Stage:
    """A bot, and somebody who talks in its rooms."""

    bot: BotProcess
    alice: Person

    async def room(self, lifetime: int) -> RoomID:
        power = {"users": {self.alice.user_id: 100, self.bot.user_id: 50}}
        room = await self.alice.create_room("11", power_levels=power)
        content = {"type": "after_send", "timer": lifetime}
        await self.alice.state(room, POLICY_EVENT, content)
        await self.alice.invite(room, self.bot.user_id)
        await self.alice.until_joined(room, self.bot.user_id, 30)
        return room

    async def say(self, room: RoomID, number: int, every: float) -> list[EventID]:
        sent = []
        for count in range(number):
            sent.append(await self.alice.send(room, f"message {count}"))
            await asyncio.sleep(every)
        return sent

    async def late(self, room: RoomID, number: int, every: float) -> list[float]:
        """Say things; return how many seconds late each of them went."""
        sent = await self.say(room, number, every)
        until = time.monotonic() + LIFETIME / 1000 + 60
        while True:
            await asyncio.sleep(1)
            found = await fates(self.alice, room)
            if all(found[one].gone for one in sent) or time.monotonic() > until:
                break
        return [found[one].late(LIFETIME) if found[one].gone else float("inf") for one in sent]

    async def pile_up(self, room: RoomID, messages: int) -> None:
        """Have things said while the bot is away until all is overdue; bring it back."""
        await self.bot.stop()
        await asyncio.gather(*(self.say(room, messages // 8, 0) for _ in range(8)))
        await asyncio.sleep(SHORT / 1000)
        await self.bot.start()

    async def left(self, room: RoomID) -> int:
        found = await fates(self.alice, room)
        return sum(not fate.gone for fate in found.values())


@asynccontextmanager
async def stages(limits: Limits, number: int) -> AsyncIterator[list[Stage]]:
    """Start a Synapse and bots on it; only they are limited."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "synapse").mkdir()
        async with Homeserver(folder / "synapse", limits=limits) as homeserver:
            people, bots = People(homeserver, folder), Bots(homeserver, folder)
            try:
                alice = await people("alice")
                await unlimited(homeserver, alice)
                yield [Stage(await bots(), alice) for _ in range(number)]
            finally:
                await bots.close()
                await people.close()


async def unlimited(homeserver: Homeserver, person: Person) -> None:
    path = f"/_synapse/admin/v1/users/{person.user_id}/override_ratelimit"
    headers = {"Authorization": f"Bearer {await homeserver.admin_token()}"}
    async with (
        aiohttp.ClientSession(homeserver.url, headers=headers) as http,
        http.post(path, json={}) as answer,
    ):
        answer.raise_for_status()


async def on_synapse(messages: int) -> bool:
    """Whether live messages go in time beside thousands of a room, and memory stays."""
    async with stages("lifted", 1) as (stage,):
        mountain, live = await stage.room(SHORT), await stage.room(LIFETIME)
        without = await stage.late(live, 40, 0.5)
        calm = stage.bot.memory()
        show("Synapse: none overdue", without, f"{calm:.0f} MB")
        await stage.pile_up(mountain, messages)
        began, before = time.monotonic(), stage.bot.memory()
        late = await stage.late(live, min(60, messages // 50), 1)
        left, passed = await stage.left(mountain), time.monotonic() - began
        after, most = stage.bot.memory(), stage.bot.memory("VmHWM")
        megabytes = f"{before:.0f} MB before, {after:.0f} after, {most:.0f} at most"
        show(f"Synapse: {messages} overdue", late, f"{megabytes}; {left} left after {passed:.0f} s")
        return max(late) <= max(without) + MARGIN and most <= calm + MB


async def limited(messages: int) -> bool:
    """Whether live messages go first where the bot may do little."""
    async with stages("default", 2) as (calm, busy):
        rooms = [await stage.room(LIFETIME) for stage in (calm, busy)]
        mountain = await busy.room(SHORT)
        await busy.pile_up(mountain, messages)
        await asyncio.sleep(60)  # what may pass at once has passed
        without, late = await asyncio.gather(
            calm.late(rooms[0], 12, 12), busy.late(rooms[1], 12, 12)
        )
        show("default limits: none overdue", without, "")
        left = await busy.left(mountain)
        show(f"default limits: {messages} overdue", late, f"{left} of them left")
        return max(late) <= max(without) + LIMITED and left > 0


async def run(only: str, timers: int, messages: int) -> bool:
    trials: dict[str, Callable[[], Awaitable[bool]]] = {
        "memory": lambda: in_memory(timers, 60),
        "synapse": lambda: on_synapse(messages),
        "limited": lambda: limited(200),
    }
    return all([await made() for name, made in trials.items() if only in name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="memory, synapse or limited")
    parser.add_argument("--timers", type=int, default=100_000, help="overdue, in memory")
    parser.add_argument("--messages", type=int, default=3_000, help="overdue, on Synapse")
    options = parser.parse_args()
    sys.exit(0 if asyncio.run(run(options.only, options.timers, options.messages)) else 1)


if __name__ == "__main__":
    main()
