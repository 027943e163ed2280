"""With the secret storage of Element: each opens what the other has written."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bot.core import recovery_key
from tests.on_synapse.test_cross_signing import signed
from tests.operator.test_identity import device, kept_key, master
from tests.support.people import People

if TYPE_CHECKING:
    from tests.support.bot_process import BotProcess, Bots

pytestmark = pytest.mark.synapse

SCRIPT = Path(__file__).parent / "recovery.mjs"
PATIENCE = 60
"""Seconds for a login, a sync and what the script does."""


async def js(js_sdk: list[str], bot: BotProcess, do: str, **more: str) -> dict[str, Any]:
    """Let a new device of the bot's account, on matrix-js-sdk, do something."""
    wanted = {
        "do": do,
        "homeserver": bot.config["homeserver"],
        "user": bot.user_id,
        "password": bot.config["password"],
    }
    process = await asyncio.create_subprocess_exec(
        js_sdk[0],
        str(SCRIPT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(json.dumps(wanted | more).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    result: dict[str, Any] = json.loads(out)
    return result


async def test_the_identity_that_the_bot_kept_is_taken_over(
    js_sdk: list[str], people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    opened = await js(js_sdk, bot, "open", key=kept_key(bot))
    assert opened == {
        "fits": True,
        "master": await master(alice, bot),
        "ready": True,
        "signed": True,
        "stored": [True, True, True],
    }


async def test_the_bots_storage_does_not_open_with_another_key(
    js_sdk: list[str], people: People, bots: Bots
) -> None:
    bot = await bots()
    await signed(bot)
    kept_key(bot)
    wrong = recovery_key.write(bytes(32))
    assert await js(js_sdk, bot, "open", key=wrong) == {"fits": False}


async def test_the_bot_takes_over_an_identity_that_element_made(
    js_sdk: list[str], people: People, bots: Bots, tmp_path: Path
) -> None:
    alice = await people("alice")
    file = tmp_path / "recovery"
    bot = await bots(start=False, encryption={"recovery_key_file": str(file)})
    made = await js(js_sdk, bot, "make")
    file.write_text(made["key"])
    await bot.start()
    await signed(bot)
    await device(alice, bot)
    assert await master(alice, bot) == made["master"]
