"""Fixtures: the bot, and people on clients that share no line of code with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.interop import install
from tests.interop.jsclient import JsPeople
from tests.interop.libolm import LibolmPeople
from tests.peers import wait_until
from tests.process import Bots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bot.demo.homeserver import Homeserver
    from tests.process import BotProcess


def unavailable(error: install.MissingError) -> NoReturn:
    """Skip, visibly; where everything should be there, and could be, fail."""
    if os.environ.get("CI") == "true" and not isinstance(error, install.NoWheelError):
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def js_sdk() -> list[str]:
    try:
        return install.js_sdk()
    except install.MissingError as error:
        unavailable(error)


@pytest.fixture(scope="session")
def libolm() -> list[str]:
    try:
        return install.libolm()
    except install.MissingError as error:
        unavailable(error)


@pytest.fixture
async def js_people(
    js_sdk: list[str], homeserver: Homeserver, tmp_path: Path
) -> AsyncIterator[JsPeople]:
    """Make people: `await js_people("alice", "signed")`."""
    made = JsPeople(js_sdk, homeserver, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def libolm_people(
    libolm: list[str], homeserver: Homeserver, tmp_path: Path
) -> AsyncIterator[LibolmPeople]:
    """Make people: `await libolm_people("alice")`."""
    made = LibolmPeople(libolm, homeserver, tmp_path)
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
