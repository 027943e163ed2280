"""Every answer to a login, a refresh or a token lets the bot in, ends it, or is waited out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.core.outcomes import Failed, LoginError, Outcome, OutcomeError, RateLimited, Unreachable
from bot.core.types import UserID
from bot.matrix.http.nio_client import Client
from bot.matrix.http.requests import Requests
from bot.matrix.login.device import Credentials, Identity
from bot.matrix.login.login import NO_DEVICE, NOT_RENEWED, Login
from tests.support.scripted_homeserver import (
    NO_SUCH_THING,
    NOT_KNOWN,
    Answer,
    Asked,
    Json,
    StandIn,
    error,
)

BOT, NOW = UserID("@bot:example.org"), 1_800_000_000_000
GOOD: Json = {"user_id": BOT, "device_id": "DEVICE", "access_token": "token"}
PASSWORDS: Json = {"flows": [{"type": "m.login.sso"}, {"type": "m.login.password"}]}
HOMELESS = "{url} does not answer as a homeserver does"
REFUSED = f"{BOT}: the homeserver refused the login ({{why}})"
WRONG = f"{REFUSED}: is the account there, and the password right?"
SOMEBODY = f"the login is @alice:example.org's, but user_id says {BOT}"


class Scene:
    """A way in, and the homeserver's answers by method and path."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        stand_in.handler = self.answer
        self.answers: dict[str, Answer | Json] = {}
        self.pauses: list[float] = []
        self.client = Client(stand_in.url, BOT)
        self.login = Login(Requests(self.client), lambda: NOW, self.pause)

    def answer(self, asked: Asked) -> Answer | Json:
        return self.answers.get(f"{asked.method} {asked.parts[-1]}", NOT_KNOWN)

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def given(self, **more: str) -> Credentials:
        return Credentials(homeserver=self.stand_in.url, user_id=BOT, **dict[str, Any](more))

    async def by_password(self, device_id: str | None = None) -> Identity:
        return await self.login.by_password(self.given(password="secret"), device_id)

    async def by_token(self) -> Identity:
        return await self.login.by_token(self.given(access_token="given"), "given")

    async def refresh(self) -> Identity | None:
        known = Identity(
            user_id=BOT, device_id="DEVICE", access_token="old", refresh_token="r", expires_at=1
        )
        return await self.login.refresh(known)


@pytest.fixture
async def scene(stand_in: StandIn) -> AsyncIterator[Scene]:
    made = Scene(stand_in)
    yield made
    await made.client.close()


# --- by password ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device_id", [None, "DEVICE"])
async def test_a_password_lets_in_as_the_device_that_is_known(
    scene: Scene, device_id: str | None
) -> None:
    scene.answers["POST login"] = GOOD | {"refresh_token": "next", "expires_in_ms": 1_000}
    assert await scene.by_password(device_id) == Identity(
        user_id=BOT,
        device_id="DEVICE",
        access_token="token",
        refresh_token="next",
        expires_at=NOW + 1_000,
        renew_at=NOW + 800,
    )
    [asked] = scene.stand_in.asked
    assert "Authorization" not in asked.headers
    assert asked.body == {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": BOT},
        "password": "secret",
        "initial_device_display_name": "Disappearing messages",
        "refresh_token": True,
    } | ({"device_id": device_id} if device_id else {})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (GOOD | {"user_id": "@alice:example.org"}, SOMEBODY),
        (GOOD | {"device_id": 7}, HOMELESS),
        (GOOD | {"access_token": None}, HOMELESS),
        (GOOD | {"access_token": ""}, HOMELESS),
        (NO_SUCH_THING, HOMELESS),
        (error(403, "M_FORBIDDEN"), WRONG.format(why="status 403 M_FORBIDDEN")),
        (error(403, "M_USER_DEACTIVATED"), WRONG.format(why="status 403 M_USER_DEACTIVATED")),
        (error(400, "M_UNAUTHORIZED"), WRONG.format(why="status 400 M_UNAUTHORIZED")),
        (error(400, "M_UNKNOWN"), WRONG.format(why="status 400 M_UNKNOWN")),
    ],
)
async def test_what_no_password_opens_ends_it(
    scene: Scene, answer: Answer | Json, message: str
) -> None:
    scene.answers |= {"POST login": answer, "GET login": PASSWORDS}
    with pytest.raises(LoginError) as refused:
        await scene.by_password()
    assert str(refused.value) == message.format(url=scene.stand_in.url)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (error(403, "M_RESOURCE_LIMIT_EXCEEDED"), "status 403 M_RESOURCE_LIMIT_EXCEEDED"),
        (error(401, "M_UNKNOWN_TOKEN"), "status 401 M_UNKNOWN_TOKEN"),
        (error(404, "M_UNRECOGNIZED"), "status 404 M_UNRECOGNIZED"),
        (error(429, "M_LIMIT_EXCEEDED"), RateLimited(retry_after=5_000)),
        (error(500, "M_UNKNOWN"), Failed(status=500, errcode="M_UNKNOWN")),
    ],
)
async def test_what_may_pass_is_waited_out(
    scene: Scene, answer: Answer, outcome: Outcome | str
) -> None:
    scene.answers |= {"POST login": answer, "GET login": PASSWORDS}
    with pytest.raises(OutcomeError) as failed:
        await scene.by_password()
    found = failed.value.outcome
    if isinstance(outcome, RateLimited):
        assert isinstance(found, RateLimited)
    else:
        assert found == (Unreachable(reason=outcome) if isinstance(outcome, str) else outcome)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            {"GET auth_metadata": {"issuer": "https://auth.example.org/"}},
            "(MAS) at https://auth.example.org/. Three",
        ),
        ({"GET auth_metadata": {"issuer": "no address"}}, "(MAS). Three"),
        ({"GET auth_metadata": {"issuer": 7}}, "(MAS). Three"),
        ({"GET login": NOT_KNOWN}, "(MAS), as it seems. Three"),
        ({"GET login": error(401, "M_UNKNOWN_TOKEN")}, ""),
        ({"GET login": error(500, "M_UNRECOGNIZED")}, "(MAS), as it seems. Three"),
        ({"GET login": error(500, "M_UNKNOWN")}, ""),
        ({"GET login": error(404, "M_NOT_FOUND")}, ""),
        ({"GET login": PASSWORDS, "GET auth_metadata": {}}, ""),
        ({"GET login": PASSWORDS, "GET auth_metadata": error(401, "M_UNKNOWN_TOKEN")}, ""),
        ({"GET login": {"flows": [{"type": "m.login.sso"}, 7]}}, "no passwords (m.login.sso)."),
        ({"GET login": {"flows": []}}, "no passwords (it names no other way)."),
        ({"GET login": {}}, "no passwords (it names no other way)."),
    ],
)
async def test_where_passwords_are_not_taken_the_other_ways_are_named(
    scene: Scene, answers: dict[str, Answer | Json], said: str
) -> None:
    scene.answers = answers
    words = await scene.login.without_passwords("https://example.org")
    assert (said in words) if said else words == ""
    assert not words or words.startswith("https://example.org ")


# --- by token ------------------------------------------------------------------------------------


async def test_a_given_token_lets_in_as_its_device(scene: Scene) -> None:
    scene.answers["GET whoami"] = {"user_id": BOT, "device_id": "DEVICE"}
    assert await scene.by_token() == Identity(user_id=BOT, device_id="DEVICE", access_token="given")
    [asked] = scene.stand_in.asked
    assert asked.headers["Authorization"] == "Bearer given"
    assert scene.pauses == []


@pytest.mark.parametrize(
    ("answer", "message", "pauses"),
    [
        ({"user_id": "@alice:example.org", "device_id": "DEVICE"}, SOMEBODY, []),
        ({"user_id": BOT}, NO_DEVICE, []),
        ({"user_id": BOT, "device_id": 7}, NO_DEVICE, []),
        (error(403, "M_FORBIDDEN"), REFUSED.format(why="status 403 M_FORBIDDEN"), []),
        (error(400, "M_UNKNOWN"), REFUSED.format(why="status 400 M_UNKNOWN"), []),
        (NO_SUCH_THING, HOMELESS, []),
        (error(401, "M_UNKNOWN_TOKEN"), NOT_RENEWED, [3.0]),
    ],
)
async def test_a_token_that_is_not_the_bots_ends_it(
    scene: Scene, answer: Answer | Json, message: str, pauses: list[float]
) -> None:
    scene.answers["GET whoami"] = answer
    with pytest.raises(LoginError) as refused:
        await scene.by_token()
    assert str(refused.value) == message.format(url=scene.stand_in.url)
    assert scene.pauses == pauses


async def test_whose_a_token_is_may_be_told_later(scene: Scene) -> None:
    scene.answers["GET whoami"] = error(500, "M_UNKNOWN")
    with pytest.raises(OutcomeError) as failed:
        await scene.by_token()
    assert failed.value.outcome == Failed(status=500, errcode="M_UNKNOWN")


# --- by refresh token ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "refresh_token", "ends"),
    [
        ({}, "r", None),
        ({"refresh_token": "next"}, "next", None),
        ({"refresh_token": ""}, "r", None),
        ({"refresh_token": 7, "expires_in_ms": True}, "r", None),
        ({"expires_in_ms": 0}, "r", None),
        ({"expires_in_ms": 1}, "r", NOW + 1),
        ({"expires_in_ms": 315_360_000_000}, "r", NOW + 315_360_000_000),
        ({"expires_in_ms": 315_360_000_001}, "r", None),
    ],
)
async def test_a_refresh_gives_the_same_device_its_next_tokens(
    scene: Scene, more: Json, refresh_token: str, ends: int | None
) -> None:
    scene.answers["POST refresh"] = {"access_token": "new"} | more
    known = await scene.refresh()
    assert known is not None
    assert (known.device_id, known.access_token) == ("DEVICE", "new")
    assert (known.refresh_token, known.expires_at) == (refresh_token, ends)
    assert (known.renew_at is None) == (ends is None)
    assert scene.stand_in.asked[0].body == {"refresh_token": "r"}


@pytest.mark.parametrize(
    "answer",
    [
        error(401, "M_UNKNOWN_TOKEN"),
        error(403, "M_FORBIDDEN"),
        error(400, "M_UNKNOWN"),
        error(404, "M_UNRECOGNIZED"),
        error(500, "M_UNRECOGNIZED"),
        NO_SUCH_THING,
    ],
)
async def test_a_refresh_that_is_refused_gives_none(scene: Scene, answer: Answer) -> None:
    scene.answers["POST refresh"] = answer
    assert await scene.refresh() is None


@pytest.mark.parametrize(
    "answer", [error(500, "M_UNKNOWN"), {}, {"access_token": ""}, {"access_token": 7}]
)
async def test_a_refresh_that_makes_no_sense_is_asked_for_again(
    scene: Scene, answer: Answer | Json
) -> None:
    scene.answers["POST refresh"] = answer
    with pytest.raises(OutcomeError):
        await scene.refresh()
