"""The play: alice and bob talk in an encrypted room, and the homeserver is asked what is left."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bot.demo.message import Message, excerpt
from bot.demo.people import DeviceError
from bot.demo.script import COMMAND, LIFETIME, SCRIPT

if TYPE_CHECKING:
    from bot.core.types import EventID, Millis, RoomID
    from bot.demo.people import Device
    from bot.demo.process import BotProcess
    from bot.demo.screen import Screen

ROOM_NAME: Final = "The vanishing room"
PAUSE: Final = 0.55
"""Seconds between two lines."""
LOOK_EVERY: Final = 0.1
"""Seconds between two questions to the homeserver about what is due."""
ID: Final = re.compile(r" \(@\S+\)")
"""The id behind a name, for which the picture has no room."""
GIVE_UP_AFTER: Final[Millis] = 30_000
"""How late a message may go before it counts as one that stays."""


async def set_up(alice: Device, bob: Device, bot: BotProcess) -> RoomID:
    """Make the encrypted room, with bob in it and with the bot, which may redact there.

    Raises `DeviceError`, and `BotError` when the bot has ended.
    """
    room = await alice.create_encrypted_room(ROOM_NAME)
    await alice.invite(room, bob.user_id)
    await bob.join(room)
    await alice.invite(room, bot.user_id)
    try:
        await alice.until_heard(room, "I make messages disappear")
    except DeviceError:
        bot.check()  # the better explanation
        raise
    await alice.set_power(room, bot.user_id, 50)
    return room


@dataclass(slots=True, kw_only=True)
class Play:
    """The play in one room. Raises `DeviceError`, and `BotError` when the bot ends midway."""

    alice: Device
    bob: Device
    bot: BotProcess
    room: RoomID
    screen: Screen
    messages: list[Message] = field(default_factory=list)
    _lifetime: Millis | None = None

    async def perform(self) -> None:
        """Say every line of the script; return when the homeserver has been asked about each."""
        self.screen.doing("alice and bob are talking")
        talking = asyncio.create_task(self._talk())
        try:
            while not talking.done() or any(message.pending for message in self.messages):
                self.bot.check()
                await self._listen()
                await self._look()
                await asyncio.sleep(LOOK_EVERY)
                if talking.done():
                    talking.result()  # raises what ended it
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)

    async def _talk(self) -> None:
        sent: list[EventID] = []
        for line in SCRIPT:
            device = self.alice if line.who == "alice" else self.bob
            if line.text == COMMAND:
                await self._listen()  # what was said before has no lifetime
                self._lifetime = LIFETIME
            event_id = await device.send(self.room, line.kind, line.content_after(sent))
            sent.append(event_id)
            parent = sent[line.to] if line.to is not None and line.relation else None
            await self._add(event_id, line.who, line.what, line.text, parent)
            if line.answer:
                await self.alice.until_heard(self.room, line.answer)
                await self._listen()
            await asyncio.sleep(PAUSE)
        self.screen.doing("The last messages are going")

    async def _listen(self) -> None:
        """Add what the bot has said."""
        known = {message.event_id for message in self.messages}
        for heard in self.alice.timeline(self.room):
            if heard.sender == self.bot.user_id and heard.event_id not in known:
                said = ID.sub("", heard.body.splitlines()[0])
                await self._add(heard.event_id, "bot", "notice", said)

    async def _add(
        self, event_id: EventID, sender: str, what: str, text: str, parent: EventID | None = None
    ) -> None:
        """Add a message. An edit or a reaction is due with the message that it belongs to."""
        event = await self.alice.event(self.room, event_id)
        if any(message.event_id == event_id for message in self.messages):
            return
        sent: Millis = event["origin_server_ts"]
        due = None if self._lifetime is None else sent + self._lifetime
        for other in self.messages:
            if other.event_id == parent and due is not None and other.due is not None:
                due = min(due, other.due)
        message = Message(
            event_id=event_id,
            sender=sender,
            what=what,
            text=text,
            sent=sent,
            due=due,
            returned=excerpt(event),
        )
        self.messages.append(message)
        self.screen.said(message)

    async def _look(self) -> None:
        """Ask the homeserver about every message that is due."""
        now = time.time_ns() // 1_000_000
        for message in self.messages:
            if not message.pending or message.due is None or message.due > now:
                continue
            if message.look(await self.alice.event(self.room, message.event_id), self.bot.user_id):
                self.screen.gone(message)
            elif now > message.due + GIVE_UP_AFTER:
                message.given_up = True
