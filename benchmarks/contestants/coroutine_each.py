"""What a Python engineer would write in an afternoon: one coroutine for each message.

It sleeps, redacts, and waits as long as a rate limit tells it; what fails otherwise is forgotten.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.contestants.client import REFUSED, Client, serve
from benchmarks.contestants.contestant import Message


async def one(client: Client, message: Message) -> None:
    await asyncio.sleep(message.due / 1000 - time.time())
    while True:
        told = await client.redact(message)
        if told in {None, REFUSED}:
            return
        await asyncio.sleep(told)


async def run(client: Client) -> None:
    async with asyncio.TaskGroup() as group:
        async for found in client.messages():
            for message in found:
                group.create_task(one(client, message))


if __name__ == "__main__":
    serve(run)
