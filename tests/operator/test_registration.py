"""What the homeserver is told of the bot as an application service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml
from typer.testing import CliRunner

from bot import cli
from bot.config import load, logs
from bot.operator.registration import describe

if TYPE_CHECKING:
    from pathlib import Path

BOT = "@expire:example.org"
LEAST = f'homeserver: http://127.0.0.1:9\nuser_id: "{BOT}"\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    where = tmp_path / "config.yaml"
    where.write_text(f"{LEAST}appservice: {{token_file: {tmp_path}/secrets/token}}\n")
    return where


def run(config: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, ["registration", "--config", str(config)])
    return done.exit_code, done.stdout, done.stderr


def test_it_holds_what_synapse_asks_for() -> None:
    found = yaml.safe_load(describe(BOT, "a token"))
    hs_token = found.pop("hs_token")
    assert len(hs_token) == 64
    assert hs_token != yaml.safe_load(describe(BOT, "another"))["hs_token"]
    (user,) = found["namespaces"].pop("users")
    assert user == {"exclusive": True, "regex": r"^@expire:example\.org$"}
    assert found == {
        "id": "ephemeral-bot-expire-appservice",
        "url": None,
        "as_token": "a token",
        "sender_localpart": "expire-appservice",
        "namespaces": {},
        "rate_limited": False,
        "io.element.msc4190": True,
    }


@pytest.mark.parametrize(
    "user_id", [BOT, "@a+b=c/d:example.org", "@Ü\"'{}\\#:[::1]:8448", "@a.b:example.org"]
)
def test_its_namespace_is_the_bot_and_nobody_else(user_id: str) -> None:
    found = yaml.safe_load(describe(user_id, "token"))
    regex = found["namespaces"]["users"][0]["regex"]
    assert re.match(regex, user_id)
    for other in (f"{user_id}x", f"x{user_id}", user_id.replace(".", "x"), "@b:example.org"):
        assert other == user_id or not re.match(regex, other)
    sender = found["sender_localpart"]
    assert re.fullmatch(r"[a-z0-9._-]+", sender)
    assert not re.match(regex, f"@{sender}:{user_id.partition(':')[2]}")


def test_the_token_is_made_once_and_for_the_bot_only(config: Path, tmp_path: Path) -> None:
    status, first, note = run(config)
    file = tmp_path / "secrets/token"
    assert (status, note) == (0, "ephemeral-bot: appservice.token_file: a new token was made\n")
    assert file.stat().st_mode & 0o077 == 0
    token = file.read_text().strip()
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert yaml.safe_load(first)["as_token"] == token
    assert run(config) == (0, first, "")
    assert load(config).as_token_text() == token


def test_without_a_place_for_the_token_it_says_which_key_is_missing(config: Path) -> None:
    config.write_text(LEAST + "password: x\n")
    status, out, err = run(config)
    assert (status, out) == (2, "")
    assert err.startswith("ephemeral-bot: appservice.token_file: missing")


def test_a_token_that_cannot_be_written_is_said_without_a_traceback(
    config: Path, tmp_path: Path
) -> None:
    (tmp_path / "secrets").touch()
    status, out, err = run(config)
    assert (status, out) == (1, "")
    assert err == "ephemeral-bot: appservice.token_file: cannot be written (File exists)\n"


def test_only_the_registration_may_lack_the_token(config: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["run", "--config", str(config)])
    assert done.exit_code == 2
    assert "appservice.token_file: cannot be read" in done.stderr
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/token").write_text("two words\n")
    assert run(config)[0] == 2
