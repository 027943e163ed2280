"""The device's own keys: uploaded, renewed, never stuck, and channels that break are mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nio.event_builders import ToDeviceMessage
from peewee import PeeweeException

from bot.core.outcomes import Done, OutcomeError, Refused, Unreachable
from bot.core.topics import Topic
from bot.matrix.encryption.crypto_store import CryptoStore
from tests.support.encryption_engines import ROOM, Bot, Peer, Writer


@pytest.fixture
def bot(tmp_path: Path) -> Bot:
    return Bot(tmp_path / "bot")


def uploads(bot: Bot) -> list[dict[str, Any]]:
    return [body for _, where, body in bot.requests if where.endswith("/keys/upload")]


def counts(number: int, unused: list[str] | None = None) -> dict[str, Any]:
    unused = ["signed_curve25519"] if unused is None else unused
    return {
        "device_one_time_keys_count": {"signed_curve25519": number},
        "device_unused_fallback_key_types": unused,
    }


async def test_the_first_upload_brings_device_one_time_and_fallback_keys(bot: Bot) -> None:
    await bot.crypto.keep_up()
    (upload,) = uploads(bot)
    assert set(upload) == {"device_keys", "one_time_keys", "fallback_keys"}
    assert len(upload["one_time_keys"]) >= 50
    (fallback,) = upload["fallback_keys"].values()
    assert fallback["fallback"] is True
    assert "BOTDEVICE" in str(fallback["signatures"])
    assert bot.crypto.in_place


async def test_new_one_time_keys_are_uploaded_when_none_is_left(bot: Bot) -> None:
    await bot.crypto.keep_up()
    bot.crypto.feed(counts(0))
    await bot.crypto.keep_up()
    assert len(uploads(bot)) == 2
    assert len(uploads(bot)[1]["one_time_keys"]) >= 50
    assert set(uploads(bot)[0]["one_time_keys"]).isdisjoint(uploads(bot)[1]["one_time_keys"])


async def test_nothing_is_uploaded_when_nothing_is_missing(bot: Bot) -> None:
    await bot.crypto.keep_up()
    bot.crypto.feed(counts(50))
    await bot.crypto.keep_up()
    assert len(uploads(bot)) == 1


async def test_a_used_fallback_key_is_renewed(bot: Bot) -> None:
    await bot.crypto.keep_up()
    bot.crypto.feed(counts(50, unused=[]))
    await bot.crypto.keep_up()
    first, second = uploads(bot)
    assert set(second) == {"fallback_keys"}
    assert set(first["fallback_keys"]).isdisjoint(second["fallback_keys"])


async def test_a_crash_during_an_upload_uploads_the_same_keys_again(bot: Bot) -> None:
    bot.answers = [Unreachable(reason="crash")]
    await bot.crypto.keep_up()
    bot.restart()
    await bot.crypto.keep_up()
    first, second = (upload["one_time_keys"] for upload in uploads(bot))
    assert {name: key["key"] for name, key in first.items()}.items() <= {
        name: key["key"] for name, key in second.items()
    }.items()


async def test_keys_that_exist_already_are_passed_over(bot: Bot) -> None:
    bot.answers = [Refused(status=400, errcode="M_UNKNOWN")]
    await bot.crypto.keep_up()
    await bot.crypto.keep_up()
    first, second = (upload["one_time_keys"] for upload in uploads(bot))
    assert set(first).isdisjoint(second)


async def test_a_lost_channel_is_replaced(tmp_path: Path, bot: Bot) -> None:
    alice = Peer("alice", tmp_path / "alice")
    bot.meet(alice)
    alice.meet(bot)
    bot.feed(alice.tell(bot, "m.dummy", {}))
    answer = bot.olm._olm_encrypt(
        bot.olm.session_store.get(alice.device.curve25519), alice.device, "m.dummy", {}
    )
    from nio.events import ToDeviceEvent

    event = {"type": "m.room.encrypted", "sender": "@bot:example.org", "content": answer}
    alice.olm.device_store.add(bot.device)
    alice.olm.handle_to_device_event(ToDeviceEvent.parse_event(event))
    bot.olm.session_store._entries.clear()  # the bot's side of the channel is lost
    bot.feed(alice.tell(bot, "m.room_key", Writer(alice).room_key()))
    assert [device.user_id for device in bot.olm.wedged_devices] == ["@alice:example.org"]
    assert bot.client.should_claim_keys


async def test_an_unknown_devices_channel_is_replaced_once_the_device_is_known(
    tmp_path: Path, bot: Bot
) -> None:
    alice = Peer("alice", tmp_path / "alice")
    bot.olm._mark_device_for_unwedging(alice.user_id, alice.device.curve25519)
    assert alice.user_id in bot.olm.users_for_key_query
    bot.olm.device_store.add(alice.device)
    bot.olm.was_queried(alice.user_id)
    assert [device.user_id for device in bot.olm.wedged_devices] == ["@alice:example.org"]


@pytest.fixture
def asked(tmp_path: Path, bot: Bot) -> tuple[Peer, Writer, dict[str, Any]]:
    """The bot has asked alice for the key of a message."""
    alice = Peer("alice", tmp_path / "alice")
    bot.meet(alice)
    alice.meet(bot)
    writer = Writer(alice)
    event = writer.write("!expire 5s")
    bot.crypto.ask_for_key(ROOM, event)
    (message,) = bot.client.outgoing_to_device_messages
    bot.olm._mark_to_device_message_as_sent(message)
    assert message.content["body"]["session_id"] == writer.session.id
    assert message.recipient == alice.user_id
    return alice, writer, event


def forward(writer: Writer, sender_key: str) -> dict[str, Any]:
    from nio.crypto import InboundGroupSession

    session = InboundGroupSession(writer.key, "", sender_key, ROOM)
    return writer.room_key() | {
        "session_key": session.export_session(0),
        "sender_key": sender_key,
        "sender_claimed_ed25519_key": writer.peer.device.ed25519,
        "forwarding_curve25519_key_chain": [],
    }


async def test_a_lost_room_key_is_taken_from_its_maker(
    bot: Bot, asked: tuple[Peer, Writer, dict[str, Any]]
) -> None:
    alice, writer, event = asked
    answer = forward(writer, alice.device.curve25519)
    came = bot.topics.listen(Topic.ROOM_KEYS)
    bot.feed(alice.tell(bot, "m.forwarded_room_key", answer))
    assert came.is_set()
    assert await bot.reads(event) == "!expire 5s"


async def test_a_room_key_is_taken_from_nobody_else(
    tmp_path: Path, bot: Bot, asked: tuple[Peer, Writer, dict[str, Any]]
) -> None:
    alice, writer, event = asked
    mallory = Peer("mallory", tmp_path / "mallory")
    bot.meet(mallory)
    mallory.meet(bot)
    for sender_key in (alice.device.curve25519, mallory.device.curve25519):
        bot.feed(mallory.tell(bot, "m.forwarded_room_key", forward(writer, sender_key)))
    assert await bot.reads(event) is None


async def test_a_room_key_that_nobody_asked_for_is_not_taken(tmp_path: Path, bot: Bot) -> None:
    alice = Peer("alice", tmp_path / "alice")
    bot.meet(alice)
    alice.meet(bot)
    writer = Writer(alice)
    answer = forward(writer, alice.device.curve25519)
    bot.feed(alice.tell(bot, "m.forwarded_room_key", answer))
    assert await bot.reads(writer.write("hello")) is None


async def test_only_the_last_channels_of_a_device_are_kept(tmp_path: Path, bot: Bot) -> None:
    alice = Peer("alice", tmp_path / "alice")
    bot.meet(alice)
    for _ in range(9):
        alice.olm.session_store._entries.clear()
        alice.meet(bot)
        bot.feed(alice.tell(bot, "m.dummy", {}))
    curve = alice.device.curve25519
    assert len(bot.olm.session_store[curve]) == 5
    bot.restart()
    assert len(bot.olm.session_store[curve]) == 5
    alice.olm.device_store.add(bot.device)
    bot.meet(alice)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    assert await bot.reads(writer.write("hello")) == "hello"


# --- the crypto store ----------------------------------------------------------------------------


async def test_who_closes_the_client_closes_its_crypto_store(bot: Bot) -> None:
    await bot.client.close()
    assert bot.client.store.database.is_closed()


def test_a_crypto_store_that_cannot_be_used_leaves_no_connection_open(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database" * 1000)
    with pytest.raises(PeeweeException):
        CryptoStore("@bot:example.org", "DEVICE", str(tmp_path), "secret", damaged.name)
    assert damaged not in [entry.resolve() for entry in Path("/proc/self/fd").iterdir()]


async def test_a_room_key_is_asked_for_once_unless_told_otherwise(tmp_path: Path, bot: Bot) -> None:
    writer = Writer(Peer("alice", tmp_path / "alice"))
    event = writer.write("?")
    waiting = bot.client.outgoing_to_device_messages

    def asked() -> list[str]:
        return [one.content["request_id"] for one in waiting]

    bot.crypto.ask_for_key(ROOM, event)
    [message] = waiting
    bot.client.olm.outgoing_key_requests[writer.session.id] = message  # as when it was sent
    bot.crypto.ask_for_key(ROOM, event)
    bot.crypto.ask_for_key(ROOM, {"type": "m.room.message", "content": {}, "sender": "@a:b"})
    assert asked() == [writer.session.id]
    bot.crypto.ask_for_key(ROOM, event, again=True)
    assert asked() == [writer.session.id, f"{writer.session.id}-again"]
    bot.crypto.ask_for_key(ROOM, Writer(writer.peer).write("!"), again=True)
    assert len(waiting) == 3


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (aiohttp.ClientConnectionError("status 502"), "status 502"),
        (aiohttp.ClientConnectionError("somebody's text"), "ClientConnectionError"),
        (aiohttp.ClientPayloadError("status 502"), "ClientPayloadError"),
        (TimeoutError("status 502"), "TimeoutError"),
        (OutcomeError(Unreachable(reason="status 504")), "status 504"),
    ],
)
async def test_what_keeps_the_keys_from_the_homeserver_is_told_without_its_text(
    bot: Bot,
    failure: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(_: object) -> None:
        raise failure

    caplog.set_level("INFO", "bot")
    monkeypatch.setattr(bot.client, "to_device", fails)
    bot.client.outgoing_to_device_messages.append(ToDeviceMessage("m.dummy", "@a:b", "X", {}))
    await bot.crypto.keep_up()
    assert caplog.messages[-1] == f"encryption keys wait for the homeserver ({said})"


async def test_keys_that_the_homeserver_lost_are_told_of_once(bot: Bot) -> None:
    lost = bot.topics.listen(Topic.DEVICE_KEYS)
    await bot.crypto.keep_up()
    assert not lost.is_set()
    bot.crypto.doubt_keys()
    bot.answers = [Done(body={"device_keys": {}})]
    await bot.crypto.keep_up()
    assert lost.is_set()
    assert len(uploads(bot)) == 2
    lost.clear()
    bot.crypto.feed(counts(0))
    await bot.crypto.keep_up()
    assert len(uploads(bot)) == 3
    assert not lost.is_set()
