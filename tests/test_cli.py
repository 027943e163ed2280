from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from bot import __version__, cli
from bot.config import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot.config import Settings

SECRET = "hunter2-do-not-show"
SETTINGS = f"""\
homeserver: https://matrix.example.org
user_id: "@bot:example.org"
password: {SECRET}
"""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("EPHEMERAL_BOT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    mask = os.umask(0o022)
    yield
    os.umask(mask)


def _stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def _invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, arguments, prog_name=cli.NAME)
    return result.exit_code, result.stdout, result.stderr


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The tests have left the checkout, and the bot need not be installed.
    environ = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_version_is_shown() -> None:
    assert _invoke("--version") == (0, f"ephemeral-bot {__version__}\n", "")


def test_help_names_every_command() -> None:
    status, out, _ = _invoke("--help")
    assert status == 0
    for command in ("run", "check", "lift-rate-limit", "registration", "demo"):
        assert command in out


def test_no_arguments_show_the_help() -> None:
    _, out, err = _invoke()
    assert "check" in out + err


def test_help_and_version_load_nothing_that_is_slow() -> None:
    code = (
        "import sys, bot.cli\n"
        "slow = {'nio', 'pydantic', 'aiohttp', 'yaml', 'aiosqlite'} & set(sys.modules)\n"
        "sys.exit(f'loaded {slow}' if slow else 0)"
    )
    done = _python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("status", [0, 3, 4])
def test_run_exits_with_the_status_of_the_bot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    seen: list[Settings] = []

    async def run(settings: Settings) -> int:
        await asyncio.sleep(0)
        seen.append(settings)
        return status

    _stand_in(monkeypatch, "bot.app", run=run)
    (tmp_path / "my.yaml").write_text(SETTINGS)
    assert _invoke("run", "--config", "my.yaml") == (status, "", "")
    assert seen[0].user_id == "@bot:example.org"


@pytest.mark.parametrize(("works", "status"), [(True, 0), (False, 1)])
def test_check_exits_with_one_when_something_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool, status: int
) -> None:
    async def check(_settings: Settings, _admin_token_file: Path | None) -> bool:
        await asyncio.sleep(0)
        return works

    _stand_in(monkeypatch, "bot.operator.check", check=check)
    (tmp_path / "config.yaml").write_text(SETTINGS)
    assert _invoke("check")[0] == status


@pytest.mark.parametrize("arguments", [(), ("--undo",)])
def test_the_rate_limit_is_lifted_or_restored_with_a_files_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    seen: list[tuple[str, Path, bool]] = []

    async def lift(settings: Settings, _say: object, *, file: Path, undo: bool) -> int:
        await asyncio.sleep(0)
        seen.append((settings.user_id, file, undo))
        return 0

    monkeypatch.setattr("bot.operator.rate_limit.lift", lift)
    (tmp_path / "config.yaml").write_text(SETTINGS)
    assert _invoke("lift-rate-limit", "--admin-token-file", "token", *arguments)[0] == 0
    assert seen == [("@bot:example.org", Path("token"), "--undo" in arguments)]
    assert _invoke("lift-rate-limit")[0] == 2


@pytest.mark.parametrize(
    ("command", "module"), [("run", "bot.app"), ("check", "bot.operator.check")]
)
def test_what_the_bot_writes_is_for_its_own_user_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, module: str
) -> None:
    async def write(*_: object) -> int:
        await asyncio.to_thread((tmp_path / "written").touch)
        return 0

    _stand_in(monkeypatch, module, **{command: write})
    (tmp_path / "config.yaml").write_text(SETTINGS)
    _invoke(command)
    assert (tmp_path / "written").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_mistake_in_the_settings_is_one_line_and_status_two(tmp_path: Path, command: str) -> None:
    (tmp_path / "config.yaml").write_text(SETTINGS + "lifetime:\n  mni: 5s\n")
    assert _invoke(command) == (
        2,
        "",
        "ephemeral-bot: config.yaml: lifetime.mni: unknown key; did you mean lifetime.min?\n",
    )


def test_the_default_file_may_be_absent_but_a_named_one_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(_settings: Settings, _admin_token_file: Path | None) -> bool:
        await asyncio.sleep(0)
        return True

    _stand_in(monkeypatch, "bot.operator.check", check=check)
    assert _invoke("check")[2].startswith("ephemeral-bot: config.yaml: no such file; copy")
    monkeypatch.setenv("EPHEMERAL_BOT_HOMESERVER", "https://matrix.example.org")
    monkeypatch.setenv("EPHEMERAL_BOT_USER_ID", "@bot:example.org")
    monkeypatch.setenv("EPHEMERAL_BOT_PASSWORD", SECRET)
    assert _invoke("check")[0] == 0
    assert _invoke("check", "--config", "config.yaml") == (
        2,
        "",
        "ephemeral-bot: config.yaml: no such file\n",
    )


@pytest.mark.parametrize("arguments", [(), ("--keep",)])
def test_the_demo_is_told_what_to_keep(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    seen: list[bool] = []

    def demo(*, keep: bool) -> int:
        seen.append(keep)
        return 0

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    _stand_in(monkeypatch, "bot.demo.run", demo=demo)
    assert _invoke("demo", *arguments)[0] == 0
    assert seen == ["--keep" in arguments]


def test_the_demo_without_its_homeserver_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    status, out, err = _invoke("demo")
    assert (status, out) == (1, "")
    assert err.startswith("ephemeral-bot: ")
    assert err.endswith("pip install 'matrix-ephemeral-bot[demo]'\n")


def test_python_m_bot_is_the_same_command() -> None:
    done = _python("-m", "bot", "--version")
    assert (done.returncode, done.stdout) == (0, f"ephemeral-bot {__version__}\n")


def test_a_real_process_shows_neither_traceback_nor_secret(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SETTINGS + f"password_file: {SECRET}\n")
    done = _python("-m", "bot", "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "ephemeral-bot: config.yaml: "
        "password, password_file: more than one way to log in; keep one\n"
    )
