"""The bot loses keys, and Element's crypto gives them again: commands are not lost with them."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.support.people import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from bot.demo.homeserver import Homeserver
    from tests.interop.jsclient import JsPeople
    from tests.support.bot_process import BotProcess

from tests.support.bot_process import Bots

pytestmark = pytest.mark.synapse


async def signed_bot(homeserver: Homeserver, folder: Path) -> tuple[Bots, BotProcess]:
    bots = Bots(homeserver, folder)
    bot = await bots()

    async def signed() -> bool:
        return "the device is signed" in bot.words()

    await wait_until(signed, 15)
    return bots, bot


def lose(bot: BotProcess, *tables: str) -> None:
    """Delete keys from a stopped bot's crypto store."""
    (store,) = (bot.data_dir / "crypto").glob("*.db")
    with sqlite3.connect(store) as database:
        for table in tables:
            database.execute(f"DELETE FROM {table}")
    database.close()


@pytest.mark.parametrize(
    "tables",
    [("megolminboundsessions",), ("olmsessions", "megolminboundsessions")],
    ids=["the room's key", "the room's key and the channel"],
)
async def test_a_lost_key_is_asked_for_and_given_again(
    js_people: JsPeople, homeserver: Homeserver, tmp_path: Path, tables: tuple[str, ...]
) -> None:
    alice = await js_people("alice", "signed")
    bots, bot = await signed_bot(homeserver, tmp_path)
    room = await alice.create_room(bot.user_id)
    await alice.until_joined(room, bot.user_id)
    await alice.set_power(room, bot.user_id, 50)
    await alice.say(room, "!expire status")
    await alice.until_heard(room, bot.user_id, "no lifetime is set")
    await bot.stop()
    lose(bot, *tables)
    await bot.start()
    command = await alice.say(room, "!expire 3s")
    await alice.until_heard(room, bot.user_id, "set disappearing messages to 3 seconds", 40)
    await alice.server.until_redacted(room, command, 15)
    await bots.close()
