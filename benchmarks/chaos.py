"""Kills the bot again and again on a network that fails, while people talk; then asks the server.

    .venv/bin/python -m benchmarks.chaos --kills 200 --messages 1000

SIGKILL at random moments, also while the bot starts; between the bot and Synapse one short fault
after another; plain and encrypted rooms. Every message must be redacted, and none before its time
(both by the homeserver's clock). Redactions of one message after another are counted. The bot must
not end by itself. Exit status 0 only then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from benchmarks.verdict import Fate, fates, requests, spread
from bot.core.lifetimes import POLICY_EVENT
from bot.demo.homeserver import Homeserver
from tests.support.bot_process import BotProcess, Bots
from tests.support.fault_proxy import PAGE, FaultProxy
from tests.support.fault_trial import LIMITED, UNKNOWN
from tests.support.people import EncryptedPerson, People, Person

LIFETIMES = (2_000, 5_000, 10_000, 20_000)
"""Of a plain and an encrypted room each."""
LIFE = 0.2
"""How long the bot lives at least, from its start to its end, in seconds."""
PATIENCE = 180
"""Seconds after the last kill in which everything must go."""

EVERYWHERE = ("", "/redact/", "/sync", "/relations/|/messages|/state", "/keys/")
Begin = Callable[[FaultProxy, str, random.Random], object]
FAULTS: dict[str, Begin] = {
    "500": lambda p, m, _: p.answer(m, status=500, body=UNKNOWN),
    "502": lambda p, m, _: p.answer(m, status=502, body=PAGE),
    "429": lambda p, m, chance: p.answer(
        m, status=429, body=LIMITED | {"retry_after_ms": chance.randrange(2_000)}
    ),
    "reset": lambda p, m, _: p.reset(m),
    "reset in the body": lambda p, m, chance: p.reset(m, after=chance.random()),
    "cut": lambda p, m, chance: p.cut(m, honest=chance.random() < 0.5),
    "stall": lambda p, m, chance: p.stall(m, chance.uniform(1, 2)),
    "done, answer lost": lambda p, _, __: p.swallow("/redact/"),
    "done twice": lambda p, _, __: p.twice("/redact/"),
}


@dataclass(slots=True)
class Room:
    """One room, who talks there, and what was said."""

    room_id: str
    lifetime: int
    person: Person
    say: Callable[[str], Awaitable[str]]
    encrypted: bool
    sent: list[str] = field(default_factory=list)

    @classmethod
    async def make(cls, person: Person, bot: str, lifetime: int, *, encrypted: bool) -> Room:
        power = {"users": {person.user_id: 100, bot: 50}}
        room = await person.create_room("11", encrypted=encrypted, power_levels=power)
        await person.state(room, POLICY_EVENT, {"type": "after_send", "timer": lifetime})
        await person.invite(room, bot)
        await person.until_joined(room, bot, 30)

        async def say(text: str) -> str:
            if encrypted and isinstance(person, EncryptedPerson):
                return await person.send_text(room, text)
            return await person.send(room, text)

        return cls(room, lifetime, person, say, encrypted)

    async def talk(self, messages: int, pause: float, chance: random.Random) -> None:
        for number in range(messages):
            self.sent.append(await self.say(f"message {number}"))
            await asyncio.sleep(chance.uniform(0, 2 * pause))


async def trouble(proxy: FaultProxy, chance: random.Random, made: Counter[str]) -> None:
    """Let faults come and go, until cancelled."""
    while True:
        await asyncio.sleep(chance.uniform(0.1, 2.0))
        name = chance.choice(list(FAULTS))
        FAULTS[name](proxy, chance.choice(EVERYWHERE), chance)
        made[name] += 1
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        proxy.mend()


@dataclass(slots=True)
class Killer:
    """Kills the bot at random moments."""

    bot: BotProcess
    life: float
    chance: random.Random
    times: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """How the bot ended, where it did so by itself."""

    async def run(self, kills: int) -> None:
        for _ in range(kills):
            await asyncio.sleep(self.chance.uniform(LIFE, self.life))
            status = self.bot.status()
            if status is not None:
                self.ends.append(status)
            await self.bot.kill()
            self.times.append(time.time())
            await self.bot.start(ready=False)

    def starts(self) -> list[float]:
        """Return when the bot was ready, of which it was not always given the time."""
        lines = [line for line in self.bot.words().splitlines() if "ready as" in line]
        return [datetime.fromisoformat(line.split()[0]).timestamp() for line in lines]

    def longest(self) -> float:
        """Return the longest time without a bot that was ready."""
        longest = 0.0
        for ready, again in pairwise(self.starts()):
            killed = min(at for at in self.times if at > ready)
            longest = max(longest, again - killed)
        return longest


async def until_gone(rooms: list[Room]) -> float:
    """Wait for everything to go, or until patience ends; return how long that took."""
    began = time.monotonic()
    left = list(rooms)
    while left and time.monotonic() - began < PATIENCE:
        await asyncio.sleep(0.5)
        left = [r for r in left if not all(f.gone for f in await fates_of(r))]
    return time.monotonic() - began


async def fates_of(room: Room) -> list[Fate]:
    """Return what became of all that was said after the bot came, its own words too."""
    found = await fates(room.person, room.room_id)
    assert set(room.sent) <= set(found)
    return list(found.values())


async def run(kills: int, messages: int, seed: int, life: float) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "synapse").mkdir()
        async with (
            Homeserver(folder / "synapse") as homeserver,
            FaultProxy(homeserver.url) as proxy,
        ):
            people, bots = People(homeserver, folder), Bots(homeserver, folder)
            try:
                bot = await bots(start=False)
                bot.config["homeserver"] = proxy.url
                await bot.start()
                plain, secret = await people("alice"), await people.encrypted("carol")
                rooms = [
                    await Room.make(person, bot.user_id, lifetime, encrypted=person is secret)
                    for person in (plain, secret)
                    for lifetime in LIFETIMES
                ]
                ordeal = Ordeal(bot, proxy, rooms)
                return await ordeal.go(kills, messages, seed, life)
            finally:
                await bots.close()
                await people.close()


@dataclass(frozen=True, slots=True)
class Ordeal:
    """One bot, and what befalls it."""

    bot: BotProcess
    proxy: FaultProxy
    rooms: list[Room]

    async def go(self, kills: int, messages: int, seed: int, life: float) -> bool:
        """Talk, kill and make trouble at once; whether every promise was kept."""
        share = messages // len(self.rooms)
        pause = kills * (LIFE + life) / 2 / share
        made: Counter[str] = Counter()
        talks = [
            room.talk(share, pause, random.Random(f"{seed} {number}"))
            for number, room in enumerate(self.rooms)
        ]
        talking = asyncio.gather(*talks)
        faults = random.Random(f"{seed} faults")
        troubling = asyncio.create_task(trouble(self.proxy, faults, made))
        began = time.monotonic()
        killer = Killer(self.bot, life, random.Random(seed))
        await killer.run(kills)
        lasted = time.monotonic() - began
        await talking
        troubling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await troubling
        self.proxy.mend()
        healed = await until_gone(self.rooms)
        unready = kills + 1 - len(killer.starts())
        print(f"kills {kills} in {lasted:.0f} s, {unready} of them before the bot was ready")
        print(f"longest time without a bot that was ready: {killer.longest():.1f} s")
        print(
            f"faults {made.total()}: {', '.join(f'{n} {name}' for name, n in made.most_common())}"
        )
        print(f"requests {requests(self.proxy)}")
        print(f"ended by itself {len(killer.ends)} {killer.ends or ''}")
        print(f"all gone {healed:.1f} s after the last kill, fault and message")
        good = [await report(room) for room in self.rooms]
        return all(good) and not killer.ends and self.bot.status() is None


async def report(room: Room) -> bool:
    """Print a line of the table; whether the promise was kept."""
    found = await fates_of(room)
    gone = [fate for fate in found if fate.gone]
    late = [fate.late(room.lifetime) for fate in gone]
    early = sum(lateness < 0 for lateness in late)
    twice = Counter(len(fate.redacted) for fate in gone if len(fate.redacted) > 1)
    kind = "encrypted" if room.encrypted else "plain"
    print(
        f"{kind:<9} {room.lifetime // 1000:>3} s: sent {len(room.sent):>4}, all {len(found):>4},"
        f" gone {len(gone):>4}, lost {len(found) - len(gone)}, early {early},"
        f" redacted more than once {twice.total()} {dict(twice) or ''} late: {spread(late)}"
    )
    return len(gone) == len(found) and not early


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--life", type=float, default=3, help="how long the bot lives at most")
    options = parser.parse_args()
    good = asyncio.run(run(options.kills, options.messages, options.seed, options.life))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
