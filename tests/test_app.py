"""The running bot, built of all its parts, before a homeserver that can say anything."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bot import app, build
from bot.config import Settings
from bot.config.settings import Encryption, Lifetimes, Media
from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import (
    ChangedDeviceError,
    DiskError,
    Done,
    Failed,
    LoginError,
    Outcome,
    OutcomeError,
    TokenRejectedError,
)
from bot.core.types import UserID
from bot.matrix.encryption.engine import CarefulClient
from bot.matrix.login.device import load_identity
from bot.matrix.login.session import connect
from bot.operator.identity import OperatorError
from bot.operator.rebuild import rebuild
from bot.services.key_expiry import KeyExpiry
from bot.services.supervisor import StoppedError
from bot.store import StoreError
from bot.store.folder_lock import OccupiedError, hold
from tests.support.account import Account
from tests.support.fake_homeserver import ALICE, BOT
from tests.support.scripted_homeserver import (
    NO_SUCH_THING,
    NOT_ALLOWED,
    NOT_KNOWN,
    Answer,
    Asked,
    Json,
    StandIn,
    error,
)
from tests.support.store import Store

ROOM, PICTURE = "!room:example.org", "picture-of-alice"
LIFETIME = 1_000
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def state(kind: str, content: Json, key: str = "", sender: str = ALICE) -> Json:
    """Return a state event of the room."""
    return {
        "type": kind,
        "state_key": key,
        "sender": sender,
        "event_id": f"${kind} {key}",
        "origin_server_ts": 1_000,
        "content": content,
    }


class Homeserver:
    """One account and one room, in which messages disappear after a second."""

    def __init__(self, stand_in: StandIn) -> None:
        stand_in.handler = self
        self.url = stand_in.url
        self.account = Account(BOT)
        self.tokens: set[str] = set()
        self.given = 0
        self.redacted: list[str] = []
        self.said: list[str] = []
        self.told: list[str] = []
        """The types of what was sent to devices."""
        self.signatures = 0
        self.files = {PICTURE}
        self.deletes, self.refuses = True, False
        self.coming: list[Json] = []
        """The timeline that the next sync brings."""
        self.earlier: list[Json] = []
        """What stands before it, newest first."""
        self.to_device: list[Json] = []
        self.place = self.syncs = 0
        self.news = asyncio.Event()

    def say(self, event_id: str, **content: Any) -> None:
        """Let alice say something."""
        self.show(
            {
                "type": "m.room.message",
                "event_id": event_id,
                "sender": ALICE,
                "origin_server_ts": int(time.time() * 1000),
                "content": {"msgtype": "m.text", "body": "x"} | content,
            }
        )

    def show(self, event: Json) -> None:
        self.coming.append(event)
        self.news.set()

    def forget_syncs(self) -> None:
        """A bot that has ended waits for nothing."""
        self.syncs += 1
        self.news.set()

    def __call__(self, asked: Asked) -> Answer | Json | Awaitable[Answer | Json]:
        if asked.parts[:2] == ("_synapse", "admin"):
            return self._administer(asked)
        if asked.parts[-1] == "versions":
            return {"versions": ["v1.13"]}
        if asked.parts[2] == "v1":
            return {"chunk": []}  # relations
        if asked.where == ("login",) and asked.method == "POST":
            return self._login(asked.body)
        if asked.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return error(401, "M_UNKNOWN_TOKEN")
        return self._sync(asked) if asked.where == ("sync",) else self._other(asked)

    def _login(self, body: Json) -> Answer | Json:
        if self.refuses:
            return NOT_ALLOWED
        self.given += 1
        self.tokens = {f"token-{self.given}"}
        device = body.get("device_id") or "BOTDEVICE"
        return {"user_id": BOT, "device_id": device, "access_token": f"token-{self.given}"}

    def _administer(self, asked: Asked) -> Answer | Json:
        if asked.headers["Authorization"] != "Bearer the-admins":
            return error(401, "M_UNKNOWN_TOKEN")
        name = asked.parts[-1]
        if name not in self.files:
            return NO_SUCH_THING
        if asked.method == "GET":
            return {"media_info": {"user_id": ALICE}}
        if not self.deletes:
            return error(500, "M_UNKNOWN")
        self.files.discard(name)
        self.news.set()
        return {"deleted_media": [name]}

    async def _sync(self, asked: Asked) -> Answer | Json:
        first = "since" not in asked.query
        self.syncs += 1
        mine = self.syncs
        while mine == self.syncs and not (first or self.coming or self.to_device):
            self.news.clear()
            await self.news.wait()
        if mine != self.syncs:
            return NO_SUCH_THING  # nobody waits for it any more
        events, self.coming, direct, self.to_device = self.coming, [], self.to_device, []
        self.place += 1
        timeline = {"events": events, "limited": False, "prev_batch": f"p{self.place}"}
        room = {"timeline": timeline, "state": {"events": self.state if first else []}}
        return {
            "next_batch": f"t{self.place}",
            "rooms": {"join": {ROOM: room} if first or events else {}},
            "to_device": {"events": direct},
            "device_one_time_keys_count": {"signed_curve25519": 50},
            "device_unused_fallback_key_types": ["signed_curve25519"],
        }

    @property
    def state(self) -> list[Json]:
        return [
            state("m.room.create", {"room_version": "11", "creator": ALICE}),
            state("m.room.member", {"membership": "join"}, ALICE),
            state("m.room.member", {"membership": "join"}, BOT, BOT),
            state("m.room.power_levels", {"users": {ALICE: 100, BOT: 50}}),
            state(POLICY_EVENT, {"type": "after_send", "timer": LIFETIME}),
        ]

    def _other(self, asked: Asked) -> Answer | Json:
        match asked.method, *asked.where:
            case method, "rooms", _, *where:
                return self._in_room(method, where, asked.body)
            case "GET", "joined_rooms":
                return {"joined_rooms": [ROOM]}
            case "PUT", "sendToDevice", kind, _:
                self.told.append(kind)
                return {}
            case "POST", "keys", "signatures", "upload":
                self.signatures += 1
        return self.account(asked)

    def _in_room(self, method: str, where: list[str], body: Json) -> Answer | Json:
        match method, *where:
            case "PUT", "redact", event_id, _:
                self.redacted.append(event_id)
                name = f"$of{event_id}"
                redaction = state("m.room.redaction", {"redacts": event_id}, sender=BOT)
                del redaction["state_key"]
                self.show(redaction | {"redacts": event_id, "event_id": name})
                return {"event_id": name}
            case "PUT", "send", _, _:
                self.said.append(body["body"])
                return {"event_id": f"$said{len(self.said)}"}
            case "PUT", "state", *_:
                return {"event_id": "$state"}
            case "GET", "state", kind, key:
                wanted = kind, key
                found = [one for one in self.state if (one["type"], one["state_key"]) == wanted]
                return found[0] if found else NO_SUCH_THING
            case "GET", "messages":
                return {"chunk": self.earlier}
            case "GET", "members":
                return {"chunk": [one for one in self.state if one["type"] == "m.room.member"]}
            case "GET", "joined_members":
                return {"joined": {ALICE: {}, BOT: {}}}
        return NOT_KNOWN


class Scene:
    """A bot that runs in this process, and is told to stop as an operator does it."""

    def __init__(self, stand_in: StandIn, folder: Path) -> None:
        self.homeserver = Homeserver(stand_in)
        self.folder = folder
        self.admin_token: Path | None = None

    @property
    def settings(self) -> Settings:
        return Settings(
            homeserver=self.homeserver.url,
            user_id=UserID(BOT),
            password=SecretStr("secret"),
            data_dir=self.folder / "data",
            encryption=Encryption(pickle_key=SecretStr("ab" * 32)),
            lifetime=Lifetimes.model_validate({"min": "1s"}),
            media=Media(delete=self.admin_token is not None, admin_token_file=self.admin_token),
        )

    async def live(self, *until: Callable[[], bool]) -> int:
        """Run until all of that has come about one after the other; return the exit status."""
        self.homeserver.forget_syncs()
        running = asyncio.create_task(app.run(self.settings))
        try:
            async with asyncio.timeout(50):
                for come_about in until:
                    while not come_about():
                        assert not running.done()
                        await asyncio.sleep(0.01)
                os.kill(os.getpid(), signal.SIGTERM)
                return await running
        finally:
            running.cancel()

    async def count(self, table: str) -> int:
        store = await Store.open(
            self.folder / "data" / "timers.db", limits=self.settings.limits, own_id=UserID(BOT)
        )
        async with store._db.transaction() as db:
            [(found,)] = await db.rows(f"SELECT count(*) FROM {table}")
        await store.close()
        return int(found)


@pytest.fixture
async def scene(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    # What does not end by itself ends the test, and not the bot.
    monkeypatch.setattr(app, "STOP_WITHIN", 1_000.0)
    monkeypatch.setattr(app, "END_WITHIN", 1_000.0)
    # A signal that the bot does not hear ends no test either.
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield Scene(stand_in, tmp_path)
    for number, handler in before.items():
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, handler)


def said(scene: Scene, event_id: str, **content: Any) -> Callable[[], bool]:
    """Say something once the bot syncs, and wait until it was redacted."""

    def gone() -> bool:
        if scene.homeserver.place and not asked:
            asked.append(event_id)
            scene.homeserver.say(event_id, **content)
        return event_id in scene.homeserver.redacted

    asked: list[str] = []
    return gone


async def test_it_logs_in_redacts_answers_and_ends_in_order(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    made: list[CarefulClient] = []
    scrubbed: list[bool] = []

    def connected(*given: Any) -> CarefulClient:
        made.append(connect(*given))
        return made[-1]

    class Noted(KeyExpiry):
        async def scrub(self) -> None:
            scrubbed.append(caplog.messages[-1] == "stopping")
            raise DiskError("full")

    monkeypatch.setattr(app, "connect", connected)
    monkeypatch.setattr(build, "KeyExpiry", Noted)
    homeserver = scene.homeserver

    def asked_for_help() -> bool:
        if homeserver.coming or homeserver.said or "$help" in sent:
            return any("!expire" in one for one in homeserver.said)
        sent.append("$help")
        homeserver.say("$help", body="!expire help")
        return False

    sent: list[str] = []
    status = await scene.live(
        lambda: homeserver.signatures == 1,
        said(scene, "$first"),
        said(scene, "$second"),
        asked_for_help,
    )
    assert status == app.OK
    assert homeserver.redacted[:2] == ["$first", "$second"]
    assert scrubbed == [True]
    known = load_identity(scene.folder / "data" / "device.json")
    assert known is not None
    assert (known.device_id, known.access_token) == ("BOTDEVICE", "token-1")
    assert made[0].client_session is None or made[0].client_session.closed
    assert made[0].store.database.is_closed()
    assert f"ready as {BOT}" in caplog.messages
    assert caplog.messages[-2:] == ["stopping", "stopped"]


async def test_it_deletes_files_as_long_as_it_may(scene: Scene) -> None:
    homeserver = scene.homeserver
    scene.admin_token = scene.folder / "admin"
    scene.admin_token.write_text("the-admins")
    picture = {"msgtype": "m.image", "url": f"mxc://example.org/{PICTURE}"}
    gone = said(scene, "$picture", **picture)
    assert await scene.live(gone, lambda: not homeserver.files) == app.OK
    assert await scene.count("media") == 0
    homeserver.files, homeserver.deletes = {PICTURE}, False
    assert await scene.live(said(scene, "$another", **picture)) == app.OK
    assert await scene.count("media") == 1
    scene.admin_token = None
    assert await scene.live(said(scene, "$third", **picture)) == app.OK
    assert await scene.count("media") == 0
    assert homeserver.files == {PICTURE}


async def test_a_deleted_device_is_signed_again_and_people_can_verify_it(
    scene: Scene,
) -> None:
    homeserver = scene.homeserver

    def log_out() -> bool:
        homeserver.account.devices.clear()
        homeserver.tokens.clear()
        return True

    def verify() -> bool:
        stray = {"type": "m.key.verification.mac", "sender": ALICE}
        homeserver.to_device.append({**stray, "content": {"transaction_id": "unknown"}})
        homeserver.news.set()
        return True

    status = await scene.live(
        lambda: homeserver.signatures == 1,
        log_out,
        said(scene, "$after"),
        lambda: homeserver.signatures == 2,
        verify,
        lambda: homeserver.told == ["m.key.verification.cancel"],
    )
    assert status == app.OK
    assert homeserver.given == 2


# --- how it ends ---------------------------------------------------------------------------------


async def test_it_says_by_its_status_why_it_does_not_begin(scene: Scene) -> None:
    with hold(scene.folder / "data"):
        assert await app.run(scene.settings) == 4
    scene.homeserver.refuses = True
    assert await app.run(scene.settings) == 3


@pytest.mark.parametrize("number", SIGNALS)
async def test_who_is_told_twice_to_stop_takes_no_longer(
    scene: Scene, number: int, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    class Seconds(float):
        def __radd__(self, now: float) -> float:
            told.append(now)
            return now + (0.05 if len(told) == 1 else 1_000)

    monkeypatch.setattr(app, "END_WITHIN", Seconds())
    stand_in.silent = True
    running = asyncio.create_task(app.run(scene.settings))
    async with asyncio.timeout(50):
        while not stand_in.asked:
            assert not running.done()
            await asyncio.sleep(0.01)
        for one in (number, *SIGNALS):
            os.kill(os.getpid(), one)
        assert await running == app.OK
    assert len(told) == 1


def grouped(*errors: Exception) -> Exception:
    return ExceptionGroup("services", [ExceptionGroup("one", [one]) for one in errors])


@pytest.mark.parametrize(
    ("ended_with", "stopped", "status", "line"),
    [
        (LoginError("the password is wrong"), False, 3, "the password is wrong"),
        (grouped(LoginError("a"), OSError("b")), False, 3, "a"),
        (grouped(OSError("b"), TokenRejectedError("x")), False, 3, app.NOT_ACCEPTED),
        (TokenRejectedError("x"), False, 3, app.NOT_ACCEPTED),
        (OccupiedError("another bot"), False, 4, "another bot"),
        (StoreError("damaged"), False, 1, "damaged"),
        (grouped(OSError("no folder")), False, 1, "no folder"),
        (grouped(DiskError("full"), DiskError("full")), True, 1, "this should not have happened"),
        (StoppedError(), False, 0, None),
        (TimeoutError(), True, 0, None),
        (TimeoutError(), False, 1, ""),
        (ValueError("somebody's text"), True, 1, "this should not have happened"),
    ],
)
def test_every_end_has_its_status_and_its_line(
    ended_with: Exception,
    stopped: bool,
    status: int,
    line: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert app._status(ended_with, stopped=stopped) == status
    assert caplog.messages == ([] if line is None else [line])
    told = [record.exc_info for record in caplog.records]
    assert any(told) == (line == "this should not have happened")


async def test_a_login_of_another_device_begins_anew_as_that_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = scene.folder / "password"
    password.write_text("old")
    settings = scene.settings.model_copy(update={"password": None, "password_file": password})
    changed = ChangedDeviceError("another device")
    ends: list[Exception | None] = [changed, grouped(OSError("x"), changed), None]
    passwords: list[str | None] = []

    async def be(given: Settings, _: asyncio.Event) -> None:
        passwords.append(given.password_text())
        password.write_text(f"new {len(passwords)}")
        if error := ends.pop(0):
            raise error

    monkeypatch.setattr(app, "_be", be)
    await app._serve(settings, asyncio.Event())
    assert passwords == ["secret", "new 1", "new 2"]
    ends += [grouped(changed, LoginError("refused")), None]
    with pytest.RaisesGroup(LoginError, ChangedDeviceError, flatten_subgroups=True):
        await app._serve(settings, asyncio.Event())
    ends[:] = [OSError("full"), None]
    with pytest.raises(OSError, match="full"):
        await app._serve(settings, asyncio.Event())


async def test_the_address_where_the_homeserver_answers_is_used(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[Outcome] = [Done(body={"homeserver": "https://m.example.org"})]
    outcomes.append(Failed(status=500))
    settings = scene.settings

    async def found(_: str) -> Outcome:
        return outcomes.pop(0)

    async def insist(request: Callable[[], Awaitable[Outcome]]) -> Outcome:
        return await request()

    monkeypatch.setattr(app, "find", found)
    assert (await app.locate(settings, insist)).homeserver == "https://m.example.org"
    with pytest.raises(OutcomeError):
        await app.locate(settings, insist)


# --- reading back --------------------------------------------------------------------------------


async def test_an_operator_may_have_every_room_read_back(scene: Scene) -> None:
    homeserver = scene.homeserver
    said: list[str] = []
    assert await rebuild(scene.settings, said.append) == app.OK
    assert said == [
        "Reading back in 1 room.",
        "Read 0 events: 0 messages had no timer and got one.",
    ]
    said.clear()
    homeserver.say("$missed")
    homeserver.earlier, homeserver.coming = homeserver.coming, []
    assert await rebuild(scene.settings, said.append) == app.OK
    assert said[1:] == ["Read 1 event: 1 message had no timer and got one."]
    assert await scene.count("timers") == 1
    assert homeserver.redacted == []


async def test_reading_back_says_when_nobody_answers_and_holds_the_folder(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(_: str) -> Outcome:
        return Failed(status=502)

    with hold(scene.folder / "data"), pytest.raises(OperatorError, match="bot is running"):
        await rebuild(scene.settings, print)
    monkeypatch.setattr(app, "find", nobody)
    with pytest.raises(OperatorError) as failed:
        await rebuild(scene.settings, print)
    assert str(failed.value) == "the homeserver did not answer (status 502); try again"
