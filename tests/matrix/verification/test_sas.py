"""Verifying by emoji: the bot's side, and a client's side written from the specification."""

from __future__ import annotations

from typing import Any

import pytest
import vodozemac
from hypothesis import given
from hypothesis import strategies as st

from bot.matrix.verification.sas import EMOJI, Exchange, Party, _text, commitment
from tests.support.verifier import Starter, shown

BOT = Party(
    user_id="@bot:example.org",
    device_id="BOTDEVICE",
    keys={"ed25519:BOTDEVICE": "the device's key", "ed25519:MASTER": "the master key"},
)
ALICE = Party(
    user_id="@alice:example.org",
    device_id="PHONE",
    keys={"ed25519:PHONE": "her device's key", "ed25519:HERS": "her master key"},
)
ID = "$request"


@pytest.fixture
def alice() -> Starter:
    return Starter(ALICE, BOT, ID)


@pytest.fixture
def bot() -> Exchange:
    return Exchange(ID, BOT, ALICE)


def refused(replies: list[Any]) -> str:
    """Return the code of the one answer, a cancellation."""
    ((kind, content),) = replies
    assert (kind, set(content)) == ("cancel", {"code", "reason"})
    return str(content["code"])


def messages(alice: Starter) -> dict[str, dict[str, Any]]:
    """Return what she says at first, in its order."""
    return {"request": alice.request, "start": alice.offer, "key": alice.key}


def say_until(kind: str, alice: Starter, bot: Exchange) -> dict[str, Any]:
    """Say what comes before a message; return that message."""
    for one, content in messages(alice).items():
        if one == kind:
            return content
        bot.take(one, content)
    raise ValueError(kind)


# --- how it goes -------------------------------------------------------------------------------


def test_both_see_the_same_emoji_and_verify_each_others_keys(alice: Starter, bot: Exchange) -> None:
    assert bot.take("request", alice.request) == [
        ("ready", {"from_device": "BOTDEVICE", "methods": ["m.sas.v1"]})
    ]
    ((kind, accept),) = bot.take("start", alice.offer)
    assert kind == "accept"
    assert accept | {"commitment": ""} == {
        "method": "m.sas.v1",
        "key_agreement_protocol": "curve25519-hkdf-sha256",
        "hash": "sha256",
        "message_authentication_code": "hkdf-hmac-sha256.v2",
        "short_authentication_string": ["decimal", "emoji"],
        "commitment": "",
    }
    (first, key), (second, mac) = bot.take("key", alice.key)
    assert (first, second) == ("key", "mac")
    assert alice.compare(accept, key)
    assert bot.shown is not None
    assert bot.shown.emoji == alice.emoji
    assert len(alice.emoji) == 7
    assert all(1_000 <= number <= 9_191 for number in bot.shown.decimals)
    assert alice.verified(mac) == set(BOT.keys)
    assert bot.take("mac", alice.mac()) == [("done", {})]
    assert (bot.verified, bot.over, bot.ended_by) == (True, True, "")
    assert bot.take("done", {}) == []


def test_there_are_the_64_emoji_of_the_specification() -> None:
    assert len(set(EMOJI)) == 64
    assert EMOJI[0] == "🐶 Dog"
    assert EMOJI[36] == "👍 Thumbs Up"
    assert EMOJI[63] == "📌 Pin"


def test_a_key_is_committed_to_as_the_specification_says() -> None:
    start = {"b": ["ü"], "a": {"d": 1, "c": None}}
    # SHA-256 of: key{"a":{"c":null,"d":1},"b":["ü"]}
    assert commitment("key", start) == "b3PSD3vEbl7rNEnrLY28pTJ/nZgLETWrUBYjUIp0nuw"


def test_without_a_master_key_the_device_alone_is_verified(alice: Starter) -> None:
    device = {"ed25519:BOTDEVICE": "the device's key"}
    bot = Exchange(ID, Party(user_id=BOT.user_id, device_id="BOTDEVICE", keys=device), ALICE)
    _, mac = shown(alice, bot)
    assert alice.verified(mac) == set(device)


def test_what_a_sync_brings_twice_is_answered_once(alice: Starter, bot: Exchange) -> None:
    assert bot.take("request", alice.request)
    assert bot.take("request", alice.request) == []
    assert bot.take("start", alice.offer)
    assert bot.take("start", alice.offer) == []
    assert bot.take("key", alice.key)
    assert bot.take("key", alice.key) == []
    assert not bot.over


def test_a_client_that_shows_numbers_only_is_served(alice: Starter, bot: Exchange) -> None:
    bot.take("request", alice.request)
    alice.offer["short_authentication_string"] = ["decimal"]
    ((_, accept),) = bot.take("start", alice.offer)
    assert accept["short_authentication_string"] == ["decimal"]


# --- what goes wrong ---------------------------------------------------------------------------


def test_a_key_put_in_by_somebody_between_breaks_the_commitment(
    alice: Starter, bot: Exchange
) -> None:
    bot.take("request", alice.request)
    ((_, accept),) = bot.take("start", alice.offer)
    bot.take("key", alice.key)
    other = vodozemac.Sas().public_key.to_base64()
    assert not alice.compare(accept, {"key": other})
    assert bot.take("cancel", {"code": "m.mismatched_commitment"}) == []
    assert (bot.over, bot.verified, bot.ended_by) == (True, False, "m.mismatched_commitment")


def test_a_start_that_was_changed_on_its_way_breaks_the_commitment(
    alice: Starter, bot: Exchange
) -> None:
    bot.take("request", alice.request)
    ((_, accept),) = bot.take("start", alice.offer | {"hashes": ["sha256", "md5"]})
    (_, key), _ = bot.take("key", alice.key)
    assert not alice.compare(accept, key)


def test_a_key_put_in_towards_the_bot_makes_other_emoji(alice: Starter, bot: Exchange) -> None:
    bot.take("request", alice.request)
    ((_, accept),) = bot.take("start", alice.offer)
    (_, key), (_, mac) = bot.take("key", {"key": vodozemac.Sas().public_key.to_base64()})
    assert alice.compare(accept, key)
    assert bot.shown is not None
    assert bot.shown.emoji != alice.emoji
    with pytest.raises(vodozemac.SasException):
        alice.verified(mac)
    assert refused(bot.take("mac", alice.mac())) == "m.key_mismatch"


@pytest.mark.parametrize(
    "keys",
    [
        {"ed25519:PHONE": "another key"},
        {"ed25519:PHONE": "her device's key", "ed25519:HERS": "another key"},
        {"ed25519:HERS": "her master key"},
        {"ed25519:OTHER": "a key that nobody knows"},
        {},
    ],
)
def test_other_keys_than_those_the_homeserver_shows_are_refused(
    alice: Starter, bot: Exchange, keys: dict[str, str]
) -> None:
    shown(alice, bot)
    assert refused(bot.take("mac", alice.mac(keys))) == "m.key_mismatch"
    assert not bot.verified


def test_keys_that_are_not_known_beside_hers_are_passed_over(alice: Starter, bot: Exchange) -> None:
    shown(alice, bot)
    assert bot.take("mac", alice.mac({**ALICE.keys, "ed25519:NEW": "unknown"})) == [("done", {})]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"keys": "AAAA"}, "m.key_mismatch"),
        ({"keys": "not base64!"}, "m.key_mismatch"),
        ({"keys": None}, "m.invalid_message"),
        ({"mac": []}, "m.invalid_message"),
    ],
)
def test_a_wrong_mac_is_refused(
    alice: Starter, bot: Exchange, change: dict[str, Any], code: str
) -> None:
    shown(alice, bot)
    assert refused(bot.take("mac", alice.mac() | change)) == code
    assert not bot.verified


@pytest.mark.parametrize(
    ("kinds", "last"),
    [
        ([], "start"),
        ([], "key"),
        (["request"], "key"),
        (["request"], "mac"),
        (["request"], "done"),
        (["request"], "accept"),
        (["request", "start"], "mac"),
        (["request", "start"], "done"),
        (["request", "start", "key"], "done"),
    ],
)
def test_a_message_out_of_order_ends_it(
    alice: Starter, bot: Exchange, kinds: list[str], last: str
) -> None:
    said = messages(alice)
    for kind in kinds:
        bot.take(kind, said[kind])
    assert refused(bot.take(last, said.get(last, {}))) == "m.unexpected_message"
    assert bot.take("start", alice.offer) == []


@pytest.mark.parametrize("kind", ["request", "start", "key"])
def test_two_that_differ_end_it(alice: Starter, bot: Exchange, kind: str) -> None:
    content = say_until(kind, alice, bot)
    bot.take(kind, content)
    assert refused(bot.take(kind, content | {"more": 1})) == "m.unexpected_message"


def test_a_request_without_a_method_in_common_is_refused(alice: Starter, bot: Exchange) -> None:
    request = alice.request | {"methods": ["m.qr_code.scan.v1"]}
    assert refused(bot.take("request", request)) == "m.unknown_method"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "m.reciprocate.v1"},
        {"key_agreement_protocols": ["curve25519"]},
        {"hashes": ["md5"]},
        {"message_authentication_codes": ["hkdf-hmac-sha256"]},
        {"short_authentication_string": ["song"]},
    ],
)
def test_a_start_without_a_method_in_common_is_refused(
    alice: Starter, bot: Exchange, change: dict[str, Any]
) -> None:
    bot.take("request", alice.request)
    assert refused(bot.take("start", alice.offer | change)) == "m.unknown_method"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("request", {"methods": "m.sas.v1"}),
        ("start", {"from_device": "ANOTHER"}),
        ("start", {"hashes": "sha256"}),
        ("start", {"extra": "\ud800"}),
        ("key", {"key": "too short"}),
        ("key", {"key": "A" * 43}),
        ("key", {"key": None}),
    ],
)
def test_what_makes_no_sense_ends_it(
    alice: Starter, bot: Exchange, kind: str, change: dict[str, Any]
) -> None:
    content = say_until(kind, alice, bot)
    assert refused(bot.take(kind, content | change)) == "m.invalid_message"


# --- anything at all ---------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["methods", "from_device", "method", "hashes", "key", "mac", "keys", "code", "more"]
CONTENTS = st.dictionaries(st.sampled_from(FIELDS), ANYTHING)
EVENTS = st.sampled_from(["request", "start", "key", "mac", "done", "cancel", "rival", ""])


@given(good=st.integers(0, 3), events=st.lists(st.tuples(EVENTS, CONTENTS), max_size=4))
def test_no_content_raises(good: int, events: list[tuple[str, dict[str, Any]]]) -> None:
    alice, bot = Starter(ALICE, BOT, ID), Exchange(ID, BOT, ALICE)
    said = messages(alice)
    for kind in list(said)[:good]:
        bot.take(kind, said[kind])
    for kind, content in events:
        for answer, _ in bot.take(kind, said.get(kind, {}) | content):
            assert answer in {"ready", "accept", "key", "mac", "cancel"}
    assert not bot.verified


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (255, True), (256, False)])
def test_a_text_of_a_stranger_has_bounds(length: int, fits: bool) -> None:
    try:
        assert _text({"a": "x" * length}, "a") == "x" * length
    except ValueError:
        assert not fits
    else:
        assert fits
