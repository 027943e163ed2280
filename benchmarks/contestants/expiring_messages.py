"""The algorithm of maubot-expiringmessages, from its published behaviour.

Every 60 seconds it asks for each message that it tracks, one after the other, and redacts what is
due. A redaction that a rate limit refuses is tried five times within the pass, each time after the
time told; what fails then, or fails otherwise, is tried again with the next pass.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.contestants.client import REFUSED, Client, serve
from benchmarks.contestants.contestant import Message

LOOK_EVERY = 60
TRIES = 5


async def run(client: Client) -> None:
    kept: dict[str, Message] = {}

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for message in list(kept.values()):
                status, event = await client.call(
                    "GET", "rooms", message.room, "event", message.event_id
                )
                if status != 200:
                    continue
                gone = not event["content"]
                if gone or (message.due <= time.time() * 1000 and await redacted(client, message)):
                    del kept[message.event_id]

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        async for found in client.messages():
            kept.update((one.event_id, one) for one in found)


async def redacted(client: Client, message: Message) -> bool:
    """Try to redact; return whether the message is gone."""
    for _ in range(TRIES):
        told = await client.redact(message)
        if told is None:
            return True
        if told == REFUSED:
            return False
        await asyncio.sleep(told)
    return False


if __name__ == "__main__":
    serve(run)
