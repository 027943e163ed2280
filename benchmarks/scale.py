"""Measures whether what the bot does costs by what is due, and not by what is there.

    .venv/bin/python -m benchmarks.scale
    .venv/bin/python -m benchmarks.scale --whole

The real store and the real redactor, over a homeserver that answers at once and does nothing. By
default with up to 100,000 timers, in about a minute; with `--whole` up to a million, in a few.
Each line is one measure and what it must be. Exit status 1 where one falls short.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from random import Random

from benchmarks.recorded import now
from bot.core.lifetimes import LifetimeLimits
from bot.core.outcomes import Done, Outcome
from bot.core.timeline import Change, Item, Message, Redaction, RoomUpdate
from bot.core.types import EventID, RoomID, UserID
from bot.services.clock import SystemClock
from bot.services.redactor import Redactor
from tests.support.store import Store

BOT, ALICE = UserID("@bot:example.org"), UserID("@alice:example.org")
MINUTE, DAY = 60_000, 86_400_000
LIMITS = LifetimeLimits(minimum=1_000, maximum=365 * DAY)
REDACTIONS, AT_MOST = 4_000, 15.0
"""A rate is measured over so many redactions, or so many seconds."""
FAST, EVEN, EVENTS = 2_000, 0.8, 10_000
"""Redactions a second; how much slower many rooms may be; events of a sync a second."""
COUNT, ONCE, HELD = 0.005, 0.2, 0.1
"""Seconds: for what is asked often, for what is done once, and that wiping may hold others up."""
MEMORY = 20.0
"""MB that a redactor, or wiping, may take beside what was there before."""


class Verdict:
    """Prints measures, and remembers whether all of them were good enough."""

    def __init__(self) -> None:
        self.good = True

    def at_least(self, what: str, value: float, limit: float, unit: str = "") -> None:
        self._say(what, value, "at least", limit, unit, good=value >= limit)

    def at_most(self, what: str, value: float, limit: float, unit: str = "s") -> None:
        self._say(what, value, "at most", limit, unit, good=value <= limit)

    def _say(
        self, what: str, value: float, word: str, limit: float, unit: str, *, good: bool
    ) -> None:
        self.good = self.good and good
        shown = f"{value:,.4f}" if value < 10 else f"{value:,.0f}"
        mark = "" if good else "   FALLS SHORT"
        print(f"{what:<66} {shown:>9} {unit:<4} {word} {limit:,g}{mark}", flush=True)


class Instant:
    """A homeserver that answers at once."""

    def __init__(self, enough: int) -> None:
        self.redacted = 0
        self._enough = enough
        self.done = asyncio.Event()

    async def redact(self, *_: object) -> Outcome:
        self.redacted += 1
        if self.redacted >= self._enough:
            self.done.set()
        return Done()

    async def is_gone(self, *_: object) -> bool:
        return True

    async def relations(self, *_: object) -> tuple[list[EventID], bool]:
        return [], True


class Files:
    """Databases with so many timers in so many rooms, each made once and copied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[int, int, int], Path] = {}

    async def open(self, timers: int, rooms: int, *, due: int = -DAY) -> Store:
        """Open a copy of a database whose timers are due from so long after now on."""
        return await Store.open(await self.copy(timers, rooms, due=due), limits=LIMITS, own_id=BOT)

    async def copy(self, timers: int, rooms: int, *, due: int = -DAY) -> Path:
        wanted = timers, rooms, due
        if wanted not in self._made:
            path = self._folder / f"{timers}-{rooms}-{due}.db"
            store = await Store.open(path, limits=LIMITS, own_id=BOT)
            await enter(store, rooms)
            await store.close()
            fill(path, timers, rooms, due)
            self._made[wanted] = path
        copy = self._folder / "copy.db"
        for left in self._folder.glob("copy.db*"):
            left.unlink()
        shutil.copy(self._made[wanted], copy)
        return copy


def room(number: int) -> RoomID:
    return RoomID(f"!room-{number}:example.org")


def event(number: int) -> EventID:
    return EventID(f"${number * 2_654_435_761 % 2**32:08x}{number:035}")


async def enter(store: Store, rooms: int) -> None:
    """Let the bot be in rooms with a lifetime."""
    change: list[Item] = [Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True)]
    updates = [RoomUpdate(room_id=room(n), items=change) for n in range(rooms)]
    await store.commit("s1", now(), updates)


def fill(path: Path, timers: int, rooms: int, due: int) -> None:
    """Put timers into the database of a bot that is not running."""
    first = now() + due
    with closing(sqlite3.connect(path)) as db, db:
        numbers = dict(db.execute("SELECT room_id, id FROM rooms").fetchall())
        rows = [numbers[room(n)] for n in range(rooms)]
        db.executemany(
            "INSERT INTO timers (room, event_id, due, retry_at) VALUES (?, ?, ?, ?)",
            ((rows[n % rooms], event(n), first + n, first + n) for n in range(timers)),
        )


async def timed(act: Callable[[], Awaitable[object]], times: int = 5) -> float:
    """Return how many seconds it takes, at best: the machine may be at work for others."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        await act()
        best = min(best, time.perf_counter() - began)
    return best


def megabytes(what: str = "VmRSS") -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{what}:")[2].split()[0]) / 1024


def forget_peak() -> None:
    """Let the most memory be counted from now on, without what Python keeps for later."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


async def redactions(files: Files, timers: int, rooms: int) -> tuple[float, float]:
    """Return how many redactions the bot issues in a second, and the MB that it takes."""
    store, homeserver = await files.open(timers, rooms), Instant(min(REDACTIONS, timers))
    redactor = Redactor(homeserver, store, SystemClock(), random=Random(1))
    forget_peak()
    before, began = megabytes(), time.perf_counter()
    task = asyncio.create_task(redactor.run())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(homeserver.done.wait(), AT_MOST)
    rate = homeserver.redacted / (time.perf_counter() - began)
    redactor.stop()
    await task
    grown = megabytes("VmHWM") - before
    await store.close()
    return rate, grown


async def issue(files: Files, verdict: Verdict, many: int) -> None:
    rates: dict[int, float] = {}
    for rooms in (1, 100, 1_000):
        rates[rooms], _ = await redactions(files, 10_000, rooms)
        verdict.at_least(f"redactions, {rooms} rooms", rates[rooms], FAST, "per second")
    verdict.at_least("redactions, 1,000 rooms to 1 room", rates[1_000] / rates[1], EVEN)
    rate, grown = await redactions(files, many, 100)
    verdict.at_least(f"redactions, {many:,} overdue in 100 rooms", rate, FAST, "per second")
    verdict.at_most(f"memory for that, {many:,} overdue", grown, MEMORY, "MB")
    few, _ = await redactions(files, 4_000, 1)
    rate, _ = await redactions(files, 5 * many, 1)
    verdict.at_least(f"redactions, {5 * many:,} timers to 4,000", rate / few, EVEN)


async def sync(files: Files, verdict: Verdict) -> None:
    for rooms, each in ((1_000, 1), (100, 100)):
        store = await files.open(10_000, 1_000)
        took = float("inf")
        for turn in range(5):
            numbers = iter(range(10**8 * (turn + 1), 10**9))
            updates = [
                RoomUpdate(
                    room_id=room(n),
                    items=[Message(event_id=event(next(numbers)), sent=now()) for _ in range(each)],
                    last_event_digest=f"last of {n} at {turn}",
                )
                for n in range(rooms)
            ]
            began = time.perf_counter()
            await store.commit("s2", now(), updates)
            took = min(took, time.perf_counter() - began)
        await store.close()
        what = f"events of a sync, {each} in each of {rooms:,} rooms"
        verdict.at_least(what, rooms * each / took, EVENTS, "per second")


async def counts(files: Files, verdict: Verdict, many: int) -> None:
    store = await files.open(many, 1)
    overdue = await timed(lambda: store.overdue(now()))
    pending = await timed(lambda: store.pending(room(0)))
    verdict.at_most(f"counting what is overdue, {many:,}", overdue, COUNT)
    verdict.at_most(f"counting what waits in a room, {many:,}", pending, COUNT)
    await store.close()


async def reactions(files: Files, verdict: Verdict, children: int = 50_000) -> None:
    """A message with many reactions is redacted by somebody."""
    store = await files.open(100, 1, due=DAY)
    items: list[Item] = [Message(event_id=EventID("$whole"), sent=now())]
    items += [
        Message(event_id=event(n), sent=now(), parent=EventID("$whole"))
        for n in range(10**6, 10**6 + children)
    ]
    await store.commit("s2", now(), [RoomUpdate(room_id=room(0), items=items)])
    gone = Redaction(target=EventID("$whole"), target_digest="", sender=ALICE, digest="r")
    update = RoomUpdate(room_id=room(0), items=[gone])
    took = await timed(lambda: store.commit("s3", now(), [update]), 1)
    verdict.at_most(f"a redaction of a message with {children:,} reactions", took, COUNT)
    await store.close()


async def held_up(store: Store, act: Callable[[], Awaitable[object]]) -> tuple[float, float, float]:
    """Return for how long an act holds others up, how long it takes, and the MB that it needs."""
    worst, over = 0.0, asyncio.Event()

    async def work() -> None:
        nonlocal worst
        while not over.is_set():
            began = time.perf_counter()
            await store.ask_review(room(0))
            worst = max(worst, time.perf_counter() - began)
            await asyncio.sleep(0.002)

    forget_peak()
    before = megabytes()
    working = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    began = time.perf_counter()
    await act()
    took = time.perf_counter() - began
    over.set()
    await working
    return worst, took, megabytes("VmHWM") - before


async def wiping(files: Files, verdict: Verdict, timers: int) -> None:
    """Half of the timers are gone; what was deleted is wiped while somebody works."""
    path = await files.copy(timers, 1)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM timers WHERE id % 2")
    store = await Store.open(path, limits=LIMITS, own_id=BOT)
    worst, took, grown = await held_up(store, store.wipe)
    verdict.at_most(f"wiping holds others up, {timers:,} timers ({took:.2f} s in all)", worst, HELD)
    verdict.at_most(f"memory for wiping, {timers:,} timers", grown, MEMORY, "MB")
    await store.close()


async def once(files: Files, verdict: Verdict, many: int) -> None:
    """What happens now and then, and concerns every timer: what may take long is in portions."""
    path = await files.copy(many, 1, due=DAY)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE timers SET from_local_clock = 1")  # all made by a clock that was ahead
    began = time.perf_counter()
    store = await Store.open(path, limits=LIMITS, own_id=BOT)
    verdict.at_most(f"opening, {many:,} timers", time.perf_counter() - began, ONCE)
    latest = store.latest_timer
    worst, took, _ = await held_up(
        store, lambda: store.clock_set_back(MINUTE, now(), after=0, upto=latest)
    )
    what = f"a clock set back holds others up, {many:,} ({took:.1f} s in all)"
    verdict.at_most(what, worst, ONCE)
    kick = await timed(lambda: store.forget(room(0), now()), 1)
    verdict.at_most(f"the bot is removed from a room with {many:,} timers", kick, ONCE)

    async def come_back() -> None:
        back = RoomUpdate(room_id=room(0), items=[], entered=True)
        await store.commit("s2", now() + 2 * DAY, [back])
        while await store.put_in_order():
            pass

    worst, took, _ = await held_up(store, come_back)
    what = f"its return holds others up, {many:,} ({took:.1f} s in all)"
    verdict.at_most(what, worst, ONCE)
    await store.close()


async def run(*, whole: bool) -> bool:
    verdict, many = Verdict(), 1_000_000 if whole else 100_000
    with tempfile.TemporaryDirectory() as name:
        files = Files(Path(name))
        await issue(files, verdict, 200_000 if whole else 50_000)
        await sync(files, verdict)
        for timers in (1_000, 40_000, many):
            await counts(files, verdict, timers)
            await wiping(files, verdict, timers)
            await once(files, verdict, timers)
        await reactions(files, verdict)
    return verdict.good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whole", action="store_true", help="with up to a million timers")
    options = parser.parse_args()
    sys.exit(0 if asyncio.run(run(whole=options.whole)) else 1)


if __name__ == "__main__":
    main()
