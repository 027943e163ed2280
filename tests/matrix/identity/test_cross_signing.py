"""The bot's device and its cross-signing keys, before a homeserver that can say anything."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from signedjson.key import decode_verify_key_bytes
from signedjson.sign import sign_json, verify_signed_json
from unpaddedbase64 import decode_base64

from bot.core.outcomes import OutcomeError, Refused
from bot.core.types import Event, UserID
from bot.matrix.client import Matrix
from bot.matrix.identity.cross_signing import FILE, CrossSigning, SigningState, read_private_keys
from bot.matrix.identity.private_keys import USAGES, PrivateKeyFile, PrivateKeys
from bot.matrix.identity.secret_storage import SecretStorage, StorageError
from tests.support.account import DEMAND, Account
from tests.support.encryption_engines import Bot
from tests.support.scripted_homeserver import Answer, Asked, Json, StandIn, error

BOT, KEY = UserID("@bot:example.org"), bytes(range(32))


class Harness:
    """A bot, its account on the homeserver, and its data folder."""

    def __init__(self, folder: Path, stand_in: StandIn) -> None:
        self.account = stand_in.handler = Account(BOT)
        self.asked = stand_in.asked
        self.folder = folder
        self.bot = Bot(folder / "crypto", stand_in.url)
        self.matrix = Matrix(self.bot.client)
        self.signing = CrossSigning(self.matrix, folder)
        self.with_key = CrossSigning(self.matrix, folder, KEY)

    @property
    def seeds(self) -> PrivateKeys | None:
        return PrivateKeys.load(self.folder / FILE)

    @property
    def device(self) -> Event:
        found: Event = self.account.devices["BOTDEVICE"]
        return found

    def publish(self, seeds: PrivateKeys) -> None:
        """Let somebody else give the account keys."""
        self.account.keys = {f"{usage}_key": one for usage, one in seeds.objects().items()}

    async def looks(self) -> str:
        signing_state, device = await self.signing.look("BOTDEVICE")
        assert device == self.device
        return signing_state


@pytest.fixture
async def harness(tmp_path: Path, stand_in: StandIn) -> AsyncIterator[Harness]:
    made = Harness(tmp_path, stand_in)
    yield made
    await made.matrix.close()


def verify(thing: Event, key_id: str, public: str) -> None:
    """Raise unless the account's key `public` has signed."""
    verify_signed_json(thing, BOT, decode_verify_key_bytes(key_id, decode_base64(public)))


def made_of(seeds: PrivateKeys) -> dict[str, str]:
    return {f"m.cross_signing.{usage}": getattr(seeds, usage) for usage in USAGES}


# --- the first time ------------------------------------------------------------------------------


async def test_an_account_without_keys_gets_them_and_signs_its_device(harness: Harness) -> None:
    assert harness.signing.master == ""
    assert await harness.signing.ensure_signed() == SigningState.SIGNED
    seeds, account = harness.seeds, harness.account
    assert seeds is not None
    public = {usage: seeds.public(usage) for usage in USAGES}
    for usage in USAGES:
        key = account.keys[f"{usage}_key"]
        assert (key["user_id"], key["usage"]) == (BOT, [usage])
        assert key["keys"] == {f"ed25519:{public[usage]}": public[usage]}
        if usage != "master":
            verify(key, f"ed25519:{public['master']}", public["master"])
    verify(harness.device, f"ed25519:{public['self_signing']}", public["self_signing"])
    verify(account.keys["master_key"], "ed25519:BOTDEVICE", harness.matrix.fingerprint)
    verify(harness.device, "ed25519:BOTDEVICE", harness.matrix.fingerprint)
    assert harness.signing.master == account.master == public["master"]
    assert (harness.signing.device_id, harness.signing.fingerprint) == (
        "BOTDEVICE",
        harness.matrix.fingerprint,
    )
    assert await harness.signing.secrets() == made_of(seeds)
    assert await harness.looks() == SigningState.SIGNED


async def test_what_is_signed_is_only_looked_at(harness: Harness) -> None:
    await harness.signing.ensure_signed()
    harness.asked.clear()
    again = CrossSigning(harness.matrix, harness.folder)
    assert await again.ensure_signed() == SigningState.SIGNED
    assert again.master == harness.account.master
    assert {asked.where for asked in harness.asked} == {("keys", "query")}
    assert {json.dumps(asked.body) for asked in harness.asked} == {
        json.dumps({"device_keys": {BOT: []}})
    }


async def test_a_look_from_beside_knows_the_master_key(harness: Harness) -> None:
    await harness.signing.ensure_signed()
    beside = CrossSigning(harness.matrix, harness.folder)
    assert (await beside.look("BOTDEVICE"))[0] == SigningState.SIGNED
    assert beside.master == harness.account.master
    assert await beside.look("OTHERDEVICE") == (SigningState.UNSIGNED, {})


async def test_keys_that_are_not_taken_without_a_password_wait(harness: Harness) -> None:
    harness.account.password = "secret"
    assert await harness.signing.ensure_signed() == SigningState.REFUSED
    assert harness.account.keys == {}
    assert await harness.looks() == SigningState.UNSIGNED
    assert await harness.signing.secrets() is None
    made = harness.seeds
    assert made is not None
    harness.account.password = None
    assert await harness.signing.ensure_signed() == SigningState.SIGNED
    assert harness.seeds == made
    assert harness.account.master == made.public("master")


@pytest.mark.parametrize(
    "where", ["keys/upload", "query", "device_signing/upload", "keys/signatures/upload"]
)
async def test_a_homeserver_that_fails_is_asked_again(harness: Harness, where: str) -> None:
    where = f"keys/{where}" if where == "device_signing/upload" else where
    harness.account.fails_on = {where}
    with pytest.raises(OutcomeError):
        await harness.signing.ensure_signed()
    assert harness.signing.master == ""
    harness.account.fails_on = set()
    assert await harness.signing.ensure_signed() == SigningState.SIGNED
    assert harness.seeds is not None
    assert harness.account.master == harness.seeds.public("master")


async def test_a_device_without_its_own_keys_asks_for_nothing_more(harness: Harness) -> None:
    harness.account.fails_on = {"keys/upload"}
    with pytest.raises(OutcomeError, match="not uploaded yet"):
        await harness.signing.ensure_signed()
    assert [asked.where for asked in harness.asked] == [("keys", "upload")]
    assert harness.seeds is None


# --- a homeserver that lies ----------------------------------------------------------------------


@pytest.mark.parametrize("change", ["gone", "odd", "signing key", "identity key", "no keys"])
async def test_another_device_under_its_name_is_not_signed(harness: Harness, change: str) -> None:
    await harness.matrix.crypto.keep_up()
    keys = harness.device["keys"]
    match change:
        case "gone":
            harness.account.devices = {}
        case "odd":
            harness.account.devices = {"BOTDEVICE": ["odd"]}
        case "signing key":
            keys["ed25519:BOTDEVICE"] = keys["curve25519:BOTDEVICE"]
        case "identity key":
            keys["curve25519:BOTDEVICE"] = keys["ed25519:BOTDEVICE"]
        case "no keys":
            harness.device["keys"] = None
    assert await harness.signing.ensure_signed() == SigningState.UNPROVEN
    assert ("keys", "signatures", "upload") not in [asked.where for asked in harness.asked]
    assert harness.signing.master == ""


async def test_signatures_that_are_not_taken_prove_nothing(harness: Harness) -> None:
    harness.account.failures = {BOT: {"BOTDEVICE": {"errcode": "M_INVALID_SIGNATURE"}}}
    assert await harness.signing.ensure_signed() == SigningState.UNPROVEN
    assert harness.signing.master == ""
    assert await harness.looks() == SigningState.UNSIGNED


@pytest.mark.parametrize("signatures", [None, {}, {BOT: 7}, {BOT: {"ed25519:x": "odd"}}])
async def test_a_signature_of_any_shape_that_is_none_is_made_anew(
    harness: Harness, signatures: Any
) -> None:
    await harness.signing.ensure_signed()
    whole = dict(harness.device)
    harness.device["signatures"] = signatures
    harness.device["unsigned"] = {"device_display_name": "x"}
    assert await harness.looks() == SigningState.UNSIGNED
    harness.device["signatures"] = {BOT: {}}
    assert await harness.signing.ensure_signed() == SigningState.SIGNED
    assert harness.device["keys"] == whole["keys"]
    assert "unsigned" not in harness.device


# --- seeds that are lost, or no longer count -----------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "{}", "odd"])
async def test_without_its_private_keys_nothing_is_replaced(
    harness: Harness, text: str | None
) -> None:
    await harness.signing.ensure_signed()
    before, file = dict(harness.account.keys), harness.folder / FILE
    file.unlink()
    if text is not None:
        file.write_text(text)
    again = CrossSigning(harness.matrix, harness.folder)
    assert await again.ensure_signed() == SigningState.LOST
    assert await harness.looks() == SigningState.LOST
    assert await harness.signing.secrets() is None
    assert (harness.account.keys, again.master) == (before, "")


async def test_keys_that_somebody_else_made_are_left_alone(harness: Harness) -> None:
    await harness.signing.ensure_signed()
    own = harness.seeds
    harness.publish(PrivateKeys.make(BOT))
    again = CrossSigning(harness.matrix, harness.folder)
    assert await again.ensure_signed() == SigningState.REPLACED
    assert await harness.looks() == SigningState.REPLACED
    assert await harness.signing.secrets() is None
    assert (harness.seeds, again.master) == (own, "")


@pytest.mark.parametrize("here", ["nothing", "other seeds"])
async def test_private_keys_are_restored_from_the_secret_storage(
    harness: Harness, here: str
) -> None:
    await harness.signing.ensure_signed()
    own = harness.seeds
    assert own is not None
    padded = {name: f"{seed}=" for name, seed in made_of(own).items()}
    await SecretStorage(harness.matrix).put(KEY, padded)
    if here == "nothing":
        (harness.folder / FILE).unlink()
    else:
        PrivateKeys.make(BOT).save(harness.folder / FILE)
    del harness.device["signatures"][BOT][f"ed25519:{own.public('self_signing')}"]
    assert await harness.with_key.ensure_signed() == SigningState.SIGNED
    assert harness.seeds == own
    assert await harness.looks() == SigningState.SIGNED


@pytest.mark.parametrize("storage", ["none", "another key", "old seeds", "no seeds"])
async def test_private_keys_that_cannot_be_restored_are_not_made_up(
    harness: Harness, storage: str
) -> None:
    await harness.signing.ensure_signed()
    own = harness.seeds
    assert own is not None
    (harness.folder / FILE).unlink()
    kept = made_of(PrivateKeys.make(BOT) if storage == "old seeds" else own)
    if storage == "no seeds":
        kept |= {"m.cross_signing.master": "short"}
    if storage != "none":
        await SecretStorage(harness.matrix).put(
            bytes(32) if storage == "another key" else KEY, kept
        )
    assert await harness.with_key.ensure_signed() == SigningState.LOST
    assert harness.seeds is None
    if storage != "old seeds":
        with pytest.raises(StorageError):
            await read_private_keys(harness.matrix, KEY)


# --- a replacement -------------------------------------------------------------------------------


class Operator:
    """Answers the homeserver's demand."""

    def __init__(self, password: str | None) -> None:
        self.password = password
        self.demands: list[Event] = []

    async def __call__(self, demand: Event) -> Event | None:
        self.demands.append(demand)
        return None if self.password is None else {"password": self.password}


async def test_new_keys_take_the_place_of_the_old_ones(harness: Harness) -> None:
    await harness.signing.ensure_signed()
    old, operator = harness.seeds, Operator("secret")
    harness.account.password = "secret"
    assert await harness.signing.replace(operator) == SigningState.SIGNED
    assert operator.demands == [DEMAND]
    assert harness.seeds is not None
    assert harness.seeds != old
    assert harness.signing.master == harness.account.master == harness.seeds.public("master")
    assert await harness.looks() == SigningState.SIGNED
    assert not (harness.folder / f"{FILE}.old").exists()


async def test_an_account_whose_private_keys_are_lost_gets_new_keys(harness: Harness) -> None:
    harness.publish(PrivateKeys.make(BOT))
    assert await harness.signing.replace(Operator(None)) == SigningState.SIGNED
    assert harness.seeds is not None
    assert harness.account.master == harness.seeds.public("master")


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_a_replacement_that_is_refused_changes_nothing(
    harness: Harness, password: str | None
) -> None:
    await harness.signing.ensure_signed()
    old, keys = harness.seeds, dict(harness.account.keys)
    harness.account.password = "secret"
    refused = await harness.signing.replace(Operator(password))
    assert isinstance(refused, Refused)
    assert refused.status == 401
    assert (harness.seeds, harness.account.keys) == (old, keys)
    assert not (harness.folder / f"{FILE}.old").exists()
    assert await harness.signing.ensure_signed() == SigningState.SIGNED


async def test_only_a_demand_to_prove_oneself_is_answered(
    harness: Harness, stand_in: StandIn
) -> None:
    await harness.signing.ensure_signed()
    old, operator, account = harness.seeds, Operator("secret"), harness.account

    def too_large(asked: Asked) -> Answer | Json:
        if asked.where[-2:] == ("device_signing", "upload"):
            return error(413, "M_TOO_LARGE")
        return account(asked)

    stand_in.handler = too_large
    with pytest.raises(OutcomeError):
        await harness.signing.replace(operator)
    assert operator.demands == []
    stand_in.handler = account
    assert await harness.signing.ensure_signed() == SigningState.SIGNED
    assert harness.seeds == old


async def test_a_damaged_file_is_replaced_though_old_private_keys_lie_beside_it(
    harness: Harness,
) -> None:
    harness.publish(PrivateKeys.make(BOT))
    (harness.folder / FILE).write_text("odd")
    (harness.folder / f"{FILE}.old").write_text("odd")
    assert await harness.signing.replace(Operator(None)) == SigningState.SIGNED
    assert harness.seeds is not None
    assert harness.account.master == harness.seeds.public("master")


async def test_a_refusal_without_old_private_keys_leaves_none_that_count(harness: Harness) -> None:
    harness.publish(PrivateKeys.make(BOT))
    harness.account.password = "secret"
    assert isinstance(await harness.signing.replace(Operator(None)), Refused)
    assert await harness.looks() == SigningState.REPLACED


@pytest.mark.parametrize("took_place", [True, False])
async def test_a_replacement_that_was_cut_off_is_gone_on_with(
    harness: Harness, took_place: bool
) -> None:
    await harness.signing.ensure_signed()
    old = harness.seeds
    harness.account.fails_on = {
        "keys/signatures/upload" if took_place else "keys/device_signing/upload"
    }
    with pytest.raises(OutcomeError):
        await harness.signing.replace(Operator(None))
    assert (harness.folder / f"{FILE}.old").exists()
    harness.account.fails_on = set()
    again = CrossSigning(harness.matrix, harness.folder)
    assert await again.ensure_signed() == SigningState.SIGNED
    assert (harness.seeds == old) is not took_place
    assert harness.account.master == again.master
    assert not (harness.folder / f"{FILE}.old").exists()


async def test_an_earlier_replacement_is_ended_before_another_begins(harness: Harness) -> None:
    await harness.signing.ensure_signed()
    old = harness.seeds
    harness.account.fails_on = {"keys/device_signing/upload"}
    for _ in range(2):
        with pytest.raises(OutcomeError):
            await harness.signing.replace(Operator(None))
    assert old is not None
    assert PrivateKeyFile(harness.folder / FILE).load(harness.account.master) == old
    assert await harness.signing.secrets() == made_of(old)


def test_what_this_device_signs_keeps_the_signatures_of_others(tmp_path: Path) -> None:
    crypto, seeds = Bot(tmp_path).crypto, PrivateKeys.make(BOT)
    thing: Event = {"a": 1, "unsigned": {"age": 7}}
    sign_json(thing, BOT, seeds.key("master"))
    sign_json(thing, "@other:example.org", seeds.key("user_signing"))
    signed = crypto.sign(thing)
    master = seeds.public("master")
    verify(signed, f"ed25519:{master}", master)
    assert set(signed["signatures"][BOT]) == {f"ed25519:{master}", "ed25519:BOTDEVICE"}
    assert "@other:example.org" in signed["signatures"]
