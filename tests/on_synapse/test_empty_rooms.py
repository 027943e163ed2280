"""A real homeserver: the bot leaves when everybody else has, and keeps what waits until then."""

from __future__ import annotations

import sqlite3

import pytest

from tests.support.bot_process import BotProcess, Bots
from tests.support.people import People, wait_until

pytestmark = pytest.mark.synapse


def rooms(bot: BotProcess) -> set[str]:
    with sqlite3.connect(bot.data_dir / "timers.db") as db:
        return {row[0] for row in db.execute("SELECT room_id FROM rooms")}


async def test_the_bot_leaves_rooms_that_everybody_has_left(people: People, bots: Bots) -> None:
    alice, bob, bot = await people("alice"), await people("bob"), await bots()
    empty, waiting, shared, expected = [
        await alice.create_room(invite=[bot.user_id]) for _ in range(4)
    ]
    for room in (empty, waiting, shared, expected):
        await alice.until_notice(room, bot.user_id, "I make messages disappear")
    await alice.set_power(waiting, bot.user_id, 50)
    await alice.send(waiting, "!expire 1h")
    await alice.until_notice(waiting, bot.user_id, "set disappearing messages")
    for room in (shared, expected):
        await alice.invite(room, bob)
    await bob.join(shared)
    for room in (empty, waiting, shared, expected):
        await alice.leave(room)

    async def has_left() -> bool:
        return "left a room in which nobody else was" in bot.words() and empty not in rooms(bot)

    await wait_until(has_left, 90, "the bot to leave")
    assert rooms(bot) == {waiting, shared, expected}
    assert bot.user_id in await bob.members(shared)
    await bob.join(expected)
    assert bot.user_id in await bob.members(expected)
    assert "Traceback" not in bot.words()
