"""One bot, one room, one fault: what was lost, what came early, and how often the bot asked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bot import app
from bot.config import load
from bot.core.lifetimes import POLICY_EVENT
from bot.core.types import EventID, RoomID
from bot.demo.homeserver import Homeserver
from tests.support.bot_process import BotProcess, Bots
from tests.support.fault_proxy import PAGE, FaultProxy
from tests.support.people import People, Person, wait_until

LIFETIME = 3_000
BEFORE, DURING = 6, 4
"""Messages sent before a fault, due in it; and messages sent while it lasts."""

Begin = Callable[[FaultProxy], object]
Last = Callable[[FaultProxy], Coroutine[Any, Any, None]]
"""Begins a fault, and returns when its time is over."""

EVERYWHERE, REDACT, SYNC, KEYS = "", "/redact/", "/sync", "/keys/"
LIMITED = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too many requests"}
UNKNOWN = {"errcode": "M_UNKNOWN", "error": "Internal server error"}
REJECTED = {"errcode": "M_UNKNOWN_TOKEN", "error": "Unrecognised access token"}
HOUR = LIMITED | {"retry_after_ms": 3_600_000}
GARBAGE = b'{"next_batch": "s1", "rooms": {"join": [[['
HUGE = 1 << 30


def pages(status: int) -> Begin:
    return lambda proxy: proxy.answer(EVERYWHERE, status=status, body=PAGE)


def errors(status: int, body: dict[str, Any], match: str = EVERYWHERE) -> Begin:
    return lambda proxy: proxy.answer(match, status=status, body=body)


FAULTS: dict[str, Begin] = {
    "500 to everything": errors(500, UNKNOWN),
    "500 to redactions": errors(500, UNKNOWN, REDACT),
    "502 with a page": pages(502),
    "503 from the homeserver": errors(503, UNKNOWN),
    "429 without a time": errors(429, LIMITED),
    "429 for half a second": errors(429, LIMITED | {"retry_after_ms": 500}),
    "429 for 0 ms": errors(429, LIMITED | {"retry_after_ms": 0}),
    "429 for an hour": errors(429, HOUR),
    "429 for 10^30 ms": errors(429, LIMITED | {"retry_after_ms": 10**30}),
    "200 with a page": pages(200),
    "401 with a page": pages(401),
    "401 to everything": errors(401, REJECTED),
    "401 to redactions": errors(401, REJECTED, REDACT),
    "401 without a name": errors(401, {"error": "Unauthorized"}),
    "403 with a page": pages(403),
    "404 with a page": pages(404),
    "200 with malformed JSON": lambda p: p.answer(
        EVERYWHERE, status=200, body=GARBAGE, headers={"Content-Type": "application/json"}
    ),
    "200 that did nothing": errors(200, {}, REDACT),
    "reset at once": lambda p: p.reset(EVERYWHERE),
    "reset in the body": lambda p: p.reset(EVERYWHERE, after=0.5),
    "redacted, answer lost": lambda p: p.swallow(REDACT),
    "cut in the body": lambda p: p.cut(EVERYWHERE),
    "truncated JSON": lambda p: p.cut(EVERYWHERE, honest=True),
    "30 s of silence": lambda p: p.stall(EVERYWHERE, 30),
    "silence about keys": lambda p: p.stall(KEYS, 30),
    "a slow drip": lambda p: p.drip(EVERYWHERE, size=16, every=0.5),
    "redacted twice at once": lambda p: p.twice(REDACT),
    "the same sync again": lambda p: p.repeat(SYNC),
    "a huge sync": lambda p: p.flood(SYNC, HUGE),
    "huge answers to redactions": lambda p: p.flood(REDACT, HUGE),
}


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of it."""

    fault: str = ""
    messages: int
    redacted: int = 0
    early: int = 0
    twice: int = 0
    requests: int = 0
    """How many requests the proxy saw while the fault lasted."""
    peak: int = 0
    """Most of them in one second."""
    healed: float = 0.0
    """Seconds from the fault's end to the last redaction."""
    longest: int = 0
    """Bytes of garbage that the bot took in one answer, at most."""
    ended: str = ""
    """Why the bot ended, if it did."""

    @property
    def lost(self) -> int:
        return self.messages - self.redacted


@dataclass(slots=True)
class Bot:
    """The bot as it is built for a process, in this one: a dozen fit side by side."""

    config: BotProcess
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.config.write_config()
        settings = load(self.config.config_file, required=True)
        settings.data_dir.mkdir(mode=0o700, exist_ok=True)
        self.task = asyncio.create_task(app._serve(settings, self.stop))

    @property
    def ended(self) -> str:
        if self.task is None or not self.task.done() or self.task.cancelled():
            return ""
        return repr(self.task.exception() or "stopped")

    async def close(self) -> None:
        self.stop.set()
        if self.task is not None:
            _, slow = await asyncio.wait([self.task], timeout=8)
            for task in slow:
                task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


class Ordeal:
    """Prepares, and goes through one fault."""

    def __init__(self, homeserver: Homeserver, people: People, bots: Bots) -> None:
        self._homeserver = homeserver
        self._people = people
        self._bots = bots

    async def go(self, name: str, begin: Begin, lasting: float, patience: float) -> Result:
        """Let one fault befall one bot."""

        async def last(proxy: FaultProxy) -> None:
            begin(proxy)
            await asyncio.sleep(lasting)

        return await self.through(name, last, patience)

    async def restarts(self, times: int, every: float, patience: float = 75) -> Result:
        """Kill the homeserver again and again."""

        async def last(_: FaultProxy) -> None:
            for _number in range(times):
                await self._homeserver.kill()
                await asyncio.sleep(1)
                await self._homeserver.start()
                await asyncio.sleep(every)

        return await self.through(f"restarted every {every + 1:.0f} s", last, patience)

    async def through(
        self, name: str, last: Last, patience: float, data_dir: Path | None = None
    ) -> Result:
        """Go through whatever `last` makes happen."""
        async with FaultProxy(self._homeserver.url) as proxy:
            config = await self._bots(start=False)
            config.config["homeserver"] = proxy.url
            config.config["data_dir"] = str(data_dir or config.data_dir)
            bot = Bot(config)
            await bot.start()
            try:
                alice = await self._people("alice")
                room = await make_room(alice, config.user_id, proxy)
                result, sent = await suffer(proxy, alice, room, last)
                result.fault = name
                result.healed = await until_gone(alice, room, sent, patience)
                result.ended = bot.ended
                await judge(alice, room, sent, result)
                return result
            finally:
                proxy.mend()
                await bot.close()


async def suffer(
    proxy: FaultProxy, alice: Person, room: RoomID, last: Last
) -> tuple[Result, list[EventID]]:
    """Send messages before and during a fault; mend it when its time is over."""
    sent = [await alice.send(room, f"before {number}") for number in range(BEFORE)]
    await asyncio.sleep(1)
    since = time.monotonic()
    lasting = asyncio.create_task(last(proxy))
    await asyncio.sleep(0)
    during = 0
    while during < DURING:
        with contextlib.suppress(aiohttp.ClientError):  # it may be the homeserver that is away
            sent.append(await alice.send(room, f"during {during}"))
            during += 1
        await asyncio.sleep(0.3)
    await lasting
    until = time.monotonic()
    proxy.mend()
    seconds = Counter(int(one.at - since) for one in proxy.seen if since <= one.at < until)
    result = Result(messages=len(sent), requests=seconds.total(), longest=proxy.longest)
    result.peak = max(seconds.values(), default=0)
    return result, sent


async def make_room(alice: Person, bot: str, proxy: FaultProxy) -> RoomID:
    """Make a room with a lifetime and the bot in it, of full power."""
    users = {alice.user_id: 100, bot: 50}
    room = await alice.create_room("11", power_levels={"users": users})
    await alice.state(room, POLICY_EVENT, {"type": "after_send", "timer": LIFETIME})
    await alice.invite(room, bot)

    async def settled_in() -> bool:
        await asyncio.sleep(0.1)
        return proxy.count("/send/m.room.message/") > 0

    await wait_until(settled_in, 20, "the bot's welcome")
    return room


def is_gone(event: dict[str, Any]) -> bool:
    return event["content"] == {} and "redacted_because" in event.get("unsigned", {})


async def until_gone(alice: Person, room: RoomID, sent: list[EventID], patience: float) -> float:
    """Wait for all to be redacted, or until patience ends; return how long that took."""
    began = time.monotonic()
    wanted = set(sent)

    async def gone() -> bool:
        await asyncio.sleep(0.25)
        found = await alice.messages(room)
        return all(is_gone(event) for event in found if event["event_id"] in wanted)

    with contextlib.suppress(AssertionError):
        await wait_until(gone, patience)
    return time.monotonic() - began


async def judge(alice: Person, room: RoomID, sent: list[EventID], result: Result) -> None:
    """Ask the homeserver itself what became of the messages."""
    events = {event["event_id"]: event for event in await alice.messages(room)}
    times = Counter(
        event["content"].get("redacts") or event.get("redacts")
        for event in events.values()
        if event["type"] == "m.room.redaction" and "content" in event
    )
    for event_id in sent:
        event = events[event_id]
        if not is_gone(event):
            continue
        result.redacted += 1
        result.twice += times[event_id] > 1
        at = event["unsigned"]["redacted_because"]["origin_server_ts"]
        result.early += at < event["origin_server_ts"] + LIFETIME
