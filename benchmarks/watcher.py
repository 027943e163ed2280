"""Another client in the room: it sees what is said, and when each message is gone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.contestants.contestant import Message
from tests.support.person import Person

KINDS = ["m.room.message", "m.room.encrypted", "m.room.redaction"]
NONE: dict[str, Any] = {"types": []}
FILTER = {
    "room": {
        "timeline": {"limit": 2_000, "types": KINDS},
        "state": NONE,
        "ephemeral": NONE,
        "account_data": NONE,
    },
    "presence": NONE,
    "account_data": NONE,
}

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Gone:
    """When a message was redacted, by the homeserver, and when another client knew; in ms."""

    redacted: int
    seen: int


class Watcher:
    """Syncs as a person; with a `pause` in seconds between syncs, where these would cost much."""

    def __init__(self, person: Person, lifetimes: dict[str, int], *, pause: float = 0) -> None:
        self.said: dict[str, Message] = {}
        self.gone: dict[str, Gone] = {}
        self.bytes = 0
        """How many bytes of JSON the homeserver answered with."""
        self.on_message: Callable[[list[Message]], object] = len
        self._person = person
        self._lifetimes = lifetimes
        self._pause = pause
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        # Synapse gives an answer without `since` again for two minutes; so each asks otherwise.
        since = (await self._sync({"timeout": str(next(_numbers))}))["next_batch"]
        self._task = asyncio.create_task(self._run(since))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def late(self, event_id: str) -> float:
        """Return how many ms after its time another client knew that a message is gone."""
        return self.gone[event_id].seen - self.said[event_id].due

    async def until_said(self, event_ids: list[str], within: float = 30) -> list[Message]:
        """Wait until messages were seen; return them with their true times."""
        await self._until(lambda: all(one in self.said for one in event_ids), within)
        return [self.said[one] for one in event_ids]

    async def until_gone(self, event_ids: list[str], within: float) -> bool:
        """Wait for up to so many seconds; return whether all of them are gone."""
        try:
            await self._until(lambda: all(one in self.gone for one in event_ids), within)
        except TimeoutError:
            return False
        return True

    async def _until(self, true: Callable[[], bool], within: float) -> None:
        assert self._task is not None
        looking = self._task
        async with asyncio.timeout(within), self._news:
            await self._news.wait_for(lambda: looking.done() or true())
        if looking.done():
            looking.result()  # Raises what ended it.

    async def _run(self, since: str) -> None:
        try:
            await self._look(since)
        finally:
            async with self._news:
                self._news.notify_all()

    async def _look(self, since: str) -> None:
        while True:
            answer = await self._sync({"since": since, "timeout": "30000"})
            before, since, now = since, answer["next_batch"], time.time_ns() // 1_000_000
            for room, joined in answer.get("rooms", {}).get("join", {}).items():
                self._take(room, joined["timeline"]["events"], now)
                if joined["timeline"].get("limited"):
                    await self._fill(room, joined["timeline"]["prev_batch"], before)
            async with self._news:
                self._news.notify_all()
            await asyncio.sleep(self._pause)

    async def _fill(self, room: str, start: str | None, stop: str) -> None:
        """Read what a limited timeline leaves out: Synapse gives 100 events in one answer."""
        query = {"dir": "b", "to": stop, "limit": "1000"}
        while start is not None:
            page = await self._person.call(
                "GET", "rooms", room, "messages", **query, **{"from": start}
            )
            self._take(room, page["chunk"], time.time_ns() // 1_000_000)
            start = page.get("end")

    def _take(self, room: str, events: list[dict[str, Any]], now: int) -> None:
        said = []
        for event in events:
            sent = event["origin_server_ts"]
            if event["type"] == "m.room.redaction":
                target = str(event["content"].get("redacts") or event.get("redacts"))
                self.gone.setdefault(target, Gone(sent, now))
            elif "state_key" not in event and room in self._lifetimes:
                due = sent + self._lifetimes[room]
                said.append(Message(room=room, event_id=event["event_id"], due=due))
        self.said |= {one.event_id: one for one in said}
        if said:
            self.on_message(said)

    async def _sync(self, query: dict[str, str]) -> dict[str, Any]:
        answer = await self._person.call("GET", "sync", filter=json.dumps(FILTER), **query)
        self.bytes += len(json.dumps(answer, separators=(",", ":")))
        return answer
