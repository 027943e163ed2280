"""The real bot while networks, proxies, homeservers and disks fail: it waits, and loses nothing."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from pathlib import Path

import pytest

from bot.core.outcomes import OutcomeError
from bot.demo.homeserver import Homeserver
from bot.matrix import client
from bot.matrix.http import response_body, responses
from tests.support.bot_process import BotProcess, Bots
from tests.support.fault_proxy import PAGE, FaultProxy
from tests.support.fault_trial import FAULTS, SYNC, Ordeal, Result
from tests.support.people import People, wait_until
from tests.support.worlds import SynapseWorld

pytestmark = pytest.mark.synapse

LASTING = 6.0
"""Seconds."""
REQUESTS, AT_ONCE = 50, 15
"""A bot that waits makes fewer of them in that time, and in any second of it."""
SOCKETS = 8 << 20
"""Bytes that lie between one who writes and one who reads no more."""


def trouble(result: Result) -> str:
    """Say what is wrong with what came of a fault, if anything."""
    found = [
        f"{result.lost} lost" * bool(result.lost),
        f"{result.early} early" * bool(result.early),
        f"{result.twice} twice" * bool(result.twice),
        f"{result.requests} requests" * (result.requests > REQUESTS),
        f"{result.peak} requests a second" * (result.peak > AT_ONCE),
        f"{result.longest} bytes" * (result.longest > response_body.SMALL + SOCKETS),
        result.ended,
    ]
    return ", ".join(filter(None, found))


# One after the other they would take ten minutes; so all of them happen at once, to a bot each.
async def test_whatever_fails_nothing_is_lost_and_nothing_spins(
    homeserver: Homeserver, people: People, bots: Bots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "LONGEST_WAIT", 4_000)
    monkeypatch.setattr(client, "LARGE", 4 << 20)
    monkeypatch.setattr("bot.core.redaction.CONFIRM_AFTER", 8_000)
    ordeal = Ordeal(homeserver, people, bots)
    gate = asyncio.Semaphore(len(FAULTS))

    async def one(name: str) -> Result:
        async with gate:
            return await ordeal.go(name, FAULTS[name], LASTING, 45)

    results = await asyncio.gather(*map(one, FAULTS))
    assert {one.fault: trouble(one) for one in results if trouble(one)} == {}


async def test_a_homeserver_that_is_killed_again_and_again_is_outlived(tmp_path: Path) -> None:
    (tmp_path / "synapse").mkdir()
    async with Homeserver(tmp_path / "synapse") as homeserver:
        people, bots = People(homeserver, tmp_path), Bots(homeserver, tmp_path)
        try:
            result = await Ordeal(homeserver, people, bots).restarts(times=3, every=2)
        finally:
            await bots.close()
            await people.close()
    assert (result.lost, result.early, result.twice, result.ended) == (0, 0, 0, "")
    assert result.requests <= 100


def peak_memory(bot: BotProcess) -> int:
    """Return the most bytes that the process ever held."""
    assert bot._process is not None
    status = Path(f"/proc/{bot._process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def test_a_bot_survives_a_closed_proxy_and_an_endless_answer(
    homeserver: Homeserver, bots: Bots
) -> None:
    async with FaultProxy(homeserver.url) as proxy:
        proxy.answer("", status=403, body=PAGE)
        bot = await bots(start=False, homeserver=proxy.url)
        await bot.start(ready=False)
        await wait_until(lambda: _says(bot, "waiting for the homeserver"), 20)
        proxy.mend()
        await wait_until(lambda: _says(bot, "ready as"), 20)

        async def synced() -> bool:
            return proxy.count(r"/sync.*since=") > 0

        await wait_until(synced, 20)
        before = peak_memory(bot)
        flood = proxy.flood(SYNC, 1 << 30)

        async def tried() -> bool:
            return flood.hits >= 4

        await wait_until(tried, 30)
        assert proxy.longest <= 2 * response_body.LARGE + SOCKETS
        assert peak_memory(bot) - before < 4 * response_body.LARGE
        await bot.close()


# Whoever fills rooms with long messages would else keep the bot from reading on, for ever.
async def test_what_is_too_large_is_asked_for_again_with_less_in_it(
    homeserver: Homeserver, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await SynapseWorld.build(homeserver, people, tmp_path / "bot", monkeypatch)
    filtered = json.loads(client.SHORT_FILTER)["room"]["timeline"]["limit"]
    monkeypatch.setattr(
        client, "SYNC_FILTER", client.SHORT_FILTER.replace('"limit":5', '"limit":50')
    )
    monkeypatch.setattr(client, "PAGE", 50)
    monkeypatch.setattr(client, "SHORT_PAGE", 10)
    monkeypatch.setattr(client, "LARGE", 40_000)
    try:
        room = await world.room()
        for _ in range(50):
            await world.send(room, "x" * 1000)
        [joined] = (await world.bot.sync(None, 0)).joined
        assert len(joined.timeline) == filtered == 5
        assert joined.limited
        page, token = await world.bot.page_back(room, joined.prev_batch)
        assert len(page) == 10
        assert token is not None
        monkeypatch.setattr(client, "LARGE", 5_000)
        with pytest.raises(OutcomeError) as found:
            await world.bot.page_back(room, joined.prev_batch)
        assert found.value.outcome is responses.TOO_LARGE
    finally:
        await world.bot.close()


async def _says(bot: BotProcess, text: str) -> bool:
    assert bot.status() is None, bot.words()
    return text in bot.words()


async def test_a_database_cut_in_half_is_moved_aside_and_made_anew(bots: Bots) -> None:
    bot = await bots()
    assert await bot.stop() == 0
    database = bot.data_dir / "timers.db"
    half = database.read_bytes()[: database.stat().st_size // 2]
    database.write_bytes(half)
    await bot.start(ready=False)
    assert await bot.ended() == 1
    assert "malformed; it was moved to timers.db.damaged-" in bot.words()
    assert "or start again, and the timers are built anew from the rooms" in bot.words()
    assert "Traceback" not in bot.words()
    [aside] = bot.data_dir.glob("timers.db.damaged-*")
    assert aside.read_bytes() == half
    await bot.start()
    assert await bot.stop() == 0


async def test_a_crypto_store_cut_in_half_is_left_to_the_operator(bots: Bots) -> None:
    bot = await bots()
    assert await bot.stop() == 0
    [store] = (bot.data_dir / "crypto").glob("*.db")
    half = store.read_bytes()[: store.stat().st_size // 2]
    store.write_bytes(half)
    await bot.start(ready=False)
    assert await bot.ended() == 1
    assert "malformed; if it is damaged, put a backup in its place, or move" in bot.words()
    assert store.read_bytes() == half


async def test_a_database_that_somebody_holds_is_named_when_the_bot_starts(bots: Bots) -> None:
    bot = await bots()
    assert await bot.stop() == 0
    other = sqlite3.connect(bot.data_dir / "timers.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    await bot.start(ready=False)
    assert await bot.ended(15) == 1
    assert "database is locked; another program holds it" in bot.words()
    other.execute("COMMIT")
    other.close()
    await bot.start()
