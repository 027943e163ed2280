"""Synapse's admin API: how files are asked for and deleted, and what each answer means."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    OutcomeError,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.matrix.synapse.admin import ANSWER_WITHIN, Admin, path
from bot.matrix.synapse.media import NOWHERE, Media
from tests.support.scripted_homeserver import (
    GONE_WRONG,
    NO_SUCH_THING,
    NOT_ALLOWED,
    NOT_KNOWN,
    Answer,
    StandIn,
    error,
)

FILE, ALICE = "a/b?c", "@alice:example.org"
WHERE = ("_synapse", "admin", "v1", "media", "ex.org:8448", FILE)
NOBODY = Refused(status=401, errcode="M_UNKNOWN_TOKEN")


@pytest.fixture
async def media(stand_in: StandIn) -> AsyncIterator[Media]:
    made = Media(Admin(stand_in.url, "the admin's"), "ex.org:8448")
    yield made
    await made.close()


async def outcome_of(call: Any) -> Any:
    try:
        return await call
    except OutcomeError as failed:
        return failed.outcome


def info(**more: Any) -> dict[str, Any]:
    return {"media_info": {"user_id": ALICE} | more}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (info(), ALICE),
        (info(safe_from_quarantine=False, quarantined_by=None), ALICE),
        (info(safe_from_quarantine=True), None),
        (info(quarantined_by="@admin:example.org"), None),
        (info(user_id=None), None),
        ({}, Failed(status=200)),
        ({"media_info": []}, Failed(status=200)),
        (NO_SUCH_THING, NotFound()),
        (NOT_ALLOWED, Forbidden(reason="M_FORBIDDEN")),
        (GONE_WRONG, Failed(status=500, errcode="M_UNKNOWN")),
    ],
)
async def test_who_uploaded_a_file_is_asked_for(
    media: Media, stand_in: StandIn, answer: Any, expected: Any
) -> None:
    stand_in.answers = [answer]
    assert await outcome_of(media.uploader(FILE)) == expected
    [asked] = stand_in.asked
    assert (asked.method, asked.parts, asked.body) == ("GET", WHERE, None)
    assert asked.headers["Authorization"] == "Bearer the admin's"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"deleted_media": [FILE]}, Done(body={"deleted_media": [FILE]})),
        ({"deleted_media": []}, Failed(status=200)),
        ({"deleted_media": FILE}, Failed(status=200)),
        ({}, Failed(status=200)),
        (NO_SUCH_THING, NotFound()),
        (NOT_ALLOWED, Forbidden(reason="M_FORBIDDEN")),
    ],
)
async def test_a_file_is_deleted_when_the_homeserver_says_that_very_file(
    media: Media, stand_in: StandIn, answer: Any, expected: Outcome
) -> None:
    stand_in.answers = [answer]
    assert await media.delete(FILE) == expected
    [asked] = stand_in.asked
    assert (asked.method, asked.parts) == ("DELETE", WHERE)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (NO_SUCH_THING, NotFound()),
        (info(), NotFound()),
        (NOT_ALLOWED, Forbidden(reason="M_FORBIDDEN")),
        (error(401, "M_UNKNOWN_TOKEN"), NOBODY),
        (GONE_WRONG, Failed(status=500, errcode="M_UNKNOWN")),
    ],
)
async def test_whether_files_can_be_deleted_is_asked_with_a_missing_one(
    media: Media, stand_in: StandIn, answer: Any, expected: Outcome
) -> None:
    stand_in.answers = [answer]
    assert await media.usable() == expected
    assert stand_in.asked[0].parts == (*WHERE[:-1], NOWHERE)


async def test_the_admins_token_goes_to_no_other_address(stand_in: StandIn) -> None:
    admin = Admin(stand_in.url, "the admin's")
    stand_in.answers = [Answer(307, {}, {"Location": f"{stand_in.url}/elsewhere"}), {"a": 1}]
    try:
        assert await admin.request("GET", path("v1", "x")) == Failed(status=307)
        assert await admin.request("POST", path("v1", "é/"), {"b": 2}) == Done(body={"a": 1})
        stand_in.answers = [error(401, "M_UNKNOWN_TOKEN"), NOT_KNOWN]
        with pytest.raises(TokenRejectedError):
            await admin.request("GET", path("v1"))
        refused = await admin.request("GET", path("v1"))
        assert isinstance(refused, Refused)
        assert (refused.status, refused.errcode) == (404, "M_UNRECOGNIZED")
    finally:
        await admin.close()
    assert [asked.parts[3] for asked in stand_in.asked[:2]] == ["x", "é/"]
    assert stand_in.asked[1].body == {"b": 2}
    assert ANSWER_WITHIN == 30


async def test_a_synapse_that_is_not_there_is_unreachable() -> None:
    admin = Admin("http://127.0.0.1:9", "the admin's")
    await admin.close()
    assert isinstance(await admin.request("GET", path("v1")), Unreachable)
    await admin.close()
