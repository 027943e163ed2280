"""Lets one fault after another befall a bot each, on a real Synapse, and prints what came of it.

    .venv/bin/python -m benchmarks.faults --seconds 20

Every message must be redacted, and none before its time. Exit status 0 only then.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bot.demo.homeserver import Homeserver
from tests.support.bot_process import Bots
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_trial import FAULTS, Ordeal, Result
from tests.support.people import People

HELD, FULL, RESTARTED = "a database held by another", "a full disk", "a homeserver killed often"
HEAD = "fault                        sent gone early lost twice  asked  peak/s  healed in"


def line(result: Result) -> str:
    return (
        f"{result.fault:<28} {result.messages:>4} {result.redacted:>4} {result.early:>5}"
        f" {result.lost:>4} {result.twice:>5} {result.requests:>6} {result.peak:>7}"
        f" {result.healed:>8.1f} s {result.ended}"
    )


@contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """Mount a file system of 4 MB; that needs root."""
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


async def held(ordeal: Ordeal, folder: Path, seconds: float, patience: float) -> Result:
    data = folder / "held"

    async def last(_: FaultProxy) -> None:
        other = sqlite3.connect(data / "timers.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(seconds)
        other.execute("COMMIT")
        other.close()

    return await ordeal.through(HELD, last, patience, data)


async def full(ordeal: Ordeal, folder: Path, seconds: float, patience: float) -> Result:
    async def last(_: FaultProxy) -> None:
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 512)
        await asyncio.sleep(seconds)
        ballast.unlink()

    with small_disk(folder / "small") as disk:
        return await ordeal.through(FULL, last, patience, disk / "data")


async def run(names: list[str], seconds: float, patience: float, together: int) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "synapse").mkdir()
        async with Homeserver(folder / "synapse") as homeserver:
            people, bots = People(homeserver, folder), Bots(homeserver, folder)
            ordeal = Ordeal(homeserver, people, bots)
            sender_bounds = asyncio.Semaphore(together)

            async def one(name: str) -> Result:
                async with sender_bounds:
                    return await ordeal.go(name, FAULTS[name], seconds, patience)

            print(HEAD)
            good = True
            ordeals = [one(name) for name in names if name in FAULTS]
            for special_name, special in ((HELD, held), (FULL, full)):
                if special_name in names:
                    ordeals.append(special(ordeal, folder, seconds, patience))
            try:
                for made in asyncio.as_completed(ordeals):
                    result = await made
                    print(line(result), flush=True)
                    good = good and not (result.lost or result.early or result.ended)
                if RESTARTED in names:
                    result = await ordeal.restarts(max(2, int(seconds / 10)), 9, patience)
                    print(line(result), flush=True)
                    good = good and not (result.lost or result.early or result.ended)
            finally:
                await bots.close()
                await people.close()
            return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="how long each fault lasts")
    parser.add_argument("--patience", type=float, default=700, help="how long to wait for the end")
    parser.add_argument("--together", type=int, default=6, help="how many at a time")
    parser.add_argument("--only", default="", help="the faults whose names this is found in")
    parser.add_argument("--log", action="store_true", help="print the bots' logs")
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    known = [*FAULTS, HELD, RESTARTED] + [FULL] * (os.getuid() == 0)
    names = [name for name in known if re.search(options.only, name)]
    good = asyncio.run(run(names, options.seconds, options.patience, options.together))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
