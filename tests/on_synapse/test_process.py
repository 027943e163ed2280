"""The bot as an operator meets it: exit statuses, one device, one bot a folder, `check`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from bot import app
from bot.config import Settings
from bot.core.types import UserID
from bot.demo.homeserver import Homeserver
from bot.matrix.http import discovery
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.people import People, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.bot_process import BotProcess, Bots

pytestmark = pytest.mark.synapse


def check(bot: BotProcess) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bot", "check", "--config", str(bot.config_file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_with_status_0_when_asked_to(bots: Bots, number: int) -> None:
    bot = await bots()
    assert await bot.stop(number) == 0
    assert bot.words().strip().endswith("stopped")


async def test_it_logs_in_once_and_stays_one_device(people: People, bots: Bots) -> None:
    bot = await bots()
    for _ in range(3):
        assert await bot.stop() == 0
        await bot.start()
    assert bot.words().count("logged in as a new device") == 1
    assert bot.words().count("ready as") == 4


async def test_a_second_bot_on_the_same_folder_refuses(bots: Bots) -> None:
    first = await bots()
    second = await bots(start=False, data_dir=str(first.data_dir))
    await second.start(ready=False)
    assert await second.ended() == 4
    assert "another bot is running on this folder" in second.words()
    assert first.status() is None


async def test_a_refused_login_ends_with_status_3(bots: Bots) -> None:
    bot = await bots(start=False, password="wrong")
    await bot.start(ready=False)
    assert await bot.ended() == 3
    assert "the homeserver refused the login" in bot.words()
    assert "Traceback" not in bot.words()


async def test_a_homeserver_that_is_not_there_yet_is_waited_for(bots: Bots, tmp_path: Path) -> None:
    late = Homeserver(tmp_path / "late", server_name="late.localhost")
    (tmp_path / "late").mkdir()
    async with late:
        account = await late.register("bot", "secret")
        await late.stop()
        credentials = {"user_id": account.user_id, "password": "secret"}
        bot = await bots(start=False, homeserver=late.url, **credentials)
        await bot.start(ready=False)

        async def waits() -> bool:
            return "waiting for the homeserver" in bot.words()

        await wait_until(waits)
        await late.start()

        async def is_ready() -> bool:
            return "ready as" in bot.words()

        await wait_until(is_ready, 30)
        assert bot.words().count("waiting for the homeserver") == 1
        await late.stop()
        assert await bot.stop() == 0


async def test_it_stops_at_once_while_it_waits_for_a_homeserver(bots: Bots) -> None:
    bot = await bots(start=False, homeserver="http://127.0.0.1:9")
    await bot.start(ready=False)

    async def waits() -> bool:
        return "waiting for the homeserver" in bot.words()

    await wait_until(waits)
    assert await bot.stop() == 0


async def test_it_stops_in_time_while_a_homeserver_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request of this bot comes to an end by itself: only being told to stop ends it."""
    monkeypatch.setattr(discovery, "ANSWER_WITHIN", 1_000_000.0)
    monkeypatch.setattr(app, "END_WITHIN", 0.1)

    async def keep_waiting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await over.wait()
        writer.close()

    connected, over = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(keep_waiting, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = Settings(
        homeserver=f"http://127.0.0.1:{port}",
        user_id=UserID("@bot:example.org"),
        password=SecretStr("secret"),
        data_dir=tmp_path,
    )
    async with asyncio.timeout(60):
        running = asyncio.create_task(app.run(settings))
        await connected.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == app.OK
    over.set()
    server.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


async def test_check_ticks_everything_when_all_is_well(bots: Bots) -> None:
    bot = await bots(start=False)
    await bot.start()

    async def signed() -> bool:
        return "the device is signed" in bot.words()

    await wait_until(signed)
    result = check(bot)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("✓") == 5
    assert "encryption keys are in place" in result.stdout


async def test_check_before_the_first_start_leaves_no_device_behind(
    people: People, bots: Bots
) -> None:
    bot = await bots(start=False)
    bot.write_config()
    result = check(bot)
    assert result.returncode == 0, result.stdout
    assert "the password" in result.stdout
    assert not (bot.data_dir / "device.json").exists()


async def test_check_crosses_what_is_wrong_and_says_what_to_do(bots: Bots) -> None:
    bot = await bots(start=False, homeserver="http://127.0.0.1:9")
    bot.write_config()
    result = check(bot)
    assert result.returncode == 1
    assert "✗ homeserver http://127.0.0.1:9" in result.stdout
    assert "→ is it running" in result.stdout
    wrong = await bots(start=False, password="wrong")
    wrong.write_config()
    result = check(wrong)
    assert result.returncode == 1
    assert "✗ login" in result.stdout
    assert "Traceback" not in result.stderr


async def test_invitations_of_strangers_are_declined(people: People, bots: Bots) -> None:
    alice = await people("alice")
    bot = await bots(invites={"allow": ["@nobody:*"]})
    room = await alice.create_room(invite=[bot.user_id])

    async def declined() -> bool:
        return "declined an invitation" in bot.words()

    await wait_until(declined)
    state = await alice.get_state(room, "m.room.member", bot.user_id)
    assert state["membership"] == "leave"


async def test_an_invitation_that_came_while_the_bot_was_away_is_accepted(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    await settle_in(alice, bot)
    await bot.stop()
    room = await alice.create_room(invite=[bot.user_id])
    await bot.start()
    await alice.until_notice(room, bot.user_id, "I make messages disappear")


async def test_neither_text_nor_secrets_are_in_the_log(people: People, bots: Bots) -> None:
    bot = await bots(start=False, log={"level": "debug"})
    await bot.start()
    alice = await people("alice")
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 1s")
    message = await alice.send(room, "a very secret sentence")
    await alice.until_redacted(room, message)
    assert "secret sentence" not in bot.words()
    assert bot.config["password"] not in bot.words()
    token = (bot.data_dir / "device.json").read_text()
    assert token.split('"access_token": "')[1].split('"')[0] not in bot.words()
    assert bot.data_dir.stat().st_mode & 0o077 == 0
