"""Whatever strangers get into an answer, every request of the bot makes use of the rest of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import vodozemac
from aiohttp import web
from nio import MatrixRoom
from unpaddedbase64 import encode_base64

from bot.core.outcomes import Done
from bot.core.power_levels import Power
from bot.core.types import EventID, RoomID, UserID
from bot.matrix.client import SHORT_FILTER, SYNC_FILTER, Matrix
from bot.matrix.encryption.engine import CarefulClient
from bot.matrix.http.endpoints import path
from bot.matrix.synapse import admin
from bot.matrix.synapse.admin import Admin
from bot.matrix.synapse.media import Media
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import Bots
from tests.support.encryption_engines import ROOM, Bot, Peer, Writer
from tests.support.people import ApiError, People

ALICE = UserID("@alice:example.org")
DEEP = b"[" * 2_000 + b"1" * 5_000 + b"]" * 2_000
ODD = b'[%b, 1%b, 1e999, NaN, "\xed\xa0\x80", "\\ud800"]' % (DEEP, b"0" * 5_000)
GOOD = b'{"type": "m.room.message", "event_id": "$good", "sender": "@alice:example.org"}'
CHILD = (
    b'{"event_id": "$child", "sender": "@a:x", "type": "m.room.message", "odd": %b, "content":'
    b' {"m.relates_to": {"rel_type": "m.replace", "event_id": "$good", "odd": %b}}}' % (ODD, ODD)
)


class RawServer:
    """Answers every request with the same bytes."""

    def __init__(self) -> None:
        self.body = b"{}"
        self.url = ""
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.query.get("filter", ""))
        return web.Response(body=self.body, content_type="application/json")


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    server = RawServer()
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def matrix(server: RawServer, tmp_path: Path) -> AsyncIterator[Matrix]:
    client = CarefulClient(server.url, "@bot:example.org", store_path=str(tmp_path))
    client.restore_login("@bot:example.org", "BOTDEVICE", "token")
    matrix = Matrix(client)
    yield matrix
    await matrix.close()


async def test_a_sync_is_read_on_whatever_is_in_it(server: RawServer, matrix: Matrix) -> None:
    server.body = (
        b'{"next_batch": "s2", "odd": %(odd)b, "to_device": {"events": ['
        b'{"type": "m.room.encrypted", "sender": "@mallory:x", "content": %(odd)b},'
        b'{"type": "m.key.verification.request", "sender": "@mallory:x", "content": {"a": %(odd)b}}'
        b']}, "rooms": {"join": {"!room:x": {"timeline": {"events": [%(odd)b, %(good)b]}}}}}'
        % {b"odd": ODD, b"good": GOOD}
    )
    batch = await matrix.sync("s1", 0)
    assert batch.next_batch == "s2"
    assert batch.joined[0].timeline == [json.loads(GOOD)]


async def test_a_sync_is_read_however_long_the_messages_to_the_device(
    server: RawServer, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.matrix.client.LARGE", 5 << 20)
    long = b'{"type": "m.dummy", "sender": "@mallory:x", "content": {"a": "%b"}}' % (
        b"x" * (1 << 20)
    )
    short = b'{"type": "m.dummy", "sender": "@alice:x", "content": {}}'
    heard: list[Any] = []

    async def take(events: list[Any]) -> None:
        heard.extend(events)

    monkeypatch.setattr(matrix.crypto._to_device, "take_by_slices", take)
    events = b", ".join([long] * 12 + [short])
    server.body = b'{"to_device": {"events": [%b]}, "next_batch": "s2"}' % events
    assert (await matrix.sync("s1", 0)).next_batch == "s2"
    assert heard == [None] * 12 + [json.loads(short)]


async def test_a_sync_of_too_many_parts_is_asked_for_again_with_less(
    server: RawServer, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.matrix.client.MOST_PARTS", 1_000)
    server.body = b'{"next_batch": "s2", "odd": [%b[]]}' % (b"[]," * 2_000)
    assert (await matrix.sync("s1", 0)).next_batch == "s2"
    assert server.asked == [SYNC_FILTER, SHORT_FILTER]


ROOM_ID, EVENT_ID = RoomID("!room:example.org"), EventID("$good")
QUESTIONS: dict[str, tuple[bytes, Callable[[Matrix], Coroutine[Any, Any, Any]], Any]] = {
    "a page": (
        b'{"chunk": [%b, %b], "end": "t2", "odd": %b}' % (ODD, GOOD, ODD),
        lambda matrix: matrix.page_back(ROOM_ID, "t1"),
        ([json.loads(GOOD)], "t2"),
    ),
    "relations": (
        b'{"chunk": [%b, %b]}' % (ODD, CHILD),
        lambda matrix: matrix.relations(ROOM_ID, EVENT_ID),
        (["$child"], True),
    ),
    "state": (
        b'{"type": "t", "sender": "@a:x", "content": {"a": 1, "b": %b}, "c": %b}' % (DEEP, DEEP),
        lambda matrix: _part(matrix.policy_event(ROOM_ID), "type"),
        "t",
    ),
    "an event": (
        b'{"event_id": "$good", "content": %b}' % ODD,
        lambda matrix: _part(matrix.event(ROOM_ID, EVENT_ID), "event_id"),
        "$good",
    ),
    "power levels": (
        b'{"type": "m.room.power_levels", "content": {"odd": %b, "users": {"@a:x": 1%b,'
        b' "@alice:example.org": 77}}}' % (ODD, b"0" * 5_000),
        lambda matrix: _level(matrix.power(ROOM_ID)),
        77,
    ),
    "the rooms": (
        b'{"joined_rooms": [%b, "!room:x"]}' % ODD,
        lambda matrix: matrix.joined_rooms(),
        {"!room:x"},
    ),
    "members": (
        b'{"joined": {"@b\\ud800:example.org": %b, "@alice:example.org": {"display_name": "Al"}}}'
        % ODD,
        lambda matrix: matrix.is_shared(ROOM_ID),
        False,
    ),
    "the login": (
        b'{"user_id": "@bot:example.org", "device_id": "D", "access_token": "t", "odd": %b}' % ODD,
        lambda matrix: _body(matrix, "POST", path("login")),
        {"user_id": "@bot:example.org", "device_id": "D", "access_token": "t"},
    ),
    "account data": (
        b'{"key": "abc", "odd": %b}' % ODD,
        lambda matrix: _body(matrix, "GET", path("user", "@bot:example.org", "account_data", "x")),
        {"key": "abc"},
    ),
}


async def _part(question: Coroutine[Any, Any, Any], key: str) -> Any:
    return (await question)[key]


async def _level(question: Coroutine[Any, Any, Power]) -> int:
    return (await question).of(ALICE)


async def _body(matrix: Matrix, method: str, where: str) -> Any:
    outcome = await matrix.request(method, where)
    assert isinstance(outcome, Done)
    assert outcome.body.pop("odd")
    return outcome.body


@pytest.mark.parametrize("name", QUESTIONS)
async def test_an_answer_is_used_whatever_else_is_in_it(
    server: RawServer, matrix: Matrix, name: str
) -> None:
    server.body, ask, expected = QUESTIONS[name]
    assert await ask(matrix) == expected


async def test_nios_own_requests_use_the_rest_of_an_answer(
    server: RawServer, matrix: Matrix
) -> None:
    client = matrix._client
    member = b'{"display_name": "Alice", "avatar_url": null, "odd": %b}' % ODD
    server.body = b'{"joined": {"@alice:example.org": %b}, "odd": %b}' % (member, ODD)
    found = await client.joined_members(ROOM_ID)
    assert [one.user_id for one in found.members] == [ALICE]
    server.body = b'{"event_id": "$sent", "odd": %b}' % ODD
    content = {"msgtype": "m.notice", "body": "x"}
    client.rooms[ROOM_ID] = MatrixRoom(ROOM_ID, client.user_id)
    assert (await client.room_send(ROOM_ID, "m.room.message", content, "1")).event_id == "$sent"
    client.olm.users_for_key_query.add(ALICE)
    server.body = b'{"device_keys": {"@alice:example.org": {}, "@b:x": {"D": %b}}}' % ODD
    await matrix.crypto.query({ALICE})
    assert ALICE not in client.olm.users_for_key_query


async def test_an_administrators_answers_are_read_in_part(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = Media(Admin(server.url, "token"), "example.org")
    try:
        info = b'{"user_id": "@alice:example.org", "upload_name": "\xed\xa0\x80", "odd": %b}' % ODD
        server.body = b'{"media_info": %b}' % info
        assert await media.uploader("abc") == ALICE
        monkeypatch.setattr(admin, "SMALL", 100)
        assert not isinstance(await media.delete("abc"), Done)
    finally:
        await media.close()


@pytest.mark.synapse
async def test_what_a_stranger_sends_through_a_real_homeserver_stops_nothing(
    people: People, bots: Bots
) -> None:
    alice, mallory, bot = await people("alice"), await people("mallory"), await bots()
    room = await settle_in(alice, bot)
    deep: Any = "\ud800"
    for _ in range(350):
        deep = {"a": [deep]}
    contents: list[Any] = [{"a": deep}, {"a": "\ud83d", "\udfff": 1e300}, {"a": 10**4_000}]
    contents += [{"a": "x" * 900_000}] * 3
    for number, content in enumerate(contents):
        for kind in ("m.room.encrypted", "m.key.verification.request"):
            body = {"messages": {bot.user_id: {"*": content}}}
            with suppress(ApiError):  # what it does not let through needs no test
                await mallory.call("PUT", "sendToDevice", kind, f"{kind}{number}", body=body)
    await alice.send(room, "!expire 3s")
    await alice.until_notice(room, bot.user_id, "set disappearing messages to 3 seconds.", 30)
    assert "left out" in bot.words()
    message = await alice.send(room, "goes all the same")
    await alice.until_redacted(room, message, 15)


# --- what was encrypted --------------------------------------------------------------------------


@pytest.fixture
def alice(tmp_path: Path) -> Peer:
    return Peer("alice", tmp_path / "alice")


@pytest.fixture
def bot(tmp_path: Path, alice: Peer) -> Bot:
    made = Bot(tmp_path / "bot")
    made.meet(alice)
    alice.meet(made)
    return made


def raw_megolm(writer: Writer, plaintext: bytes) -> dict[str, Any]:
    """Return a room message of any bytes."""
    event = writer.write("x")
    session: vodozemac.GroupSession = writer.session._session
    event["content"]["ciphertext"] = session.encrypt(plaintext).to_base64()
    return event


async def test_a_command_is_read_whatever_else_was_encrypted_with_it(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    said = b'{"type": "m.room.message", "room_id": "%b", "odd": %b, "content":' % (
        ROOM.encode(),
        ODD,
    )
    said += b' {"msgtype": "m.text", "body": "!expire 5m", "odd": %b}}' % ODD
    assert await bot.reads(raw_megolm(writer, said)) == "!expire 5m"


def raw_olm(alice: Peer, bot: Bot, payload: bytes) -> dict[str, Any]:
    """Return a to-device event of any bytes."""
    event = alice.tell(bot, "m.dummy", {})
    session = alice.olm.session_store.get(bot.device.curve25519)
    kind, body = session._session.encrypt(payload).to_parts()
    event["content"]["ciphertext"] = {
        bot.device.curve25519: {"type": kind, "body": encode_base64(body)}
    }
    return event


@pytest.mark.parametrize("first", [True, False])
async def test_a_room_key_is_taken_whatever_was_encrypted_with_it(
    alice: Peer, bot: Bot, first: bool
) -> None:
    if not first:
        bot.feed(alice.tell(bot, "m.dummy", {}))
    writer = Writer(alice)
    content = json.dumps(writer.room_key()).encode()
    payload = b'{"type": "m.room_key", "sender": "%b", "sender_device": "ALICEDEVICE",' % (
        alice.user_id.encode()
    )
    payload += b' "keys": %b, "recipient": "@bot:example.org", "recipient_keys": %b,' % (
        json.dumps({"ed25519": alice.device.ed25519}).encode(),
        json.dumps({"ed25519": bot.device.ed25519}).encode(),
    )
    payload += b' "odd": %b, "content": %b}' % (ODD, content[:-1] + b', "odd": ' + ODD + b"}")
    bot.feed(raw_olm(alice, bot, payload))
    assert await bot.reads(writer.write("!expire 5m")) == "!expire 5m"


async def test_a_room_key_for_no_real_room_stands_in_nobodys_way(alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key("!\ud800:example.org")))
    for room_id in bot.crypto.sessions.values():
        assert room_id.encode()
    await bot.crypto.ratchet([(session_id, 0) for session_id in bot.crypto.sessions])
    await asyncio.sleep(0)
    bot.restart()
