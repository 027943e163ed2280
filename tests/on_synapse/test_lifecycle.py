"""The real bot in real rooms: what people see from the invitation to the last redaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.bot_process import BotProcess, Bots
from tests.support.people import People, Person

if TYPE_CHECKING:
    from bot.core.types import RoomID

pytestmark = pytest.mark.synapse


async def settle_in(alice: Person, bot: BotProcess, power: int = 50, **room: object) -> RoomID:
    """Make a room with the bot in it, at this power level."""
    room_id = await alice.create_room(invite=[bot.user_id], **room)  # type: ignore[arg-type]
    await alice.until_notice(room_id, bot.user_id, "I make messages disappear")
    if power:
        await alice.set_power(room_id, bot.user_id, power)
    return room_id


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_messages_go_when_their_lifetime_ends(
    people: People, bots: Bots, version: str
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot, version=version)
    before = await alice.send(room, "said before")
    command = await alice.send(room, "!expire 2s")
    await alice.until_notice(room, bot.user_id, "set disappearing messages to 2 seconds.")
    after = await alice.send(room, "said after")
    await alice.until_redacted(room, after, 10)
    await alice.until_redacted(room, command, 10)
    assert not await alice.is_redacted(room, before)
    state = await alice.get_state(room, "com.beeper.disappearing_timer")
    assert state["timer"] == 2000
    assert state["type"] == "after_send"


async def test_an_encrypted_room_works_both_ways(people: People, bots: Bots) -> None:
    alice, bot = await people.encrypted("alice"), await bots()
    room = await alice.create_room(encrypted=True, invite=[bot.user_id])
    await alice.until_heard(room, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await alice.send_text(room, "!expire 2s")
    await alice.until_heard(room, "set disappearing messages to 2 seconds.")
    message = await alice.send_text(room, "a secret")
    await alice.until_redacted(room, message, 10)


async def test_a_command_in_clear_does_not_count_in_an_encrypted_room(
    people: People, bots: Bots
) -> None:
    alice, bot = await people.encrypted("alice"), await bots()
    room = await alice.create_room(encrypted=True, invite=[bot.user_id])
    await alice.until_heard(room, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await alice.send(room, "!expire 2s")
    await alice.send_text(room, "!expire status")
    await alice.until_heard(room, "Messages stay: no lifetime is set.")
