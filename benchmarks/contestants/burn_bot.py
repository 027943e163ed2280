"""The algorithm of burn-bot, from its published behaviour.

It looks every 12 seconds, fires all that is due at once, and forgets what fails. It sends a read
receipt for each message that it will remove. That it keeps only one of the messages that arrive in
one millisecond is left out here.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.contestants.client import Client, serve
from benchmarks.contestants.contestant import Message

LOOK_EVERY = 12


async def run(client: Client) -> None:
    kept: list[Message] = []

    async def look() -> None:
        nonlocal kept
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = time.time() * 1000
            due = [one for one in kept if one.due <= now]
            kept = [one for one in kept if one.due > now]
            await asyncio.gather(*map(client.redact, due))

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        async for found in client.messages(receipts=True):
            kept.extend(found)


if __name__ == "__main__":
    serve(run)
