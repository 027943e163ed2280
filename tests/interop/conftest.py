"""Fixtures: the bot, and people on clients that share no line of code with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.interop import install
from tests.interop.jsclient import JsPeople
from tests.interop.libolm import LibolmPeople
from tests.support.bot_process import Bots
from tests.support.people import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from bot.demo.homeserver import Homeserver
    from tests.support.bot_process import BotProcess


def command(install_it: Callable[[], list[str]]) -> list[str]:
    """Return a client's command, or skip visibly; fail where everything could and should be there.

    Continuous integration sets `CI=true`.
    """
    missing: install.MissingError
    try:
        return install_it()
    except install.MissingError as error:
        missing = error
    if os.environ.get("CI") == "true" and not isinstance(missing, install.NoWheelError):
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))


@pytest.fixture(scope="session")
def js_sdk() -> list[str]:
    return command(install.js_sdk)


@pytest.fixture(scope="session")
def libolm() -> list[str]:
    return command(install.libolm)


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
