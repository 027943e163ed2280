"""The login of an application service: an account and a device, made as they are needed."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.core.outcomes import DiskError, Done, LoginError, Outcome, OutcomeError
from bot.core.types import EventID, RoomID, UserID
from bot.matrix.client import Matrix
from bot.matrix.encryption.engine import CarefulClient
from bot.matrix.login.appservice import NO_DEVICE, NO_SERVICE, NOT_ITS_USER, serve
from bot.matrix.login.device import Credentials, Identity, load_identity
from bot.matrix.login.login import DEVICE_NAME
from bot.matrix.login.session import connect, lock_secret, open_session, stand_by
from tests.support.scripted_homeserver import (
    GONE_WRONG,
    NO_SUCH_THING,
    NOT_ALLOWED,
    Answer,
    Asked,
    Json,
    StandIn,
)
from tests.support.scripted_homeserver import error as failed

BOT, TOKEN = UserID("@expire:example.org"), "the service's"


class Service:
    """A homeserver on which one account may be had by the token of an application service."""

    def __init__(self, stand_in: StandIn) -> None:
        stand_in.handler = self
        self.stand_in = stand_in
        self.token = TOKEN
        self.devices: dict[str, Json] = {}
        self.registered = False
        self.instead: dict[str, list[Answer | Json]] = {}
        """Answers that come first, by the first part of the path."""

    @property
    def asked(self) -> list[Asked]:
        return self.stand_in.asked

    def steps(self) -> list[str]:
        return [f"{one.method} {one.where[0]}" for one in self.asked]

    def __call__(self, asked: Asked) -> Answer | Json:
        if self.instead.get(asked.where[0]):
            return self.instead[asked.where[0]].pop(0)
        if asked.headers.get("Authorization") != f"Bearer {self.token}":
            return failed(401, "M_UNKNOWN_TOKEN")
        if asked.where == ("register",):
            return self._register(asked.body)
        device = asked.query.get("device_id")
        if device is not None and device not in self.devices:
            return failed(401, "M_UNKNOWN_DEVICE")
        if asked.query.get("user_id") != BOT or not self.registered:
            return NOT_ALLOWED
        match asked.method, *asked.where:
            case "GET", "account", "whoami":
                return {"user_id": BOT} | ({"device_id": device} if device else {})
            case "PUT", "devices", name:
                self.devices[name] = asked.body
            case "GET", "devices", name:
                return {} if name in self.devices else NO_SUCH_THING
            case "POST", "keys", "query":
                return {"device_keys": {}}
        return {}

    def _register(self, body: Json) -> Answer | Json:
        whole = {"type": "m.login.application_service", "username": "expire", "inhibit_login": True}
        assert body == whole
        if self.registered:
            return failed(400, "M_USER_IN_USE")
        self.registered = True
        return {"user_id": BOT}


class Scene:
    """A bot that is that account."""

    def __init__(self, stand_in: StandIn, folder: Path) -> None:
        self.service = Service(stand_in)
        self.folder = folder
        self.given = self.credentials(as_token=TOKEN)
        self.clients: list[CarefulClient] = []

    def credentials(self, **given: str) -> Credentials:
        url = self.service.stand_in.url
        return Credentials(
            homeserver=url, user_id=BOT, reread=lambda: self.given, **dict[str, Any](given)
        )

    def client(self) -> CarefulClient:
        self.clients.append(connect(self.given, self.folder, "ab" * 32))
        return self.clients[-1]

    async def serve(self, device_id: str | None = None) -> Identity:
        return await serve(self.client(), self.given, device_id)

    async def open(self) -> Matrix:
        return await open_session(self.client(), self.given, self.folder, insist)

    @property
    def stored(self) -> Identity:
        found = load_identity(self.folder / "device.json")
        assert found is not None
        return found


async def insist(request: Callable[[], Awaitable[Outcome]]) -> Outcome:
    return await request()


@pytest.fixture
async def scene(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    monkeypatch.setattr("bot.matrix.login.login.DOUBT_FOR", 0.0)
    made = Scene(stand_in, tmp_path / "data")
    yield made
    for client in made.clients:
        await client.close()


async def redact(matrix: Matrix) -> Outcome:
    return await matrix.redact(RoomID("!room"), EventID("$one"), "txn")


# --- the account and the device ------------------------------------------------------------------


async def test_an_account_and_a_device_are_made_where_there_are_none(scene: Scene) -> None:
    known = await scene.serve()
    [device] = scene.service.devices.items()
    assert device == (known.device_id, {"display_name": DEVICE_NAME})
    assert len(known.device_id) == 10
    assert known.device_id == known.device_id.upper()
    expected = Identity(user_id=BOT, device_id=known.device_id, access_token=TOKEN, appservice=True)
    assert known == expected
    assert scene.service.steps() == ["POST register", "PUT devices", "GET account"]
    whose = [one.query for one in scene.service.asked]
    assert whose == [{}, {"user_id": BOT}, {"user_id": BOT, "device_id": known.device_id}]


async def test_an_account_and_a_device_that_are_there_are_taken_over(scene: Scene) -> None:
    scene.service.registered, scene.service.devices = True, {"OLD": {"display_name": "old"}}
    assert (await scene.serve("OLD")).device_id == "OLD"
    assert scene.service.steps() == ["POST register", "GET devices", "GET account"]
    assert scene.service.devices == {"OLD": {"display_name": "old"}}


async def test_a_device_that_was_deleted_is_made_again_by_its_name(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await scene.serve("OLD")).device_id == "OLD"
    assert scene.service.devices == {"OLD": {"display_name": DEVICE_NAME}}
    assert "the device was deleted: it is made again" in caplog.messages


ACCOUNTLESS = "{user_id}: the homeserver makes no such account ({why})"


@pytest.mark.parametrize(
    ("where", "answers", "message"),
    [
        ("register", [NOT_ALLOWED], NOT_ITS_USER),
        ("register", [failed(400, "M_EXCLUSIVE")], NOT_ITS_USER),
        (
            "register",
            [failed(400, "M_INVALID_USERNAME")],
            ACCOUNTLESS.replace("{why}", "M_INVALID_USERNAME"),
        ),
        ("register", [NO_SUCH_THING], ACCOUNTLESS.replace("{why}", "refused")),
        ("register", [failed(401, "M_UNKNOWN_TOKEN")] * 2, NO_SERVICE),
        ("account", [failed(401, "M_UNKNOWN_DEVICE")] * 2, NO_DEVICE),
        ("account", [NOT_ALLOWED], NO_DEVICE),
        ("account", [NO_SUCH_THING], NO_DEVICE),
        ("account", [failed(400, "M_UNKNOWN")], NO_DEVICE),
        ("account", [{"user_id": BOT}], NO_DEVICE),
        ("account", [{"user_id": BOT, "device_id": "OTHER"}], NO_DEVICE),
        ("account", [{"user_id": "@other:example.org", "device_id": "OLD"}], NO_DEVICE),
    ],
)
async def test_what_is_refused_for_good_is_said_in_plain_words(
    scene: Scene, where: str, answers: list[Answer | Json], message: str
) -> None:
    scene.service.instead[where] = answers
    with pytest.raises(LoginError) as refused:
        await scene.serve("OLD")
    assert str(refused.value) == message.format(user_id=BOT)
    assert answers == []


@pytest.mark.parametrize("where", ["register", "devices", "account"])
async def test_what_fails_now_is_no_refusal(scene: Scene, where: str) -> None:
    scene.service.instead[where] = [GONE_WRONG]
    with pytest.raises(OutcomeError):
        await scene.serve()


@pytest.mark.parametrize("where", ["register", "account"])
async def test_one_refusal_of_the_token_is_not_believed(scene: Scene, where: str) -> None:
    scene.service.instead[where] = [failed(401, "M_UNKNOWN_TOKEN")]
    assert (await scene.serve("OLD")).device_id == "OLD"


# --- the session ---------------------------------------------------------------------------------


async def test_the_device_stays_the_same_from_start_to_start(scene: Scene) -> None:
    matrix = await scene.open()
    first = scene.stored
    assert (first.appservice, first.access_token) == (True, TOKEN)
    assert isinstance(await redact(matrix), Done)
    assert scene.service.asked[-1].query == {"user_id": BOT, "device_id": first.device_id}
    scene.service.asked.clear()
    assert isinstance(await redact(await scene.open()), Done)
    assert scene.stored == first
    assert scene.service.steps() == ["PUT rooms"]
    assert scene.service.asked[-1].query == {"user_id": BOT, "device_id": first.device_id}


async def test_who_is_no_service_any_more_logs_in_as_another_device(scene: Scene) -> None:
    await scene.open()
    scene.given = scene.credentials(password="secret")
    scene.service.instead["login"] = [{"user_id": BOT, "device_id": "NEW", "access_token": "t"}]
    scene.service.asked.clear()
    matrix = await scene.open()
    [login] = scene.service.asked
    assert "device_id" not in login.body
    assert (scene.stored.device_id, scene.stored.appservice) == ("NEW", False)
    scene.service.token = "t"
    await redact(matrix)
    assert scene.service.asked[-1].query == {}


async def test_beside_the_bot_the_token_speaks_for_its_device(scene: Scene) -> None:
    await scene.open()
    known = scene.stored
    plain = Identity(user_id=BOT, device_id="PLAIN", access_token="plain")
    for given, device, token, whose in (
        (scene.given, known, TOKEN, known.device_id),
        (scene.given, plain, TOKEN, "PLAIN"),
        (scene.credentials(password="secret"), known, TOKEN, known.device_id),
        (scene.credentials(password="secret"), plain, "plain", None),
        (scene.credentials(access_token="other"), known, "other", None),
        (scene.credentials(access_token="other"), plain, "other", None),
    ):
        async with stand_by(given, device, scene.folder) as matrix:
            scene.service.instead["rooms"] = [{"event_id": "$redaction"}]
            assert isinstance(await redact(matrix), Done)
        asked = scene.service.asked[-1]
        assert asked.headers["Authorization"] == f"Bearer {token}"
        assert asked.query == ({"user_id": BOT, "device_id": whose} if whose else {})


async def test_a_device_that_is_deleted_meanwhile_is_made_again(scene: Scene) -> None:
    matrix = await scene.open()
    await matrix.crypto.keep_up()
    known = scene.stored
    scene.service.devices.clear()
    assert isinstance(await redact(matrix), Done)
    assert list(scene.service.devices) == [known.device_id]
    assert scene.service.asked[-1].query == {"user_id": BOT, "device_id": known.device_id}
    assert scene.stored == known
    assert matrix.crypto.device_keys.unproven


async def test_a_token_that_changes_in_its_file_is_used(scene: Scene) -> None:
    matrix = await scene.open()
    scene.given = scene.credentials(as_token="the next")
    scene.service.token = "the next"
    assert isinstance(await redact(matrix), Done)
    assert scene.stored.access_token == "the next"


async def test_a_token_that_has_ended_for_good_ends_the_bot(scene: Scene) -> None:
    matrix = await scene.open()
    scene.service.token = "nobody's"
    with pytest.raises(LoginError) as ended:
        await redact(matrix)
    assert str(ended.value) == NO_SERVICE
    scene.given = scene.credentials(as_token="also wrong")
    with pytest.raises(LoginError) as again:
        await redact(matrix)
    assert str(again.value) == NO_SERVICE
    assert scene.stored.access_token == TOKEN


async def test_a_folder_of_another_account_is_refused(scene: Scene) -> None:
    await scene.open()
    scene.given = replace(scene.given, user_id=UserID("@other:example.org"))
    with pytest.raises(LoginError) as refused:
        await scene.open()
    assert str(refused.value) == (
        f"{scene.folder} belongs to {BOT}: give @other:example.org a data_dir of its own"
    )


async def test_a_crypto_store_that_is_gone_makes_a_new_device(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.open()
    first = scene.stored.device_id
    shutil.rmtree(scene.folder / "crypto")
    await scene.open()
    assert scene.stored.device_id != first
    assert "the crypto store is gone: logging in as a new device" in caplog.messages
    assert scene.service.steps().count("PUT devices") == 2


async def test_a_crypto_store_that_is_no_database_is_said(scene: Scene) -> None:
    await scene.open()
    [store] = (scene.folder / "crypto").glob("*.db")
    for one in store.parent.glob("*.db*"):
        one.unlink()
    store.write_bytes(b"no database" * 100)
    with pytest.raises(DiskError, match=r"put a backup in its place, or move device\.json"):
        await scene.open()


def test_the_secret_is_made_once_and_nobody_else_reads_what_it_locks(scene: Scene) -> None:
    made = lock_secret(scene.folder, None)
    assert len(bytes.fromhex(made)) == 32
    assert lock_secret(scene.folder, None) == made
    assert lock_secret(scene.folder, bytes(range(32))) == bytes(range(32)).hex()
    assert (scene.folder / "crypto" / "pickle.key").read_text() == made + "\n"
    other = scene.folder / "deep" / "down"
    scene.clients.append(connect(scene.given, other, made))
    scene.clients.append(connect(scene.given, other, made))
    assert (other / "crypto").stat().st_mode & 0o777 == 0o700
