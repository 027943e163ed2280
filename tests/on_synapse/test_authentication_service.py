"""A Synapse whose logins are a Matrix Authentication Service's: no password, tokens, a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bot.core.types import UserID
from bot.demo.homeserver import Account, Homeserver
from bot.operator.registration import describe
from tests.on_synapse.test_cross_signing import signed
from tests.on_synapse.test_lifecycle import settle_in
from tests.operator.test_identity import bot_command
from tests.support.authentication_service import ISSUER, StandIn
from tests.support.bot_process import BotProcess
from tests.support.people import Person, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Any

pytestmark = pytest.mark.synapse

SERVER = "mas.localhost"
SERVICE = UserID(f"@service:{SERVER}")


class Delegated:
    """The homeserver, the service that lets people in, and alice, who is."""

    def __init__(self, homeserver: Homeserver, service: StandIn, alice: Person) -> None:
        self.homeserver, self.service, self.alice = homeserver, service, alice

    def bot(self, folder: Path, account: Account, **config: Any) -> BotProcess:
        folder.mkdir(exist_ok=True)
        return BotProcess(self.homeserver.url, account, folder, **config)


@pytest.fixture(scope="module")
async def delegated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Delegated]:
    folder = tmp_path_factory.mktemp("mas")
    place = folder / "homeserver"
    registration = folder / "service.yaml"
    registration.write_text(describe(SERVICE, "token-of-the-service"))
    async with Homeserver(place, server_name=SERVER) as plain:
        account = await plain.register("alice")
        for device in ("BOT", "LATER"):
            await plain.register(f"expire-{device.lower()}", "secret")
            await plain.login(f"expire-{device.lower()}", "secret", device)
    async with StandIn() as service:
        extra = service.config | {"app_service_config_files": [str(registration)]}
        async with Homeserver(place, server_name=SERVER, extra=extra) as homeserver:
            service.grant(account.access_token, "alice", account.device_id)
            alice = Person(homeserver.url, account)
            yield Delegated(homeserver, service, alice)
            await alice.close()


def account_of(name: str, password: str = "secret") -> Account:
    user_id = UserID(f"@{name}:{SERVER}")
    return Account(user_id=user_id, password=password, access_token="", device_id="")


async def test_a_password_ends_at_once_and_the_ways_out_are_named(
    delegated: Delegated, tmp_path: Path
) -> None:
    bot = delegated.bot(tmp_path / "bot", account_of("expire-bot"))
    await bot.start(ready=False)
    assert await bot.ended(60) == 3
    checked = bot_command(bot, "check")
    assert checked.returncode == 1
    for said in (bot.words(), checked.stdout):
        assert f"Matrix Authentication Service (MAS) at {ISSUER}" in said
        for way in ("public address", "mas-cli manage issue-compatibility-token", "access_token"):
            assert way in said
        assert "as an application service" in said
    assert "try again later" not in checked.stdout
    assert "waiting" not in bot.words()


async def test_a_services_token_works_until_it_ends_and_the_next_follows(
    delegated: Delegated, tmp_path: Path
) -> None:
    alice, file = delegated.alice, tmp_path / "token"
    delegated.service.grant("first", "expire-bot", "BOT", expires_in=20)
    delegated.service.grant("second", "expire-bot", "BOT")
    file.write_text("first")
    bot = delegated.bot(
        tmp_path / "bot", account_of("expire-bot"), password=None, access_token_file=str(file)
    )
    try:
        await bot.start()
        await signed(bot)
        file.write_text("second")
        room = await settle_in(alice, bot)
        await alice.send(room, "!expire 1s")
        await alice.until_notice(room, bot.user_id, "disappearing messages to 1 second", 30)

        async def used() -> bool:
            return "is used from now on" in bot.words()

        await wait_until(used, 90, "the second token to be used")
        await alice.until_redacted(room, await alice.send(room, "hello"), 30)
        done = bot_command(bot, "check")
        assert "✗" not in done.stdout, done.stdout
    finally:
        await bot.close()


async def test_a_token_without_a_device_is_refused_and_the_way_out_named(
    delegated: Delegated, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("bare")
    delegated.service.grant("bare", "expire-later", None)
    bot = delegated.bot(
        tmp_path / "bot", account_of("expire-later"), password=None, access_token_file=str(file)
    )
    await bot.start(ready=False)
    assert await bot.ended(60) == 3
    said = "the access token belongs to no device, and without one nothing can be encrypted"
    assert said in bot.words()
    assert said in bot_command(bot, "check").stdout


async def test_an_application_service_works_beside_it(delegated: Delegated, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("token-of-the-service")
    bot = delegated.bot(
        tmp_path / "bot",
        account_of("service"),
        password=None,
        appservice={"token_file": str(file)},
    )
    try:
        await bot.start()
        room = await settle_in(delegated.alice, bot)
        await delegated.alice.send(room, "!expire 1s")
        await delegated.alice.until_notice(
            room, bot.user_id, "disappearing messages to 1 second", 30
        )
        message = await delegated.alice.send(room, "hello")
        await delegated.alice.until_redacted(room, message, 30)
    finally:
        await bot.close()
