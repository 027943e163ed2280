"""Whose device it is that wrote, somebody's homeserver may be slow to say: timers do not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bot.core.lifetimes import POLICY_EVENT, LifetimeLimits
from bot.core.outcomes import Done, OutcomeError, Unreachable
from bot.core.timeline import Item, KeyUse, Message, Undecryptable
from bot.core.types import Event, RoomID
from bot.services.event_reader import EventReader
from tests.support.encryption_engines import ROOM, Bot, Peer, Writer
from tests.support.fake_homeserver import ALICE, BOT, Clear
from tests.support.fault_proxy import FaultProxy
from tests.support.people import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from bot.demo.homeserver import Homeserver as Synapse
    from tests.support.bot_process import Bots
    from tests.support.people import People

IMAGE = {"msgtype": "m.image", "body": "x", "url": "mxc://example.org/filefile"}


class Homeserver:
    """Opens what somebody wrote whose devices are not known."""

    own_id = BOT

    def __init__(self, kind: str, content: dict[str, Any]) -> None:
        self.clear = Clear(type=kind, content=content, session_id="s", known=False)

    async def decrypt(self, room_id: RoomID, event: Event, *, meet: bool) -> Clear:
        return self.clear


async def read(kind: str, content: dict[str, Any]) -> tuple[list[Item], list[Event]]:
    """Return what comes of a message, and what was handed on of it."""
    heard: list[Event] = []
    reader = EventReader(
        Homeserver(kind, content),  # type: ignore[arg-type]
        prefix="!expire",
        limits=LifetimeLimits(minimum=1_000, maximum=10_000),
        digest=str,
        verification=lambda _, event, *, encrypted: heard.append(event),
        media_server="example.org",
    )
    event = {"type": "m.room.encrypted", "event_id": "$event", "sender": ALICE}
    full = event | {"origin_server_ts": 1, "content": {"ciphertext": "x" * 2_000}}
    items = await reader.items(ROOM, [full], encrypted=True, live=True, since=0, now=1)
    return items, heard


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("m.room.message", {"msgtype": "m.text", "body": "!expire 5s"}),
        ("m.room.message", {"msgtype": "m.text", "body": "!expire help"}),
        ("m.room.message", IMAGE),
        ("m.key.verification.key", {"key": "public"}),
    ],
)
async def test_what_somebody_unknown_says_to_the_bot_waits(
    kind: str, content: dict[str, Any]
) -> None:
    items, heard = await read(kind, content)
    assert [type(item) for item in items] == [Undecryptable, Message]
    assert isinstance(items[0], Undecryptable)
    assert not items[0].not_a_command
    assert heard == []


async def test_of_what_somebody_unknown_says_to_others_nothing_waits() -> None:
    items, heard = await read("m.room.message", {"msgtype": "m.text", "body": "hello"})
    assert [type(item) for item in items] == [KeyUse, Message]
    assert heard == []


@pytest.fixture
def bot(tmp_path: Path) -> Bot:
    return Bot(tmp_path / "bot")


@pytest.fixture
def alice(tmp_path: Path, bot: Bot) -> Peer:
    """Somebody whose devices the bot does not know."""
    made = Peer("alice", tmp_path / "alice")
    made.meet(bot)
    return made


async def test_nobody_is_asked_while_the_timeline_is_read(alice: Peer, bot: Bot) -> None:
    bot.answers = [Unreachable(reason="ClientConnectionError")]
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    event = writer.write("hello")
    clear = await bot.crypto.decrypt(ROOM, event)
    assert isinstance(clear, object)
    assert getattr(clear, "known", None) is False
    with pytest.raises(OutcomeError):
        await bot.crypto.decrypt(ROOM, event, meet=True)


async def test_a_new_device_is_met_though_its_owner_was_met_just_now(alice: Peer, bot: Bot) -> None:
    bot.crypto.device_keys.fallback_wanted = False
    nobody: dict[str, Any] = {alice.user_id: {}}
    alices = {alice.user_id: {alice.device_id: alice.olm.share_keys()["device_keys"]}}
    bot.answers = [Done(body={"device_keys": found}) for found in (nobody, alices)]
    bot.olm.account.shared = True
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    event = writer.write("hello")
    clear = await bot.crypto.decrypt(ROOM, event, meet=True)
    assert getattr(clear, "content", None) == {}
    bot.olm.users_for_key_query.add(alice.user_id)
    clear = await bot.crypto.decrypt(ROOM, event, meet=True)
    assert getattr(clear, "known", None) is True


async def test_only_the_devices_of_whom_the_bot_has_met_are_followed(
    alice: Peer, bot: Bot, tmp_path: Path
) -> None:
    bot.meet(Peer("bob", tmp_path / "bob"))
    bot.olm.tracked_users.update({"@carol:example.org", BOT})
    changed = [alice.user_id, "@bob:example.org", "@carol:example.org", BOT, None]
    bot.crypto.feed({"device_lists": {"changed": changed}})
    assert bot.olm.users_for_key_query == {"@bob:example.org", "@carol:example.org"}


@pytest.mark.synapse
async def test_silence_about_keys_delays_no_redaction_and_loses_no_command(
    homeserver: Synapse, people: People, bots: Bots
) -> None:
    async with FaultProxy(homeserver.url) as proxy:
        bot = await bots(homeserver=proxy.url)
        eve = await people.encrypted("eve")
        room = await eve.create_room(encrypted=True, invite=[bot.user_id])
        await eve.until_heard(room, "I make messages disappear")
        await eve.set_power(room, bot.user_id, 50)
        await eve.send_text(room, "!expire 3s")
        await eve.until_heard(room, "set disappearing messages to 3 seconds.")
        proxy.stall("/keys/query", 120)
        bob = await people.encrypted("bob")
        await eve.invite(room, bob.user_id)
        await bob.join(room)
        await eve.set_power(room, bob.user_id, 50)
        said = [await bob.send_text(room, "hello"), await eve.send_text(room, "hello, bob")]
        for event_id in said:
            await eve.until_redacted(room, event_id, 8)
        await bob.send_text(room, "!expire 1h")

        async def asked() -> bool:
            return proxy.count("/keys/query") > 0

        await wait_until(asked, 10, "the bot to ask for bob's devices")
        assert (await eve.get_state(room, POLICY_EVENT))["timer"] == 3_000
        proxy.mend()
        await bob.until_heard(room, "set disappearing messages to 1 hour.", 20)
