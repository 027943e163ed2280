"""The bot's device is signed, once, by keys that outlive the crypto store."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from signedjson.key import decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from unpaddedbase64 import decode_base64

from tests.support.people import People, Person, wait_until

if TYPE_CHECKING:
    from tests.support.bot_process import BotProcess, Bots

pytestmark = pytest.mark.synapse


async def own_keys(alice: Person, user_id: str) -> dict[str, Any]:
    return await alice.call("POST", "keys", "query", body={"device_keys": {user_id: []}})


async def signed(bot: BotProcess, times: int = 1) -> None:
    async def done() -> bool:
        return bot.words().count("the device is signed") >= times

    await wait_until(done, 15, "the device to be signed")


def verify(thing: dict[str, Any], user_id: str, key: dict[str, Any]) -> None:
    """Raise unless `thing` carries a good signature of the cross-signing key `key`."""
    ((key_id, public),) = key["keys"].items()
    verify_signed_json(thing, user_id, decode_verify_key_bytes(key_id, decode_base64(public)))


async def test_the_device_is_signed_with_keys_of_the_accounts_own(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    keys = await own_keys(alice, bot.user_id)
    master, self_signing = keys["master_keys"][bot.user_id], keys["self_signing_keys"][bot.user_id]
    verify(self_signing, bot.user_id, master)
    (device,) = keys["device_keys"][bot.user_id].values()
    verify(device, bot.user_id, self_signing)
    seeds = bot.data_dir / "cross_signing.json"
    assert seeds.stat().st_mode & 0o077 == 0


async def test_a_restart_changes_nothing(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await own_keys(alice, bot.user_id)
    await bot.stop()
    await bot.start()
    await signed(bot, 2)
    assert await own_keys(alice, bot.user_id) == before


async def test_a_lost_crypto_store_makes_a_new_device_signed_by_old_keys(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await own_keys(alice, bot.user_id)
    await bot.stop()
    shutil.rmtree(bot.data_dir / "crypto")
    await bot.start()
    await signed(bot, 2)
    after = await own_keys(alice, bot.user_id)
    assert after["master_keys"] == before["master_keys"] or (
        after["master_keys"][bot.user_id]["keys"] == before["master_keys"][bot.user_id]["keys"]
    )
    new = json.loads((bot.data_dir / "device.json").read_text())["device_id"]
    assert new not in before["device_keys"][bot.user_id]
    verify(
        after["device_keys"][bot.user_id][new], bot.user_id, after["self_signing_keys"][bot.user_id]
    )


async def test_lost_private_keys_are_said_loudly_and_nothing_is_replaced(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    before = await own_keys(alice, bot.user_id)
    await bot.stop()
    (bot.data_dir / "cross_signing.json").unlink()
    await bot.start()

    async def warned() -> bool:
        return "seeds of the bot's cross-signing keys are not here" in bot.words()

    await wait_until(warned)
    assert await own_keys(alice, bot.user_id) == before
    assert not (bot.data_dir / "cross_signing.json").exists()
