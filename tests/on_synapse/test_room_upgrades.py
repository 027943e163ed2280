"""Rooms that a real Synapse upgrades: the bot goes along, and finishes what waits behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.core.types import RoomID
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import Bots
from tests.support.people import ApiError, People, Person, wait_until

if TYPE_CHECKING:
    from tests.support.bot_process import BotProcess

pytestmark = pytest.mark.synapse

MOVED = "Messages disappear here as in the old room: after 10 seconds."


async def upgrade(alice: Person, room: RoomID, version: str) -> RoomID:
    answer = await alice.call("POST", "rooms", room, "upgrade", body={"new_version": version})
    return RoomID(answer["replacement_room"])


async def with_lifetime(alice: Person, bot: BotProcess) -> RoomID:
    """Make a room of version 10 where messages live for ten seconds."""
    room = await settle_in(alice, bot, version="10")
    await alice.send(room, "!expire 10s")
    await alice.until_notice(room, bot.user_id, "set disappearing messages to 10 seconds.")
    return room


async def until_set(alice: Person, room: RoomID) -> None:
    async def is_set() -> bool:
        try:
            found = await alice.get_state(room, POLICY_EVENT)
        except ApiError:
            return False
        return found == {"type": "after_send", "timer": 10_000}

    await wait_until(is_set, 10, "the lifetime in the new room")


@pytest.mark.parametrize("version", ["11", "12"])
async def test_the_bot_goes_along_into_an_open_room(
    people: People, bots: Bots, version: str
) -> None:
    alice, bot = await people("alice"), await bots()
    old = await with_lifetime(alice, bot)
    await alice.state(old, "m.room.join_rules", {"join_rule": "public"})
    waiting = await alice.send(old, "said in the old room")
    new = await upgrade(alice, old, version)
    await alice.until_notice(new, bot.user_id, MOVED)
    await until_set(alice, new)
    sent = await alice.send(new, "said in the new room")
    await alice.until_redacted(old, waiting, 20)
    await alice.until_redacted(new, sent, 20)


async def test_a_closed_room_is_entered_after_an_invitation(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    old = await with_lifetime(alice, bot)
    waiting = await alice.send(old, "said in the old room")
    new = await upgrade(alice, old, "12")
    await alice.until_notice(old, bot.user_id, "This room was replaced by a new one")
    assert bot.user_id not in await alice.members(new)
    await alice.invite(new, bot.user_id)
    await alice.until_notice(new, bot.user_id, MOVED)
    await until_set(alice, new)
    await alice.until_redacted(old, waiting, 20)


async def test_a_bot_without_power_in_the_new_room_waits_for_it(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    old = await with_lifetime(alice, bot)
    new = await upgrade(alice, old, "11")
    await alice.set_power(new, bot.user_id, 0)
    await alice.invite(new, bot.user_id)
    await alice.until_notice(new, bot.user_id, "I need power level 50, and I have 0")
    await bot.stop()
    await bot.start()
    await alice.set_power(new, bot.user_id, 50)
    await alice.until_notice(new, bot.user_id, MOVED)
    await until_set(alice, new)
