"""The data folder is lost: the same account, with an empty folder, goes on (on a real Synapse)."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from bot.core.default_lifetime import DEFAULT_EVENT
from bot.core.lifetimes import POLICY_EVENT
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.person import ApiError, wait_until

if TYPE_CHECKING:
    from typing import Any

    from bot.core.types import RoomID
    from tests.support.bot_process import BotProcess, Bots
    from tests.support.people import People, Person

pytestmark = pytest.mark.synapse


def waiting(bot: BotProcess) -> set[str]:
    with closing(sqlite3.connect(bot.data_dir / "timers.db")) as db:
        return {row[0] for row in db.execute("SELECT event_id FROM timers")}


def edit_of(event_id: str) -> dict[str, Any]:
    return {
        "msgtype": "m.text",
        "body": "* edited",
        "m.new_content": {"msgtype": "m.text", "body": "edited"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
    }


async def test_an_empty_folder_rebuilds_every_timer(people: People, bots: Bots) -> None:
    bot, alice = await bots(), await people("alice")
    room = await settle_in(alice, bot)
    before = await alice.send(room, "from before the lifetime")
    states = []
    for lifetime in (3_600_000, 4_000, 0, 7_200_000):
        content = {"type": "after_send", "timer": lifetime} if lifetime else {}
        await alice.state(room, POLICY_EVENT, content)
        states.append(await alice.send(room, f"under {lifetime}"))
        states.append(await alice.send(room, edit_of(states[-1])))
    hour, hour_edit, short, short_edit, stays, stays_edit, two, two_edit = states
    await wait_until(lambda: is_waiting(bot, two_edit), 10, "the bot to have read all")
    await bot.kill()
    shutil.rmtree(bot.data_dir)
    await asyncio.sleep(4)
    await bot.start()
    for event in (short, short_edit):
        await alice.until_redacted(room, event, 10)
    await wait_until(lambda: is_waiting(bot, hour), 10, "the timers to be rebuilt")
    assert {hour, hour_edit, two, two_edit} <= waiting(bot)
    assert not {before, stays, stays_edit} & waiting(bot)
    for event in (before, stays, hour, two):
        assert not await alice.is_redacted(room, event)
    live = await alice.send(room, "!expire 2s")
    await alice.until_redacted(room, live, 10)


async def test_what_was_commanded_holds_since_the_command(people: People, bots: Bots) -> None:
    bot, alice = await bots(), await people("alice")
    room = await settle_in(alice, bot)
    await bot.stop()
    before = await alice.send(room, "before")
    goes = [await alice.send(room, "!expire 3s"), await alice.send(room, "goes")]
    stays = [await alice.send(room, "!expire off"), await alice.send(room, "stays")]
    await bot.start()
    await alice.until_notice(room, bot.user_id, "turned disappearing messages off")
    await bot.kill()
    shutil.rmtree(bot.data_dir)
    await bot.start()
    for event_id in goes:
        await alice.until_redacted(room, event_id, 20)
    assert not any([await alice.is_redacted(room, one) for one in [before, *stays]])


async def test_rebuild_gives_timers_to_what_has_none(people: People, bots: Bots) -> None:
    bot, alice = await bots(), await people("alice")
    room = await settle_in(alice, bot)
    before = await alice.send(room, "from before the lifetime")
    await alice.state(room, POLICY_EVENT, {"type": "after_send", "timer": 3_600_000})
    sent = [await alice.send(room, f"{number}") for number in range(5)]
    await wait_until(lambda: is_waiting(bot, sent[-1]), 10, "the bot to have read all")
    assert await asyncio.to_thread(rebuild, bot) == (4, "")
    assert await bot.stop() == 0
    with closing(sqlite3.connect(bot.data_dir / "timers.db")) as db, db:
        db.execute("DELETE FROM timers")
    status, said = await asyncio.to_thread(rebuild, bot)
    assert (status, said.splitlines()[0]) == (0, "Reading back in 1 room.")
    assert "6 messages had no timer and got one." in said  # the announcement is one of them
    assert waiting(bot) >= set(sent)
    assert before not in waiting(bot)
    assert "0 messages had no timer" in (await asyncio.to_thread(rebuild, bot))[1]


def rebuild(bot: BotProcess) -> tuple[int, str]:
    command = [sys.executable, "-m", "bot", "rebuild", "--config", str(bot.config_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout


async def is_waiting(bot: BotProcess, event_id: str) -> bool:
    return event_id in waiting(bot)


async def test_a_default_that_is_added_later_spares_what_was_said(
    people: People, bots: Bots
) -> None:
    bot, alice = await bots(), await people("alice")
    room = await settle_in(alice, bot)
    stays = [await alice.send(room, "no lifetime holds")]
    await asyncio.sleep(1)  # two clocks
    await bot.stop()
    stays.append(await alice.send(room, "nobody knows whether it holds yet"))
    bot.config["lifetime"] = {"min": "1s", "default": "4s"}
    await bot.start()
    await wait_until(lambda: has_state(alice, room, DEFAULT_EVENT), 10, "the bot to write it down")
    goes = [await alice.send(room, "it holds")]
    await wait_until(lambda: is_waiting(bot, goes[0]), 10, "the bot to have read it")
    await bot.kill()
    shutil.rmtree(bot.data_dir)
    goes.append(await alice.send(room, "the bot is away"))
    await bot.start()
    for event in goes:
        await alice.until_redacted(room, event, 15)
    assert await bot.stop() == 0
    await asyncio.to_thread(rebuild, bot)
    await bot.start()
    await alice.until_redacted(room, await alice.send(room, "last"), 15)
    assert not any([await alice.is_redacted(room, one) for one in stays])


async def has_state(alice: Person, room: RoomID, kind: str) -> bool:
    try:
        return bool(await alice.get_state(room, kind))
    except ApiError:
        return False
