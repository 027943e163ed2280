"""Kills the bot with SIGKILL at random moments while people talk; then asks the server.

    .venv/bin/python -m benchmarks.kill --kills 20 --messages 200

Every message must be redacted, none before its time, none twice. Exit status 0 only then.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bot.demo.homeserver import Homeserver
from tests.support.bot_process import Bots
from tests.support.people import People, Person

LIFETIME = 5_000


async def run(kills: int, messages: int, seed: int) -> bool:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "synapse").mkdir()
        async with Homeserver(folder / "synapse") as homeserver:
            people, bots = People(homeserver, folder), Bots(homeserver, folder)
            try:
                alice, bot = await people("alice"), await bots()
                room = await alice.create_room(invite=[bot.user_id])
                await alice.until_notice(room, bot.user_id, "I make messages disappear")
                await alice.set_power(room, bot.user_id, 50)
                await alice.send(room, f"!expire {LIFETIME // 1000}s")
                await alice.until_notice(room, bot.user_id, f"{LIFETIME // 1000} seconds")
                sent: list[str] = []

                async def talk() -> None:
                    for number in range(messages):
                        sent.append(await alice.send(room, f"message {number}"))
                        await asyncio.sleep(chance.uniform(0.0, 0.3))

                talking = asyncio.create_task(talk())
                for _ in range(kills):
                    await asyncio.sleep(chance.uniform(0.0, 2.0))
                    await bot.kill()
                    await bot.start(ready=False)
                await talking
                for event_id in sent:
                    await alice.until_redacted(room, event_id, 60)
                return await report(alice, room, sent, kills)
            finally:
                await bots.close()
                await people.close()


async def report(alice: Person, room: str, sent: list[str], kills: int) -> bool:
    redactions: Counter[str] = Counter()
    late: list[float] = []
    events = await alice.messages(room)
    for event in events:
        if event["type"] == "m.room.redaction":
            redactions[str(event["content"].get("redacts") or event.get("redacts"))] += 1
    for event in events:
        if event["event_id"] in set(sent):
            because = event["unsigned"]["redacted_because"]
            due = event["origin_server_ts"] + LIFETIME
            late.append((because["origin_server_ts"] - due) / 1000)
    twice = sum(redactions[event_id] > 1 for event_id in sent)
    early = sum(lateness < 0 for lateness in late)
    gone = sum(redactions[event_id] > 0 for event_id in sent)
    print(f"kills {kills}, messages {len(sent)}, redacted {gone}, twice {twice}, early {early}")
    print(f"late: median {statistics.median(late):.2f} s, worst {max(late):.2f} s")
    return gone == len(sent) and twice == 0 and early == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    good = asyncio.run(run(options.kills, options.messages, options.seed))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
