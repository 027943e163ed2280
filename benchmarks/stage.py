"""A real Synapse with its limits lifted, people who talk there, and fresh rooms for each trial."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contestants.client import POLICY
from bot.demo.homeserver import Account, Homeserver
from tests.support.people import EncryptedPerson, People, Person
from tests.support.person import ENCRYPTION

SENDERS = 8
"""How many messages are sent at once where nothing depends on the rate."""
MEMORY = Path("/dev/shm")
"""Where the databases are if there is `SPACE`: in memory, so that no disk is measured."""
SPACE = 2**30
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Room:
    """A room, and how long in ms what is said there lives."""

    room_id: str
    lifetime: int


@dataclass(slots=True)
class Cost:
    """What a process used up over a stretch of time."""

    pid: int
    cpu: float = 0.0
    """Seconds of a core."""
    switches: int = 0
    """How often it gave up the core by itself: it was woken up about as often."""
    seconds: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.cpu, self.switches = self._read()

    def stop(self) -> Cost:
        """Take the difference; return itself."""
        cpu, switches = self._read()
        self.cpu, self.switches = cpu - self.cpu, switches - self.switches
        self.seconds = time.monotonic() - self._began
        return self

    def _read(self) -> tuple[float, int]:
        process = psutil.Process(self.pid)
        times, switches = process.cpu_times(), 0
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            status = (thread / "status").read_text()
            switches += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return times.user + times.system, switches


class Stage:
    """The homeserver, its people, and what is done with them."""

    def __init__(self, homeserver: Homeserver, people: People, folder: Path) -> None:
        self.homeserver = homeserver
        self.people = people
        self.folder = folder
        self.talker: Person
        self.watcher: Person
        self._encrypting: EncryptedPerson | None = None

    async def encrypting(self) -> EncryptedPerson:
        """Return who talks in encrypted rooms."""
        if self._encrypting is None:
            self._encrypting = await self.people.encrypted("secretive")
        return self._encrypting

    async def account(self, name: str) -> Account:
        """Make a new account for a contestant."""
        return await self.homeserver.register(f"{name}-{next(_numbers)}", display_name=name)

    async def rooms(
        self,
        number: int,
        lifetime: int,
        moderator: Account,
        *,
        encrypted: bool = False,
        invited: bool = False,
    ) -> list[Room]:
        """Make rooms with a lifetime, with the watcher in each, and the moderator.

        `invited`: the moderator joins by itself, and is waited for.
        """
        others: list[Person] = [self.watcher, *([await self.encrypting()] if encrypted else [])]
        made = [
            await self._room(lifetime, moderator, others, encrypted=encrypted)
            for _ in range(number)
        ]
        person = Person(self.homeserver.url, moderator)
        try:
            for room in made:
                for other in others:
                    await other.join(room.room_id)
                if invited:
                    await self.talker.until_joined(room.room_id, moderator.user_id)
                elif moderator.user_id != self.talker.user_id:
                    await person.join(room.room_id)
        finally:
            await person.close()
        return made

    async def _room(
        self, lifetime: int, moderator: Account, others: Sequence[Person], *, encrypted: bool
    ) -> Room:
        users = {moderator.user_id: 50, self.talker.user_id: 100}
        invited = {moderator.user_id, *(one.user_id for one in others)}
        policy = {
            "type": POLICY,
            "state_key": "",
            "content": {"type": "after_send", "timer": lifetime},
        }
        body = {
            "preset": "private_chat",
            "room_version": "11",
            "invite": sorted(invited - {self.talker.user_id}),
            "initial_state": [policy, *([ENCRYPTION] if encrypted else [])],
            "power_level_content_override": {"users": users},
        }
        return Room((await self.talker.call("POST", "createRoom", body=body))["room_id"], lifetime)

    async def send(self, rooms: Sequence[Room], number: int) -> list[str]:
        """Have so many messages sent, in turn to each room, as fast as a few clients can."""
        turns = iter(range(number))
        sent: list[str] = []

        async def one() -> None:
            for turn in turns:
                room = rooms[turn % len(rooms)]
                sent.append(await self.talker.send(room.room_id, f"message {turn}"))

        await asyncio.gather(*(one() for _ in range(SENDERS)))
        return sent


def _memory() -> Path | None:
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > SPACE else None


@asynccontextmanager
async def stage(**extra: Any) -> AsyncIterator[Stage]:
    """Start a Synapse with its people; `extra` goes into its configuration."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_memory()) as name:
        folder = Path(name)
        (folder / "synapse").mkdir()
        async with Homeserver(folder / "synapse", extra=extra) as homeserver:
            people = People(homeserver, folder)
            made = Stage(homeserver, people, folder)
            try:
                made.talker, made.watcher = await people("talker"), await people("watcher")
                yield made
            finally:
                await people.close()
