"""Reads recorded batches of events, from the bytes of a sync's answer to committed timers.

    .venv/bin/python -m benchmarks.intake

The events are made here in the shape in which Synapse shows them, with reactions, edits and
redactions among them. They go through the bot's own client, sync and store; only the network is
left out. Beside it nio and mautrix-python read the same bytes into their own objects, and store
nothing. In other runs a timer of the event loop tells how long it was held, while a message falls
due each 20 ms in another room: how late its redaction is begun is the redactor's own lateness and
what the reading adds.

Others may be at work on the machine. So speeds are medians of five by the time that the processor
spent on all threads of this process, which do not work at once here; what the clock says is told
beside it. A hold does not count what the loop's thread waits for a processor; lateness is by the
clock. Of both, the best of three. Exit status 1 where a goal is missed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Self

import mautrix.types
import nio

from benchmarks.goals import Table
from benchmarks.held import Held
from benchmarks.recorded import Client, Instant, now
from benchmarks.scale import event as event_id
from benchmarks.scale import room
from bot.core.lifetimes import LifetimeLimits
from bot.core.timeline import Change, Item, Message, RoomUpdate
from bot.core.types import EventID, RoomID, UserID
from bot.matrix.client import Matrix
from bot.services.clock import SystemClock
from bot.services.event_reader import EventReader
from bot.services.redactor import Redactor
from bot.services.sync import Sync
from tests.support.store import Store

BOT, ALICE = UserID("@bot:example.org"), UserID("@alice:example.org")
HOUR = 3_600_000
LIMITS = LifetimeLimits(minimum=1_000, maximum=365 * 24 * HOUR)
BATCHES = ((100, 1), (1_000, 1), (1_000, 100), (10_000, 1), (10_000, 100))
"""Events, and the rooms in which they are."""
TIMES, OTHERS_TIMES, HOLDS_TIMES = 5, 3, 3
SPEED = 20_000.0
"""Events a second."""
HELD = LATE = 50.0
"""Milliseconds."""
SOON, FALLS_DUE, MANY = 100, 20, 150
"""Milliseconds until the first message elsewhere falls due, and between two; how many there are."""
ELSEWHERE = RoomID("!elsewhere:example.org")


def event(number: int, at: int) -> dict[str, Any]:
    """Return an event as Synapse shows it: of twenty, three reactions, an edit, a redaction."""
    before = event_id(number - 1)
    text = f"This is message {number}, about as long as what people write to each other."
    content: dict[str, Any] = {"body": text, "msgtype": "m.text", "m.mentions": {}}
    kind = "m.room.message"
    match number % 20:
        case 3 | 8 | 13:
            kind = "m.reaction"
            relation = {"rel_type": "m.annotation", "event_id": before, "key": "👍️"}
            content = {"m.relates_to": relation}
        case 5:
            content = {
                "body": f"* {text}",
                "msgtype": "m.text",
                "m.new_content": content,
                "m.relates_to": {"rel_type": "m.replace", "event_id": before},
            }
        case 10:
            kind, content = "m.room.redaction", {"redacts": before}
        case 15:
            html = f"<p>{text} <strong>Or a little longer</strong>, with markup.</p>"
            content |= {"format": "org.matrix.custom.html", "formatted_body": html}
    top = {"redacts": before} if kind == "m.room.redaction" else {}
    return top | {
        "type": kind,
        "sender": f"@person-{number % 50}:example.org",
        "content": content,
        "origin_server_ts": at,
        "unsigned": {"age": 1234, "membership": "join"},
        "event_id": event_id(number),
    }


def answer(events: int, rooms: int, first: int) -> bytes:
    """Return the bytes of a sync's answer."""
    at = now()
    join = {
        room(n): {
            "timeline": {
                "events": [event(first + k, at) for k in range(n, events, rooms)],
                "prev_batch": "s1",
                "limited": False,
            },
            "state": {"events": []},
            "account_data": {"events": []},
            "ephemeral": {"events": []},
            "unread_notifications": {"notification_count": 0, "highlight_count": 0},
            "summary": {},
        }
        for n in range(rooms)
    }
    body = {
        "next_batch": f"s{first}",
        "device_one_time_keys_count": {"signed_curve25519": 50},
        "device_unused_fallback_key_types": ["signed_curve25519"],
        # nio wants all of these.
        "rooms": {"join": join, "invite": {}, "leave": {}},
        "to_device": {"events": []},
        "device_lists": {"changed": [], "left": []},
        "presence": {"events": []},
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Events a second."""

    processor: float
    clock: float

    @classmethod
    def of(cls, events: int, took: list[tuple[float, float]]) -> Self:
        """Return the median of several times, by the processor and by the clock."""
        processor, clock = (statistics.median(one) for one in zip(*took, strict=True))
        return cls(processor=events / processor, clock=events / clock)


@contextmanager
def timed(found: list[tuple[float, float]]) -> Iterator[None]:
    """Add how many seconds it takes, by the processor and by the clock."""
    worked, began = time.process_time(), time.perf_counter()
    yield
    found.append((time.process_time() - worked, time.perf_counter() - began))


class Bot:
    """The parts that read a sync and redact, over a database of their own."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.client = Client("http://127.0.0.1:9", BOT, store_path=str(folder))
        self.client.restore_login(BOT, "BOTDEVICE", "token")
        self.store = store
        matrix, clock, random = Matrix(self.client), SystemClock(), Random(1)
        reader = EventReader(matrix, prefix="!expire", limits=LIMITS, digest=store.digest)
        self.homeserver = Instant()
        self.redactor = Redactor(self.homeserver, store, clock, random=random)
        self._sync = Sync(matrix, store, store.timeline, reader, clock, random=random)

    async def read(self) -> None:
        """Read the client's answer, until its timers are committed."""
        assert await self._sync.once()

    async def enter(self, rooms: int) -> None:
        """Be in rooms with a lifetime."""
        change: list[Item] = [Change(setting=HOUR, sender=ALICE, digest="p", unannounced=True)]
        updates = [RoomUpdate(room_id=room(n), items=change) for n in range(rooms)]
        await self.store.commit("s0", now(), updates)

    async def fall_due(self) -> None:
        """Have messages fall due elsewhere, one after the other, from a moment later on."""
        first = now() + SOON
        self.homeserver.due = {EventID(f"$due-{n}"): first + n * FALLS_DUE for n in range(MANY)}
        items: list[Item] = [Change(setting=1_000, sender=ALICE, digest="p", unannounced=True)]
        for one, at in self.homeserver.due.items():
            items.append(Message(event_id=one, sent=at - 1_000))
        await self.store.commit("s0", now(), [RoomUpdate(room_id=ELSEWHERE, items=items)])


@asynccontextmanager
async def bot_in(rooms: int) -> AsyncIterator[Bot]:
    with tempfile.TemporaryDirectory() as name:
        store = await Store.open(Path(name) / "timers.db", limits=LIMITS, own_id=BOT)
        bot = Bot(Path(name), store)
        await bot.enter(rooms)
        gc.collect()
        gc.freeze()  # as the running bot does
        yield bot
        await store.close()
        bot.client.close_store()


async def speed(events: int, rooms: int) -> Speed:
    """Return how many events are read in a second, by a bot that has nothing else to do."""
    found: list[tuple[float, float]] = []
    async with bot_in(rooms) as bot:
        for turn in range(TIMES + 1):
            bot.client.raw = answer(events, rooms, 1 + turn * 10**6)
            with timed(found):
                await bot.read()
    return Speed.of(events, found[1:])  # the first one opens files


async def holds(events: int, rooms: int) -> tuple[float, float]:
    """Return for how long the loop is held, and how late a redaction is begun at worst, in ms."""
    async with bot_in(rooms) as bot:
        bot.client.raw = answer(events, rooms, 1)
        await bot.fall_due()
        redacting = asyncio.create_task(bot.redactor.run())
        await asyncio.sleep(3 * SOON / 1_000)
        bot.homeserver.late.clear()
        async with Held() as held:
            await bot.read()
            await asyncio.sleep(SOON / 1_000)
        bot.redactor.stop()
        await redacting
        return held.longest, float(max(bot.homeserver.late))


def read_by_nio(raw: bytes) -> None:
    """Read an answer as nio's client does, into its events."""
    body = json.loads(raw)
    found = nio.SyncResponse.from_dict(body)
    assert isinstance(found, nio.SyncResponse)


def read_by_mautrix(raw: bytes) -> None:
    """Read an answer as the syncer of mautrix-python does, into its events."""
    for room_id, part in json.loads(raw)["rooms"]["join"].items():
        for one in part["timeline"]["events"]:
            one["room_id"] = room_id
            mautrix.types.Event.deserialize(one)


def others_speed(read: Callable[[bytes], None], events: int, rooms: int) -> Speed:
    found: list[tuple[float, float]] = []
    for turn in range(OTHERS_TIMES):
        raw = answer(events, rooms, 1 + turn * 10**6)
        with timed(found):
            read(raw)
    return Speed.of(events, found)


async def run() -> bool:
    table = Table()
    logging.disable(logging.WARNING)
    for events, rooms in BATCHES:
        size = len(answer(events, rooms, 1)) / 1e6
        what = f"{events:,} events, {'1 room' if rooms == 1 else f'{rooms} rooms'} ({size:.2g} MB)"
        ours = await speed(events, rooms)
        table.at_least(f"{what}: read", ours.processor, SPEED, "per second")
        table.tell("    the same, by the clock", ours.clock, "per second")
        for name, read in (("nio", read_by_nio), ("mautrix", read_by_mautrix)):
            theirs = others_speed(read, events, rooms)
            table.tell(f"    {name} reads, and stores nothing", theirs.processor, "per second")
        found = [await holds(events, rooms) for _ in range(HOLDS_TIMES)]
        table.at_most(f"{what}: the loop is held", min(one[0] for one in found), HELD, "ms")
        late = min(one[1] for one in found)
        table.at_most(f"{what}: a redaction meanwhile is late", late, LATE, "ms")
    return table.met


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(run()) else 1)
