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
import sys
import tempfile
from pathlib import Path
from typing import Any

import vodozemac
from nio.crypto.sessions import derive_pickle_key

from bot.demo.homeserver import Homeserver
from tests.peers import People
from tests.process import Bots

GRACE = 10
PICKLE = re.compile(rb"[A-Za-z0-9+/_-]{80,}={0,2}")


def sessions(folder: Path) -> list[vodozemac.InboundGroupSession]:
    """Return every Megolm session that anything in the folder gives away."""
    secret = (folder / "crypto" / "pickle.key").read_text().strip()
    key = derive_pickle_key(secret)
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        for text in set(PICKLE.findall(path.read_bytes())):
            # Where rows touch, a string may begin late or end early: try around its edges.
            for cut in {text, text.rstrip(b"="), text[: len(text) // 4 * 4]}:
                try:
                    found.append(vodozemac.InboundGroupSession.from_pickle(cut.decode(), key))
                    break
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
                await alice.until_heard(room, f"to {messages // 2} hours", 60)
                events = await alice.messages(room)
                said = [e["content"] for e in events if e["type"] == "m.room.encrypted"]
                ciphertexts = [str(content["ciphertext"]) for content in said if content]
                return await attack(bot, folder, ciphertexts)
            finally:
                await bots.close()
                await people.close()


async def attack(bot: Any, folder: Path, ciphertexts: list[str]) -> bool:
    results = []
    shutil.copytree(bot.data_dir, folder / "at once")
    results.append(("at once", *opened(folder / "at once", ciphertexts)))
    await asyncio.sleep(GRACE + 65)
    shutil.copytree(bot.data_dir, folder / "running")
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
