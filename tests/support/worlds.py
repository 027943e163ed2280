"""The same room twice: in memory and on a real Synapse, with the same people in it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Outcome
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from bot.demo.homeserver import Homeserver
from bot.matrix import client as matrix_client
from bot.matrix.client import Matrix
from bot.matrix.login.session import Credentials, connect, open_session
from tests.support.fake_homeserver import ALICE, BOB, FakeHomeserver
from tests.support.people import People
from tests.support.person import Person

LIMIT = 4
"""Events of a room in one sync."""
PAGE = 3
"""Events in one page back."""

_numbers = itertools.count(1)


class World(Protocol):
    """The bot's way to a homeserver, and what people do there."""

    @property
    def bot(self) -> FakeHomeserver | Matrix: ...
    @property
    def alice(self) -> UserID: ...
    @property
    def bob(self) -> UserID: ...
    async def room(self, *, power: int = 50, joined: bool = True, **levels: Any) -> RoomID: ...
    async def send(self, room: RoomID, text: str) -> EventID: ...
    async def kick(self, room: RoomID) -> None: ...
    async def ban(self, room: RoomID) -> None: ...
    async def set_lifetime(self, room: RoomID, lifetime: Millis) -> None: ...
    async def let_bob_in(self, room: RoomID, name: str) -> None: ...
    async def upgrade(self, room: RoomID, *, public: bool) -> RoomID: ...
    async def event(self, room: RoomID, event_id: EventID) -> Event: ...
    async def history(self, room: RoomID) -> list[Event]: ...


class FakeWorld:
    """A homeserver in memory."""

    def __init__(self) -> None:
        self.bot = FakeHomeserver(limit=LIMIT, page=PAGE)
        self.alice, self.bob = ALICE, BOB

    async def room(self, *, power: int = 50, joined: bool = True, **levels: Any) -> RoomID:
        return self.bot.make_room(power=power, joined=joined, **levels)

    async def send(self, room: RoomID, text: str) -> EventID:
        return self.bot.send(room, text)

    async def kick(self, room: RoomID) -> None:
        self.bot.kick(room)

    async def ban(self, room: RoomID) -> None:
        self.bot.set_member(room, self.bot.own_id, "ban", sender=ALICE)

    async def set_lifetime(self, room: RoomID, lifetime: Millis) -> None:
        self.bot.set_lifetime(room, lifetime)

    async def let_bob_in(self, room: RoomID, name: str) -> None:
        self.bot.set_member(room, BOB, "join", displayname=name)

    async def upgrade(self, room: RoomID, *, public: bool) -> RoomID:
        if public:
            self.bot.set_state(room, "m.room.join_rules", {"join_rule": "public"})
        return self.bot.upgrade(room)

    async def event(self, room: RoomID, event_id: EventID) -> Event:
        found = self.bot.rooms[room].find(event_id)
        assert found is not None
        return found

    async def history(self, room: RoomID) -> list[Event]:
        return self.bot.rooms[room].events


class SynapseWorld:
    """A real homeserver; the bot is the real client."""

    def __init__(self, bot: Matrix, alice: Person, bob: Person) -> None:
        self.bot = bot
        self._alice, self._bob = alice, bob
        self.alice, self.bob = alice.user_id, bob.user_id

    @classmethod
    async def build(
        cls, homeserver: Homeserver, people: People, folder: Path, patch: pytest.MonkeyPatch
    ) -> SynapseWorld:
        limited = json.loads(matrix_client.SYNC_FILTER)
        limited["room"]["timeline"]["limit"] = LIMIT
        patch.setattr(matrix_client, "SYNC_FILTER", json.dumps(limited))
        patch.setattr(matrix_client, "PAGE", PAGE)
        account = await homeserver.register(f"contract-{next(_numbers)}", display_name="Ephemeral")
        credentials = Credentials(
            homeserver=homeserver.url, user_id=account.user_id, password=account.password
        )

        async def insist(request: Callable[[], Awaitable[Outcome]]) -> Outcome:
            return await request()

        client = connect(credentials, folder, "a secret")
        bot = await open_session(client, credentials, folder, insist)
        return cls(bot, await people("alice"), await people("bob"))

    async def room(self, *, power: int = 50, joined: bool = True, **levels: Any) -> RoomID:
        bot, alice = self.bot.own_id, self._alice
        users = {alice.user_id: 100} | ({bot: power} if power else {})
        room = await alice.create_room("11", invite=[bot], power_levels={"users": users} | levels)
        if joined:
            await self.bot.join(room)
        return room

    async def send(self, room: RoomID, text: str) -> EventID:
        return await self._alice.send(room, text)

    async def kick(self, room: RoomID) -> None:
        await self._alice.kick(room, self.bot.own_id)

    async def ban(self, room: RoomID) -> None:
        await self._alice.ban(room, self.bot.own_id)

    async def set_lifetime(self, room: RoomID, lifetime: Millis) -> None:
        content = {"type": "after_send", "timer": lifetime}
        await self._alice.state(room, POLICY_EVENT, content)

    async def let_bob_in(self, room: RoomID, name: str) -> None:
        if self.bob not in await self._alice.members(room):
            await self._alice.invite(room, self._bob)
            await self._bob.join(room)
        member = {"membership": "join", "displayname": name}
        await self._bob.state(room, "m.room.member", member, self.bob)

    async def upgrade(self, room: RoomID, *, public: bool) -> RoomID:
        if public:
            await self._alice.state(room, "m.room.join_rules", {"join_rule": "public"})
        body = {"new_version": "11"}
        answer = await self._alice.call("POST", "rooms", room, "upgrade", body=body)
        return RoomID(answer["replacement_room"])

    async def event(self, room: RoomID, event_id: EventID) -> Event:
        return await self._alice.event(room, event_id)

    async def history(self, room: RoomID) -> list[Event]:
        return await self._alice.messages(room)
