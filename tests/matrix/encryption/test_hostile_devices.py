"""Whatever strangers send to the bot's device, its sync goes on and its keys stay in order."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nio.crypto import Olm
from nio.events import Event as RoomEvent
from nio.events import ToDeviceEvent
from nio.exceptions import EncryptionError

from bot.core.outcomes import Done, OutcomeError, Unreachable
from bot.core.sync_batch import MissingRoomKey
from bot.core.types import RoomID, UserID
from bot.matrix.encryption import bounds
from bot.matrix.encryption.bounds import SenderBounds
from tests.support.big_room import Member
from tests.support.encryption_engines import ROOM, Bot, Peer, Writer

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
PER_EXAMPLE = 20


@pytest.fixture
def alice(tmp_path: Path) -> Peer:
    return Peer("alice", tmp_path / "alice")


@pytest.fixture
def bot(tmp_path: Path, alice: Peer) -> Bot:
    made = Bot(tmp_path / "bot")
    made.meet(alice)
    alice.meet(made)
    return made


def hostile(alice: Peer, bot: Bot | Peer) -> dict[str, Any]:
    """Return the inputs that are known to raise inside nio."""
    curve = bot.device.curve25519
    other = Peer("bot", Path(alice.store.store_path).parent / "other")
    alice.olm.device_store.add(bot.device)
    unknown = copy.deepcopy(alice.tell(bot, "m.dummy", {}))

    def olm(body: Any, kind: Any) -> dict[str, Any]:
        ciphertext = {curve: {"type": kind, "body": body}}
        content = {
            "algorithm": "m.olm.v1.curve25519-aes-sha2",
            "sender_key": alice.device.curve25519,
            "ciphertext": ciphertext,
        }
        return {"type": "m.room.encrypted", "sender": alice.user_id, "content": content}

    other.olm.account.generate_one_time_keys(1)
    key = next(iter(other.olm.account.one_time_keys["curve25519"].values()))
    stray = Peer("stray", Path(alice.store.store_path).parent / "stray")
    stray.olm.create_session(key, other.device.curve25519)
    body = stray.tell(other, "m.dummy", {})["content"]["ciphertext"][other.device.curve25519]
    bad_key = Writer(alice).room_key() | {"session_key": "AAAA"}
    del unknown
    return {
        "garbage of type 0": olm("AAAA", 0),
        "garbage of type 1": olm("AAAA", 1),
        "no base64": olm("§§§", 0),
        "an integer body": olm(7, 0),
        "an unknown one-time key": olm(body["body"], 0),
        "a bad session key": alice.tell(bot, "m.room_key", bad_key),
        "a payload that is a list": alice.tell_raw(bot, "[]"),
        "a payload that is a string": alice.tell_raw(bot, '"m.room_key"'),
        "a payload that is no JSON": alice.tell_raw(bot, "{"),
    }


NAMES = (
    "garbage of type 0",
    "garbage of type 1",
    "no base64",
    "an integer body",
    "an unknown one-time key",
    "a bad session key",
    "a payload that is a list",
    "a payload that is a string",
    "a payload that is no JSON",
)


@pytest.mark.parametrize("name", NAMES)
async def test_known_hostile_messages_do_not_stop_the_sync(
    alice: Peer, bot: Bot, name: str
) -> None:
    writer = Writer(alice)
    bot.feed(hostile(alice, bot)[name], alice.tell(bot, "m.room_key", writer.room_key()))
    assert await bot.reads(writer.write("still here")) == "still here"


def test_plain_nio_is_stopped_by_them(tmp_path: Path, alice: Peer) -> None:
    plain = Peer("bot", tmp_path / "plain", Olm)
    plain.olm.device_store.add(alice.device)
    alice.meet(plain)
    raised = set()
    for name, event in hostile(alice, plain).items():
        try:
            parsed = ToDeviceEvent.parse_event(copy.deepcopy(event))
            plain.olm.handle_to_device_event(parsed)
        except Exception:  # noqa: BLE001
            raised.add(name)
    assert len(raised) >= 5, raised


def mutate(event: dict[str, Any], path: list[int], value: Any) -> Any:
    """Put `value` somewhere into a copy of `event`."""
    made = copy.deepcopy(event)
    place: Any = made
    for step in path:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = keys[step % len(keys)]
        if not isinstance(place[key], dict | list) or not place[key]:
            place[key] = value
            return made
        place = place[key]
    return made


async def test_ten_thousand_malformed_messages_do_not_stop_the_sync(alice: Peer, bot: Bot) -> None:
    seeds = [*hostile(alice, bot).values(), alice.tell(bot, "m.room_key", Writer(alice).room_key())]
    fed = 0
    bot.crypto.sender_bounds = SenderBounds(10**6)

    @settings(
        max_examples=500,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        st.lists(
            st.tuples(st.integers(0, 99), st.lists(st.integers(0, 9), max_size=5), anything)
            | anything,
            min_size=PER_EXAMPLE,
            max_size=PER_EXAMPLE,
        )
    )
    def feed(inputs: list[Any]) -> None:
        nonlocal fed
        events = [
            mutate(seeds[one[0] % len(seeds)], one[1], one[2]) if isinstance(one, tuple) else one
            for one in inputs
        ]
        bot.crypto.feed({"to_device": {"events": events}})
        bot.crypto.feed(json.loads(json.dumps({"to_device": inputs[0], "device_lists": inputs[1]})))
        fed += len(events)

    feed()
    assert fed >= 10_000
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    assert await bot.reads(writer.write("still here")) == "still here"


async def test_a_message_under_anothers_name_does_not_count(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    assert await bot.reads(writer.write("!expire 5s", sender="@bob:example.org")) is None
    assert await bot.reads(writer.write("!expire 5s")) == "!expire 5s"


def read_by_plain_nio(plain: Peer, event: dict[str, Any]) -> str | None:
    """Return what nio itself reads in a room event."""
    found = RoomEvent.parse_event(copy.deepcopy(event))
    try:
        return str(plain.olm.decrypt_megolm_event(found, ROOM).body)
    except EncryptionError:
        return None


async def test_plain_nio_takes_forged_senders_and_sessions_wound_back(
    tmp_path: Path, alice: Peer
) -> None:
    """The defects that the tests around this one hold shut are there to be shut."""
    plain, mallory = Peer("bot", tmp_path / "plain"), Peer("mallory", tmp_path / "mallory")
    for who in (alice, mallory):
        plain.olm.device_store.add(who.device)
        who.meet(plain)
    writer = Writer(alice)
    key = alice.tell(plain, "m.room_key", writer.room_key())
    plain.olm.handle_to_device_event(ToDeviceEvent.parse_event(key))
    old = writer.write("said long ago")
    forged = writer.write("!expire 5s", sender="@bob:example.org")
    assert read_by_plain_nio(plain, forged) == "!expire 5s"
    session = plain.olm.inbound_group_store.get(ROOM, alice.device.curve25519, writer.session.id)
    late = session.import_session(
        session.export_session(1), session.ed25519, session.sender_key, ROOM, []
    )
    plain.store.save_inbound_group_session(late)
    key = mallory.tell(plain, "m.room_key", writer.room_key())
    plain.olm.handle_to_device_event(ToDeviceEvent.parse_event(key))
    again = Olm(plain.user_id, plain.device_id, plain.store)
    (kept,) = list(again.inbound_group_store)
    assert kept.decrypt(old["content"]["ciphertext"])[1] == 0


async def test_a_key_that_is_not_the_session_it_names_is_not_kept(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    false = writer.room_key() | {"session_id": Writer(alice).session.id}
    bot.feed(alice.tell(bot, "m.room_key", false))
    assert bot.crypto.sessions == {}
    assert not bot.crypto.has_key(ROOM, false["session_id"])
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    assert bot.crypto.sessions == {writer.session.id: ROOM}
    assert bot.crypto.has_key(ROOM, writer.session.id)
    assert not bot.crypto.has_key(RoomID("!other:example.org"), writer.session.id)


@pytest.mark.parametrize(
    "change",
    [
        {"content": None},
        {"content": ["odd"]},
        {"sender": 7},
        {"sender": None},
        {"content": {}},
        {"content": {"algorithm": "odd"}},
        {"content": {"session_id": 7}},
        {"content": {"session_id": ""}},
        {"content": {"session_id": "x" * 1_000}},
        {"content": {"ciphertext": 7}},
    ],
)
async def test_an_encrypted_event_of_an_odd_shape_opens_nothing(
    alice: Peer, bot: Bot, change: dict[str, Any]
) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    event = writer.write("hello")
    if isinstance(change.get("content"), dict) and change["content"]:
        change = {"content": event["content"] | change["content"]}
    assert await bot.crypto.decrypt(ROOM, event | change, meet=True) is None
    assert await bot.reads(event) == "hello"


async def test_a_stranger_is_asked_for_once_and_changed_devices_all_the_same(
    tmp_path: Path, bot: Bot
) -> None:
    carol = Peer("carol", tmp_path / "carol")
    carol.meet(bot)
    writer = Writer(carol)
    bot.olm.create_group_session(
        carol.device.curve25519, carol.device.ed25519, ROOM, writer.session.id, writer.key
    )
    await bot.crypto.keep_up()

    def queries() -> list[Any]:
        return [body["device_keys"] for _, where, body in bot.requests if "keys/query" in where]

    before = len(queries())
    nobody = Done(body={"device_keys": {carol.user_id: {}}})
    bot.answers = [nobody]
    for _ in range(3):
        clear = await bot.crypto.decrypt(ROOM, writer.write("hello"), meet=True)
        assert getattr(clear, "content", None) == {}
    assert queries()[before:] == [{carol.user_id: []}]
    bot.olm.users_for_key_query.add(carol.user_id)
    bot.answers = [nobody]
    await bot.crypto.decrypt(ROOM, writer.write("hello"), meet=True)
    assert len(queries()) == before + 2
    bot.olm.users_for_key_query.add(carol.user_id)
    bot.answers = [Unreachable(reason="x")]
    with pytest.raises(OutcomeError):
        await bot.crypto.decrypt(ROOM, writer.write("hello"), meet=True)


async def test_a_key_for_another_room_opens_nothing_here(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key("!other:example.org")))
    assert await bot.reads(writer.write("!expire 5s")) is None


async def test_a_member_cannot_wind_a_session_back_or_take_it_over(
    tmp_path: Path, alice: Peer, bot: Bot
) -> None:
    mallory = Peer("mallory", tmp_path / "mallory")
    bot.meet(mallory)
    mallory.meet(bot)
    writer = Writer(alice)
    old = writer.write("said long ago")
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    await bot.crypto.ratchet([(writer.session.id, 0)])
    for who in (alice, mallory):
        bot.feed(who.tell(bot, "m.room_key", writer.room_key()))
    assert await bot.reads(old) is None
    bot.restart()
    bot.meet(alice, mallory)
    assert await bot.reads(old) is None
    assert await bot.reads(writer.write("said today")) == "said today"


async def test_nothing_in_the_store_opens_what_was_read(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    events = [writer.write(f"message {number}") for number in range(5)]
    assert [await bot.reads(event) for event in events] == [f"message {n}" for n in range(5)]
    await bot.crypto.ratchet([(writer.session.id, 2)])
    assert [await bot.reads(event) for event in events[:3]] == [None] * 3
    assert await bot.reads(events[4]) == "message 4"
    await bot.crypto.scrub()
    bot.restart()
    bot.meet(alice)
    assert [await bot.reads(event) for event in events[:3]] == [None] * 3
    assert await bot.reads(events[3]) == "message 3"
    await bot.crypto.forget([writer.session.id])
    bot.restart()
    bot.meet(alice)
    assert await bot.reads(events[4]) is None


def test_the_bots_own_sessions_are_not_kept_to_read_with(bot: Bot) -> None:
    bot.olm.create_outbound_group_session(ROOM)
    assert bot.olm.sessions == {}


@pytest.mark.parametrize("bad", [None, [], 7, {"PHONE": None}, {"PHONE": {"user_id": 1}}])
async def test_one_persons_malformed_keys_do_not_hide_anothers(bot: Bot, bad: Any) -> None:
    bob, mallory = Member("@bob:example.org"), Member("@mallory:example.org")
    broken = mallory.keys | {"keys": {"ed25519:PHONE": "AAAA", "curve25519:PHONE": 7}}
    found = {
        "@mallory:example.org": bad if bad is not None else {"PHONE": broken},
        bob.user_id: {bob.device_id: bob.keys},
    }
    bot.answers = [Done(body={"device_keys": found})]
    await bot.crypto.query({UserID("@mallory:example.org"), UserID(bob.user_id)})
    assert [one.user_id for one in bot.olm.device_store] == ["@alice:example.org", bob.user_id]
    assert bot.olm.users_for_key_query == set()


async def test_keys_that_could_not_be_fetched_are_fetched_later(bot: Bot) -> None:
    bot.answers = [Unreachable(reason="ClientConnectionError")]
    with pytest.raises(OutcomeError):
        await bot.crypto.query({UserID("@bob:example.org")})
    assert bot.olm.users_for_key_query == {"@bob:example.org"}


async def test_what_was_decrypted_is_in_no_repr(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    clear = await bot.crypto.decrypt(ROOM, writer.write("a secret sentence"))
    assert "secret" in str(getattr(clear, "content", ""))
    assert "secret" not in repr(clear)


async def test_a_deeply_nested_message_is_no_command_and_stops_nothing(
    alice: Peer, bot: Bot
) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    event = writer.write("")
    deep = '{"room_id":"' + ROOM + '","type":"m.room.message","content":' + "[" * 40_000
    event["content"]["ciphertext"] = writer.session.encrypt(deep)
    assert await bot.reads(event) is None
    assert await bot.reads(writer.write("still here")) == "still here"


async def test_a_session_at_its_end_is_deleted(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    await bot.crypto.ratchet([(writer.session.id, 2**32 - 1)])
    assert bot.crypto.sessions == {}
    bot.restart()
    assert bot.crypto.sessions == {}


async def test_a_member_who_files_anothers_session_first_does_not_silence_her(
    tmp_path: Path, alice: Peer, bot: Bot
) -> None:
    mallory = Peer("mallory", tmp_path / "mallory")
    bot.meet(mallory)
    mallory.meet(bot)
    writer = Writer(alice)
    bot.feed(mallory.tell(bot, "m.room_key", writer.room_key()))
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    first = writer.write("said first")
    assert await bot.reads(first) == "said first"
    await bot.crypto.ratchet([(writer.session.id, 0)])
    bot.restart()
    bot.meet(alice, mallory)
    assert await bot.reads(writer.write("said later")) == "said later"
    for claim in bot.olm.sessions_of(ROOM, writer.session.id):
        assert claim.first_known_index == 1


@pytest.mark.parametrize("session_id", ["", "x" * 300])
async def test_a_session_without_a_proper_id_is_not_waited_for(
    alice: Peer, bot: Bot, session_id: str
) -> None:
    event = Writer(alice).write("hello")
    event["content"]["session_id"] = session_id
    assert await bot.crypto.decrypt(ROOM, event) is None
    bot.crypto.ask_for_key(ROOM, event)  # which nio refuses with an assertion where it is empty


# --- floods ------------------------------------------------------------------------------------


async def test_a_flood_of_keys_is_dropped_and_troubles_nobody_else(
    tmp_path: Path, alice: Peer, bot: Bot
) -> None:
    mallory = Peer("mallory", tmp_path / "mallory")
    mallory.meet(bot)
    bot.crypto.sender_bounds = SenderBounds(10)
    keys = [mallory.tell(bot, "m.room_key", Writer(mallory).room_key()) for _ in range(30)]
    writer = Writer(alice)
    bot.feed(*keys, alice.tell(bot, "m.room_key", writer.room_key()))
    assert len(bot.crypto.sessions) == 10 + 1
    assert await bot.reads(writer.write("heard")) == "heard"


async def test_devices_that_were_silent_for_longest_are_forgotten(
    tmp_path: Path, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_DEVICES", 10)
    many = [Peer(f"peer{number}", tmp_path / f"peer{number}") for number in range(12)]
    for one in many:
        bot.meet(one)
        one.meet(bot)
        bot.feed(one.tell(bot, "m.dummy", {}))
    kept = {key for key, channels in bot.olm.session_store.items() if channels}
    assert kept == {one.device.curve25519 for one in many[2:]}
    bot.restart()
    assert {key for key, found in bot.olm.session_store.items() if found} == kept
    last = Writer(many[0])
    bot.feed(many[0].tell(bot, "m.room_key", last.room_key()))  # it is heard from again
    assert bot.olm._unknown | set(bot.olm.wedged_devices)


async def test_only_so_many_keys_are_asked_for_at_once(
    alice: Peer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_REQUESTS", 3)
    for _ in range(10):
        bot.crypto.ask_for_key(RoomID(ROOM), Writer(alice).write("?") | {"event_id": "$one"})
        [message] = bot.client.outgoing_to_device_messages
        bot.olm._mark_to_device_message_as_sent(message)
    assert len(bot.olm.outgoing_key_requests) == 3
    bot.restart()
    assert len(bot.olm.outgoing_key_requests) == 3


async def test_an_event_whose_key_has_not_come_is_locked(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    locked = await bot.crypto.decrypt(ROOM, writer.write("hello"))
    assert locked == MissingRoomKey(session_id=writer.session.id)
