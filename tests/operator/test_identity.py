"""The bot's identity in an operator's hands: shown, replaced, kept safe, and taken up again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bot.chat.notices import grouped
from bot.config import load
from bot.core import recovery_key
from bot.matrix.identity.private_keys import PrivateKeys
from bot.operator.identity import Operator, OperatorError, _authorise, reset
from tests.on_synapse.test_cross_signing import own_keys, signed, verify
from tests.support.people import People, Person, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from bot.core.types import Event
    from tests.support.bot_process import BotProcess, Bots

pytestmark = pytest.mark.synapse


def bot_command(
    bot: BotProcess, *arguments: str, said: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command of the bot's with its settings; see that it shows no secret of the bot's."""
    bot.write_config()
    done = subprocess.run(
        [sys.executable, "-m", "bot", *arguments, "--config", str(bot.config_file)],
        input=said,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        start_new_session=True,  # without a terminal that could be asked for a password
    )
    assert "Traceback" not in done.stderr
    for file in ("cross_signing.json", "device.json"):
        path = bot.data_dir / file
        secrets = json.loads(path.read_text()) if path.exists() else {}
        for name, secret in secrets.items():
            if name not in {"user_id", "device_id", "appservice"}:
                assert secret not in done.stdout + done.stderr
    assert str(bot.config["password"]) not in done.stdout + done.stderr
    return done


def identity(bot: BotProcess, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return bot_command(bot, "identity", *arguments, said=said)


def seeds(bot: BotProcess) -> PrivateKeys:
    found = PrivateKeys.load(bot.data_dir / "cross_signing.json")
    assert found is not None
    return found


def device_id(bot: BotProcess) -> str:
    return str(json.loads((bot.data_dir / "device.json").read_text())["device_id"])


async def master(alice: Person, bot: BotProcess) -> str:
    """Return the bot's master key as others see it."""
    keys = (await own_keys(alice, bot.user_id))["master_keys"][bot.user_id]["keys"]
    return str(*keys.values())


async def device(alice: Person, bot: BotProcess) -> dict[str, Any]:
    """Return the bot's device as others see it, once its signature is seen to be good."""
    keys = await own_keys(alice, bot.user_id)
    master, self_signing = (keys[f"{one}_keys"][bot.user_id] for one in ("master", "self_signing"))
    found: dict[str, Any] = keys["device_keys"][bot.user_id][device_id(bot)]
    verify(self_signing, bot.user_id, master)
    verify(found, bot.user_id, self_signing)
    return found


async def lose_everything(bot: BotProcess) -> None:
    await bot.stop()
    shutil.rmtree(bot.data_dir)


async def until_said(bot: BotProcess, text: str) -> None:
    async def said() -> bool:
        return text in bot.words()

    await wait_until(said, 15, repr(text))


def kept_key(bot: BotProcess, *arguments: str) -> str:
    """Keep the identity; return the recovery key that was shown."""
    done = identity(bot, "backup", *arguments)
    assert done.returncode == 0, done.stderr
    (line,) = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    recovery_key.read(line)
    return line


# --- show --------------------------------------------------------------------------------------


async def test_show_says_beside_a_running_bot_what_people_can_compare(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    done = identity(bot, "show")
    assert done.returncode == 0, done.stderr
    assert f"identity  {grouped(await master(alice, bot))}\n" in done.stdout
    ed25519 = (await device(alice, bot))["keys"][f"ed25519:{device_id(bot)}"]
    assert f"device    {device_id(bot)} {grouped(ed25519)}\n" in done.stdout
    assert "signed    yes" in done.stdout
    assert bot.status() is None


async def test_show_says_what_helps_when_the_private_keys_are_lost(bots: Bots) -> None:
    bot = await bots()
    await signed(bot)
    (bot.data_dir / "cross_signing.json").unlink()
    done = identity(bot, "show")
    assert done.returncode == 1
    assert "identity  " not in done.stdout
    assert "signed    no (lost): give encryption.recovery_key_file" in done.stdout


async def test_before_the_first_start_there_is_nothing_to_show(bots: Bots) -> None:
    bot = await bots(start=False)
    for command in ("show", "backup"):
        done = identity(bot, command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "has not run on this data_dir" in done.stderr


async def test_a_homeserver_that_is_away_is_one_line(bots: Bots) -> None:
    bot = await bots()
    await signed(bot)
    await bot.stop()
    bot.config["homeserver"] = "http://127.0.0.1:9"
    for command in (["show"], ["backup"], ["reset", "--yes"]):
        done = identity(bot, *command)
        assert done.returncode == 1
        assert "the homeserver did not do it" in done.stderr


# --- reset -------------------------------------------------------------------------------------


async def test_reset_gives_a_new_identity_that_the_bot_goes_on_with(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    old, old_device = await master(alice, bot), device_id(bot)
    await bot.stop()
    done = identity(bot, "reset", said="y\n")
    assert done.returncode == 0, done.stderr
    assert "will\nsay that its identity was reset" in done.stdout
    assert "signed    yes" in done.stdout
    new = await master(alice, bot)
    assert new != old
    assert seeds(bot).public("master") == new
    assert grouped(new) in done.stdout
    await bot.start()
    await signed(bot, 2)
    await device(alice, bot)
    assert (await master(alice, bot), device_id(bot)) == (new, old_device)
    assert not list(bot.data_dir.glob("cross_signing.json.*"))


async def test_reset_wants_the_bot_stopped(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await master(alice, bot)
    done = identity(bot, "reset", "--yes")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.endswith("ephemeral-bot: the bot is running: stop it first\n")
    assert await master(alice, bot) == before


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
async def test_reset_does_nothing_without_a_yes(people: People, bots: Bots, answer: str) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await master(alice, bot), seeds(bot)
    await bot.stop()
    done = identity(bot, "reset", said=answer)
    assert done.returncode == 1
    assert (await master(alice, bot), seeds(bot)) == before


async def test_a_wrong_password_leaves_everything_as_it_was(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await master(alice, bot), seeds(bot)
    await bot.stop()
    bot.config["password"] = "not the password"
    done = identity(bot, "reset", "--yes")
    assert done.returncode == 3
    assert "does not accept the password" in done.stderr
    assert (await master(alice, bot), seeds(bot)) == before
    assert not list(bot.data_dir.glob("cross_signing.json.*"))


async def test_the_password_is_asked_for_when_the_settings_have_none(
    people: People, bots: Bots, tmp_path: Path
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await master(alice, bot)
    await bot.stop()
    password = bot.config.pop("password")
    token = json.loads((bot.data_dir / "device.json").read_text())["access_token"]
    (tmp_path / "token").write_text(token)
    bot.config["access_token_file"] = str(tmp_path / "token")
    bot.write_config()
    said: list[str] = []
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return str(password)

    operator = Operator(say=said.append, agrees=lambda _: True, password=answer)
    assert await reset(load(bot.config_file, environ={}), operator) == 0
    assert asked == [f"Password of {bot.user_id}"]
    assert await master(alice, bot) != before


@pytest.mark.parametrize(
    ("demand", "reason"),
    [
        (
            {
                "flows": [{"stages": ["m.oauth"]}],
                "params": {"m.oauth": {"url": "https://example.org/\x1b[2Jreset"}},
            },
            "the homeserver wants this allowed at https://example.org/[2Jreset first: then do",
        ),
        ({"flows": [{"stages": ["m.login.password", "x"]}]}, "wants more than a password"),
        ({"flows": [7, {}], "params": []}, "wants more than a password"),
        ({"flows": 7}, "wants more than a password"),
        ({}, "wants more than a password"),
    ],
)
async def test_a_homeserver_that_takes_no_password_is_passed_on_to_the_operator(
    bots: Bots, demand: Event, reason: str
) -> None:
    bot = await bots(start=False)
    bot.write_config()
    operator = Operator(say=print, agrees=lambda _: True, password=lambda _: "never")
    answer = _authorise(load(bot.config_file, environ={}), operator)
    with pytest.raises(OperatorError) as caught:
        await answer(demand)
    assert reason in str(caught.value)
    assert caught.value.status == 3


@pytest.mark.parametrize("took_place", [True, False])
async def test_a_reset_that_was_cut_off_is_settled_by_the_next_start(
    people: People, bots: Bots, took_place: bool
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    await bot.stop()
    old = seeds(bot)
    if took_place:
        assert identity(bot, "reset", "--yes").returncode == 0
    new = seeds(bot) if took_place else PrivateKeys.make(old.user_id)
    old.save(bot.data_dir / "cross_signing.json.old")
    new.save(bot.data_dir / "cross_signing.json")
    await bot.start()
    await signed(bot, 2)
    await device(alice, bot)
    assert seeds(bot) == (new if took_place else old)
    assert await master(alice, bot) == seeds(bot).public("master")
    assert not list(bot.data_dir.glob("cross_signing.json.*"))
