"""The bot as an application service: another way to log in, and no rate limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bot.config import load
from bot.core.outcomes import Done
from bot.core.types import Event, UserID
from bot.demo.homeserver import Account, Homeserver
from bot.matrix.synapse.admin import Admin
from bot.matrix.synapse.admin import path as admin_path
from bot.operator.check import findings
from bot.operator.registration import describe
from tests.on_synapse.test_cross_signing import own_keys, signed, verify
from tests.operator.test_identity import bot_command, device_id, identity
from tests.support.bot_process import BotProcess
from tests.support.people import People, Person, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    Maker = Callable[[str], BotProcess]

pytestmark = pytest.mark.synapse

SERVER = "service.localhost"
NAMES = [f"expire.{number}" for number in range(4)]
"""One for each test that starts a bot: a registration is read when the homeserver starts."""
PASSWORD = "what the bot had before"
BURST = 35
"""Messages; with Synapse's own limit their redactions would take more than two minutes."""


def user_id(name: str) -> UserID:
    return UserID(f"@{name}:{SERVER}")


def token(name: str) -> str:
    return f"token-of-{name}"


@pytest.fixture(scope="module")
async def limited(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Homeserver]:
    """A Synapse with its own limits, that knows each bot as an application service."""
    folder = tmp_path_factory.mktemp("service")
    files = []
    for name in NAMES:
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(describe(user_id(name), token(name)))
    extra = {"app_service_config_files": [str(file) for file in files]}
    place = folder / "homeserver"
    async with Homeserver(place, server_name=SERVER) as server:
        await server.register(NAMES[2], PASSWORD)  # before the name is the service's
    async with Homeserver(place, server_name=SERVER, limits="default", extra=extra) as server:
        yield server


@pytest.fixture
async def guests(limited: Homeserver, tmp_path: Path) -> AsyncIterator[People]:
    made = People(limited, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def service(limited: Homeserver, tmp_path: Path) -> AsyncIterator[Maker]:
    """Make a bot that is an application service; it is not started."""
    made: list[BotProcess] = []

    def make(name: str) -> BotProcess:
        folder = tmp_path / name
        folder.mkdir()
        account = Account(user_id=user_id(name), password="none", access_token="", device_id="")
        (folder / "token").write_text(token(name) + "\n")
        made.append(BotProcess(limited.url, account, folder))
        made[-1].config["password"] = None
        made[-1].config["appservice"] = {"token_file": str(folder / "token")}
        return made[-1]

    yield make
    for bot in made:
        await bot.close()


async def administer(
    homeserver: Homeserver, method: str, *parts: str, body: Event | None = None
) -> None:
    admin = Admin(homeserver.url, await homeserver.admin_token())
    assert isinstance(await admin.request(method, admin_path(*parts), body), Done)
    await admin.close()


async def delete_device(homeserver: Homeserver, bot: BotProcess) -> None:
    device = ("devices", device_id(bot))
    await administer(homeserver, "DELETE", "v2", "users", bot.user_id, *device)


async def wrong(bot: BotProcess) -> list[str]:
    """Return what `check` finds wrong."""
    return [one.what async for one in findings(load(bot.config_file)) if not one.good]


async def room_with(alice: Person, bot: BotProcess, *, encrypted: bool) -> str:
    users = {alice.user_id: 100, bot.user_id: 50}
    room = await alice.create_room(
        "11", encrypted=encrypted, invite=[bot.user_id], power_levels={"users": users}
    )
    await alice.until_joined(room, bot.user_id)
    return room


async def until_gone(alice: Person, room: str, sent: Sequence[str], within: float) -> None:
    async def gone() -> bool:
        found = {event["event_id"]: event["content"] for event in await alice.messages(room)}
        return all(found[event_id] == {} for event_id in sent)

    await wait_until(gone, within, f"{len(sent)} redactions")


async def test_it_hears_and_redacts_in_every_room_faster_than_the_limit(
    limited: Homeserver, guests: People, service: Maker
) -> None:
    bot, alice = service(NAMES[0]), await guests.encrypted("alice")
    await administer(limited, "POST", "v1", "users", alice.user_id, "override_ratelimit", body={})
    await bot.start()
    plain = await room_with(alice, bot, encrypted=False)
    secret = await room_with(alice, bot, encrypted=True)

    await alice.send(plain, "!expire 1s")
    await alice.until_notice(plain, bot.user_id, "disappearing messages to 1 second")
    await alice.send_text(secret, "!expire 1s")
    await alice.until_heard(secret, "disappearing messages to 1 second")
    said = {
        plain: [await alice.send(plain, str(number)) for number in range(BURST)],
        secret: [await alice.send_text(secret, str(number)) for number in range(BURST)],
    }

    for room, sent in said.items():
        await until_gone(alice, room, sent, 20)
    assert bot.status() is None


async def test_its_device_is_signed_and_stays_the_same(guests: People, service: Maker) -> None:
    bot, alice = service(NAMES[1]), await guests("alice")
    await bot.start()
    await signed(bot)
    keys = await own_keys(alice, bot.user_id)
    (device,) = keys["device_keys"][bot.user_id].values()
    verify(device, bot.user_id, keys["self_signing_keys"][bot.user_id])
    assert device["device_id"] == device_id(bot)
    await bot.stop()
    await bot.start()
    await signed(bot, 2)
    assert await own_keys(alice, bot.user_id) == keys
    assert bot.words().count("logged in as an application service") == 1
    assert identity(bot, "show").returncode == 0
    await bot.stop()
    done = identity(bot, "reset", "--yes")  # which takes a password otherwise
    assert (done.returncode, "signed    yes" in done.stdout) == (0, True), done.stderr
    assert (await own_keys(alice, bot.user_id))["master_keys"] != keys["master_keys"]


async def test_it_takes_over_the_account_and_the_device_that_a_password_had(
    limited: Homeserver, service: Maker
) -> None:
    bot = service(NAMES[2])
    by_service = dict(bot.config)
    by_password = by_service | {"password": PASSWORD, "appservice": {}}
    bot.config = by_password
    await bot.start()
    await signed(bot)
    first = device_id(bot)
    await bot.stop()
    bot.config = by_service
    await bot.start()
    await signed(bot, 2)
    assert device_id(bot) == first
    await bot.stop()
    bot.config = by_password
    await bot.start()
    await signed(bot, 3)
    second = device_id(bot)
    assert second != first
    await bot.stop()
    await delete_device(limited, bot)
    bot.config = by_service
    await bot.start()
    await signed(bot, 4)
    assert device_id(bot) == second


async def test_a_device_that_is_deleted_is_made_again(
    limited: Homeserver, guests: People, service: Maker
) -> None:
    bot, alice = service(NAMES[3]), await guests("alice")
    assert "account will be made when the bot first runs" in bot_command(bot, "check").stdout
    await bot.start()
    await signed(bot)
    done = bot_command(bot, "check")
    assert (done.returncode, "\u2717" in done.stdout) == (0, False), done.stdout
    assert "rate limit: none, if the registration says" in done.stdout
    before = await own_keys(alice, bot.user_id)
    await delete_device(limited, bot)
    room = await alice.create_room(invite=[bot.user_id])
    await alice.until_notice(room, bot.user_id, "I make messages disappear", 40)
    await signed(bot, 2)
    after = await own_keys(alice, bot.user_id)
    assert keys_of(after, bot) == keys_of(before, bot)
    assert after["master_keys"] == before["master_keys"]
    assert bot.status() is None
    await bot.stop()
    await delete_device(limited, bot)
    assert "the device was deleted" in bot_command(bot, "check").stdout
    await bot.start()
    await signed(bot, 3)
    assert keys_of(await own_keys(alice, bot.user_id), bot) == keys_of(before, bot)


def keys_of(found: Event, bot: BotProcess) -> Event:
    """Return the keys of the bot's only device."""
    [device] = found["device_keys"][bot.user_id].values()
    keys: Event = device["keys"]
    return keys


@pytest.mark.parametrize(
    ("name", "of", "said"),
    [
        ("nobody", "nobody", "the homeserver does not know the application service"),
        ("nobody", NAMES[0], "is not in the namespace"),
    ],
)
async def test_a_registration_that_does_not_fit_is_named(
    service: Maker, name: str, of: str, said: str
) -> None:
    bot = service(name)
    (bot.folder / "token").write_text(token(of))
    await bot.start(ready=False)
    assert await bot.ended() == 3
    assert said in bot.words()
    refused = "login: the application service is refused" in await wrong(bot)
    assert refused == (name == of)  # the other token is good, for another account
    assert "Traceback" not in bot.words()
