"""The ideal client: it is told all due times, and does nothing but redact over plain HTTP.

So many redactions are in flight at once. A message that is refused waits as long as it is told,
and keeps its place meanwhile; one that fails otherwise is tried again after `AGAIN`. A polite one
lets all others wait with it.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import time

from benchmarks.contestants.client import Client, serve
from benchmarks.contestants.contestant import Message

AGAIN = 0.25


class Ideal:
    """Those that wait for their time, and so many workers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: list[tuple[int, str, Message]] = []
        self._news = asyncio.Event()
        self._places = asyncio.Semaphore(client.in_flight)
        self._paused_until = 0.0

    def expect(self, line: str) -> None:
        message = Message(**json.loads(line))
        heapq.heappush(self._waiting, (message.due, message.event_id, message))
        self._news.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                now = time.time()
                while self._waiting and self._waiting[0][0] / 1000 <= now:
                    await self._places.acquire()
                    group.create_task(self._redact(heapq.heappop(self._waiting)[2]))
                until = self._waiting[0][0] / 1000 - time.time() if self._waiting else None
                try:
                    async with asyncio.timeout(until):
                        await self._news.wait()
                except TimeoutError:
                    pass

    async def _redact(self, message: Message) -> None:
        try:
            while True:
                await asyncio.sleep(self._paused_until - time.time())
                told = await self._client.redact(message)
                if told is None:
                    return
                if self._client.polite:
                    self._paused_until = max(self._paused_until, time.time() + told)
                await asyncio.sleep(told or AGAIN)
        finally:
            self._places.release()


async def run(client: Client) -> None:
    ideal = Ideal(client)
    client.hear = ideal.expect
    print("ready", flush=True)
    await ideal.run()


if __name__ == "__main__":
    serve(run)
