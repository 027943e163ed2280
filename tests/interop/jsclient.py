"""People on matrix-js-sdk: to the bot, what users of Element are.

Their crypto is the sdk's own in Rust, or libolm, the first implementation of Matrix's encryption.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bot.core.types import EventID, RoomID, UserID
from tests.interop.lines import LineClient
from tests.support.person import Person, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot.demo.homeserver import Account, Homeserver

Mode = Literal["all", "signed"]
"""Which devices of others a client exchanges keys with: all, or those their owner has signed."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shield:
    """The warning that a client shows beside a message; `none` is no warning."""

    colour: str
    reason: str | None


NO_SHIELD = Shield(colour="none", reason=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An event as the client shows it."""

    event_id: EventID
    sender: UserID
    type: str
    was: str | None
    """Its message type, or else its type, as it was decrypted from somebody else's device."""
    content: dict[str, Any]
    encrypted: bool
    redacted: bool
    failure: str | None
    """Why it could not be decrypted."""
    shield: Shield | None
    """`None` when it is not decrypted."""

    @classmethod
    def read(cls, raw: dict[str, Any]) -> Shown:
        shield = raw["shield"]
        return cls(**raw | {"shield": shield and Shield(**shield)})


class JsPerson:
    """One device of one account, in a process of its own.

    `server` is the same person's view of the homeserver itself: a second device, without keys.
    """

    def __init__(
        self, command: Sequence[str], homeserver: str, account: Account, folder: Path
    ) -> None:
        self.user_id = account.user_id
        self.server = Person(homeserver, account)
        name = account.user_id.split(":", maxsplit=1)[0]
        self._client = LineClient(command, folder / f"{name}.log")
        self._login: dict[str, Any] = {
            "homeserver": homeserver,
            "user": account.user_id,
            "password": account.password,
        }
        self.crypto = ""
        """Its crypto library and that one's version; empty before it has started."""

    async def start(self, mode: Mode) -> None:
        """Log in, sync, and have cross-signing keys like every user of Element."""
        await self.start_unsigned()
        await self._client.ask("bootstrap")
        await self._client.ask("isolate", mode=mode)

    async def start_unsigned(self) -> None:
        """Log in and sync, without cross-signing keys."""
        await self._client.start()
        self.crypto = (await self._client.ask("login", **self._login))["crypto"]

    async def close(self) -> None:
        await self.server.close()
        await self._client.close()

    # --- Rooms

    async def create_room(self, *invited: str) -> RoomID:
        """Make an encrypted room."""
        room = RoomID(await self._client.ask("create_room", name="Interoperability"))
        for who in invited:
            await self._client.ask("invite", room=room, who=who)
        return room

    async def join(self, room: str) -> None:
        await self._client.ask("join", room=room)

    async def set_power(self, room: str, who: str, level: int) -> None:
        await self._client.ask("set_power", room=room, who=who, level=level)

    async def until_joined(self, room: str, who: str) -> None:
        """Wait until this device knows that somebody has joined, and so encrypts to them."""

        async def joined() -> bool:
            return who in await self._client.ask("members", room=room)

        await wait_until(joined, 15, f"{who} to join")

    # --- Messages

    async def say(self, room: str, body: str) -> EventID:
        return await self._send("say", room, body=body)

    async def edit(self, room: str, event: str, body: str) -> EventID:
        return await self._send("edit", room, event=event, body=body)

    async def react(self, room: str, event: str, key: str) -> EventID:
        return await self._send("react", room, event=event, key=key)

    async def reply(self, room: str, event: str, body: str) -> EventID:
        return await self._send("reply", room, event=event, body=body)

    async def thread(self, room: str, event: str, body: str) -> EventID:
        return await self._send("thread", room, event=event, body=body)

    async def start_poll(self, room: str, question: str, *answers: str) -> EventID:
        return await self._send("poll_start", room, question=question, answers=answers)

    async def vote(self, room: str, event: str, answer: int) -> EventID:
        return await self._send("poll_vote", room, event=event, answer=answer)

    async def end_poll(self, room: str, event: str, body: str) -> EventID:
        return await self._send("poll_end", room, event=event, body=body)

    async def send_image(self, room: str, body: str) -> EventID:
        """Send a picture, encrypted before it is uploaded."""
        return await self._send("image", room, body=body)

    async def send_sticker(self, room: str, body: str) -> EventID:
        return await self._send("sticker", room, body=body)

    async def _send(self, what: str, room: str, **args: Any) -> EventID:
        return EventID(await self._client.ask(what, room=room, **args))

    # --- What is shown

    async def timeline(self, room: str) -> dict[str, Shown]:
        """Return the room's events by their ids."""
        raw = await self._client.ask("timeline", room=room)
        return {event["event_id"]: Shown.read(event) for event in raw}

    async def until_heard(self, room: str, who: str, text: str, seconds: float = 15) -> Shown:
        """Wait for a readable message of `who` that contains `text`."""
        args: dict[str, Any] = {"room": room, "sender": who, "text": text, "seconds": seconds}
        return Shown.read(await self._client.ask("hear", **args))

    async def devices(self, who: str) -> dict[str, dict[str, bool]]:
        """Return how each device of an account stands: `signed_by_owner`, `verified`."""
        standing: dict[str, dict[str, bool]] = await self._client.ask("devices", user=who)
        return standing


class JsPeople:
    """Makes people on matrix-js-sdk, and closes them all."""

    def __init__(self, command: Sequence[str], homeserver: Homeserver, folder: Path) -> None:
        self._command = command
        self._homeserver = homeserver
        self._folder = folder
        self._made: list[JsPerson] = []

    async def __call__(self, name: str, mode: Mode) -> JsPerson:
        """Return a new person whose device runs: `alice` becomes `@js-alice-<n>`."""
        person = await self._make(self._command, name)
        await person.start(mode)
        return person

    async def on_libolm(self, name: str) -> JsPerson:
        """Return a new person whose device encrypts with libolm, and has no cross-signing keys."""
        person = await self._make([*self._command, "libolm"], name)
        await person.start_unsigned()
        return person

    async def _make(self, command: Sequence[str], name: str) -> JsPerson:
        account = await self._homeserver.register(f"js-{name}-{next(_numbers)}", display_name=name)
        person = JsPerson(command, self._homeserver.url, account, self._folder)
        self._made.append(person)
        return person

    async def close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for person in self._made:
                group.create_task(person.close())
