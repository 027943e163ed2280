"""People on matrix-nio 0.25 with libolm, the first implementation of Matrix's encryption."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot.core.types import EventID, RoomID, UserID
from tests.interop.lines import LineClient
from tests.support.person import Person, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot.demo.homeserver import Account, Homeserver

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An event as the client shows it; `body` is `None` when it is unreadable or gone."""

    room: RoomID
    event_id: EventID
    sender: UserID
    body: str | None
    encrypted: bool
    redacted: bool


class LibolmPerson:
    """One device of one account, in a process of its own.

    `server` is the same person's view of the homeserver itself: a second device, without keys.
    """

    def __init__(
        self, command: Sequence[str], homeserver: str, account: Account, folder: Path
    ) -> None:
        self.user_id = account.user_id
        self.server = Person(homeserver, account)
        home = folder / account.user_id.split(":", maxsplit=1)[0]
        home.mkdir()
        self._client = LineClient(command, home / "client.log")
        self._login: dict[str, Any] = {
            "homeserver": homeserver,
            "user": account.user_id,
            "password": account.password,
            "store": str(home),
        }
        self.versions: dict[str, str] = {}

    async def start(self) -> None:
        await self._client.start()
        self.versions = await self._client.ask("login", **self._login)

    async def close(self) -> None:
        await self.server.close()
        await self._client.close()

    async def create_room(self, *invited: str) -> RoomID:
        """Make an encrypted room."""
        return RoomID(await self._client.ask("create_room", invite=invited))

    async def until_joined(self, room: str, who: str) -> None:
        """Wait until this device knows that somebody has joined, and so encrypts to them."""

        async def joined() -> bool:
            return who in await self._client.ask("members", room=room)

        await wait_until(joined, 15, f"{who} to join")

    async def say(self, room: str, body: str) -> EventID:
        return EventID(await self._client.ask("say", room=room, body=body))

    async def timeline(self, room: str) -> dict[str, Shown]:
        """Return the room's messages by their ids."""
        raw = await self._client.ask("timeline", room=room)
        return {event["event_id"]: Shown(**event) for event in raw}

    async def until_heard(self, room: str, who: str, text: str) -> Shown:
        """Wait for a readable message of `who` that contains `text`."""

        async def found() -> Shown | None:
            shown = (await self.timeline(room)).values()
            return next((s for s in shown if s.sender == who and text in (s.body or "")), None)

        return await wait_until(found, 15, f"a message of {who} with {text!r}")


class LibolmPeople:
    """Makes people on libolm, and closes them all."""

    def __init__(self, command: Sequence[str], homeserver: Homeserver, folder: Path) -> None:
        self._command = command
        self._homeserver = homeserver
        self._folder = folder
        self._made: list[LibolmPerson] = []

    async def __call__(self, name: str) -> LibolmPerson:
        """Return a new person whose device runs: `alice` becomes `@olm-alice-<n>`."""
        account = await self._homeserver.register(f"olm-{name}-{next(_numbers)}", display_name=name)
        person = LibolmPerson(self._command, self._homeserver.url, account, self._folder)
        self._made.append(person)
        await person.start()
        return person

    async def close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for person in self._made:
                group.create_task(person.close())
