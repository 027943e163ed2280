"""The algorithm of the mautrix bridges, from its published behaviour.

It sleeps precisely to the next time, redacts one message after the other, and tries each once.
"""

from __future__ import annotations

import asyncio
import heapq
import time

from benchmarks.contestants.client import Client, serve
from benchmarks.contestants.contestant import Message


async def run(client: Client) -> None:
    waiting: list[tuple[int, str, Message]] = []
    news = asyncio.Event()

    async def work() -> None:
        while True:
            news.clear()
            while waiting and waiting[0][0] <= time.time() * 1000:
                await client.redact(heapq.heappop(waiting)[2])
            until = waiting[0][0] / 1000 - time.time() if waiting else None
            try:
                async with asyncio.timeout(until):
                    await news.wait()
            except TimeoutError:
                continue

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        async for found in client.messages():
            for one in found:
                heapq.heappush(waiting, (one.due, one.event_id, one))
            news.set()


if __name__ == "__main__":
    serve(run)
