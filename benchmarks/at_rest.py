"""Starts the bot over rooms in which nothing happens, and tells what it takes to be there.

    .venv/bin/python -m benchmarks.at_rest

The homeserver is `benchmarks.quiet_homeserver`, which answers at once. The bot gets to know its
rooms first; then it is started anew, and what is measured is that start and the rest after it. A
wake-up is a voluntary switch of one of its threads, by /proc. Where Synapse is installed beside
the bot, peewee imports psycopg2 as well, which takes 5 MB: the bot runs without it here, as it is
installed by itself. A start is the better one of two. Exit status 1 where a goal is missed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.goals import Table
from benchmarks.scale import fill
from bot.demo.homeserver import Account
from tests.support.bot_process import BotProcess
from tests.support.fake_rooms import BOT

REST = 15.0
"""Seconds."""
WIPED = 11.0
"""Seconds after a start within which is wiped from the disk what another process may have left."""
DAY = 86_400_000
QUIET = 1.5
"""Seconds without a request after which the bot has got to know its rooms."""
READY = 2.0
"""Seconds from the homeserver's first answer."""
MEMORY, MEMORY_OF_FEW = 80.0, 60.0
"""MB with 1,000 rooms, and with few rooms and 500 messages pending."""
BUSY = 4.0
"""Seconds of the processor an hour."""
WAKEUPS = 0.5
"""A second. The long poll is answered each 30 s, and clocks are looked at as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the bot is in."""

    name: str
    rooms: int = 10
    members: int = 2
    timers: int = 0
    memory: float = MEMORY


SCENES = (
    Scene(name="10 rooms, 500 pending", timers=500, memory=MEMORY_OF_FEW),
    Scene(name="100 rooms, 100,000 timers", rooms=100, timers=100_000),
    Scene(name="1,000 rooms", rooms=1_000),
    Scene(name="a room of 10,000 members", rooms=1, members=10_000),
)


class Watched:
    """A quiet homeserver, and a bot that lives on it."""

    def __init__(self, url: str, folder: Path, http: aiohttp.ClientSession) -> None:
        account = Account(user_id=BOT, password="secret", access_token="", device_id="")
        lifetimes = {"min": "1s", "default": "1d"}
        self.bot = BotProcess(url, account, folder, lifetime=lifetimes)
        self._url, self._http = url, http

    async def asked(self) -> dict[str, Any]:
        """Return what was asked for since this was last called."""
        async with self._http.get(self._url + "/asked") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def settle(self) -> None:
        """Wait until the bot has nothing left to ask."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < QUIET:
            await asyncio.sleep(0.2)
            if (await self.asked())["asked"]:
                quiet_since = time.monotonic()

    async def start(self) -> float:
        """Start the bot; return the seconds from the first answer to it until it is ready."""
        await self.asked()
        await self.bot.start()
        [*_, line] = [one for one in self.bot.words().splitlines() if "ready as" in one]
        ready = datetime.fromisoformat(line.split()[0]).timestamp()
        return ready - float((await self.asked())["first"])

    def processor(self) -> float:
        """Return the seconds that the bot's threads have worked."""
        tasks = Path(f"/proc/{self.bot.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def wakeups(self) -> int:
        """Return how often its threads went to sleep."""
        tasks = Path(f"/proc/{self.bot.pid}/task").iterdir()
        status = [(task / "status").read_text() for task in tasks]
        return sum(int(one.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for one in status)


@asynccontextmanager
async def watched(scene: Scene, folder: Path) -> AsyncIterator[Watched]:
    """Begin a homeserver with the scene's rooms, and end it with the bot."""
    rooms = ["--rooms", str(scene.rooms), "--members", str(scene.members)]
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.quiet_homeserver", *rooms),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    port = int(await server.stdout.readline())
    async with aiohttp.ClientSession() as http:
        made = Watched(f"http://127.0.0.1:{port}", folder, http)
        try:
            yield made
        finally:
            await made.bot.close()
            server.kill()
            await server.wait()


async def look(scene: Scene, folder: Path, table: Table) -> None:
    """Measure one scene."""
    async with watched(scene, folder) as one:
        await one.start()
        await one.settle()
        await one.bot.stop()
        fill(one.bot.data_dir / "timers.db", scene.timers, scene.rooms, DAY)
        starts = [await one.start()]
        await one.bot.stop()
        starts.append(await one.start())
        await asyncio.sleep(WIPED)
        await one.asked()
        worked, woken, began = one.processor(), one.wakeups(), time.monotonic()
        await asyncio.sleep(REST)
        passed = time.monotonic() - began
        worked, woken = one.processor() - worked, one.wakeups() - woken
        asked = sum((await one.asked())["asked"].values())
        table.at_most(f"{scene.name}: memory", one.bot.memory(), scene.memory, "MB")
        table.at_most(f"{scene.name}: ready after the first answer", min(starts), READY, "s")
        table.at_most(f"{scene.name}: processor", 3_600 * worked / passed, BUSY, "s/h")
        table.at_most(f"{scene.name}: wake-ups", woken / passed, WAKEUPS, "per second")
        table.tell(f"{scene.name}: requests in {passed:.0f} s", asked)
        await one.bot.stop()


def without_postgres(folder: Path) -> None:
    """Let the processes that are begun from now on not find psycopg2."""
    hidden = folder / "hidden" / "psycopg2"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError\n")
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(hidden.parent), *([known] if known else [])])


async def run() -> bool:
    table = Table()
    with tempfile.TemporaryDirectory() as name:
        without_postgres(Path(name))
        for number, scene in enumerate(SCENES):
            folder = Path(name) / str(number)
            folder.mkdir()
            await look(scene, folder, table)
    return table.met


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(run()) else 1)
