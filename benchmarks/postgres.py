"""Runs Debian's PostgreSQL as a child process in a temporary folder, for a Synapse to use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = Path("/usr/lib/postgresql")
STRANGER = "nobody"
"""Who runs it where we are root, which PostgreSQL refuses to be."""
SETTINGS = ("listen_addresses=", "max_connections=50", "shared_buffers=256MB")


def programs() -> Path | None:
    """Return the folder of the newest installed version's programs, if there is one."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def postgres(programs: Path) -> Iterator[dict[str, Any]]:
    """Start one with an empty database; yield what Synapse's `database` is set to."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user: list[str] = []
    if os.getuid() == 0:
        shutil.chown(folder, STRANGER)
        user = ["setpriv", f"--reuid={STRANGER}", "--clear-groups", "--regid=nogroup"]
    data = str(folder / "data")
    initdb = [str(programs / "initdb"), "-D", data, "-U", "synapse", "-A", "trust"]
    subprocess.run(
        [*user, *initdb, "--locale=C", "--encoding=UTF8"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    options = [part for setting in SETTINGS for part in ("-c", setting)]
    server = subprocess.Popen(
        [*user, str(programs / "postgres"), "-D", data, "-k", str(folder), *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_ready(programs, folder)
        create = [str(programs / "createdb"), "-h", str(folder), "-U", "synapse", "synapse"]
        subprocess.run(create, check=True)
        args = {"user": "synapse", "dbname": "synapse", "host": str(folder)}
        yield {"name": "psycopg2", "args": args | {"cp_min": 5, "cp_max": 10}}
    finally:
        server.terminate()  # Smart shutdown: it waits for the clients, which have gone.
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _until_ready(programs: Path, folder: Path) -> None:
    ask = [str(programs / "pg_isready"), "-q", "-h", str(folder)]
    for _ in range(300):
        if subprocess.run(ask, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError("PostgreSQL did not start within 30 s")
