"""Fixtures: a real homeserver for the whole run, and people on it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from bot.demo.homeserver import Homeserver
from tests.support import encryption_engines
from tests.support.bot_process import Bots
from tests.support.bridge import Puppet, register_bridge
from tests.support.fake_homeserver import BOT
from tests.support.harness import LIMITS, Harness, Opener
from tests.support.people import People
from tests.support.scripted_homeserver import StandIn, stand_in_homeserver
from tests.support.store import Store
from tests.support.worlds import FakeWorld, SynapseWorld, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path
    from typing import Any


# No proxy stands before the homeservers of the tests, whatever leads out of this machine.
for name in ("NO_PROXY", "no_proxy"):
    os.environ[name] = ",".join([*filter(None, [os.environ.get(name)]), "127.0.0.1", "localhost"])

# A slow machine is no failure.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def no_crypto_store_stays_open() -> Iterator[None]:
    """Engines are made in passing; newer Pythons warn of a connection that nobody closed."""
    yield
    encryption_engines.close_all()


@pytest.fixture(scope="session")
async def homeserver(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Homeserver]:
    """A Synapse without rate limits, with a bridge. Where it can't start, tests fail."""
    folder = tmp_path_factory.mktemp("homeserver")
    async with Homeserver(folder, extra=register_bridge(folder)) as server:
        yield server


@pytest.fixture(scope="session")
async def strict_homeserver(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Homeserver]:
    """A Synapse that limits sending and redacting as it does out of the box."""
    folder = tmp_path_factory.mktemp("strict_homeserver")
    async with Homeserver(folder, server_name="strict.localhost", limits="default") as server:
        yield server


@pytest.fixture
async def people(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[People]:
    """Make people: `await people("alice")`, `await people.encrypted("bob")`."""
    made = People(homeserver, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def puppets(homeserver: Homeserver) -> AsyncIterator[Callable[[], Awaitable[Puppet]]]:
    """Make users of a bridge: `await puppets()`."""
    made: list[Puppet] = []

    async def maker() -> Puppet:
        made.append(await Puppet.make(homeserver.url, homeserver.server_name))
        return made[-1]

    yield maker
    for puppet in made:
        await puppet.close()


@pytest.fixture
async def strict_people(strict_homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[People]:
    """Make people on the homeserver that limits them."""
    made = People(strict_homeserver, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def bots(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[Bots]:
    """Make bots: `await bots()` starts one as a process of its own."""
    made = Bots(homeserver, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def strict_bots(strict_homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[Bots]:
    """Make bots on the homeserver that limits them."""
    made = Bots(strict_homeserver, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    """A homeserver that answers what the test lays down."""
    async with stand_in_homeserver() as made:
        yield made


@pytest.fixture
async def open_store() -> AsyncIterator[Opener]:
    """Open stores: `await open_store(path)`."""
    made: list[Store] = []

    async def opener(path: Path) -> Store:
        made.append(await Store.open(path, limits=LIMITS, own_id=BOT))
        return made[-1]

    yield opener
    for store in made:
        with suppress(ValueError):  # closed already
            await store.close()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """The services over fakes and a database of their own; run those that the test is about."""
    made = await Harness.build(tmp_path / "timers.db")
    yield made
    await made.store.close()


@pytest.fixture(params=["fake", pytest.param("synapse", marks=pytest.mark.synapse)])
def build_world(request: pytest.FixtureRequest) -> Callable[[], Coroutine[Any, Any, World]]:
    """Only who asks for a real homeserver starts one."""
    if request.param == "synapse":
        homeserver, people = (request.getfixturevalue(name) for name in ("homeserver", "people"))
        folder = request.getfixturevalue("tmp_path")
        patch = request.getfixturevalue("monkeypatch")

        async def on_synapse() -> World:
            return await SynapseWorld.build(homeserver, people, folder / "bot", patch)

        return on_synapse

    async def in_memory() -> World:
        return FakeWorld()

    return in_memory


@pytest.fixture
async def world(build_world: Callable[[], Coroutine[Any, Any, World]]) -> AsyncIterator[World]:
    """A homeserver that must keep the contract: in memory, and the real one."""
    made = await build_world()
    yield made
    if isinstance(made, SynapseWorld):
        await made.bot.close()
