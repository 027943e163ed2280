"""The data folder on any file system: one bot holds it, and no leftover does."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from bot.app import FAILED, run
from bot.config import Settings
from bot.core.types import UserID
from bot.matrix.private_files import write_private
from bot.operator.check import _folder
from bot.store.folder_lock import FILE, LockError, OccupiedError, hold, try_lock

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from bot.store.folder_lock import OccupiedError, hold
try:
    with hold(Path(sys.argv[1])):
        print("held")
except OccupiedError:
    print("occupied")
"""


def somebody_else(folder: Path) -> str:
    """Return what another process makes of the folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fails_with(number: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture(params=["a local disk", "no locks on folders"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "a local disk":
        monkeypatch.setattr(fcntl, "flock", fails_with(errno.EBADF))


@pytest.mark.usefixtures("disk")
def test_a_folder_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with hold(folder):
        assert somebody_else(folder) == "occupied"
    assert somebody_else(folder) == "held"


def test_a_folder_is_held_once_in_one_process_too(tmp_path: Path) -> None:
    with hold(tmp_path):
        with pytest.raises(OccupiedError), hold(tmp_path):
            pass
        assert somebody_else(tmp_path) == "occupied"


@pytest.mark.usefixtures("disk")
def test_a_file_that_was_left_behind_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("4711")
    assert somebody_else(tmp_path) == "held"
    assert somebody_else(tmp_path) == "held"


def test_who_only_tries_the_lock_neither_meets_nor_hinders_a_bot(tmp_path: Path) -> None:
    try_lock(tmp_path)
    trial = "from pathlib import Path; from bot.store.folder_lock import *; try_lock(Path({!r}))"
    with hold(tmp_path):
        subprocess.run([sys.executable, "-c", trial.format(str(tmp_path))], check=True)
        assert somebody_else(tmp_path) == "occupied"


async def test_a_file_system_without_locks_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.EBADF))
    monkeypatch.setattr(fcntl, "lockf", fails_with(errno.ENOLCK))
    with pytest.raises(LockError, match="gives no locks"):
        try_lock(tmp_path)
    found = _folder(tmp_path)
    assert (found.good, found.what) == (False, f"data folder {tmp_path} cannot be locked")
    assert "move data_dir to a local disk" in found.remedy
    settings = Settings(
        homeserver="http://127.0.0.1:9",
        user_id=UserID("@bot:example.org"),
        password=SecretStr("secret"),
        data_dir=tmp_path,
    )
    assert await run(settings) == FAILED
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path}: its file system gives no locks (No locks available)")


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(LockError, match="lock cannot be opened"):
        try_lock(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_syncs_no_folders_takes_secrets_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.fsync

    def sync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match="error") if number == errno.EIO else nullcontext():
        write_private(tmp_path / "secret", "text")
    assert (tmp_path / "secret").read_text() == "text"
