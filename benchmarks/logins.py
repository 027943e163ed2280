"""Lets the bot's login end every few seconds, on a real Synapse, and prints what came of it.

    .venv/bin/python -m benchmarks.logins --minutes 4

Every message must be redacted, and none before its time. Exit status 0 only then.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from bot.demo.homeserver import Homeserver
from tests.support.bot_process import BotProcess
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_trial import Result, judge, make_room, until_gone
from tests.support.person import Person

SHORT = {"refreshable_access_token_lifetime": "8s"}
AGED: dict[str, Any] = {
    "refreshable_access_token_lifetime": None,
    "nonrefreshable_access_token_lifetime": "25s",
}
AS_SHIPPED = {"per_second": 0.003, "burst_count": 5}
CASES: dict[str, dict[str, Any]] = {
    "refreshed every 8 s": SHORT,
    "sessions of 25 s": SHORT | {"session_lifetime": "25s"},
    "tokens of 25 s": AGED,
    "tokens of 25 s, logins limited": AGED
    | {"rc_login": {"address": AS_SHIPPED, "account": AS_SHIPPED}},
}
HEAD = f"{'logins':<31} sent gone early lost twice  logins refreshed  worst"


async def one(name: str, folder: Path, minutes: float) -> Result:
    """Let alice speak every second while the bot's logins end."""
    (folder / "homeserver").mkdir(parents=True)
    server = Homeserver(folder / "homeserver")
    async with server:  # who registers now has a login that lasts
        alice = Person(server.url, await server.register("alice"))
        account = await server.register("expire")
    port = int(server.url.rpartition(":")[2])
    server = Homeserver(folder / "homeserver", extra=CASES[name])
    server._port = port  # noqa: SLF001
    async with server, FaultProxy(server.url) as proxy:
        bot = BotProcess(proxy.url, account, folder)
        try:
            await bot.start()
            room = await make_room(alice, bot.user_id, proxy)
            sent = []
            for number in range(int(minutes * 60)):
                sent.append(await alice.send(room, f"{number}"))
                await asyncio.sleep(1)
            result = Result(fault=name, messages=len(sent))
            # Where logins are limited, the next may be allowed only after 333 seconds.
            result.healed = await until_gone(alice, room, sent, 420)
            await judge(alice, room, sent, result)
            result.ended = "" if bot.status() is None else f"ended with {bot.status()}"
            result.requests = proxy.count("/login")
            result.peak = proxy.count("/refresh")
            return result
        finally:
            await bot.close()
            await alice.close()


def line(result: Result) -> str:
    return (
        f"{result.fault:<31} {result.messages:>4} {result.redacted:>4} {result.early:>5}"
        f" {result.lost:>4} {result.twice:>5} {result.requests:>7} {result.peak:>9}"
        f" {result.healed:>4.0f} s {result.ended}"
    )


async def run(names: list[str], minutes: float) -> bool:
    with tempfile.TemporaryDirectory() as name:
        work = [one(case, Path(name) / str(n), minutes) for n, case in enumerate(names)]
        results = await asyncio.gather(*work)
    print(HEAD)
    print("\n".join(map(line, results)))
    return not any(result.lost or result.early or result.ended for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--only", choices=CASES, help="one case alone")
    arguments = parser.parse_args()
    logging.disable()
    names = [arguments.only] if arguments.only else list(CASES)
    sys.exit(0 if asyncio.run(run(names, arguments.minutes)) else 1)


if __name__ == "__main__":
    main()
