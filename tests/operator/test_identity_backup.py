"""The bot's identity outlives its disk: the recovery key, and what it brings back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bot.core import recovery_key
from bot.matrix.identity.private_keys import PrivateKeys
from tests.on_synapse.test_cross_signing import own_keys, signed
from tests.operator.test_identity import (
    bot_command,
    device,
    device_id,
    identity,
    kept_key,
    lose_everything,
    master,
    seeds,
    until_said,
)
from tests.support.people import People

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.bot_process import Bots

pytestmark = pytest.mark.synapse

WRONG = recovery_key.write(bytes(32))


async def test_a_lost_disk_is_a_new_device_of_the_old_identity(
    people: People, bots: Bots, tmp_path: Path
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await master(alice, bot), seeds(bot)
    old_device = device_id(bot)
    (tmp_path / "recovery").write_text(kept_key(bot) + "\n")
    await lose_everything(bot)
    bot.config["encryption"] = {"recovery_key_file": str(tmp_path / "recovery")}
    await bot.start()
    await signed(bot, 2)
    assert device_id(bot) != old_device
    await device(alice, bot)
    assert (await master(alice, bot), seeds(bot)) == before
    assert (bot.data_dir / "cross_signing.json").stat().st_mode & 0o077 == 0
    assert "were restored from the account's secret storage" in bot.words()


@pytest.mark.parametrize("kept", [True, False])
async def test_a_wrong_recovery_key_is_one_line_and_the_bot_goes_on(
    people: People, bots: Bots, tmp_path: Path, kept: bool
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    if kept:
        kept_key(bot)
    before = await own_keys(alice, bot.user_id)
    await lose_everything(bot)
    (tmp_path / "recovery").write_text(WRONG)
    bot.config["encryption"] = {"recovery_key_file": str(tmp_path / "recovery")}
    await bot.start()
    await until_said(bot, "seeds of the bot's cross-signing keys are not here")
    why = "the recovery key does not open" if kept else "the account has no secret storage"
    assert bot.words().count("were not restored") == bot.words().count(why) == 1
    assert bot.status() is None
    assert WRONG not in bot.words()
    after = await own_keys(alice, bot.user_id)
    assert after["master_keys"] == before["master_keys"]


async def test_private_keys_that_cannot_be_read_are_lost(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await master(alice, bot)
    await bot.stop()
    (bot.data_dir / "cross_signing.json").write_text("{}")
    await bot.start()
    await until_said(bot, "cross_signing.json cannot be used: not the seeds of")
    await until_said(bot, "seeds of the bot's cross-signing keys are not here")
    assert await master(alice, bot) == before
    assert identity(bot, "show").returncode == 1


async def test_the_identity_of_before_a_reset_is_not_restored(
    people: People, bots: Bots, tmp_path: Path
) -> None:
    bot = await bots()
    await signed(bot)
    (tmp_path / "recovery").write_text(kept_key(bot))
    await bot.stop()
    done = identity(bot, "reset", "--yes")
    assert "still holds the old identity" in done.stdout
    await bot.start()
    await signed(bot, 2)
    await lose_everything(bot)
    bot.config["encryption"] = {"recovery_key_file": str(tmp_path / "recovery")}
    await bot.start()
    await until_said(bot, "were not restored: the secret storage has old ones")
    assert not (bot.data_dir / "cross_signing.json").exists()


async def test_a_reset_renews_what_the_recovery_key_at_hand_opens(
    people: People, bots: Bots, tmp_path: Path
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    (tmp_path / "recovery").write_text(kept_key(bot))
    bot.config["encryption"] = {"recovery_key_file": str(tmp_path / "recovery")}
    await bot.stop()
    done = identity(bot, "reset", "--yes")
    assert done.stdout.endswith("The account's secret storage holds it too.\n"), done.stderr
    new = await master(alice, bot)
    (bot.data_dir / "cross_signing.json").unlink()
    await bot.start()
    await signed(bot, 2)
    assert (await master(alice, bot), seeds(bot).public("master")) == (new, new)


async def test_a_secret_storage_that_is_there_is_replaced_only_when_told_to(
    people: People, bots: Bots
) -> None:
    bot = await bots()
    await signed(bot)
    first = kept_key(bot)
    done = identity(bot, "backup")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the account has a secret storage already" in done.stderr
    assert kept_key(bot, "--replace") != first


async def test_the_recovery_key_can_go_into_a_new_file(
    people: People, bots: Bots, tmp_path: Path
) -> None:
    bot = await bots()
    await signed(bot)
    file = tmp_path / "recovery"
    done = identity(bot, "backup", "--recovery-key-file", str(file))
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    recovery_key.read(text)
    assert text.strip() not in done.stdout + done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    done = identity(bot, "backup", "--replace", "--recovery-key-file", str(file))
    assert done.returncode == 1
    assert f"{file} exists already" in done.stderr
    assert file.read_text() == text


async def test_a_backup_that_was_refused_leaves_no_key_behind(
    people: People, bots: Bots, tmp_path: Path
) -> None:
    bot = await bots()
    await signed(bot)
    await bot.stop()
    file = tmp_path / "recovery"
    PrivateKeys.make(seeds(bot).user_id).save(bot.data_dir / "cross_signing.json")
    done = identity(bot, "backup", "--recovery-key-file", str(file))
    assert done.returncode == 1
    assert "the identity of the account is not here" in done.stderr
    device = json.loads((bot.data_dir / "device.json").read_text())
    ended = device | {"access_token": "revoked", "refresh_token": "spent-before"}
    (bot.data_dir / "device.json").write_text(json.dumps(ended))
    bot.config["password"] = "another one"
    bot.write_config()
    done = identity(bot, "backup", "--recovery-key-file", str(file))
    assert done.returncode == 3
    assert "password" in done.stderr
    assert not file.exists()


# --- check -------------------------------------------------------------------------------------


async def test_check_says_whether_the_device_is_signed(people: People, bots: Bots) -> None:
    bot = await bots()
    await signed(bot)
    done = bot_command(bot, "check")
    assert done.returncode == 0, done.stdout
    assert "✓ cross-signing: the device is signed\n" in done.stdout
    (bot.data_dir / "cross_signing.json").unlink()
    done = bot_command(bot, "check")
    assert done.returncode == 1
    assert "✗ cross-signing: the seeds of the bot's cross-signing keys are not" in done.stdout
    assert "→ give encryption.recovery_key_file" in done.stdout


async def test_check_tries_the_recovery_key(people: People, bots: Bots, tmp_path: Path) -> None:
    bot = await bots()
    await signed(bot)
    bot.config["encryption"] = {"recovery_key_file": str(tmp_path / "recovery")}
    (tmp_path / "recovery").write_text(WRONG)
    done = bot_command(bot, "check")
    assert done.returncode == 1
    assert "✗ recovery key: the account has no secret storage\n" in done.stdout
    (tmp_path / "recovery").write_text(kept_key(bot))
    done = bot_command(bot, "check")
    assert done.returncode == 0, done.stdout
    assert "✓ recovery key: it opens the identity" in done.stdout
    assert "✓ cross-signing" in done.stdout
