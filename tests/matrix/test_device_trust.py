"""A command may be asked to come from a device that its owner has signed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from signedjson.key import generate_signing_key, get_verify_key
from signedjson.sign import sign_json
from unpaddedbase64 import encode_base64

from bot.core.types import UserID
from bot.matrix.device_trust import is_cross_signed
from bot.matrix.identity.private_keys import PrivateKeys

if TYPE_CHECKING:
    from tests.support.bot_process import Bots
    from tests.support.people import People

ALICE = UserID("@alice:example.org")


def answer() -> dict[str, Any]:
    """Return an answer of `/keys/query` in which everything is as it should be."""
    seeds = PrivateKeys.make(ALICE)
    own = generate_signing_key("PHONE")
    device = {
        "user_id": ALICE,
        "device_id": "PHONE",
        "algorithms": [],
        "keys": {
            "curve25519:PHONE": "curve",
            "ed25519:PHONE": encode_base64(bytes(get_verify_key(own))),
        },
    }
    sign_json(device, ALICE, own)
    sign_json(device, ALICE, seeds.key("self_signing"))
    keys = seeds.objects()
    return {
        "master_keys": {ALICE: keys["master"]},
        "self_signing_keys": {ALICE: keys["self_signing"]},
        "device_keys": {ALICE: {"PHONE": device}},
    }


def test_a_signed_device_is_trusted() -> None:
    assert is_cross_signed(answer(), ALICE, "PHONE", "curve")


def broken() -> dict[str, dict[str, Any]]:
    """Return answers in which one link is bad."""
    good, other = answer(), answer()

    def with_(**parts: Any) -> dict[str, Any]:
        return {**copy.deepcopy(good), **copy.deepcopy(parts)}

    unsigned = copy.deepcopy(good)
    device = unsigned["device_keys"][ALICE]["PHONE"]
    ids = device["signatures"][ALICE]
    device["signatures"][ALICE] = {key: ids[key] for key in ids if key == "ed25519:PHONE"}
    changed = copy.deepcopy(good)
    changed["device_keys"][ALICE]["PHONE"]["algorithms"] = ["another"]
    return {
        "another's master key": with_(master_keys=other["master_keys"]),
        "another's self-signing key": with_(self_signing_keys=other["self_signing_keys"]),
        "another's device": with_(device_keys=other["device_keys"]),
        "no master key": with_(master_keys={}),
        "no device": with_(device_keys={ALICE: {}}),
        "not signed": unsigned,
        "changed after it was signed": changed,
        "not as it should be": with_(master_keys={ALICE: {"keys": []}}),
    }


@pytest.mark.parametrize("why", list(broken()))
def test_a_bad_link_is_not_trusted(why: str) -> None:
    assert not is_cross_signed(broken()[why], ALICE, "PHONE", "curve")


def test_another_key_under_the_same_device_is_not_trusted() -> None:
    assert not is_cross_signed(answer(), ALICE, "PHONE", "another curve")


@pytest.mark.synapse
async def test_commands_of_unsigned_devices_do_not_count_where_signatures_are_wanted(
    people: People, bots: Bots
) -> None:
    alice = await people.encrypted("alice")  # matrix-nio's devices are not signed
    bot = await bots(commands={"require_signed_devices": True})
    room = await alice.create_room(encrypted=True, invite=[bot.user_id])
    await alice.until_heard(room, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await alice.send_text(room, "!expire 1h")
    await alice.until_heard(room, "commands count here only from a verified device")
    await alice.send_text(room, "!expire status")
    await alice.until_heard(room, "Messages stay: no lifetime is set.")
