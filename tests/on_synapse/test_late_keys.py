"""A command whose key comes late counts from its own place, and is never lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.on_synapse.test_lifecycle import settle_in
from tests.support.people import People, wait_until

if TYPE_CHECKING:
    from bot.core.types import RoomID
    from tests.support.bot_process import BotProcess, Bots
    from tests.support.people import EncryptedPerson

pytestmark = pytest.mark.synapse


class Stingy:
    """A device that writes with a key which the bot does not have yet."""

    def __init__(self, alice: EncryptedPerson, bot: BotProcess, room: RoomID) -> None:
        self._alice, self._bot, self._room = alice, bot, room
        self._client = alice._device._client
        self._olm: Any = self._client.olm
        self._key: dict[str, Any] = {}

    def begin(self) -> None:
        """Begin a session and share it with nobody."""
        self._olm.create_outbound_group_session(self._room)
        session = self._olm.outbound_group_sessions[self._room]
        session.shared = True
        self._key = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": self._room,
            "session_id": session.id,
            "session_key": session.session_key,
        }

    async def say(self, text: str) -> str:
        answer = await self._client.room_send(
            self._room, "m.room.message", {"msgtype": "m.text", "body": text}
        )
        return str(answer.event_id)

    async def share(self) -> None:
        """Give the bot the key, as it was at the session's beginning."""
        (device,) = self._olm.device_store.active_user_devices(self._bot.user_id)
        session = self._olm.session_store.get(device.curve25519)
        body = self._olm._olm_encrypt(session, device, "m.room_key", self._key)
        messages = {self._bot.user_id: {device.id: body}}
        await self._alice.call(
            "PUT", "sendToDevice", "m.room.encrypted", "late-key", body={"messages": messages}
        )


async def prepare(people: People, bots: Bots) -> tuple[EncryptedPerson, BotProcess, RoomID]:
    alice, bot = await people.encrypted("alice"), await bots()
    room = await alice.create_room(encrypted=True, invite=[bot.user_id])
    await alice.until_heard(room, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await alice.send_text(room, "!expire status")
    await alice.until_heard(room, "no lifetime is set")
    return alice, bot, room


async def test_a_command_whose_key_comes_late_counts_from_its_own_place(
    people: People, bots: Bots
) -> None:
    alice, bot, room = await prepare(people, bots)
    stingy = Stingy(alice, bot, room)
    stingy.begin()
    before = await stingy.say("before the command")
    command = await stingy.say("!expire 3s")
    between = [await stingy.say(f"after the command {number}") for number in range(3)]
    await asyncio.sleep(1)
    await stingy.share()
    await alice.until_heard(room, "set disappearing messages to 3 seconds.")
    for event_id in [command, *between]:
        await alice.until_redacted(room, event_id)
    assert not await alice.is_redacted(room, before)


async def test_a_late_command_does_not_undo_a_later_one(people: People, bots: Bots) -> None:
    alice, bot, room = await prepare(people, bots)
    stingy = Stingy(alice, bot, room)
    stingy.begin()
    await stingy.say("!expire 3s")
    content = {"type": "after_send", "timer": 3_600_000}
    await alice.state(room, "com.beeper.disappearing_timer", content)
    await alice.until_heard(room, "set disappearing messages to 1 hour.")
    await stingy.share()
    await stingy.say("!expire status")
    await alice.until_heard(room, "Messages disappear after 1 hour.")
    assert await alice.get_state(room, "com.beeper.disappearing_timer") == content


async def test_a_late_key_is_not_lost_in_a_restart(people: People, bots: Bots) -> None:
    alice, bot, room = await prepare(people, bots)
    stingy = Stingy(alice, bot, room)
    stingy.begin()
    command = await stingy.say("!expire 3s")
    await asyncio.sleep(0.5)
    await bot.kill()
    await stingy.share()
    await bot.start()
    await alice.until_heard(room, "set disappearing messages to 3 seconds.")
    await alice.until_redacted(room, command)


async def test_the_server_never_runs_out_of_keys_for_the_bot(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    assert room
    keys = await alice.call("POST", "keys", "query", body={"device_keys": {bot.user_id: []}})
    (device_id,) = keys["device_keys"][bot.user_id]
    await bot.stop()
    for _ in range(120):
        claim = {"one_time_keys": {bot.user_id: {device_id: "signed_curve25519"}}}
        answer = await alice.call("POST", "keys", "claim", body=claim)
        (key,) = answer["one_time_keys"][bot.user_id][device_id].values()
    assert key["fallback"] is True
    await bot.start()

    async def renewed() -> bool:
        claim = {"one_time_keys": {bot.user_id: {device_id: "signed_curve25519"}}}
        answer = await alice.call("POST", "keys", "claim", body=claim)
        (key,) = answer["one_time_keys"][bot.user_id][device_id].values()
        return "fallback" not in key

    await wait_until(renewed)
