"""Secrets that the account keeps: what other clients wrote is read, and nothing opens by chance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unpaddedbase64 import decode_base64

from bot.core import recovery_key
from bot.core.outcomes import Done, NotFound, Outcome, OutcomeError, Unreachable
from bot.core.types import Event, UserID
from bot.matrix.identity.secret_storage import (
    SecretStorage,
    StorageError,
    describe,
    fits,
    seal,
    unseal,
)

if TYPE_CHECKING:
    from bot.matrix.client import Matrix

MASTER = "m.cross_signing.master"
BOT = UserID("@bot:example.org")
keys = st.binary(min_size=32, max_size=32)


KEY = bytes(range(32))
# By matrix-js-sdk's encryptAESSecretStorageItem("a secret", KEY, MASTER).
SEALED = {
    "iv": "ZmZmZmZmZmZmZmZmZmZmZg==",
    "ciphertext": "HutRl84byvA=",
    "mac": "9/SCbaBVXFwg6LSWXAf9qzfulWChLVmQ3jAHszH6ysY=",
}
# A key of matrix-rust-sdk's tests, and what an account tells of it.
KNOWN = recovery_key.read("EsTj 3yST y93F SLpB jJsz eAXc 2XzA ygD3 w69H fGaN TKBj jXEd")
DESCRIPTION = {
    "algorithm": "m.secret_storage.v1.aes-hmac-sha2",
    "iv": "xv5b6/p3ExEw++wTyfSHEg==",
    "mac": "ujBBbXahnTAMkmPUX2/0+VTfUh63pGyVRuBcDMgmJC8=",
}


def test_what_another_client_sealed_is_opened() -> None:
    assert unseal(KEY, MASTER, SEALED) == "a secret"
    bare = {field: text.rstrip("=") for field, text in SEALED.items()}
    assert unseal(KEY, MASTER, bare) == "a secret"


@given(keys, st.text(), st.text())
def test_what_is_sealed_is_opened_with_the_same_key(key: bytes, name: str, secret: str) -> None:
    sealed = seal(key, name, secret)
    assert unseal(key, name, json.loads(json.dumps(sealed))) == secret
    assert decode_base64(sealed["iv"])[8] < 0x80
    assert not any("=" in text for text in sealed.values())


def test_nothing_is_sealed_twice_the_same_way() -> None:
    assert seal(KEY, MASTER, "a secret")["iv"] != seal(KEY, MASTER, "a secret")["iv"]


@pytest.mark.parametrize(
    ("key", "name", "sealed"),
    [
        (bytes(32), MASTER, SEALED),
        (KEY, "m.cross_signing.self_signing", SEALED),
        (KEY, MASTER, SEALED | {"ciphertext": "HutRl84byvE="}),
        (KEY, MASTER, SEALED | {"mac": SEALED["mac"][:-4]}),
        (KEY, MASTER, SEALED | {"mac": ""}),
        (KEY, MASTER, SEALED | {"iv": "ZmZm"}),
        (KEY, MASTER, SEALED | {"iv": "é"}),
        (KEY, MASTER, SEALED | {"iv": "a"}),
        (KEY, MASTER, SEALED | {"ciphertext": 7}),
        (KEY, MASTER, {}),
        (KEY, MASTER, None),
        (KEY, MASTER, ["iv"]),
    ],
)
def test_what_is_damaged_or_sealed_otherwise_is_not_opened(
    key: bytes, name: str, sealed: Any
) -> None:
    with pytest.raises(StorageError, match="damaged"):
        unseal(key, name, sealed)


def test_a_key_is_recognised_by_what_the_account_tells_of_it() -> None:
    assert fits(KNOWN, DESCRIPTION)
    assert fits(KEY, describe(KEY))
    assert not fits(KEY, DESCRIPTION)


@pytest.mark.parametrize(
    "change", [{"algorithm": "x"}, {"iv": "ZmZm"}, {"mac": "ZmZm"}, {"mac": None}]
)
def test_a_description_of_another_shape_fits_no_key(change: Event) -> None:
    assert not fits(KNOWN, DESCRIPTION | change)
    assert not fits(KNOWN, {})


# --- The account -------------------------------------------------------------------------------

SECRETS = {MASTER: "the first", "m.cross_signing.self_signing": "the second"}


class Account:
    """The account data of a homeserver in memory."""

    def __init__(self) -> None:
        self.own_id = BOT
        self.data: dict[str, Event] = {}
        self.written: list[str] = []
        self.reachable_for = 1_000

    async def request(self, method: str, where: str, body: Any = None) -> Outcome:
        start, _, kind = where.rpartition("/")
        assert unquote(start) == f"/_matrix/client/v3/user/{BOT}/account_data"
        self.reachable_for -= 1
        if self.reachable_for < 0:
            return Unreachable(reason="reset")
        if method == "PUT":
            self.data[kind] = json.loads(json.dumps(body))
            self.written.append(kind)
            return Done()
        return Done(body=self.data[kind]) if kind in self.data else NotFound()


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def storage(account: Account) -> SecretStorage:
    return SecretStorage(cast("Matrix", account))


async def test_secrets_are_kept_under_a_key_that_becomes_the_default(
    account: Account, storage: SecretStorage
) -> None:
    assert not await storage.in_use()
    await storage.put(KEY, SECRETS)
    assert await storage.in_use()
    assert await storage.get(KEY, SECRETS) == SECRETS
    key_id = account.data["m.secret_storage.default_key"]["key"]
    assert fits(KEY, account.data[f"m.secret_storage.key.{key_id}"])
    assert set(account.data[MASTER]["encrypted"]) == {key_id}
    assert account.written[-1] == "m.secret_storage.default_key"
    assert not [secret for secret in SECRETS.values() if secret in json.dumps(account.data)]


async def test_the_same_key_keeps_its_id(account: Account, storage: SecretStorage) -> None:
    await storage.put(KEY, SECRETS)
    before = account.data["m.secret_storage.default_key"]
    await storage.put(KEY, {MASTER: "another"})
    assert account.data["m.secret_storage.default_key"] == before
    assert await storage.get(KEY, SECRETS) == SECRETS | {MASTER: "another"}


async def test_a_new_key_takes_the_place_of_the_old_one(storage: SecretStorage) -> None:
    await storage.put(KEY, SECRETS)
    await storage.put(KNOWN, SECRETS)
    assert await storage.opens(KNOWN)
    assert not await storage.opens(KEY)
    with pytest.raises(StorageError, match="does not open"):
        await storage.get(KEY, SECRETS)


async def test_a_key_no_longer_the_default_still_opens_what_it_sealed(
    account: Account, storage: SecretStorage
) -> None:
    await storage.put(KEY, SECRETS)
    account.data["m.secret_storage.key.other"] = describe(KNOWN)
    account.data["m.secret_storage.default_key"] = {"key": "other"}
    assert await storage.get(KEY, SECRETS) == SECRETS


async def test_a_wrong_key_and_no_storage_are_told_apart(storage: SecretStorage) -> None:
    with pytest.raises(StorageError, match="has no secret storage"):
        await storage.get(KEY, SECRETS)
    await storage.put(KNOWN, SECRETS)
    with pytest.raises(StorageError, match="recovery key does not open"):
        await storage.get(KEY, SECRETS)


async def test_a_secret_that_is_not_there_is_named(storage: SecretStorage) -> None:
    await storage.put(KEY, SECRETS)
    with pytest.raises(StorageError, match=r"does not hold m\.other"):
        await storage.get(KEY, ["m.other"])


@pytest.mark.parametrize("content", [{}, {"key": 7}, {"key": None}])
async def test_account_data_of_another_shape_is_no_storage(
    account: Account, storage: SecretStorage, content: Event
) -> None:
    account.data["m.secret_storage.default_key"] = content
    account.data[MASTER] = {"encrypted": ["x"]}
    assert not await storage.in_use()
    with pytest.raises(StorageError, match="has no secret storage"):
        await storage.get(KEY, [MASTER])


async def test_a_homeserver_that_does_not_answer_is_no_wrong_key(
    account: Account, storage: SecretStorage
) -> None:
    await storage.put(KEY, SECRETS)
    for requests in range(4):
        account.reachable_for = requests
        with pytest.raises(OutcomeError):
            await storage.get(KEY, SECRETS)


async def test_a_secret_that_cannot_be_written_is_not_taken_for_kept(
    account: Account, storage: SecretStorage
) -> None:
    for requests in range(7):
        account.reachable_for = requests
        account.data.clear()
        with pytest.raises(OutcomeError):
            await storage.put(KEY, SECRETS)
        assert "m.secret_storage.default_key" not in account.data
