"""What a reader of figures must know about the run: the machine, the versions, the command."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.contestants.contestant import ROOT
from benchmarks.postgres import programs

PACKAGES = ("matrix-synapse", "aiohttp", "APScheduler", "SQLAlchemy")


def about(command: str) -> dict[str, Any]:
    """Return it as JSON; no name of a host is in it."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory": f"{_memory():.0f} GB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load before": round(os.getloadavg()[0], 2),
        "versions": {
            "bot": _commit(),
            "Python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := _version(name))},
            **_postgres(),
        },
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or _version("matrix-ephemeral-bot")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _postgres() -> dict[str, str]:
    found = programs()
    return {"PostgreSQL": found.parts[-2]} if found else {}
