"""Installs, once, the other clients that the bot is tried with, beside these tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE: Final = Path(__file__).parent
NODE: Final = 20
"""The oldest Node that matrix-js-sdk runs on."""
LIBOLM: Final = ("matrix-nio[e2e]==0.25.2", "python-olm==3.2.16", "atomicwrites==1.4.0")
"""The last matrix-nio on libolm; the last atomicwrites that has a wheel."""
PATIENCE: Final = 300
"""Seconds for an installation."""


class MissingError(Exception):
    """A client cannot be had here; the text says what is missing."""


class NoWheelError(MissingError):
    """libolm is not built for this Python, and never will be: it is no longer maintained."""


def js_sdk() -> list[str]:
    """Return the command that runs the client on matrix-js-sdk. Raises `MissingError`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingError("Node and npm are not installed; the client on matrix-js-sdk needs them")
    version = _run([node, "--version"]).strip()
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found[1]) < NODE:
        raise MissingError(f"Node {version} is older than {NODE}, which matrix-js-sdk needs")
    stamp = HERE / "node_modules" / ".stamp"
    wanted = _digest((HERE / "package-lock.json").read_text() + version)
    with _alone():
        if _read(stamp) != wanted:
            quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            _run([npm, "ci", *quiet])
            stamp.write_text(wanted)
    return [node, str(HERE / "client.mjs")]


def libolm() -> list[str]:
    """Return the command that runs the client on libolm. Raises `MissingError`."""
    home = HERE / ".libolm-venv"
    python, stamp = home / "bin" / "python", home / ".stamp"
    wanted = _digest("\n".join([*LIBOLM, sys.version]))
    with _alone():
        if _read(stamp) != wanted:
            _run([sys.executable, "-m", "venv", "--clear", str(home)])
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*pip, "--only-binary=:all:", *LIBOLM])
            stamp.write_text(wanted)
    return [str(python), str(HERE / "libolm_client.py")]


@contextmanager
def _alone() -> Iterator[None]:
    """Let two test runs not install at once. The lock is on the folder: it leaves no file."""
    handle = os.open(HERE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{command[0]}: {error}") from error
    except subprocess.CalledProcessError as error:
        if "No matching distribution found for python-olm" in error.stderr:
            python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
            raise NoWheelError(f"python-olm has no wheel for {python} on this machine") from error
        lines = error.stderr.strip().splitlines() or ["no reason given"]
        raise MissingError(f"{' '.join(command[:3])} failed: {' '.join(lines[-3:])}") from error
    return done.stdout


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(stamp: Path) -> str:
    return stamp.read_text() if stamp.exists() else ""
