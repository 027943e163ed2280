"""Lets people say thousands of things while the bot is away; then it comes back, and is timed.

    .venv/bin/python -m benchmarks.gap --messages 5000 --rooms 20
    .venv/bin/python -m benchmarks.gap --lost-disk

Half of the rooms have a lifetime so short that everything is overdue when the bot is back, the
other half one so long that the timers wait. Every message must be found, what is overdue be
redacted, none of the others, and nothing that was said before the lifetime. With `--lost-disk` the
bot was there for a fifth of the messages, was killed, and its data folder deleted. Exit status 0
only if all of that is so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.verdict import Fate, fates, requests
from bot.core.lifetimes import POLICY_EVENT
from bot.demo.homeserver import Homeserver
from tests.support.bot_process import BotProcess, Bots
from tests.support.fault_proxy import FaultProxy
from tests.support.people import People, Person

SHORT, LONG = 20_000, 86_400_000
BEFORE = 3
"""Messages in each room from before there was a lifetime."""
TALKERS = 4
LOOK_EVERY = 0.2
PATIENCE = 900
"""Seconds in which the bot must have done everything."""


@dataclass(slots=True)
class Room:
    """One room and what was said in it."""

    room_id: str
    lifetime: int
    people: Sequence[Person]
    before: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)

    @classmethod
    async def make(cls, people: Sequence[Person], bot: str, lifetime: int) -> Room:
        owner, *others = people
        power = {"users": {owner.user_id: 100, bot: 50}}
        room_id = await owner.create_room("11", power_levels=power)
        for user in [bot, *(one.user_id for one in others)]:
            await owner.invite(room_id, user)
        for one in others:
            await one.join(room_id)
        await owner.until_joined(room_id, bot, 30)
        room = cls(room_id, lifetime, people)
        room.before = {await owner.send(room_id, f"before {number}") for number in range(BEFORE)}
        await owner.state(room_id, POLICY_EVENT, {"type": "after_send", "timer": lifetime})
        return room

    async def talk(self, messages: int) -> None:
        """Let everybody talk at once."""

        async def one(person: Person, share: int) -> None:
            for number in range(share):
                self.sent.add(await person.send(self.room_id, f"message {number}"))

        count = len(self.people)
        shares = [messages // count + (n < messages % count) for n in range(count)]
        await asyncio.gather(*map(one, self.people, shares))


@dataclass(slots=True)
class Watch:
    """Sees timers appear in the bot's database; times are the machine's, as the homeserver's."""

    path: Path
    first_seen: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_EVERY)

    def look(self) -> None:
        with contextlib.suppress(sqlite3.Error), self._open() as db:
            for (event_id,) in db.execute("SELECT event_id FROM timers").fetchall():
                self.first_seen.setdefault(event_id, time.time())

    def _open(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True))


async def arrange(bot: BotProcess, people: People, rooms: int) -> list[Room]:
    talkers = [await people(f"talker{number}") for number in range(TALKERS)]
    made = [
        Room.make(talkers[n % TALKERS :] + talkers[: n % TALKERS], bot.user_id, lifetime)
        for n, lifetime in enumerate([SHORT, LONG] * (rooms // 2))
    ]
    return list(await asyncio.gather(*made))


async def say_all(rooms: list[Room], messages: int) -> None:
    share = messages // len(rooms)
    await asyncio.gather(*(room.talk(share) for room in rooms))


async def run(messages: int, rooms: int, *, lost_disk: bool) -> bool:
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
                made = await arrange(bot, people, rooms)
                await asyncio.sleep(2)  # it has read all that
                if lost_disk:
                    await say_all(made, messages // 5)
                    await bot.kill()
                    shutil.rmtree(bot.data_dir)
                    messages -= messages // 5
                else:
                    await bot.stop()
                began = time.monotonic()
                await say_all(made, messages)
                print(f"sent {messages} while it was away, in {time.monotonic() - began:.0f} s")
                await asyncio.sleep(SHORT / 1000)
                return await come_back(bot, made, proxy)
            finally:
                await bots.close()
                await people.close()


async def come_back(bot: BotProcess, rooms: list[Room], proxy: FaultProxy) -> bool:
    """Start the bot, wait until it has done everything, and print what came of it."""
    watch = Watch(bot.data_dir / "timers.db")
    back, since = time.time(), time.monotonic()
    watching = asyncio.create_task(watch.run())
    await bot.start()
    ready = time.time() - back
    waiting = {event_id for room in rooms if room.lifetime == LONG for event_id in room.sent}
    short = [room for room in rooms if room.lifetime == SHORT]
    left = list(short)
    while time.time() - back < PATIENCE and (left or not waiting <= set(watch.first_seen)):
        await asyncio.sleep(2)
        if waiting <= set(watch.first_seen):  # no need to keep the homeserver busy before
            left = [room for room in left if not await all_gone(room)]
    await asyncio.sleep(5)  # should it do more than it must
    watching.cancel()
    watch.look()
    found = [await fates(room.people[0], room.room_id) for room in rooms]
    print(f"ready after {ready:.1f} s")
    good = report(rooms, found, watch, back)
    print(f"requests {requests(proxy, since)}")
    print(f"memory: {bot.memory('VmHWM'):.0f} MB at most, {bot.memory():.0f} MB at the end")
    return good


async def all_gone(room: Room) -> bool:
    found = await fates(room.people[0], room.room_id)
    return all(found[event_id].gone for event_id in room.sent)


def report(rooms: list[Room], found: list[dict[str, Fate]], watch: Watch, back: float) -> bool:
    """Print the table; whether every promise was kept."""
    seen = dict(watch.first_seen)  # what came and went between two looks was found as well
    wrong = twice = overdue = redacted = 0
    spans: list[tuple[float, float]] = []
    for room, fate in zip(rooms, found, strict=True):
        wrong += sum(fate[event_id].gone for event_id in room.before)
        if room.lifetime == LONG:
            wrong += sum(fate[event_id].gone for event_id in room.sent)
            continue
        twice += sum(len(fate[event_id].redacted) > 1 for event_id in room.sent)
        gone = {event_id: fate[event_id] for event_id in room.sent if fate[event_id].gone}
        overdue += len(room.sent)
        redacted += len(gone)
        when = {event_id: min(one.redacted) / 1000 for event_id, one in gone.items()}
        for event_id, at in when.items():
            seen[event_id] = min(at, seen.get(event_id, at))
        late = [at - back for at in when.values() if at > back]
        spans.append((min(late), max(late)) if late else (PATIENCE, PATIENCE))
    sent = set().union(*(room.sent for room in rooms))
    before = set().union(*(room.before for room in rooms))
    times = sorted(max(0.0, seen[event_id] - back) for event_id in sent & set(seen))
    ends = [last for _, last in spans]
    starts = [first for first, _ in spans]
    print(f"found {len(times)} of {len(sent)}, missed {len(sent) - len(times)}")
    print(f"overdue {overdue}, redacted {redacted}, more than once {twice}")
    print(f"redacted though not due, or from before the lifetime: {wrong}")
    print(f"timers for what was said before the lifetime: {len(before & set(seen))}")
    print(f"all timers there after {times[-1]:.1f} s, all overdue redacted after {max(ends):.1f} s")
    print(f"first redaction in a room: {min(starts):.1f} to {max(starts):.1f} s")
    print(f"last redaction in a room: {min(ends):.1f} to {max(ends):.1f} s")
    return len(times) == len(sent) and redacted == overdue and not wrong and not before & set(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--lost-disk", action="store_true")
    options = parser.parse_args()
    good = asyncio.run(run(options.messages, options.rooms, lost_disk=options.lost_disk))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
