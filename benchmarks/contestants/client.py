"""What the programs of this package share: plain HTTP, and a sync that reads messages."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from benchmarks.contestants.contestant import Message

V3 = "/_matrix/client/v3"
POLICY = "com.beeper.disappearing_timer"
FILTER = {"room": {"timeline": {"limit": 1000}}, "presence": {"types": []}}
REFUSED = 0.0
"""What an attempt is answered with that failed, and was told no time."""


class Client:
    """One account's requests. Nothing is tried again unless the caller does."""

    def __init__(self, task: dict[str, Any], http: aiohttp.ClientSession) -> None:
        self.user_id: str = task["user_id"]
        self.in_flight: int = task["in_flight"]
        self.polite: bool = task["polite"]
        self.hear: Callable[[str], object] = len
        """What is done with each line that the benchmark writes to this program."""
        self._homeserver: str = task["homeserver"]
        self._http = http
        self._lifetimes: dict[str, int] = {}

    async def call(
        self, method: str, *parts: str, body: Any = None, **query: str
    ) -> tuple[int, dict[str, Any]]:
        """Make one request; return the status, 0 without an answer, and the content."""
        path = "/".join(quote(part, safe="") for part in parts)
        url = URL(f"{self._homeserver}{V3}/{path}", encoded=True).with_query(query)
        try:
            async with self._http.request(method, url, json=body) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, {}

    async def redact(self, message: Message) -> float | None:
        """Try once. Return `None` for success, or the seconds that a 429 says to wait."""
        status, content = await self.call(
            "PUT", "rooms", message.room, "redact", message.event_id, message.event_id, body={}
        )
        if status == 200:
            return None
        told = content.get("retry_after_ms", 0) if isinstance(content, dict) else 0
        return float(told) / 1000 or REFUSED

    async def messages(self, *, receipts: bool = False) -> AsyncIterator[list[Message]]:
        """Sync for ever; give what is said under a lifetime. `receipts`: read each of them."""
        query = {"filter": json.dumps(FILTER)}
        while True:
            status, answer = await self.call("GET", "sync", **query)
            if status != 200:
                await asyncio.sleep(1)
                continue
            first = "since" not in query
            query |= {"since": answer["next_batch"], "timeout": "30000"}
            if first:
                print("ready", flush=True)
            for room, joined in answer.get("rooms", {}).get("join", {}).items():
                found = list(self._read(room, joined))
                if receipts:
                    for one in found:
                        where = ("rooms", room, "receipt", "m.read", one.event_id)
                        await self.call("POST", *where, body={})
                if found:
                    yield found

    def _read(self, room: str, joined: dict[str, Any]) -> list[Message]:
        found = []
        for event in [*joined.get("state", {}).get("events", []), *joined["timeline"]["events"]]:
            if event["type"] == POLICY and "state_key" in event:
                self._lifetimes[room] = event["content"].get("timer", 0)
            talk = event["type"] in {"m.room.message", "m.room.encrypted"}
            if talk and event["content"] and self._lifetimes.get(room):
                due = event["origin_server_ts"] + self._lifetimes[room]
                found.append(Message(room=room, event_id=event["event_id"], due=due))
        return found


def serve(run: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    """Run a contestant as the program that it is; it ends with its standard input, or by force."""

    async def connected() -> None:
        task = json.loads(await asyncio.to_thread(sys.stdin.readline))
        headers = {"Authorization": f"Bearer {task['token']}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
            client = Client(task, http)
            loop = asyncio.get_running_loop()
            threading.Thread(target=listen, args=(client, loop), daemon=True).start()
            await run(client)

    def listen(client: Client, loop: asyncio.AbstractEventLoop) -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(client.hear, line)
        os._exit(0)

    asyncio.run(connected())
