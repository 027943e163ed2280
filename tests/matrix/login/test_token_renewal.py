"""A login that ends is renewed: by whichever request finds out, once, as the same device."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.core.outcomes import (
    ChangedDeviceError,
    DiskError,
    Done,
    LoginError,
    Outcome,
    OutcomeError,
    Unreachable,
)
from bot.core.topics import Topic, Topics
from bot.core.types import EventID, RoomID, UserID
from bot.matrix.client import Matrix
from bot.matrix.encryption.engine import CarefulClient
from bot.matrix.encryption.room_keys import Outbound
from bot.matrix.http.endpoints import path
from bot.matrix.login import device as device_module
from bot.matrix.login.device import Credentials, Identity, load_identity, save_identity
from bot.matrix.login.login import DOUBT_FOR, Login
from bot.matrix.login.session import connect, open_session, stand_by
from bot.matrix.login.token_renewal import LATER, Renewal
from tests.support.login_server import PASSWORD, USER, LoginServer, unknown_token

ROOM = RoomID("!room:example.org")
START = 1_800_000_000_000
LIMITED = {"errcode": "M_LIMIT_EXCEEDED", "error": "slow", "retry_after_ms": 7_000}


async def insist(request: Callable[[], Awaitable[Outcome]]) -> Outcome:
    return await request()


class Scene:
    """A bot that is logged in, and the time as it sees it."""

    def __init__(self, server: LoginServer, folder: Path, **given: str | None) -> None:
        self.server = server
        self.folder = folder
        self.time = START
        self.pauses: list[float] = []
        self.given = Credentials(
            homeserver=server.url,
            user_id=UserID(USER),
            reread=lambda: self.given,
            **({"password": PASSWORD} | given),
        )
        self.client: CarefulClient
        self.matrix: Matrix
        self.topics = Topics()

    async def begin(self) -> Scene:
        """Open the session; the time stands still in it."""
        self.client = connect(self.given, self.folder, "ab" * 32)
        self.matrix = await open_session(self.client, self.given, self.folder, insist, self.topics)
        known = self.stored()
        if known.expires_at is not None:
            life = self.server.lifetime or 0
            known = replace(known, expires_at=self.time + life, renew_at=self.time + life * 4 // 5)
        renewal = Renewal(
            self.client,
            self.given,
            self.folder / "device.json",
            known,
            on_login=self.matrix.crypto.doubt_keys,
            now=lambda: self.time,
            ticks=lambda: self.time,
            pause=self.pause,
        )
        self.client.renewal = renewal
        return self

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += int(seconds * 1000)

    def stored(self) -> Identity:
        found = load_identity(self.folder / "device.json")
        assert found is not None
        return found

    async def redact(self, number: int = 1) -> Outcome:
        return await self.matrix.redact(ROOM, EventID(f"${number}"), f"txn-{number}")

    async def close(self) -> None:
        await self.client.close()
        if self.client.olm is not None:
            self.client.olm.store.database.close()


@pytest.fixture
async def server() -> AsyncIterator[LoginServer]:
    async with LoginServer() as made:
        yield made


Build = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def build(server: LoginServer, tmp_path: Path) -> AsyncIterator[Build]:
    made: list[Scene] = []

    async def maker(**given: str | None) -> Scene:
        made.append(Scene(server, tmp_path / "data", **given))
        return await made[-1].begin()

    yield maker
    for scene in made:
        await scene.close()


# --- what ends, and what helps -------------------------------------------------------------------


async def test_the_first_login_asks_for_a_refresh_token_and_keeps_the_pair(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    [(_, body)] = [one for one in server.asked if one[0] == "POST /login"]
    assert body["refresh_token"] is True
    assert "device_id" not in body
    known = scene.stored()
    assert known.access_token in server.tokens
    assert known.refresh_token in server.refresh_tokens
    assert known.expires_at is not None
    file = scene.folder / "device.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert repr(known).count("token") == 0


async def test_an_ended_token_is_refreshed_and_the_request_made_once_more(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    first = scene.stored()
    server.end()
    assert await scene.redact() == Done(body={"event_id": "$event"})
    assert (server.count("POST /refresh"), server.count("POST /login")) == (1, 1)
    after = scene.stored()
    assert (after.device_id, after.keys) == (first.device_id, first.keys)
    assert after.access_token != first.access_token
    assert after.refresh_token != first.refresh_token
    assert scene.pauses == []


@pytest.mark.parametrize("soft", [True, False])
async def test_without_a_refresh_token_it_logs_in_again_as_the_same_device(
    server: LoginServer, build: Build, soft: bool
) -> None:
    server.gives_refresh_tokens = False
    scene = await build()
    device_id = scene.stored().device_id
    server.end(soft=soft)
    assert isinstance(await scene.redact(), Done)
    assert [body.get("device_id") for what, body in server.asked if what == "POST /login"] == [
        None,
        device_id,
    ]
    assert scene.stored().device_id == device_id
    assert scene.pauses == ([] if soft else [DOUBT_FOR])


@pytest.mark.parametrize(
    "refusal",
    [
        unknown_token(),
        (403, {"errcode": "M_FORBIDDEN", "error": "expired"}),
        (404, {"errcode": "M_UNRECOGNIZED", "error": "no refresh tokens here any more"}),
    ],
)
async def test_a_refresh_that_is_refused_leads_to_the_password(
    server: LoginServer, build: Build, refusal: tuple[int, Any]
) -> None:
    scene = await build()
    device_id = scene.stored().device_id
    server.end()
    server.faults["POST /refresh"] = [refusal]
    assert isinstance(await scene.redact(), Done)
    assert (server.count("POST /refresh"), server.count("POST /login")) == (1, 2)
    assert scene.stored().device_id == device_id


@pytest.mark.parametrize("where", ["POST /refresh", "POST /login"])
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((500, {"errcode": "M_UNKNOWN", "error": "no"}), "logging in: status 500 M_UNKNOWN"),
        ((502, "<html>Bad Gateway</html>"), "logging in: status 502"),
        ((403, "<html>Forbidden</html>"), "logging in: a web page, status 403"),
        ((401, "<html>Who are you?</html>"), "logging in: a web page, status 401"),
        ((401, {}), "logging in: status 401"),
        ((429, LIMITED), "logging in: status 429"),
    ],
)
async def test_who_cannot_log_in_now_waits_and_asks_rarely(
    server: LoginServer, build: Build, where: str, answer: tuple[int, Any], outcome: str
) -> None:
    server.gives_refresh_tokens = where == "POST /refresh"
    scene = await build()
    before = server.count(where)
    server.end()
    server.faults[where] = [answer]
    for _ in range(5):
        found = await scene.redact()
        assert found == Unreachable(reason=outcome)
        assert isinstance(found, Unreachable)
        assert 0 < found.retry_after <= 7_000 + LATER
    assert server.count(where) == before + 1
    scene.time += 7_000 + LATER
    assert isinstance(await scene.redact(), Done)


@pytest.mark.parametrize("errcode", ["M_FORBIDDEN", "M_USER_DEACTIVATED"])
async def test_only_a_refused_password_ends_it(
    server: LoginServer, build: Build, errcode: str
) -> None:
    server.gives_refresh_tokens = False
    scene = await build()
    server.end()
    server.faults["POST /login"] = [(403, {"errcode": errcode, "error": "no"})]
    with pytest.raises(LoginError, match=f"refused the login .status 403 {errcode}"):
        await scene.redact()


@pytest.mark.parametrize(
    "answer",
    [
        (403, {"errcode": "M_RESOURCE_LIMIT_EXCEEDED", "error": "too many of you this month"}),
        (401, {"errcode": "M_USER_LOCKED", "error": "for now", "soft_logout": True}),
        (401, {"errcode": "M_UNKNOWN_TOKEN", "error": "of whom?"}),
        (403, {"error": "a proxy's own"}),
    ],
)
async def test_what_is_said_of_now_does_not_end_it(
    server: LoginServer, build: Build, answer: tuple[int, Any]
) -> None:
    server.gives_refresh_tokens = False
    scene = await build()
    server.end()
    server.faults["POST /login"] = [answer]
    assert isinstance(await scene.redact(), Unreachable)
    scene.time += 60_000
    assert isinstance(await scene.redact(), Done)


async def test_a_password_that_changed_on_the_disk_is_read_again(
    server: LoginServer, build: Build
) -> None:
    server.gives_refresh_tokens = False
    scene = await build(password=PASSWORD)
    scene.given = replace(scene.given, password="old")
    renewal: Any = scene.client.renewal
    renewal._credentials = scene.given
    scene.given = replace(scene.given, password=PASSWORD)
    server.end()
    assert isinstance(await scene.redact(), Done)


# --- one refusal ---------------------------------------------------------------------------------


async def test_a_single_refusal_is_asked_about_before_it_is_believed(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    server.faults["*"] = [unknown_token()]
    assert isinstance(await scene.redact(), Done)
    assert scene.pauses == [DOUBT_FOR]
    assert server.count("GET /account/whoami") == 1
    assert (server.count("POST /refresh"), server.count("POST /login")) == (0, 1)


async def test_a_proxy_that_refuses_for_a_while_costs_nothing(
    server: LoginServer, build: Build
) -> None:
    scene = await by_token(server, build)
    server.faults["*"] = [unknown_token(), (503, "<html>starting</html>")]
    assert await scene.redact() == Unreachable(reason="logging in: status 503")
    assert isinstance(await scene.redact(), Done)


async def test_a_request_that_is_refused_though_the_login_holds_waits(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    refused = "PUT /rooms/!room:example.org/redact/$1/txn-1"
    server.faults[refused] = [unknown_token()] * 4
    assert await scene.redact() == Unreachable(reason="status 401 M_UNKNOWN_TOKEN")
    assert await scene.redact() == Unreachable(reason="status 401, though the login holds")
    assert isinstance(await scene.redact(2), Done)
    assert scene.pauses == [DOUBT_FOR]


async def test_a_homeserver_that_accepts_no_token_is_not_asked_in_a_circle(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    server.faults["*"] = [unknown_token(soft=True)] * 1_000
    for _ in range(20):
        assert isinstance(await scene.redact(), Unreachable)
    assert server.count("POST /refresh") + server.count("POST /login") <= 4


# --- many requests at once -----------------------------------------------------------------------


async def test_many_requests_find_out_and_one_renews(server: LoginServer, build: Build) -> None:
    scene = await build()
    server.end()
    found = await asyncio.gather(*(scene.redact(number) for number in range(40)))
    assert all(isinstance(one, Done) for one in found)
    assert server.count("POST /refresh") == 1
    token = scene.stored().access_token
    assert server.used.count(token) == 40


async def test_nio_s_own_requests_are_made_once_more_as_well(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    await scene.matrix.crypto.keep_up()
    server.end()
    content = {"msgtype": "m.notice", "body": "hello"}
    assert isinstance(await scene.matrix.say(ROOM, content, "txn", encrypted=True), Done)
    assert server.count("POST /refresh") == 1
    [sent] = [body for what, body in server.asked if "/send/m.room.encrypted/" in what]
    assert sent["algorithm"] == "m.megolm.v1.aes-sha2"


async def test_a_token_that_ends_between_the_keys_and_the_message_is_renewed(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    await scene.matrix.crypto.keep_up()
    share = scene.matrix.crypto.room_keys.share

    async def and_then_end(room_id: RoomID) -> Outbound:
        shared = await share(room_id)
        server.end()
        return shared

    scene.matrix.crypto.room_keys.share = and_then_end  # type: ignore[method-assign]
    content = {"msgtype": "m.notice", "body": "hello"}
    assert isinstance(await scene.matrix.say(ROOM, content, "txn", encrypted=True), Done)
    assert server.count("POST /refresh") == 1


async def test_nio_s_requests_end_the_bot_when_nothing_helps(
    server: LoginServer, build: Build
) -> None:
    server.gives_refresh_tokens = False
    scene = await build()
    scene.given = replace(scene.given, password="no longer")
    server.end()
    content = {"msgtype": "m.notice", "body": "hello"}
    with pytest.raises(LoginError):
        await scene.matrix.say(ROOM, content, "txn", encrypted=True)
    with pytest.raises(LoginError):
        await scene.matrix.crypto.keep_up()


# --- ahead of time, and the disk -----------------------------------------------------------------


async def test_a_token_is_renewed_ahead_of_its_end(server: LoginServer, build: Build) -> None:
    scene = await build()
    scene.time += 239_999
    await scene.redact()
    assert server.count("POST /refresh") == 0
    scene.time += 1
    found = await asyncio.gather(*(scene.redact(number) for number in range(10)))
    assert all(isinstance(one, Done) for one in found)
    assert server.count("POST /refresh") == 1
    assert not any(what == "GET /account/whoami" for what, _ in server.asked)


async def test_a_renewal_ahead_of_time_that_fails_is_not_missed(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    scene.time += 240_000
    server.faults["POST /refresh"] = [(500, {"errcode": "M_UNKNOWN", "error": "no"})]
    for number in range(5):
        assert isinstance(await scene.redact(number), Done)
    assert server.count("POST /refresh") == 1
    scene.time += 2_000
    assert isinstance(await scene.redact(6), Done)
    assert server.count("POST /refresh") == 2


async def test_a_pair_that_cannot_be_stored_is_not_used(
    server: LoginServer, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await build()
    first = scene.stored()
    server.end()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(device_module, "write_private", full)
        with pytest.raises(DiskError, match="No space left on device"):
            await scene.redact()
    assert scene.client.access_token == first.access_token
    assert isinstance(await scene.redact(), Done)
    refreshed = [body["refresh_token"] for what, body in server.asked if what == "POST /refresh"]
    assert refreshed == [first.refresh_token] * 2


async def test_a_crash_between_the_refresh_and_the_disk_is_made_good(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    server.end()
    server.gate.clear()
    server.reached.clear()
    asking = asyncio.ensure_future(scene.redact())
    await server.reached.wait()
    asking.cancel()
    server.gate.set()
    await asyncio.gather(asking, return_exceptions=True)
    await scene.close()
    again = await build()
    assert isinstance(await again.redact(), Done)
    assert server.count("POST /login") == 1


async def test_the_pair_is_on_the_disk_before_it_is_used(
    server: LoginServer, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await build()
    server.end()
    used_before: list[list[str]] = []

    def save(where: Path, identity: Identity) -> None:
        used_before.append([one for one in server.used if one == identity.access_token])
        save_identity(where, identity)

    monkeypatch.setattr("bot.matrix.login.token_renewal.save_identity", save)
    await scene.redact()
    assert used_before == [[]]


async def test_another_process_that_renewed_it_is_followed(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    async with stand_by(scene.given, scene.stored(), scene.folder) as other:
        server.end()
        assert isinstance(await other.request("GET", path("account", "whoami")), Done)
    assert isinstance(await scene.redact(), Done)
    assert server.count("POST /refresh") == 1


@pytest.mark.parametrize("life", [0, -1, "300000", True, 10**30, None])
async def test_an_odd_lifetime_of_a_token_counts_as_unknown(
    server: LoginServer, tmp_path: Path, life: Any
) -> None:
    scene = Scene(server, tmp_path)
    client = connect(scene.given, tmp_path, "ab" * 32)
    server.lifetime = life
    login = Login(Matrix(client), lambda: START, asyncio.sleep)
    known = await login.by_password(scene.given, None)
    assert (known.expires_at, known.renew_at) == (None, None)
    await client.close()


# --- tokens in files -----------------------------------------------------------------------------


async def by_token(server: LoginServer, build: Build) -> Scene:
    server.tokens["first"] = "DEVICE"
    return await build(password=None, access_token="first")


async def test_a_token_file_that_changes_is_read_again(server: LoginServer, build: Build) -> None:
    scene = await by_token(server, build)
    server.end(soft=False)
    server.tokens["second"] = "DEVICE"
    scene.given = replace(scene.given, access_token="second")
    assert isinstance(await scene.redact(), Done)
    assert scene.stored().access_token == "second"
    assert server.count("POST /login") == 0


async def test_a_token_of_another_device_begins_anew(server: LoginServer, build: Build) -> None:
    scene = await by_token(server, build)
    server.end(soft=False)
    server.tokens["second"] = "OTHER"
    scene.given = replace(scene.given, access_token="second")
    with pytest.raises(ChangedDeviceError):
        await scene.redact()
    again = await build(password=None, access_token="second")
    assert again.client.device_id == "OTHER"
    assert isinstance(await again.redact(), Done)


async def test_a_token_that_has_ended_for_good_names_its_file(
    server: LoginServer, build: Build
) -> None:
    scene = await by_token(server, build)
    server.end(soft=False)
    with pytest.raises(LoginError, match="put a new one into access_token_file"):
        await scene.redact()
    assert scene.pauses == [DOUBT_FOR]


# --- whose keys they are -------------------------------------------------------------------------


def foreign(device_id: str) -> dict[str, Any]:
    keys = {f"ed25519:{device_id}": "an app's", f"curve25519:{device_id}": "an app's"}
    return {"device_id": device_id, "user_id": USER, "keys": keys}


async def test_a_token_copied_from_an_app_is_refused_before_anything_is_done(
    server: LoginServer, build: Build, tmp_path: Path
) -> None:
    server.tokens["copied"] = "PHONE"
    server.device_keys["PHONE"] = foreign("PHONE")
    for _ in range(2):
        with pytest.raises(LoginError, match="in use, such as by an app that the token was copied"):
            await build(password=None, access_token="copied")
    assert {what for what, _ in server.asked} == {"GET /account/whoami", "POST /keys/query"}
    assert not (tmp_path / "data" / "device.json").exists()


async def test_keys_that_others_put_in_place_of_the_bots_end_it(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    await scene.matrix.crypto.keep_up()
    device_id = scene.stored().device_id
    server.device_keys[device_id] = foreign(device_id)
    uploads = server.count("POST /keys/upload")
    scene.matrix.crypto.doubt_keys()
    with pytest.raises(LoginError, match="has other keys already"):
        await scene.matrix.crypto.keep_up()
    assert server.count("POST /keys/upload") == uploads


async def test_a_device_that_was_deleted_comes_back_with_its_keys(
    server: LoginServer, build: Build
) -> None:
    scene = await build()
    await scene.matrix.crypto.keep_up()
    device_id, keys = scene.stored().device_id, dict(server.device_keys)
    assert set(keys) == {device_id}
    lost = scene.topics.listen(Topic.DEVICE_KEYS)
    server.log_out()
    assert isinstance(await scene.redact(), Done)
    await scene.matrix.crypto.keep_up()
    assert server.device_keys[device_id]["keys"] == keys[device_id]["keys"]
    body = [body for what, body in server.asked if what == "POST /keys/upload"][-1]
    assert len(body["one_time_keys"]) == 50
    assert len(body["fallback_keys"]) == 1
    assert lost.is_set()
    assert json.loads((scene.folder / "device.json").read_text())["device_id"] == device_id


def test_a_device_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    bare = Identity(user_id=UserID(USER), device_id="DEVICE", access_token="one")
    full = replace(
        bare, refresh_token="two", expires_at=START + 1, renew_at=START, ed25519="a", curve25519="b"
    )
    for known in (bare, full, replace(bare, appservice=True)):
        save_identity(tmp_path / "device.json", known)
        assert load_identity(tmp_path / "device.json") == known


# --- homeservers that log nobody in --------------------------------------------------------------

UNRECOGNIZED = (404, {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"})
PASSWORDS = (200, {"flows": [{"type": "m.login.password"}]})


async def first_login(server: LoginServer, folder: Path) -> Identity:
    given = Credentials(homeserver=server.url, user_id=UserID(USER), password=PASSWORD)
    client = connect(given, folder, "ab" * 32)
    try:
        return await Login(Matrix(client), lambda: START, asyncio.sleep).by_password(given, None)
    finally:
        await client.close()


async def test_a_homeserver_without_logins_ends_it_and_names_the_service(
    server: LoginServer, tmp_path: Path
) -> None:
    server.faults |= {"POST /login": [UNRECOGNIZED], "GET /login": [UNRECOGNIZED]}
    with pytest.raises(LoginError, match=r"Matrix Authentication Service \(MAS\).*public address"):
        await first_login(server, tmp_path)


async def test_a_homeserver_without_passwords_ends_it_and_says_what_it_takes(
    server: LoginServer, tmp_path: Path
) -> None:
    flows = [{"type": "m.login.sso"}, {"type": "see you at <eight>"}, "odd"]
    server.faults |= {
        "POST /login": [(400, {"errcode": "M_UNKNOWN", "error": "Unknown login type"})],
        "GET /login": [(200, {"flows": flows})],
    }
    with pytest.raises(LoginError, match=r"takes no passwords \(m.login.sso\)"):
        await first_login(server, tmp_path)


async def test_one_login_that_went_astray_is_waited_out(
    server: LoginServer, tmp_path: Path
) -> None:
    server.faults |= {"POST /login": [UNRECOGNIZED], "GET /login": [PASSWORDS]}
    with pytest.raises(OutcomeError) as found:
        await first_login(server, tmp_path)
    assert found.value.outcome == Unreachable(reason="status 404 M_UNRECOGNIZED")
    assert (await first_login(server, tmp_path)).access_token in server.tokens


@pytest.mark.parametrize(
    ("life", "ahead"),
    [(1_000, 200), (299_999, 59_999), (300_000, 60_000), (3_600_000, 60_000)],
)
async def test_a_token_is_renewed_in_its_last_fifth_and_last_minute(
    server: LoginServer, tmp_path: Path, life: int, ahead: int
) -> None:
    answer = {"user_id": USER, "device_id": "D", "access_token": "t", "expires_in_ms": life}
    server.faults |= {"POST /login": [(200, answer)]}
    known = await first_login(server, tmp_path)
    assert (known.expires_at, known.renew_at) == (START + life, START + life - ahead)


async def test_a_refused_password_is_asked_after(server: LoginServer, tmp_path: Path) -> None:
    forbidden = (403, {"errcode": "M_FORBIDDEN", "error": "Invalid username or password"})
    server.faults |= {"POST /login": [forbidden]}
    with pytest.raises(LoginError, match="and the password right"):
        await first_login(server, tmp_path)
