"""Lifting the bot's rate limit: what an operator is told, whatever the homeserver answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bot.config import Settings
from bot.operator import rate_limit
from bot.operator.check import findings
from bot.operator.identity import OperatorError
from bot.operator.login_check import Finding
from tests.on_synapse.test_cross_signing import signed
from tests.operator.test_identity import bot_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bot.demo.homeserver import Homeserver
    from tests.support.bot_process import Bots

BOT = "@expire:example.org"
TOKEN = "syt_administrator"


class FakeSynapse:
    """Synapse's table of exceptions; says something else when it is told to."""

    def __init__(self) -> None:
        self.override: dict[str, Any] = {}
        self.refusal: tuple[int, str] | None = None
        self.forgetful = False
        self.asked: list[tuple[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.startswith("/_matrix"):
            return web.json_response({"versions": ["v1.13"]})
        self.asked.append((request.method, request.path))
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.refusal is not None:
            status, text = self.refusal
            return web.Response(status=status, text=text)
        if request.method == "POST" and not self.forgetful:
            assert await request.json() == {}
            self.override = {"messages_per_second": 0, "burst_count": 0}
        if request.method == "DELETE" and not self.forgetful:
            self.override = {}
        return web.json_response({} if request.method == "DELETE" else self.override)


def error(code: str) -> str:
    return json.dumps({"errcode": code, "error": "no"})


@pytest.fixture
async def synapse() -> FakeSynapse:
    return FakeSynapse()


@pytest.fixture
async def settings(synapse: FakeSynapse, tmp_path: Path) -> AsyncIterator[Settings]:
    application = web.Application()
    application.router.add_route("*", "/{anything:.*}", synapse.answer)
    async with TestServer(application) as server:
        url = str(server.make_url("/"))
        folder = str(tmp_path / "data")
        own = {"homeserver": url, "user_id": BOT, "password": "x", "data_dir": folder}
        yield Settings.model_validate(own)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    where = tmp_path / "admin-token"
    where.write_text(TOKEN + "\n")
    return where


async def refused(settings: Settings, file: Path, *, undo: bool = False) -> OperatorError:
    """Lift the limit in vain; return why, and see that the token is not in it."""
    said: list[str] = []
    with pytest.raises(OperatorError) as caught:
        await rate_limit.lift(settings, said.append, file=file, undo=undo)
    assert said == []
    assert TOKEN not in str(caught.value)
    return caught.value


async def test_it_is_lifted_read_back_and_put_back(
    synapse: FakeSynapse, settings: Settings, file: Path
) -> None:
    said: list[str] = []
    assert await rate_limit.lift(settings, said.append, file=file, undo=False) == 0
    assert said == [f"{BOT}: rate limit lifted"]
    assert await rate_limit.lift(settings, said.append, file=file, undo=True) == 0
    assert said[1].startswith(f"{BOT}: rate limit as everybody's on this homeserver")
    where = f"/_synapse/admin/v1/users/{BOT}/override_ratelimit"
    assert synapse.asked == [(method, where) for method in ("POST", "GET", "DELETE", "GET")]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, error("M_UNKNOWN_TOKEN")), "the homeserver does not know this token"),
        ((403, error("M_FORBIDDEN")), "the token is not one of a server administrator"),
        ((403, "<h1>Forbidden</h1>"), "does not offer Synapse's admin API"),
        ((404, error("M_UNRECOGNIZED")), "does not offer Synapse's admin API"),
        ((405, error("M_UNRECOGNIZED")), "does not offer Synapse's admin API"),
        ((404, "<h1>Not found</h1>"), "does not offer Synapse's admin API"),
        ((200, "<h1>Welcome</h1>"), "does not offer Synapse's admin API"),
        ((301, ""), "does not offer Synapse's admin API"),
        ((404, error("M_NOT_FOUND")), f"the homeserver has no account {BOT}"),
        ((400, error("M_UNKNOWN")), "the homeserver refused it (400 M_UNKNOWN)"),
        ((429, error("M_LIMIT_EXCEEDED")), "the homeserver asks to slow down"),
        ((500, error("M_UNKNOWN")), "the homeserver failed (status 500)"),
        ((502, "<h1>Bad gateway</h1>"), "does not answer (status 502)"),
    ],
)
async def test_every_refusal_has_its_words(
    synapse: FakeSynapse, settings: Settings, file: Path, answer: tuple[int, str], reason: str
) -> None:
    synapse.refusal = answer
    for undo in (False, True):
        found = await refused(settings, file, undo=undo)
        assert reason in str(found)
        assert found.status == 1


async def test_a_homeserver_that_is_not_there_is_named(file: Path) -> None:
    away = {"homeserver": "http://127.0.0.1:9", "user_id": BOT, "password": "x"}
    found = await refused(Settings.model_validate(away), file)
    assert str(found).startswith("http://127.0.0.1:9 does not answer")
    assert found.status == 1


@pytest.mark.parametrize("undo", [False, True])
async def test_a_homeserver_that_only_says_so_is_not_believed(
    synapse: FakeSynapse, settings: Settings, file: Path, undo: bool
) -> None:
    synapse.forgetful = True
    synapse.override = {"messages_per_second": 0, "burst_count": 0} if undo else {}
    assert "did not keep it" in str(await refused(settings, file, undo=undo))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "the file is empty"),
        (b"\n", "the file is empty"),
        (b"one two", "must hold one access token and nothing else"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
async def test_a_file_without_a_token_is_named(
    synapse: FakeSynapse, settings: Settings, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "other-token"
    if content is not None:
        file.write_bytes(content)
    found = await refused(settings, file)
    assert (str(found), found.status) == (f"--admin-token-file: {reason}", 2)
    assert synapse.asked == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({}, "as everybody's on this homeserver (Synapse's default: "),
        ({"messages_per_second": 0, "burst_count": 0}, "lifted"),
        ({"messages_per_second": None, "burst_count": None}, "lifted"),
        ({"messages_per_second": 5, "burst_count": 20}, "5/s after 20 at once"),
    ],
)
async def test_what_holds_is_said_in_words(
    synapse: FakeSynapse, settings: Settings, override: dict[str, Any], said: str
) -> None:
    synapse.override = override
    assert (await rate_limit.look(settings, TOKEN)).startswith(said)


async def rate(settings: Settings, file: Path | None) -> Finding:
    """Return what `check` says of the limit."""
    found = [one async for one in findings(settings, file) if one.what.startswith("rate limit")]
    assert len(found) == 1
    return found[0]


async def test_check_says_what_it_can_see(
    synapse: FakeSynapse, settings: Settings, file: Path
) -> None:
    unseen = await rate(settings, None)
    assert unseen.good
    assert unseen.what == "rate limit: cannot be seen without an administrator's token"
    assert "--admin-token-file" in unseen.remedy
    limited = await rate(settings, file)
    assert limited.good
    assert limited.what.startswith("rate limit: as everybody's on this homeserver")
    assert "lift-rate-limit" in limited.remedy
    synapse.override = {"messages_per_second": 0, "burst_count": 0}
    assert await rate(settings, file) == Finding(good=True, what="rate limit: lifted")
    synapse.refusal = 403, error("M_FORBIDDEN")
    refused = await rate(settings, file)
    assert not refused.good
    assert refused.remedy == "the token is not one of a server administrator"


@pytest.mark.synapse
async def test_an_operator_lifts_sees_and_restores_the_limit(
    homeserver: Homeserver, bots: Bots, tmp_path: Path
) -> None:
    bot = await bots()
    file = tmp_path / "admin-token"
    file.write_text(await homeserver.admin_token())

    def command(*arguments: str) -> str:
        done = bot_command(bot, *arguments, "--admin-token-file", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    await signed(bot)
    await bot.stop()
    assert "rate limit: cannot be seen" in bot_command(bot, "check").stdout
    assert command("lift-rate-limit") == f"{bot.user_id}: rate limit lifted\n"
    assert "\u2713 rate limit: lifted\n" in command("check")
    assert "rate limit as everybody's" in command("lift-rate-limit", "--undo")
    file.write_text(json.loads((bot.data_dir / "device.json").read_text())["access_token"])
    done = bot_command(bot, "lift-rate-limit", "--admin-token-file", str(file))
    assert done.returncode == 1
    assert done.stderr == "ephemeral-bot: the token is not one of a server administrator\n"
