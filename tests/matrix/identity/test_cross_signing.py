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
from bot.matrix.identity.cross_signing import FILE, CrossSigning, SigningState, read_seeds
from bot.matrix.identity.private_keys import USAGES, PrivateKeyFile, PrivateKeys
from bot.matrix.identity.secret_storage import SecretStorage, StorageError
from tests.support.account import DEMAND, Account
from tests.support.encryption_engines import Bot
from tests.support.scripted_homeserver import Answer, Asked, Json, StandIn, error

BOT, KEY = UserID("@bot:example.org"), bytes(range(32))


class House:
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
        standing, device = await self.signing.look("BOTDEVICE")
        assert device == self.device
        return standing


@pytest.fixture
async def house(tmp_path: Path, stand_in: StandIn) -> AsyncIterator[House]:
    made = House(tmp_path, stand_in)
    yield made
    await made.matrix.close()


def verify(thing: Event, key_id: str, public: str) -> None:
    """Raise unless the account's key `public` has signed."""
    verify_signed_json(thing, BOT, decode_verify_key_bytes(key_id, decode_base64(public)))


def made_of(seeds: PrivateKeys) -> dict[str, str]:
    return {f"m.cross_signing.{usage}": getattr(seeds, usage) for usage in USAGES}


# --- the first time ------------------------------------------------------------------------------


async def test_an_account_without_keys_gets_them_and_signs_its_device(house: House) -> None:
    assert house.signing.master == ""
    assert await house.signing.settle() == SigningState.SIGNED
    seeds, account = house.seeds, house.account
    assert seeds is not None
    public = {usage: seeds.public(usage) for usage in USAGES}
    for usage in USAGES:
        key = account.keys[f"{usage}_key"]
        assert (key["user_id"], key["usage"]) == (BOT, [usage])
        assert key["keys"] == {f"ed25519:{public[usage]}": public[usage]}
        if usage != "master":
            verify(key, f"ed25519:{public['master']}", public["master"])
    verify(house.device, f"ed25519:{public['self_signing']}", public["self_signing"])
    verify(account.keys["master_key"], "ed25519:BOTDEVICE", house.matrix.fingerprint)
    verify(house.device, "ed25519:BOTDEVICE", house.matrix.fingerprint)
    assert house.signing.master == account.master == public["master"]
    assert (house.signing.device_id, house.signing.fingerprint) == (
        "BOTDEVICE",
        house.matrix.fingerprint,
    )
    assert await house.signing.secrets() == made_of(seeds)
    assert await house.looks() == SigningState.SIGNED


async def test_what_is_signed_is_only_looked_at(house: House) -> None:
    await house.signing.settle()
    house.asked.clear()
    again = CrossSigning(house.matrix, house.folder)
    assert await again.settle() == SigningState.SIGNED
    assert again.master == house.account.master
    assert {asked.where for asked in house.asked} == {("keys", "query")}
    assert {json.dumps(asked.body) for asked in house.asked} == {
        json.dumps({"device_keys": {BOT: []}})
    }


async def test_a_look_from_beside_knows_the_master_key(house: House) -> None:
    await house.signing.settle()
    beside = CrossSigning(house.matrix, house.folder)
    assert (await beside.look("BOTDEVICE"))[0] == SigningState.SIGNED
    assert beside.master == house.account.master
    assert await beside.look("OTHERDEVICE") == (SigningState.UNSIGNED, {})


async def test_keys_that_are_not_taken_without_a_password_wait(house: House) -> None:
    house.account.password = "secret"
    assert await house.signing.settle() == SigningState.REFUSED
    assert house.account.keys == {}
    assert await house.looks() == SigningState.UNSIGNED
    assert await house.signing.secrets() is None
    made = house.seeds
    assert made is not None
    house.account.password = None
    assert await house.signing.settle() == SigningState.SIGNED
    assert house.seeds == made
    assert house.account.master == made.public("master")


@pytest.mark.parametrize(
    "where", ["keys/upload", "query", "device_signing/upload", "keys/signatures/upload"]
)
async def test_a_homeserver_that_fails_is_asked_again(house: House, where: str) -> None:
    where = f"keys/{where}" if where == "device_signing/upload" else where
    house.account.fails_on = {where}
    with pytest.raises(OutcomeError):
        await house.signing.settle()
    assert house.signing.master == ""
    house.account.fails_on = set()
    assert await house.signing.settle() == SigningState.SIGNED
    assert house.seeds is not None
    assert house.account.master == house.seeds.public("master")


async def test_a_device_without_its_own_keys_asks_for_nothing_more(house: House) -> None:
    house.account.fails_on = {"keys/upload"}
    with pytest.raises(OutcomeError, match="not uploaded yet"):
        await house.signing.settle()
    assert [asked.where for asked in house.asked] == [("keys", "upload")]
    assert house.seeds is None


# --- a homeserver that lies ----------------------------------------------------------------------


@pytest.mark.parametrize("change", ["gone", "odd", "signing key", "identity key", "no keys"])
async def test_another_device_under_its_name_is_not_signed(house: House, change: str) -> None:
    await house.matrix.crypto.keep_up()
    keys = house.device["keys"]
    match change:
        case "gone":
            house.account.devices = {}
        case "odd":
            house.account.devices = {"BOTDEVICE": ["odd"]}
        case "signing key":
            keys["ed25519:BOTDEVICE"] = keys["curve25519:BOTDEVICE"]
        case "identity key":
            keys["curve25519:BOTDEVICE"] = keys["ed25519:BOTDEVICE"]
        case "no keys":
            house.device["keys"] = None
    assert await house.signing.settle() == SigningState.UNPROVEN
    assert ("keys", "signatures", "upload") not in [asked.where for asked in house.asked]
    assert house.signing.master == ""


async def test_signatures_that_are_not_taken_prove_nothing(house: House) -> None:
    house.account.failures = {BOT: {"BOTDEVICE": {"errcode": "M_INVALID_SIGNATURE"}}}
    assert await house.signing.settle() == SigningState.UNPROVEN
    assert house.signing.master == ""
    assert await house.looks() == SigningState.UNSIGNED


@pytest.mark.parametrize("signatures", [None, {}, {BOT: 7}, {BOT: {"ed25519:x": "odd"}}])
async def test_a_signature_of_any_shape_that_is_none_is_made_anew(
    house: House, signatures: Any
) -> None:
    await house.signing.settle()
    whole = dict(house.device)
    house.device["signatures"] = signatures
    house.device["unsigned"] = {"device_display_name": "x"}
    assert await house.looks() == SigningState.UNSIGNED
    house.device["signatures"] = {BOT: {}}
    assert await house.signing.settle() == SigningState.SIGNED
    assert house.device["keys"] == whole["keys"]
    assert "unsigned" not in house.device


# --- seeds that are lost, or no longer count -----------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "{}", "odd"])
async def test_without_its_seeds_nothing_is_replaced(house: House, text: str | None) -> None:
    await house.signing.settle()
    before, file = dict(house.account.keys), house.folder / FILE
    file.unlink()
    if text is not None:
        file.write_text(text)
    again = CrossSigning(house.matrix, house.folder)
    assert await again.settle() == SigningState.LOST
    assert await house.looks() == SigningState.LOST
    assert await house.signing.secrets() is None
    assert (house.account.keys, again.master) == (before, "")


async def test_keys_that_somebody_else_made_are_left_alone(house: House) -> None:
    await house.signing.settle()
    own = house.seeds
    house.publish(PrivateKeys.make(BOT))
    again = CrossSigning(house.matrix, house.folder)
    assert await again.settle() == SigningState.REPLACED
    assert await house.looks() == SigningState.REPLACED
    assert await house.signing.secrets() is None
    assert (house.seeds, again.master) == (own, "")


@pytest.mark.parametrize("here", ["nothing", "other seeds"])
async def test_seeds_are_restored_from_the_secret_storage(house: House, here: str) -> None:
    await house.signing.settle()
    own = house.seeds
    assert own is not None
    padded = {name: f"{seed}=" for name, seed in made_of(own).items()}
    await SecretStorage(house.matrix).put(KEY, padded)
    if here == "nothing":
        (house.folder / FILE).unlink()
    else:
        PrivateKeys.make(BOT).save(house.folder / FILE)
    del house.device["signatures"][BOT][f"ed25519:{own.public('self_signing')}"]
    assert await house.with_key.settle() == SigningState.SIGNED
    assert house.seeds == own
    assert await house.looks() == SigningState.SIGNED


@pytest.mark.parametrize("storage", ["none", "another key", "old seeds", "no seeds"])
async def test_seeds_that_cannot_be_restored_are_not_made_up(house: House, storage: str) -> None:
    await house.signing.settle()
    own = house.seeds
    assert own is not None
    (house.folder / FILE).unlink()
    kept = made_of(PrivateKeys.make(BOT) if storage == "old seeds" else own)
    if storage == "no seeds":
        kept |= {"m.cross_signing.master": "short"}
    if storage != "none":
        await SecretStorage(house.matrix).put(bytes(32) if storage == "another key" else KEY, kept)
    assert await house.with_key.settle() == SigningState.LOST
    assert house.seeds is None
    if storage != "old seeds":
        with pytest.raises(StorageError):
            await read_seeds(house.matrix, KEY)


# --- a replacement -------------------------------------------------------------------------------


class Operator:
    """Answers the homeserver's demand."""

    def __init__(self, password: str | None) -> None:
        self.password = password
        self.demands: list[Event] = []

    async def __call__(self, demand: Event) -> Event | None:
        self.demands.append(demand)
        return None if self.password is None else {"password": self.password}


async def test_new_keys_take_the_place_of_the_old_ones(house: House) -> None:
    await house.signing.settle()
    old, operator = house.seeds, Operator("secret")
    house.account.password = "secret"
    assert await house.signing.replace(operator) == SigningState.SIGNED
    assert operator.demands == [DEMAND]
    assert house.seeds is not None
    assert house.seeds != old
    assert house.signing.master == house.account.master == house.seeds.public("master")
    assert await house.looks() == SigningState.SIGNED
    assert not (house.folder / f"{FILE}.old").exists()


async def test_an_account_whose_seeds_are_lost_gets_new_keys(house: House) -> None:
    house.publish(PrivateKeys.make(BOT))
    assert await house.signing.replace(Operator(None)) == SigningState.SIGNED
    assert house.seeds is not None
    assert house.account.master == house.seeds.public("master")


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_a_replacement_that_is_refused_changes_nothing(
    house: House, password: str | None
) -> None:
    await house.signing.settle()
    old, keys = house.seeds, dict(house.account.keys)
    house.account.password = "secret"
    refused = await house.signing.replace(Operator(password))
    assert isinstance(refused, Refused)
    assert refused.status == 401
    assert (house.seeds, house.account.keys) == (old, keys)
    assert not (house.folder / f"{FILE}.old").exists()
    assert await house.signing.settle() == SigningState.SIGNED


async def test_only_a_demand_to_prove_oneself_is_answered(house: House, stand_in: StandIn) -> None:
    await house.signing.settle()
    old, operator, account = house.seeds, Operator("secret"), house.account

    def too_large(asked: Asked) -> Answer | Json:
        if asked.where[-2:] == ("device_signing", "upload"):
            return error(413, "M_TOO_LARGE")
        return account(asked)

    stand_in.handler = too_large
    with pytest.raises(OutcomeError):
        await house.signing.replace(operator)
    assert operator.demands == []
    stand_in.handler = account
    assert await house.signing.settle() == SigningState.SIGNED
    assert house.seeds == old


async def test_a_damaged_file_is_replaced_though_old_seeds_lie_beside_it(house: House) -> None:
    house.publish(PrivateKeys.make(BOT))
    (house.folder / FILE).write_text("odd")
    (house.folder / f"{FILE}.old").write_text("odd")
    assert await house.signing.replace(Operator(None)) == SigningState.SIGNED
    assert house.seeds is not None
    assert house.account.master == house.seeds.public("master")


async def test_a_refusal_without_old_seeds_leaves_none_that_count(house: House) -> None:
    house.publish(PrivateKeys.make(BOT))
    house.account.password = "secret"
    assert isinstance(await house.signing.replace(Operator(None)), Refused)
    assert await house.looks() == SigningState.REPLACED


@pytest.mark.parametrize("took_place", [True, False])
async def test_a_replacement_that_was_cut_off_is_gone_on_with(
    house: House, took_place: bool
) -> None:
    await house.signing.settle()
    old = house.seeds
    house.account.fails_on = {
        "keys/signatures/upload" if took_place else "keys/device_signing/upload"
    }
    with pytest.raises(OutcomeError):
        await house.signing.replace(Operator(None))
    assert (house.folder / f"{FILE}.old").exists()
    house.account.fails_on = set()
    again = CrossSigning(house.matrix, house.folder)
    assert await again.settle() == SigningState.SIGNED
    assert (house.seeds == old) is not took_place
    assert house.account.master == again.master
    assert not (house.folder / f"{FILE}.old").exists()


async def test_an_earlier_replacement_is_ended_before_another_begins(house: House) -> None:
    await house.signing.settle()
    old = house.seeds
    house.account.fails_on = {"keys/device_signing/upload"}
    for _ in range(2):
        with pytest.raises(OutcomeError):
            await house.signing.replace(Operator(None))
    assert old is not None
    assert PrivateKeyFile(house.folder / FILE).load(house.account.master) == old
    assert await house.signing.secrets() == made_of(old)


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
