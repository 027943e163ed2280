"""Logins end on a real Synapse, by age and by hand: the bot goes on as the same device."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.demo.homeserver import Homeserver
from bot.matrix.login.device import load_identity
from tests.on_synapse.test_cross_signing import own_keys, signed, verify
from tests.on_synapse.test_lifecycle import settle_in
from tests.operator.test_identity import bot_command, device_id
from tests.support.bot_process import BotProcess, Bots
from tests.support.people import EncryptedPerson, People, Person, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.synapse

ENDS: dict[str, dict[str, Any]] = {
    "by refreshing": {"refreshable_access_token_lifetime": "2s"},
    "by a session that ends": {
        "refreshable_access_token_lifetime": "2s",
        "session_lifetime": "5s",
    },
    "by age alone": {
        "refreshable_access_token_lifetime": None,
        "nonrefreshable_access_token_lifetime": "3s",
    },
}
WORDS = "logged in again as the same device"


@pytest.fixture(params=ENDS)
async def aging(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AgingWorld]:
    """A homeserver on which logins are short, for those that began after alice's."""
    place = tmp_path / "homeserver"
    place.mkdir()
    plain = Homeserver(place)
    async with plain:
        alice = Person(plain.url, await plain.register("alice"))
        account = await plain.register("expire")
    short = Homeserver(place, extra=ENDS[request.param])
    short._port = plain._port
    async with short:
        (tmp_path / "bot").mkdir()
        bot = BotProcess(short.url, account, tmp_path / "bot")
        yield AgingWorld(alice, bot, request.param)
        await bot.close()
        await alice.close()


class AgingWorld:
    def __init__(self, alice: Person, bot: BotProcess, how: str) -> None:
        self.alice, self.bot, self.how = alice, bot, how

    def token(self) -> str:
        known = load_identity(self.bot.data_dir / "device.json")
        assert known is not None
        return known.access_token

    async def until_renewed(self) -> None:
        """Wait for the next token, and where logins are what ends, for the next login."""
        token, said = self.token(), self.bot.words().count(WORDS)

        async def renewed() -> bool:
            assert self.bot.status() is None, self.bot.words()
            logged_in = self.how == "by refreshing" or self.bot.words().count(WORDS) > said
            return logged_in and self.token() != token

        await wait_until(renewed, 90, "the token to be renewed")


async def test_a_login_that_ends_by_age_is_renewed_again_and_again(aging: AgingWorld) -> None:
    alice, bot = aging.alice, aging.bot
    await bot.start()
    device = device_id(bot)
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 2s")
    await alice.until_notice(room, bot.user_id, "disappearing messages to 2 seconds", 60)
    for number in range(2):
        await aging.until_renewed()
        await alice.until_redacted(room, await alice.send(room, f"{number}"), 60)
    await bot.kill()
    await bot.start()
    await alice.until_redacted(room, await alice.send(room, "after a crash"), 60)
    assert device_id(bot) == device
    assert bot.words().count("logged in as a new device") == 1
    assert "ERROR" not in bot.words()
    done = bot_command(bot, "check")
    assert "✗ login" not in done.stdout, done.stdout


async def test_log_out_all_devices_is_outlived_with_the_same_keys(
    people: People, bots: Bots
) -> None:
    alice, bot = await people.encrypted("alice"), await bots()
    await signed(bot)
    room = await alice.create_room(encrypted=True, invite=[bot.user_id])
    await alice.until_heard(room, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    before = await device_of(alice, bot)
    await people.log_out_everywhere(bot.user_id, bot.config["password"])
    await alice.send(room, "something in clear wakes its sync")
    await signed(bot, 2)
    after = await device_of(alice, bot)
    assert after["keys"] == before["keys"]
    keys = await own_keys(alice, bot.user_id)
    verify(after, bot.user_id, keys["self_signing_keys"][bot.user_id])
    claim = {bot.user_id: {device_id(bot): "signed_curve25519"}}
    claimed = await alice.call("POST", "keys", "claim", body={"one_time_keys": claim})
    assert claimed["one_time_keys"][bot.user_id][device_id(bot)]
    await alice.state(room, POLICY_EVENT, {"type": "after_send", "timer": 86_400_000})
    await alice.until_heard(room, "set disappearing messages to 1 day.", 30)
    # Not alice: nio takes a device that was deleted for deleted for ever.
    bob = await people.encrypted("bob")
    other = await bob.create_room(encrypted=True, invite=[bot.user_id])
    await bob.until_heard(other, "I make messages disappear", 30)
    await bob.set_power(other, bot.user_id, 50)
    await bob.send_text(other, "!expire 2s")
    await bob.until_heard(other, "set disappearing messages to 2 seconds.", 30)
    assert bot.words().count("logged in as a new device") == 1
    assert bot.status() is None


async def device_of(alice: Person, bot: BotProcess) -> dict[str, Any]:
    keys = await own_keys(alice, bot.user_id)
    found: dict[str, Any] = keys["device_keys"][bot.user_id][device_id(bot)]
    return found


async def test_a_changed_password_ends_with_status_3(people: People, bots: Bots) -> None:
    bot = await bots()
    bot.config["password"] = "what it was before"
    await bot.stop()
    await people.log_out_everywhere(bot.user_id, bot.password)
    await bot.start(ready=False)
    assert await bot.ended(60) == 3
    assert "refused the login (status 403 M_FORBIDDEN): is the account there" in bot.words()
    assert "Traceback" not in bot.words()


async def test_a_token_file_that_changes_is_read_again_while_the_bot_runs(
    people: People, bots: Bots, homeserver: Homeserver
) -> None:
    alice, bot = await people("alice"), await bots(start=False)
    file = bot.folder / "token"
    bot.config |= {"password": None, "access_token_file": str(file)}
    name = bot.user_id.split(":", maxsplit=1)[0][1:]
    first = await homeserver.login(name, bot.password, "BOT1")
    file.write_text(first.access_token)
    await bot.start()
    for number, device in enumerate(["BOT1", "BOT2"]):
        second = await homeserver.login(name, bot.password, device)
        file.write_text(second.access_token)
        old = Person(homeserver.url, first)
        if device != first.device_id:
            await old.call("POST", "logout", body={})
        await old.close()
        room = await alice.create_room(invite=[bot.user_id])
        await alice.until_notice(room, bot.user_id, "I make messages disappear", 60)
        assert device_id(bot) == device
        assert bot.words().count("ready as") == number + 1
        first = second
    assert bot.status() is None
    last = Person(homeserver.url, first)
    await last.call("POST", "logout", body={})
    await last.close()
    assert await bot.ended(60) == 3
    assert "put a new one into access_token_file" in bot.words()


async def test_a_token_copied_from_an_app_is_refused_and_the_app_continues(
    people: People, bots: Bots
) -> None:
    alice: EncryptedPerson = await people.encrypted("alice")
    bob = await people.encrypted("bob")
    bot = await bots(start=False, user_id=alice.user_id, password=None)
    bot.user_id = alice.user_id
    file = bot.folder / "token"
    file.write_text(alice.account.access_token)
    bot.config["access_token_file"] = str(file)
    before = await own_keys(bob, alice.user_id)
    done = bot_command(bot, "check")
    assert done.returncode == 1
    assert "has other keys already: it is in use" in done.stdout
    await bot.start(ready=False)
    assert await bot.ended(30) == 3
    assert "has other keys already: it is in use" in bot.words()
    assert await own_keys(bob, alice.user_id) == before
    room = await bob.create_room(encrypted=True, invite=[alice])
    await alice.join(room)
    await bob.send_text(room, "are you there?")
    await alice.until_heard(room, "are you there?")


async def test_a_token_that_the_homeserver_refuses_to_sync_from_is_given_up(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 3s")
    await alice.until_notice(room, bot.user_id, "disappearing messages to 3 seconds")
    await bot.stop()
    missed = [await alice.send(room, f"{number}") for number in range(3)]
    with closing(sqlite3.connect(bot.data_dir / "timers.db")) as db, db:
        db.execute("UPDATE meta SET value = 'nonsense' WHERE key = 'token'")
    await bot.start()
    for event_id in missed:
        await alice.until_redacted(room, event_id, 30)
    assert "waiting for the homeserver (status 400 M_UNKNOWN)" in bot.words()
    assert "does not know how far the bot has read" in bot.words()


async def test_a_homeserver_restored_from_a_backup_is_noticed(tmp_path: Path) -> None:
    place = tmp_path / "homeserver"
    place.mkdir()
    server = Homeserver(place)
    async with server:
        alice = Person(server.url, await server.register("alice"))
        account = await server.register("expire")
        (tmp_path / "bot").mkdir()
        bot = BotProcess(server.url, account, tmp_path / "bot")
        try:
            await bot.start()
            room = await settle_in(alice, bot)
            await alice.send(room, "!expire 2s")
            await alice.until_notice(room, bot.user_id, "disappearing messages to 2 seconds")
            await server.stop()
            shutil.copytree(place, tmp_path / "backup")
            await server.start()
            for number in range(10):
                last = await alice.send(room, f"{number}")
            await alice.until_redacted(room, last, 60)
            assert await bot.stop() == 0

            await server.stop()
            shutil.rmtree(place)
            shutil.copytree(tmp_path / "backup", place)
            await server.start()
            missed = [await alice.send(room, f"after the restore {n}") for n in range(3)]
            await bot.start()
            for event_id in missed:
                await alice.until_redacted(room, event_id, 60)
            await alice.until_redacted(room, await alice.send(room, "live"), 60)
            assert "the homeserver knows less than before" in bot.words()
            assert bot.status() is None
        finally:
            await bot.close()
            await alice.close()
