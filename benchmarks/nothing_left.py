"""Sends every kind of event, lets it expire, and asks every API what is left of it.

    .venv/bin/python -m benchmarks.nothing_left

One row a kind of event; a dot where an API shows nothing of it. Each message has a word of its own
in every text field, which no answer may contain; in encrypted rooms no ciphertext either. Besides
one of each kind sent at once, children are sent 5 s after their parents, while the lifetime was
off, and after the parents have gone ("too late"). The first row is a message from before the
lifetime was set: it stays, and shows that the search finds. Exit status 0 only if nothing else was
left.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bot.demo.homeserver import Homeserver
from tests.on_synapse.test_nothing_left import (
    encrypted_room,
    family,
    look_everywhere,
    plain_room,
    send_children,
    set_lifetime,
    until_redacted,
)
from tests.support.bot_process import BotProcess, Bots
from tests.support.event_kinds import Kind, all_kinds
from tests.support.people import People, Person
from tests.support.remains import APIS, Remains, Sent, send_all

LIFETIME = 8
PARENTS = ("text", "edit", "notice", "poll", "emote", "location", "thread reply")
CHILDREN = (
    *("edit", "edit of the edit", "reaction", "reaction to the edit", "reference"),
    *("poll vote", "poll end", "beacon", "edit of the thread reply", "reaction in the thread"),
)
STAYS = "(a message that stays)"
WAYS = ("sent 5 s later", "sent while off", "sent too late")


async def all_at_once(people: People, alice: Person, room: str, *, searchable: bool) -> Remains:
    stays = [replace(one, name=STAYS) for one in await send_all(alice, room, family("notice"))]
    await set_lifetime(alice, room, LIFETIME)
    sent = await send_all(alice, room, all_kinds())
    await until_redacted(alice, room, sent, LIFETIME + 20)
    return await look_everywhere(people, alice, room, stays + sent, searchable=searchable)


async def children(people: People, alice: Person, room: str, *, searchable: bool) -> Remains:
    """Send children in every way; look when their parents have gone, and 3 s after the last."""
    await set_lifetime(alice, room, LIFETIME)
    parents = await send_all(alice, room, family(*PARENTS))
    kinds: list[Kind] = family(*CHILDREN)
    sent: list[Sent] = []

    async def more(way: str) -> None:
        made = await send_children(alice, room, kinds_again(kinds), parents)
        sent.extend(replace(one, name=f"{one.name}, {way}") for one in made)

    await asyncio.sleep(5)
    await more(WAYS[0])
    await set_lifetime(alice, room, 0)
    await more(WAYS[1])
    await until_redacted(alice, room, parents, LIFETIME + 20)
    left = await look_everywhere(people, alice, room, sent, searchable=searchable)
    sent.clear()
    await set_lifetime(alice, room, 3600)
    await more(WAYS[2])
    await asyncio.sleep(3)
    left.add(await look_everywhere(people, alice, room, sent, searchable=searchable))
    return left


def kinds_again(kinds: list[Kind]) -> list[Kind]:
    """Return the kinds with new words."""
    return family(*(kind.name for kind in kinds))


async def ask(people: People, bot: BotProcess, *, encrypted: bool) -> Remains:
    make = encrypted_room if encrypted else plain_room
    left = Remains()
    for scene in (all_at_once, children):
        alice, room = await make(people, bot)
        left.add(await scene(people, alice, room, searchable=not encrypted))
    return left


def table(plain: Remains, encrypted: Remains) -> Table:
    """Return one row a kind: what was found of it, room by room and API by API."""
    made = Table(title="What is left after expiry (· nothing)", box=box.SIMPLE, padding=(0, 0))
    made.add_column("kind of event")
    columns = [
        (room, left, api)
        for room, left in (("plain", plain), ("encrypted", encrypted))
        for api in APIS
        if api in left.asked
    ]
    for room, _, api in columns:
        made.add_column(f"{room}\n{api}", justify="center")
    for name in plain.names:
        made.add_row(
            name, *("LEFT" if name in left.found[api] else "·" for _, left, api in columns)
        )
    return made


async def run() -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "synapse").mkdir()
        async with Homeserver(folder / "synapse") as homeserver:
            people, bots = People(homeserver, folder), Bots(homeserver, folder)
            try:
                bot = await bots()
                plain = await ask(people, bot, encrypted=False)
                encrypted = await ask(people, bot, encrypted=True)
            finally:
                await bots.close()
                await people.close()
    Console(width=168).print(table(plain, encrypted))
    found = [pair for left in (plain, encrypted) for pair in sorted(left.everything)]
    left = [pair for pair in found if pair[0] != STAYS]
    # Nothing relates to it: /relations shows children only. Search is for plain rooms.
    works = len(found) - len(left) == 2 * len(APIS) - 3
    print(f"{len(plain.names) - 1} messages a room; left: {len(left)}")
    print(f"not shown by /search, yet counted by it: {len(plain.counted)} in the plain rooms")
    return works and not left


def main() -> None:
    # What the people's client thinks of odd events is nothing new.
    logging.getLogger("nio").setLevel(logging.CRITICAL)
    sys.exit(0 if asyncio.run(run()) else 1)


if __name__ == "__main__":
    main()
