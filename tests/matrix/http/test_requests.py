"""Every request is made as the specification has it, and every answer comes to what it means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    OutcomeError,
    RateLimited,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.core.timeline import PAGE
from bot.core.types import EventID, RoomID, UserID
from bot.matrix import client
from bot.matrix.client import SHORT_PAGE, Matrix
from bot.matrix.http import responses
from bot.matrix.http.nio_client import Client
from bot.matrix.http.requests import ANSWER_WITHIN
from bot.matrix.http.response_body import LARGE
from bot.matrix.lookups import RELATED_PAGES
from tests.support.encryption_engines import Bot
from tests.support.scripted_homeserver import (
    GONE_WRONG,
    NO_SUCH_THING,
    NOT_ALLOWED,
    NOT_KNOWN,
    Answer,
    StandIn,
    error,
)

if TYPE_CHECKING:
    from pathlib import Path

BOT, ALICE = UserID("@bot:example.org"), UserID("@alice:example.org")
ROOM, EVENT, TXN = RoomID("!r/o?m%+ é:example.org"), EventID("$e/v+e#n&t="), "t/x?n"
POLICY = "com.beeper.disappearing_timer"

Call = Callable[[Matrix], Awaitable[Any]]


class Watched(Matrix):
    """Notes how long each request may take, and how much of its answer is read."""

    def __init__(self, made: Client) -> None:
        super().__init__(made)
        self.limits: list[tuple[float | None, int | None]] = []

    async def request(self, method: str, where: str, body: Any = None, **more: Any) -> Outcome:
        self.limits.append((more.get("within"), more.get("most")))
        return await super().request(method, where, body, **more)


@pytest.fixture
async def matrix(stand_in: StandIn) -> AsyncIterator[Watched]:
    made = Client(stand_in.url, BOT)
    made.user_id = BOT
    found = Watched(made)
    found.use_token("the token")
    yield found
    await found.close()


@pytest.fixture
async def device(stand_in: StandIn, tmp_path: Path) -> AsyncIterator[Watched]:
    """The bot with its encryption, without which there is no sync."""
    found = Watched(Bot(tmp_path, stand_in.url).client)
    yield found
    await found.close()


# --- what is asked -------------------------------------------------------------------------------

IN_ROOM = ("rooms", ROOM)
REQUESTS: list[tuple[Call, str, tuple[str, ...], Any, Any]] = [
    (lambda m: m.answers(), "GET", ("devices",), {}, None),
    (lambda m: m.joined_rooms(), "GET", ("joined_rooms",), {}, None),
    (
        lambda m: m.is_signed(ALICE, "DEVICE", "key"),
        "POST",
        ("keys", "query"),
        {},
        {"device_keys": {ALICE: ["DEVICE"]}},
    ),
    (
        lambda m: m.policy_event(ROOM),
        "GET",
        (*IN_ROOM, "state", POLICY, ""),
        {"format": "event"},
        None,
    ),
    (
        lambda m: m.state(ROOM, "m.room.member", ALICE),
        "GET",
        (*IN_ROOM, "state", "m.room.member", ALICE),
        {"format": "event"},
        None,
    ),
    (lambda m: m.is_shared(ROOM), "GET", (*IN_ROOM, "joined_members"), {}, None),
    (lambda m: m.others(ROOM), "GET", (*IN_ROOM, "members"), {"not_membership": "leave"}, None),
    (lambda m: m.event(ROOM, EVENT), "GET", (*IN_ROOM, "event", EVENT), {}, None),
    (lambda m: m.is_gone(ROOM, EVENT), "GET", (*IN_ROOM, "event", EVENT), {}, None),
    (
        lambda m: m.page_back(ROOM, "s1&2"),
        "GET",
        (*IN_ROOM, "messages"),
        {"dir": "b", "from": "s1&2", "limit": str(PAGE)},
        None,
    ),
    (
        lambda m: m.page_back(ROOM, "s1", 7),
        "GET",
        (*IN_ROOM, "messages"),
        {"dir": "b", "from": "s1", "limit": "7"},
        None,
    ),
    (lambda m: m.redact(ROOM, EVENT, TXN), "PUT", (*IN_ROOM, "redact", EVENT, TXN), {}, {}),
    (
        lambda m: m.set_policy(ROOM, {"timer": 5}),
        "PUT",
        (*IN_ROOM, "state", POLICY, ""),
        {},
        {"timer": 5},
    ),
    (
        lambda m: m.set_defaults(ROOM, {"a": 1}),
        "PUT",
        (*IN_ROOM, "state", "io.github.matrix-ephemeral-bot.default", ""),
        {},
        {"a": 1},
    ),
    (lambda m: m.join(ROOM), "POST", ("join", ROOM), {}, {}),
    (
        lambda m: m.join(ROOM, "a&b.org"),
        "POST",
        ("join", ROOM),
        {"via": "a&b.org", "server_name": "a&b.org"},
        {},
    ),
    (lambda m: m.leave(ROOM), "POST", (*IN_ROOM, "leave"), {}, {}),
    (
        lambda m: m.say(ROOM, {"body": "é"}, TXN, encrypted=False),
        "PUT",
        (*IN_ROOM, "send", "m.room.message", TXN),
        {},
        {"body": "é"},
    ),
    (
        lambda m: m.send(ROOM, "m.odd/type", {"a": 1}, TXN, encrypted=False),
        "PUT",
        (*IN_ROOM, "send", "m.odd/type", TXN),
        {},
        {"a": 1},
    ),
]


@pytest.mark.parametrize("case", REQUESTS)
async def test_each_request_is_what_the_specification_says(
    matrix: Watched, stand_in: StandIn, case: tuple[Call, str, tuple[str, ...], Any, Any]
) -> None:
    call, *wanted = case
    stand_in.answers = [NOT_ALLOWED]
    try:
        outcome = await call(matrix)
    except OutcomeError as failed:
        outcome = failed.outcome
    assert outcome in (Forbidden(reason="M_FORBIDDEN"), False)
    [asked] = stand_in.asked
    assert [asked.method, asked.where, asked.query, asked.body] == wanted
    assert asked.headers["Authorization"] == "Bearer the token"
    assert asked.headers["Content-Type"] == "application/json"


async def test_an_application_service_says_whom_it_speaks_for(
    matrix: Watched, stand_in: StandIn
) -> None:
    stand_in.answers = [{}, {}, {}]
    who = {"user_id": BOT}
    outbox: Client = matrix._client
    outbox.speak_for(BOT)
    await matrix.join(ROOM)
    outbox.speak_for(BOT, "A&B")
    await matrix.join(ROOM, "x.org")
    matrix.use_token("")
    await matrix.leave(ROOM)
    assert [asked.query for asked in stand_in.asked] == [
        who,
        who | {"device_id": "A&B", "via": "x.org", "server_name": "x.org"},
        who | {"device_id": "A&B"},
    ]
    assert [asked.headers.get("Authorization") for asked in stand_in.asked] == [
        "Bearer the token",
        "Bearer the token",
        None,
    ]


# --- what came of it -----------------------------------------------------------------------------

OUTCOMES: list[tuple[Answer, Outcome]] = [
    (Answer(200, {"event_id": "$x"}), Done(body={"event_id": "$x"})),
    (Answer(200, b"[]"), Failed(status=200)),
    (Answer(200, b"{"), Failed(status=200)),
    (Answer(429, {"retry_after_ms": 1_234}), RateLimited(retry_after=1_234)),
    (Answer(429, {}, {"Retry-After": "7"}), RateLimited(retry_after=7_000)),
    (NOT_ALLOWED, Forbidden(reason="M_FORBIDDEN")),
    (NO_SUCH_THING, NotFound()),
    (error(400, "M_BAD_JSON"), Refused(status=400, errcode="M_BAD_JSON", body={})),
    (GONE_WRONG, Failed(status=500, errcode="M_UNKNOWN")),
    (Answer(502, b"<html>", {"Content-Type": "text/html"}), Unreachable(reason="status 502")),
]


@pytest.mark.parametrize(("answer", "expected"), OUTCOMES)
async def test_a_request_comes_to_an_outcome(
    matrix: Watched, stand_in: StandIn, answer: Answer, expected: Outcome
) -> None:
    stand_in.answers = [answer, answer]
    found = await matrix.leave(ROOM)
    if isinstance(expected, Refused):
        assert isinstance(found, Refused)
        assert (found.status, found.errcode) == (expected.status, expected.errcode)
        assert found.body == answer.body
    else:
        assert found == expected
    if isinstance(expected, Done):
        assert await matrix.must("GET", "/x") == expected.body
    else:
        with pytest.raises(OutcomeError) as raised:
            await matrix.must("GET", "/x")
        assert raised.value.outcome == found


async def test_a_token_that_ended_is_raised(matrix: Watched, stand_in: StandIn) -> None:
    stand_in.answers = [error(401, "M_UNKNOWN_TOKEN")]
    with pytest.raises(TokenRejectedError):
        await matrix.leave(ROOM)


async def test_an_answer_is_waited_for_no_longer_than_said(
    matrix: Watched, stand_in: StandIn
) -> None:
    stand_in.silent = True
    async with asyncio.timeout(20):
        outcome = await matrix.request("GET", "/x", within=0.02)
    assert isinstance(outcome, Unreachable)
    assert "Timeout" in outcome.reason
    assert (outcome.page, len(stand_in.asked)) == (0, 1)


async def test_a_homeserver_that_is_not_there_is_unreachable(matrix: Watched) -> None:
    await matrix.close()
    matrix._client.homeserver = "http://127.0.0.1:9"
    assert isinstance(await matrix.leave(ROOM), Unreachable)


@pytest.mark.parametrize("length", [99, 100, 101])
async def test_no_more_is_read_than_there_is_use_for(
    matrix: Watched, stand_in: StandIn, length: int
) -> None:
    stand_in.answers = [Answer(200, b"{}" + b" " * (length - 2))]
    outcome = await matrix.request("GET", "/x", most=100)
    assert outcome == (responses.TOO_LARGE if length > 100 else Done())


# --- answers to questions ------------------------------------------------------------------------


def member(user_id: Any, membership: Any = "join", **more: Any) -> dict[str, Any]:
    return {"state_key": user_id, "content": {"membership": membership}} | more


FAILED = Failed(status=200)
GONE = {"event_id": EVENT, "unsigned": {"redacted_because": {"type": "m.room.redaction"}}}

QUESTIONS: list[tuple[Call, Answer | dict[str, Any], Any]] = [
    (lambda m: m.answers(), {"devices": []}, True),
    (lambda m: m.answers(), GONE_WRONG, False),
    (lambda m: m.joined_rooms(), {"joined_rooms": ["!a", "!b"]}, {"!a", "!b"}),
    (lambda m: m.joined_rooms(), {"joined_rooms": []}, set()),
    (lambda m: m.joined_rooms(), {}, FAILED),
    (lambda m: m.joined_rooms(), {"joined_rooms": {}}, FAILED),
    (lambda m: m.joined_rooms(), GONE_WRONG, Failed(status=500, errcode="M_UNKNOWN")),
    (lambda m: m.is_signed(ALICE, "DEVICE", "key"), {}, False),
    (lambda m: m.policy_event(ROOM), NO_SUCH_THING, None),
    (lambda m: m.policy_event(ROOM), NOT_KNOWN, Refused(status=404, errcode="M_UNRECOGNIZED")),
    (
        lambda m: m.policy_event(ROOM),
        {"type": POLICY, "content": {"timer": 5}, "event_id": "$x"},
        {"type": POLICY, "content": {"timer": 5}, "event_id": "$x"},
    ),
    (
        lambda m: m.policy_event(ROOM),
        {"timer": 5},
        {"type": POLICY, "content": {"timer": 5}, "sender": "", "event_id": ""},
    ),
    (lambda m: m.name_of(ROOM, ALICE), {"displayname": "Al"}, "Al"),
    (lambda m: m.name_of(ROOM, ALICE), {"type": "x", "content": {"displayname": "Al"}}, "Al"),
    (lambda m: m.name_of(ROOM, ALICE), {"displayname": 7}, ""),
    (lambda m: m.name_of(ROOM, ALICE), NO_SUCH_THING, ""),
    (lambda m: m.name_of(ROOM, ALICE), GONE_WRONG, ""),
    (lambda m: m.is_shared(ROOM), {"joined": {BOT: {}, ALICE: {}}}, False),
    (lambda m: m.is_shared(ROOM), {"joined": {BOT: {}, "@a:example.org:8448": {}}}, True),
    (lambda m: m.is_shared(ROOM), {"joined": {BOT: {}, "@a:elsewhere.org": {}}}, True),
    (lambda m: m.is_shared(ROOM), {"joined": ["@a:elsewhere.org"]}, False),
    (lambda m: m.is_shared(ROOM), NOT_ALLOWED, Forbidden(reason="M_FORBIDDEN")),
    (
        lambda m: m.others(ROOM),
        {"chunk": [member(BOT), member(ALICE), member("@b:x", "invite"), member("@c:x", "ban")]},
        (1, 1),
    ),
    (lambda m: m.others(ROOM), {"chunk": [member(BOT), "odd", {}, {"content": []}]}, (0, 0)),
    (lambda m: m.others(ROOM), {"chunk": [member(BOT), member(ALICE, content="odd")]}, (0, 0)),
    (lambda m: m.others(ROOM), {"chunk": [member(ALICE)]}, FAILED),
    (lambda m: m.others(ROOM), {"chunk": [member(BOT, "leave")]}, FAILED),
    (lambda m: m.others(ROOM), {}, FAILED),
    (lambda m: m.event(ROOM, EVENT), {"event_id": EVENT}, {"event_id": EVENT}),
    (lambda m: m.event(ROOM, EVENT), NO_SUCH_THING, None),
    (lambda m: m.event(ROOM, EVENT), GONE_WRONG, Failed(status=500, errcode="M_UNKNOWN")),
    (lambda m: m.is_gone(ROOM, EVENT), {"event_id": EVENT}, False),
    (lambda m: m.is_gone(ROOM, EVENT), GONE, True),
    (lambda m: m.is_gone(ROOM, EVENT), NO_SUCH_THING, True),
    (lambda m: m.is_gone(ROOM, EVENT), NOT_ALLOWED, Forbidden(reason="M_FORBIDDEN")),
    (lambda m: m.page_back(ROOM, "s1"), {"chunk": [{"a": 1}, 7], "end": "e"}, ([{"a": 1}], "e")),
    (lambda m: m.page_back(ROOM, "s1"), {"chunk": "odd", "end": 7}, ([], None)),
    (lambda m: m.page_back(ROOM, "s1"), NOT_ALLOWED, Forbidden(reason="M_FORBIDDEN")),
]


@pytest.mark.parametrize(("call", "answer", "expected"), QUESTIONS)
async def test_an_answer_is_taken_for_what_it_is(
    matrix: Watched, stand_in: StandIn, call: Call, answer: Answer | dict[str, Any], expected: Any
) -> None:
    stand_in.answers = [answer]
    try:
        found = await call(matrix)
    except OutcomeError as failed:
        found = failed.outcome
    if isinstance(expected, Refused):
        assert isinstance(found, Refused)
        assert (found.status, found.errcode) == (expected.status, expected.errcode)
    else:
        assert found == expected
    assert len(stand_in.asked) == 1


def test_the_fingerprint_is_the_signing_key_of_the_device(tmp_path: Path) -> None:
    bot = Bot(tmp_path)
    assert Matrix(bot.client).fingerprint == bot.device.ed25519


async def test_power_is_read_from_two_state_events(matrix: Watched, stand_in: StandIn) -> None:
    levels = {"type": "m.room.power_levels", "content": {"users": {BOT: 50}, "redact": 50}}
    create = {"type": "m.room.create", "content": {"room_version": "11"}, "sender": ALICE}
    stand_in.answers = [create, levels, create, NO_SUCH_THING, NO_SUCH_THING, NO_SUCH_THING]
    assert (await matrix.power(ROOM)).may_redact(BOT)
    assert [asked.where[3] for asked in stand_in.asked] == ["m.room.create", "m.room.power_levels"]
    creator_alone = await matrix.power(ROOM)
    assert creator_alone.may_redact(ALICE)
    assert not creator_alone.may_redact(BOT)
    assert not (await matrix.power(ROOM)).may_redact(BOT)
    stand_in.answers = [create, Answer(504, b"")]
    with pytest.raises(OutcomeError):
        await matrix.power(ROOM)


# --- pages ---------------------------------------------------------------------------------------


def edit(name: str, parent: str = EVENT, **more: Any) -> dict[str, Any]:
    relation = {"rel_type": "m.replace", "event_id": parent}
    content = {"m.relates_to": relation}
    return {"type": "m.room.message", "event_id": name, "content": content} | more


async def test_relations_are_read_to_their_end(matrix: Watched, stand_in: StandIn) -> None:
    first = [edit("$1"), edit("$2", "$1"), edit("$3", "$other"), "odd", edit("$4", state_key="")]
    second = [edit("$5"), edit("$6", unsigned=GONE["unsigned"]), edit("$7", event_id=7)]
    stand_in.answers = [{"chunk": first, "next_batch": "n&1"}, {"chunk": second, "next_batch": 7}]
    assert await matrix.relations(ROOM, EVENT) == (["$1", "$5", "$2"], True)
    assert [asked.parts for asked in stand_in.asked] == [
        ("_matrix", "client", "v1", "rooms", ROOM, "relations", EVENT)
    ] * 2
    assert [asked.query for asked in stand_in.asked] == [
        {"recurse": "true", "limit": "100"},
        {"recurse": "true", "limit": "100", "from": "n&1"},
    ]


async def test_relations_that_go_on_for_ever_are_read_up_to_a_point(
    matrix: Watched, stand_in: StandIn
) -> None:
    stand_in.handler = lambda asked: {
        "chunk": [edit(f"${asked.query.get('from', '0')}")],
        "next_batch": str(len(stand_in.asked)),
    }
    found, all_of_them = await matrix.relations(ROOM, EVENT)
    assert found == [f"${number}" for number in range(RELATED_PAGES)]
    assert len(stand_in.asked) == RELATED_PAGES == 50
    assert not all_of_them


async def test_a_page_that_is_too_large_is_asked_for_smaller_once(
    matrix: Watched, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE_BYTES", 100)
    long = Answer(200, b" " * 101)
    stand_in.answers = [long, {"chunk": [], "end": "e"}, long, long, long, GONE_WRONG]
    assert await matrix.page_back(ROOM, "s1") == ([], "e")
    for size in (SHORT_PAGE + 1, SHORT_PAGE):
        with pytest.raises(OutcomeError) as raised:
            await matrix.page_back(ROOM, "s1", size)
        assert raised.value.outcome is responses.TOO_LARGE
    with pytest.raises(OutcomeError):
        await matrix.page_back(ROOM, "s1")
    limits = [asked.query["limit"] for asked in stand_in.asked]
    assert limits == ["1000", "100", "101", "100", "100", "1000"]
    assert {asked.query["from"] for asked in stand_in.asked} == {"s1"}


async def test_a_page_may_be_a_quarter_as_large_as_a_sync(
    matrix: Watched, stand_in: StandIn
) -> None:
    stand_in.answers = [{}]
    await matrix.page_back(ROOM, "s1")
    assert matrix.limits == [(None, 16 << 20)]


# --- a sync --------------------------------------------------------------------------------------


async def test_a_sync_asks_for_what_is_new_since_the_last(
    device: Watched, stand_in: StandIn
) -> None:
    joined = {"!j": {"timeline": {"events": [{"event_id": "$1"}]}}}
    stand_in.answers = [
        {"next_batch": "s1"},
        {"next_batch": "s2", "rooms": {"join": joined}},
    ]
    assert not device.crypto.wake.is_set()
    first = await device.sync(None, 30_000)
    assert (first.next_batch, first.joined) == ("s1", [])
    assert device.crypto.wake.is_set()
    second = await device.sync("s1", 30_000)
    assert (second.next_batch, second.joined[0].timeline) == ("s2", [{"event_id": "$1"}])
    begin, later = stand_in.asked
    assert begin.where == later.where == ("sync",)
    assert begin.query.keys() == {"filter", "set_presence"}
    assert later.query == begin.query | {"since": "s1", "timeout": "30000"}
    assert begin.query["set_presence"] == "offline"
    wanted = json.loads(begin.query["filter"])
    nothing: dict[str, Any] = {"types": []}
    assert wanted == {
        "presence": nothing,
        "account_data": nothing,
        "room": {
            "account_data": nothing,
            "ephemeral": nothing,
            "state": {"lazy_load_members": True},
            "timeline": {"limit": 100},
        },
    }
    within = ANSWER_WITHIN + 30
    assert device.limits == [(10 * within, LARGE), (within, LARGE)]


async def test_a_sync_that_is_too_large_is_asked_for_shorter(
    device: Watched, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LARGE", 100)
    whole = b'{"next_batch": "s1"}'
    long, fits = (Answer(200, whole.ljust(length)) for length in (101, 200))
    stand_in.answers = [long, fits, long, Answer(200, whole.ljust(201))]
    assert (await device.sync("s0", 0)).next_batch == "s1"
    with pytest.raises(OutcomeError) as raised:
        await device.sync("s0", 0)
    assert raised.value.outcome is responses.TOO_LARGE
    first, second, *_ = stand_in.asked
    assert second.query == first.query | {"filter": second.query["filter"]}
    assert '"limit":5}' in second.query["filter"]
    assert device.limits[:2] == [(ANSWER_WITHIN, 100), (ANSWER_WITHIN, 200)]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({}, FAILED),
        ({"next_batch": 7}, FAILED),
        (Answer(200, b"[]"), FAILED),
        (NOT_ALLOWED, Forbidden(reason="M_FORBIDDEN")),
    ],
)
async def test_a_sync_without_a_token_is_none(
    device: Watched, stand_in: StandIn, answer: Any, outcome: Outcome
) -> None:
    stand_in.answers = [answer]
    with pytest.raises(OutcomeError) as raised:
        await device.sync("s0", 0)
    assert raised.value.outcome == outcome
    assert not device.crypto.wake.is_set()


async def test_only_of_a_long_sync_too_long_messages_are_left_out(
    matrix: Watched, stand_in: StandIn
) -> None:
    few = {"to_device": {"events": [{"body": "x" * 70_000}]}}
    many = few | {"rest": "y" * 4_200_000}
    for body, trim, expected in (
        (few, True, few),
        (few, False, few),
        (many, False, many),
        (many, True, many | {"to_device": {"events": [None]}}),
    ):
        stand_in.answers = [body]
        outcome = await matrix.request("GET", "/x", trim=trim)
        assert outcome == Done(body=expected)
