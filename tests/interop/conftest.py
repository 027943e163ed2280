"""Fixtures: the bot, and people on clients that share no line of code with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop import install
from tests.interop.jsclient import JsPeople
from tests.support.bot_process import Bots
from tests.support.people import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bot.demo.homeserver import Homeserver
    from tests.support.bot_process import BotProcess


@pytest.fixture(scope="session")
def js_sdk() -> list[str]:
    return install.js_sdk()


@pytest.fixture
async def js_people(
    js_sdk: list[str], homeserver: Homeserver, tmp_path: Path
) -> AsyncIterator[JsPeople]:
    """Make people: `await js_people("alice", "signed")`."""
    made = JsPeople(js_sdk, homeserver, tmp_path)
    yield made
    await made.close()


@pytest.fixture(scope="session")
async def bot(
    homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BotProcess]:
    """One bot for all these tests, whose device is signed already."""
    bots = Bots(homeserver, tmp_path_factory.mktemp("interop"))
    bot = await bots()

    async def signed() -> bool:
        return "the device is signed" in bot.words()

    await wait_until(signed, 15, "the bot's device to be signed")
    yield bot
    await bots.close()
