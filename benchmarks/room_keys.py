"""Writes into big encrypted rooms, and takes in a flood of room keys; tells what others wait.

    .venv/bin/python -m benchmarks.room_keys

There is no homeserver: its answers are made in the process, and cost some of the time that is
measured. `longest` is how long the event loop was held in one piece, by the clock and by the
processor; `commits` is how often the crypto store was written. Exit status 0 only if no piece kept
the processor busy for more than 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bot.core.topics import Topic
from bot.core.types import RoomID
from bot.matrix.client import Matrix
from bot.matrix.encryption.bounds import SenderBounds
from tests.support.big_room import Crowd
from tests.support.encryption_engines import Bot, Peer, Writer, commits_of

LONGEST = 50.0
"""Milliseconds that the event loop may be held in one piece."""
ROOM = RoomID("!big:example.org")


class Held:
    """Measures the longest piece by asking for a turn all the time."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.busy = 0.0
        """The longest by the time of the processor: what others on the machine do adds nothing."""

    async def watch(self) -> None:
        while True:
            before, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            self.longest = max(self.longest, (time.perf_counter() - before) * 1000)
            self.busy = max(self.busy, (time.thread_time() - used) * 1000)


async def measured(name: str, bot: Bot, work: Callable[[], Awaitable[Any]]) -> float:
    held, count = Held(), commits_of(bot)
    watching = asyncio.create_task(held.watch())
    await asyncio.sleep(0)
    began = time.perf_counter()
    said = await work()
    took = time.perf_counter() - began
    watching.cancel()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{name:<44} {took:6.2f} s, longest {held.longest:6.1f} ms ({held.busy:5.1f} busy),"
        f" {count():>5} commits, {memory} MB  {said or ''}",
        flush=True,
    )
    return held.busy


async def big_room(folder: Path, number: int) -> list[float]:
    """Write into a room of `number` devices: first, again, and when one came, and one left."""
    bot = Bot(folder)
    crowd = Crowd(bot.client)
    crowd.deliver = False
    people = crowd.fill(ROOM, number)
    gc.freeze()  # the people are not the bot's to go through
    matrix = Matrix(bot.client)
    count = 0

    async def write() -> str:
        nonlocal count
        count += 1
        before = crowd.requests.copy()
        outcome = await matrix.send(ROOM, "m.room.message", {}, f"txn{count}", encrypted=True)
        made = crowd.requests - before
        return f"{type(outcome).__name__} {dict(made)}"

    found = [await measured(f"{number} devices: first words", bot, write)]
    found.append(await measured(f"{number} devices: more words", bot, write))
    crowd.rooms[ROOM].discard(people[0].user_id)
    found.append(await measured(f"{number} devices: one left", bot, write))
    crowd.rooms[ROOM].add(people[0].user_id)
    found.append(await measured(f"{number} devices: one came", bot, write))
    return found


async def flood(folder: Path, accounts: int, each: int) -> list[float]:
    """Take in `each` room keys of each account in one sync, with somebody's own key at its end."""
    bot = Bot(folder / "bot")
    bot.crypto.sender_bounds = SenderBounds(10**6)
    events = []
    for number in range(accounts):
        peer = Peer(f"mallory{number}", folder / f"peer{number}")
        peer.meet(bot)
        events += [peer.tell(bot, "m.room_key", Writer(peer).room_key()) for _ in range(each)]
        peer.store.database.close()

    async def take() -> str:
        await bot.crypto.feed_by_slices({"to_device": {"events": events}})
        return f"{len(bot.crypto.sessions)} keys taken in"

    async def take_rest() -> str:
        running = asyncio.create_task(bot.crypto.run())
        came = bot.topics.listen(Topic.ROOM_KEYS)
        while len(bot.crypto.sessions) < len(events):
            await came.wait()
            came.clear()
        running.cancel()
        return f"{len(bot.crypto.sessions)} keys taken in"

    name = f"{len(events)} keys of {accounts} accounts"
    return [
        await measured(f"{name}: the sync", bot, take),
        await measured(f"{name}: the rest", bot, take_rest),
    ]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="*", default=[500, 1_500])
    parser.add_argument("--keys", type=int, default=1_800)
    chosen = parser.parse_args()
    found: list[float] = []
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        for number in chosen.devices:
            found += await big_room(Path(name) / str(number), number)
        if chosen.keys:
            found += await flood(Path(name) / "flood", 20, chosen.keys // 20)
    return int(max(found) > LONGEST)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
