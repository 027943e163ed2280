"""Seizes the bot's disk and tries to read with it what the homeserver still has.

    .venv/bin/python -m benchmarks.seized_disk --messages 100

A bot follows an encrypted room in which commands and messages are said. Its data folder is copied
three times: at once (which must open some: the attack works), after the grace with the bot
running, and with the bot stopped (which must open none). The attack takes every session in the
crypto store, and every string anywhere in any file that the pickle key opens, free pages and
journals included, and tries it on every ciphertext. Exit status 0 only if nothing was opened.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import vodozemac
from nio.crypto.sessions import derive_pickle_key

from bot.core.durations import HOUR, words
from bot.demo.homeserver import Homeserver
from tests.support.bot_process import Bots
from tests.support.people import People

GRACE = 10
LENGTHS = (864, 886, 907, 928, 950, 971, 992)
"""Characters of a pickled session: whole blocks of a cipher, a few more or less by its numbers."""
RUN = re.compile(rb"[A-Za-z0-9+/_-]{864,}")


def sessions(folder: Path) -> list[vodozemac.InboundGroupSession]:
    """Return every Megolm session that anything in the folder gives away."""
    key = derive_pickle_key((folder / "crypto" / "pickle.key").read_text().strip())
    found = []
    for path in folder.rglob("*"):
        runs = set(RUN.findall(path.read_bytes())) if path.is_file() else set()
        for run in runs:
            # A row's fields touch: where a pickle begins and ends is to be tried out.
            for begin in range(len(run) - LENGTHS[0] + 1):
                for length in LENGTHS:
                    try:
                        text = run[begin : begin + length].decode()
                        found.append(vodozemac.InboundGroupSession.from_pickle(text, key))
                    except vodozemac.PickleException:
                        continue
    return found


def opened(folder: Path, ciphertexts: list[str]) -> tuple[int, int]:
    """Return how many sessions were found, and how many messages they open."""
    keys = sessions(folder)
    count = 0
    for ciphertext in ciphertexts:
        for key in keys:
            try:
                key.decrypt(vodozemac.MegolmMessage.from_base64(ciphertext))
            except vodozemac.MegolmDecryptionException:
                continue
            count += 1
            break
    return len(keys), count


async def run(messages: int) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "synapse").mkdir()
        async with Homeserver(folder / "synapse") as homeserver:
            people, bots = People(homeserver, folder), Bots(homeserver, folder)
            try:
                alice = await people.encrypted("alice")
                bot = await bots(encryption={"grace": f"{GRACE}s"})
                room = await alice.create_room(encrypted=True, invite=[bot.user_id])
                await alice.until_heard(room, "I make messages disappear")
                await alice.set_power(room, bot.user_id, 50)
                for number in range(messages // 2):
                    await alice.send_text(room, f"!expire {number + 1}h")
                    await alice.send_text(room, f"message {number}")
                await alice.until_heard(room, f"to {words(messages // 2 * HOUR)}.", 60)
                events = await alice.messages(room)
                said = [e["content"] for e in events if e["type"] == "m.room.encrypted"]
                ciphertexts = [str(content["ciphertext"]) for content in said if content]
                return await attack(bot, folder, ciphertexts)
            finally:
                await bots.close()
                await people.close()


async def attack(bot: Any, folder: Path, ciphertexts: list[str]) -> bool:
    results = []

    def seize(name: str) -> None:
        bot.signal(signal.SIGSTOP)
        shutil.copytree(bot.data_dir, folder / name)
        bot.signal(signal.SIGCONT)

    seize("at once")
    results.append(("at once", *opened(folder / "at once", ciphertexts)))
    await asyncio.sleep(GRACE + 65)
    seize("running")
    results.append(("after the grace, running", *opened(folder / "running", ciphertexts)))
    await bot.stop()
    shutil.copytree(bot.data_dir, folder / "stopped")
    results.append(("after the grace, stopped", *opened(folder / "stopped", ciphertexts)))
    for when, keys, count in results:
        print(f"{when:26} {keys:3} sessions found, {count:3} of {len(ciphertexts)} messages opened")
    works, *after = [count for _, _, count in results]
    if not works:
        print("the attack itself opened nothing: it proves nothing")
    return works > 0 and after == [0, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100)
    options = parser.parse_args()
    sys.exit(0 if asyncio.run(run(options.messages)) else 1)


if __name__ == "__main__":
    main()
