"""What every contestant is to the benchmarks: an account, and a process that redacts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from bot.demo.homeserver import Account

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 30
STOP_TIMEOUT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message that must go; `due` is in ms since 1970, by the homeserver's clock."""

    room: str
    event_id: str
    due: int


class Contestant(Protocol):
    """Redacts what is sent in the rooms where its account is a moderator."""

    name: str
    account: Account

    async def start(self) -> None:
        """Start, or start again; return when it reads what is said from now on."""

    async def stop(self) -> None:
        """End the process."""

    def expect(self, messages: Iterable[Message]) -> None:
        """Hear what will be due. Only the ideal client listens: it need not find out."""

    @property
    def pid(self) -> int:
        """The number of its process."""


class Program:
    """A contestant that is a module of this package.

    Its standard input is its leash and its ear: first who it is, then what will be due.
    """

    def __init__(
        self, name: str, module: str, homeserver: str, account: Account, *, in_flight: int = 0
    ) -> None:
        self.name = name
        self.account = account
        self._module = module
        self._task = {
            "homeserver": homeserver,
            "user_id": account.user_id,
            "token": account.access_token,
            "in_flight": in_flight,
            "polite": name.startswith("polite"),
        }
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        process = self._process = subprocess.Popen(  # noqa: ASYNC220 (our own interpreter)
            [sys.executable, "-m", f"benchmarks.contestants.{self._module}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(self._task)
        assert process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT):
            said = await asyncio.to_thread(process.stdout.readline)
        assert said == "ready\n", f"{self.name} did not start"

    def expect(self, messages: Iterable[Message]) -> None:
        if self._module == "ideal":
            for message in messages:
                self._write(asdict(message))

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        process.stdout.close()

    def _write(self, what: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
