"""The real bot as a process of its own, with a real config file."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from bot.demo.homeserver import Account, Homeserver
from tests.support.person import SLOWEST, wait_until

_numbers = itertools.count(1)


class BotProcess:
    """Starts, stops and kills the bot; reads its log."""

    def __init__(self, address: str, account: Account, folder: Path, **config: Any) -> None:
        self.user_id = account.user_id
        self.password = account.password
        self.folder = folder
        self.data_dir = folder / "data"
        self.log = folder / "bot.log"
        self.config_file = folder / "config.yaml"
        self.config = {
            "homeserver": address,
            "user_id": account.user_id,
            "password": account.password,
            "data_dir": str(self.data_dir),
            "lifetime": {"min": "1s"},
        } | config
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *, ready: bool = True) -> None:
        """Start the bot; wait until it says that it is ready."""
        self.write_config()
        said = self.words().count("ready as")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bot", "run", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if ready:

            async def is_ready() -> bool:
                assert self.status() is None, self.words()
                return self.words().count("ready as") > said

            await wait_until(is_ready, 30, "the bot to start")

    def write_config(self) -> None:
        """Write the config file."""
        self.config_file.write_text(yaml.safe_dump(self.config))

    def words(self) -> str:
        """Return the whole log."""
        return self.log.read_text() if self.log.exists() else ""

    @property
    def pid(self) -> int:
        """The process that runs now, or ran last."""
        assert self._process is not None
        return self._process.pid

    def status(self) -> int | None:
        """Return the exit status, or `None` while the bot runs."""
        return None if self._process is None else self._process.poll()

    def memory(self, what: str = "VmRSS") -> float:
        """Return how many MB of memory the bot has; `VmHWM`: had at most since its start."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition(f"{what}:")[2].split()[0]) / 1024

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the bot to stop; return its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return await self.ended()

    def signal(self, number: int) -> None:
        """Send the bot a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self, within: float = 10) -> int:
        """Wait for the bot to end, so many seconds of a quiet machine; return its exit status."""
        process = self._process
        assert process is not None
        return await asyncio.to_thread(process.wait, within * SLOWEST)

    async def kill(self) -> None:
        """End the bot as a power cut would."""
        await self.stop(signal.SIGKILL)

    async def close(self) -> None:
        """Leave nothing running."""
        if self._process is not None and self._process.poll() is None:
            await self.kill()


class Bots:
    """Makes bots on one homeserver, each with an account of its own, and ends them all."""

    def __init__(self, homeserver: Homeserver, folder: Path) -> None:
        self._homeserver = homeserver
        self._folder = folder
        self._made: list[BotProcess] = []

    async def __call__(self, *, start: bool = True, **config: Any) -> BotProcess:
        """Return a new bot, started unless told otherwise."""
        number = next(_numbers)
        account = await self._homeserver.register(f"ephemeral-{number}", display_name="Ephemeral")
        folder = self._folder / f"bot-{number}"
        folder.mkdir()
        bot = BotProcess(self._homeserver.url, account, folder, **config)
        self._made.append(bot)
        if start:
            await bot.start()
        return bot

    async def close(self) -> None:
        """End all of them."""
        for bot in self._made:
            await bot.close()
