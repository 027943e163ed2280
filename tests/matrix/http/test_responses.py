"""Every answer of a homeserver has a name, and whatever a sync brings becomes plain data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.invitations import Invite
from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    RateLimited,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.core.sync_batch import RoomBatch, SyncBatch
from bot.core.types import RoomID, UserID
from bot.matrix.http import responses

BOT = UserID("@bot:example.org")


def too_old(said: object) -> dict[str, Any]:
    return {"errcode": "M_FORBIDDEN", "error": said}


TOO_OLD = Forbidden(reason="M_FORBIDDEN", older_than=3000)
NOT_TOLD = Forbidden(reason="M_FORBIDDEN")


def error(errcode: Any, **more: Any) -> dict[str, Any]:
    return {"errcode": errcode, "error": "words for people"} | more


LIMITED = "M_LIMIT_EXCEEDED"
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (200, {}, {}, Done()),
        (200, {"event_id": "$x"}, {}, Done(body={"event_id": "$x"})),
        (201, {"a": 1}, {}, Done(body={"a": 1})),
        (299, {"a": 1}, {}, Done(body={"a": 1})),
        (300, {"a": 1}, {}, Failed(status=300)),
        (199, {"a": 1}, {}, Failed(status=199)),
        (200, None, {}, Failed(status=200)),
        (200, [], {}, Failed(status=200)),
        (200, "ok", {}, Failed(status=200)),
        (429, error(LIMITED, retry_after_ms=1_234), {}, RateLimited(retry_after=1_234)),
        (429, error(LIMITED, retry_after_ms=1), {}, RateLimited(retry_after=100)),
        (429, error(LIMITED, retry_after_ms=0), {}, RateLimited(retry_after=500)),
        (429, error(LIMITED, retry_after_ms=3_600_000), {}, RateLimited(retry_after=600_000)),
        (429, error(LIMITED, retry_after_ms=10**30), {}, RateLimited(retry_after=600_000)),
        (429, error(LIMITED), {"Retry-After": "3600"}, RateLimited(retry_after=600_000)),
        (429, error(LIMITED), {"Retry-After": "7"}, RateLimited(retry_after=7_000)),
        (
            429,
            error(LIMITED, retry_after_ms=505),
            {"Retry-After": "7"},
            RateLimited(retry_after=505),
        ),
        (429, error(LIMITED), {"Retry-After": "-7"}, RateLimited(retry_after=500)),
        (429, error(LIMITED), {}, RateLimited(retry_after=5_000)),
        (429, error(LIMITED), {"Retry-After": "Tue, 1 Dec"}, RateLimited(retry_after=5_000)),
        (429, error(LIMITED, retry_after_ms=-5), {}, RateLimited(retry_after=5_000)),
        (429, error(LIMITED, retry_after_ms="5"), {}, RateLimited(retry_after=5_000)),
        (429, error(LIMITED, retry_after_ms=True), {}, RateLimited(retry_after=5_000)),
        (429, None, {}, RateLimited(retry_after=5_000)),
        (400, error(LIMITED, retry_after_ms=900), {}, RateLimited(retry_after=900)),
        (403, error("M_FORBIDDEN"), {}, Forbidden(reason="M_FORBIDDEN")),
        (403, too_old("Events older than 3000ms cannot be redacted."), {}, TOO_OLD),
        (403, too_old("Events older than 3 days cannot be redacted."), {}, NOT_TOLD),
        (403, too_old(["Events older than 3000ms cannot be redacted."]), {}, NOT_TOLD),
        (403, error("M_GUEST_ACCESS_FORBIDDEN"), {}, Forbidden(reason="M_GUEST_ACCESS_FORBIDDEN")),
        (403, None, {}, Failed(status=403)),
        (403, {"error": "words"}, {}, Failed(status=403)),
        (404, error("M_NOT_FOUND"), {}, NotFound()),
        (404, None, {}, Failed(status=404)),
        *[
            (status, error("M_UNRECOGNIZED"), {}, Refused(status=status, errcode="M_UNRECOGNIZED"))
            for status in (400, 404, 405, 501)
        ],
        (404, error("M_UNKNOWN"), {}, Failed(status=404, errcode="M_UNKNOWN")),
        (500, error("M_UNRECOGNIZED"), {}, Failed(status=500, errcode="M_UNRECOGNIZED")),
        (404, {"detail": "no such page"}, {}, Failed(status=404)),
        (413, error("M_TOO_LARGE"), {}, Refused(status=413, errcode="M_TOO_LARGE")),
        (400, error("M_UNKNOWN"), {}, Refused(status=400, errcode="M_UNKNOWN")),
        (400, {"errcode": 7}, {}, Failed(status=400)),
        (400, None, {}, Failed(status=400)),
        (500, error("M_UNKNOWN"), {}, Failed(status=500, errcode="M_UNKNOWN")),
        (500, None, {}, Failed(status=500)),
        (501, None, {}, Failed(status=501)),
        (302, None, {}, Failed(status=302)),
        (502, None, {}, Unreachable(reason="status 502")),
        (503, error("M_UNKNOWN"), {}, Failed(status=503, errcode="M_UNKNOWN")),
        (502, error("M_UNKNOWN"), {}, Failed(status=502, errcode="M_UNKNOWN")),
        (504, {"error": "no code"}, {}, Unreachable(reason="status 504")),
        (502, None, HTML, Unreachable(reason="status 502")),
        (504, "<html>", {}, Unreachable(reason="status 504")),
        (522, None, {}, Unreachable(reason="status 522")),
        (200, None, HTML, Unreachable(reason="a web page, status 200")),
        (302, None, HTML, Unreachable(reason="a web page, status 302")),
        (401, None, HTML, Unreachable(reason="a web page, status 401")),
        (401, {}, {}, Unreachable(reason="status 401")),
        (401, error("M_USER_LOCKED"), {}, Unreachable(reason="status 401 M_USER_LOCKED")),
        (401, error(["M_UNKNOWN_TOKEN"]), {}, Unreachable(reason="status 401")),
        (401, {"flows": []}, {}, Refused(status=401, body={"flows": []})),
        (
            401,
            error("M_FORBIDDEN"),
            {},
            Refused(status=401, errcode="M_FORBIDDEN", body=error("M_FORBIDDEN")),
        ),
        (403, None, HTML, Unreachable(reason="a web page, status 403")),
        (404, None, HTML, Unreachable(reason="a web page, status 404")),
        (404, None, {"Content-Type": "text/plain"}, Unreachable(reason="a web page, status 404")),
        (429, None, HTML, RateLimited(retry_after=5_000)),
        (400, None, HTML, Failed(status=400)),
        (414, None, HTML, Failed(status=414)),
        (500, None, HTML, Failed(status=500)),
        (404, error("M_NOT_FOUND"), HTML, NotFound()),
        (200, {"a": 1}, HTML, Done(body={"a": 1})),
    ],
)
def test_an_answer_has_a_name(
    status: int, body: Any, headers: dict[str, str], expected: Outcome
) -> None:
    found = responses.name(status, body, headers)
    assert type(found) is type(expected)
    if isinstance(found, Refused) and isinstance(expected, Refused):
        assert (found.status, found.errcode) == (expected.status, expected.errcode)
    else:
        assert found == expected


# A request that was led to the wrong place must not pass for the news that a message is gone: its
# timer would be dropped.
@pytest.mark.parametrize("errcode", ["M_UNRECOGNIZED", "M_UNKNOWN", "M_NOT_JSON"])
def test_only_the_word_for_it_says_that_something_does_not_exist(errcode: str) -> None:
    assert not isinstance(responses.name(404, error(errcode), {}), NotFound)


@pytest.mark.parametrize("errcode", ["M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_UNKNOWN_DEVICE"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_token_ends_everything(status: int, errcode: str) -> None:
    with pytest.raises(TokenRejectedError):
        responses.name(status, error(errcode, soft_logout=True), {})


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
ERRORS = JSON | st.fixed_dictionaries(
    {}, optional={"errcode": st.just(LIMITED) | JSON, "retry_after_ms": JSON}
)


@given(
    status=st.integers(100, 599),
    body=ERRORS,
    headers=st.dictionaries(st.just("Retry-After"), st.text(max_size=9)),
)
def test_any_answer_has_a_name(status: int, body: Any, headers: dict[str, str]) -> None:
    found = responses.name(status, body, headers)
    assert isinstance(found, Done) == (200 <= status < 300 and isinstance(body, dict))
    if isinstance(found, RateLimited):
        assert found.retry_after >= 0


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[]", []),
        (b"", None),
        (b"<html>502</html>", None),
        (b'{"a": ', None),
        (b"\xff\xfe\xfd", None),
        (b"[" * 100_000, None),
        (b"1" * 5_000, None),
    ],
)
def test_what_is_no_json_is_nothing(raw: bytes, expected: Any) -> None:
    assert responses.parse(raw) == expected


# Half of a surrogate pair, which JSON can carry, fits neither SQLite nor a path: an id that has one
# would end intake at every start.
@pytest.mark.parametrize(
    "raw", [rb'["\ud800"]', rb'{"\uDFFF": 1}', rb'["\ud83d x", "\ud83d\ude00"]']
)
def test_text_that_is_no_unicode_is_mended_on_its_way_in(raw: bytes) -> None:
    found = responses.parse(raw)
    assert found is not None
    assert json.dumps(found, ensure_ascii=False).encode()
    assert ("😀" in str(found)) == (rb"\ude00" in raw)


# --- a sync --------------------------------------------------------------------------------------

MEMBER = {"type": "m.room.member", "state_key": BOT, "content": {"membership": "invite"}}


def test_a_sync_becomes_plain_data() -> None:
    event, state = {"event_id": "$1"}, {"event_id": "$0", "state_key": ""}
    room = {
        "timeline": {"events": [event], "limited": True, "prev_batch": "p1"},
        "summary": {"m.joined_member_count": 2},
        "state": {"events": [state]},
    }
    invite = {"invite_state": {"events": [{"type": "m.room.name"}, MEMBER | {"sender": "@a:x"}]}}
    body = {
        "next_batch": "s1",
        "rooms": {"join": {"!j": room}, "invite": {"!i": invite}, "leave": {"!l": {}}},
    }
    assert responses.read_sync(body, BOT) == SyncBatch(
        next_batch="s1",
        joined=[
            RoomBatch(
                room_id=RoomID("!j"),
                state=[state],
                timeline=[event],
                limited=True,
                prev_batch="p1",
                members=2,
            )
        ],
        invited=[Invite(room_id=RoomID("!i"), inviter=UserID("@a:x"))],
        left=[RoomID("!l")],
    )


def test_an_empty_sync_brings_nothing() -> None:
    assert responses.read_sync({"next_batch": "s1"}, BOT) == SyncBatch(next_batch="s1")


@pytest.mark.parametrize(
    "events",
    [
        [],
        [MEMBER],
        [MEMBER | {"sender": 7}],
        [MEMBER | {"sender": "@a:x", "state_key": "@else:x"}],
        [MEMBER | {"sender": "@a:x", "content": {"membership": "join"}}],
        [MEMBER | {"sender": "@a:x", "type": "m.room.name"}],
        [MEMBER | {"sender": "@a:x", "content": None}],
        None,
        "no list",
    ],
)
def test_an_invitation_that_names_nobody_has_no_inviter(events: Any) -> None:
    part = {"invite_state": {"events": events}}
    body = {"next_batch": "s1", "rooms": {"invite": {"!i": part}}}
    [invite] = responses.read_sync(body, BOT).invited
    assert invite.inviter is None


def test_a_timeline_without_a_token_has_no_gap_that_could_be_read() -> None:
    part = {"timeline": {"events": [], "limited": True}}
    body = {"next_batch": "s1", "rooms": {"join": {"!j": part}}}
    [room] = responses.read_sync(body, BOT).joined
    assert not room.limited


PARTS = st.fixed_dictionaries(
    {},
    optional={
        "timeline": JSON | st.fixed_dictionaries({}, optional={"events": JSON, "limited": JSON}),
        "state": JSON | st.fixed_dictionaries({}, optional={"events": st.lists(JSON)}),
        "invite_state": JSON | st.fixed_dictionaries({}, optional={"events": st.lists(JSON)}),
    },
)
ROOMS = JSON | st.dictionaries(st.sampled_from(["!a", "!b"]), PARTS | JSON)


@given(
    rooms=JSON
    | st.fixed_dictionaries({}, optional=dict.fromkeys(("join", "invite", "leave"), ROOMS))
)
def test_any_sync_becomes_plain_data(rooms: Any) -> None:
    batch = responses.read_sync({"next_batch": "s1", "rooms": rooms}, BOT)
    for room in batch.joined:
        assert all(isinstance(event, dict) for event in room.state + room.timeline)
    assert json.dumps(batch.next_batch) == '"s1"'
