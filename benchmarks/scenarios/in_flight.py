"""How many redactions at once a Synapse does best with, on SQLite and on PostgreSQL.

    scripts/bench --only in_flight --whole

The ideal client, with 1 to 32 in flight, in one room and over several. Beside the rate stands
what it costs: the CPU of the homeserver, and the forward extremities of a room, which pile up when
more events are made beside each other than the next one can follow upon.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import psycopg2

from benchmarks.contestants.contestant import Message, Program
from benchmarks.figures import Figure, Goal
from benchmarks.postgres import postgres, programs
from benchmarks.scenarios.scenario import Options
from benchmarks.stage import Cost, Room, Stage, stage
from benchmarks.watcher import Watcher

NAME = "in_flight"
GOALS: list[Goal] = []
WIDTHS, WIDTHS_ALL = (1, 8, 16, 32), (1, 2, 4, 8, 16, 32)
ROOMS, ROOMS_ALL = (1, 15), (1, 15, 100)
MESSAGES = 300
DAY = 86_400_000
PATIENCE = 300
EXTREMITIES = "SELECT room_id, count(*) FROM event_forward_extremities GROUP BY room_id"


async def run(options: Options) -> AsyncIterator[Figure]:
    """On SQLite, and on PostgreSQL where it is installed."""
    async for figure in on("SQLite", None, options):
        yield figure
    found = None if options.quick else programs()
    if found is None:
        if not options.quick:
            print("PostgreSQL is not installed: no figures for it")
        return
    with ExitStack() as stack:
        async for figure in on("PostgreSQL", stack.enter_context(postgres(found)), options):
            yield figure


async def on(name: str, database: dict[str, Any] | None, options: Options) -> AsyncIterator[Figure]:
    """All widths over all numbers of rooms."""
    extra = {"database": database} if database else {}
    async with stage(**extra) as made:
        path = str(made.folder / "synapse" / "homeserver.db")
        used = database or {"name": "sqlite3", "args": {"database": path}}
        await trial(made, used, 8, await fresh(made, 1))
        for rooms in (1,) if options.quick else ROOMS_ALL if options.whole else ROOMS:
            for width in (8, 16) if options.quick else WIDTHS_ALL if options.whole else WIDTHS:
                got = await trial(made, used, width, await fresh(made, rooms))
                for (measure, unit), value in got.items():
                    yield Figure(
                        scenario=NAME,
                        work=f"{name}, {rooms} rooms" if rooms > 1 else f"{name}, 1 room",
                        contestant=f"{width} in flight",
                        measure=measure,
                        unit=unit,
                        value=value,
                    )


async def fresh(stage: Stage, rooms: int) -> list[Room]:
    """Make rooms whose owner redacts."""
    return await stage.rooms(rooms, DAY, stage.talker.account)


async def trial(
    stage: Stage, database: dict[str, Any], width: int, rooms: Sequence[Room]
) -> dict[tuple[str, str], float]:
    """Redact messages that are due at once; return measures, with their units."""
    account = stage.talker.account
    ideal = Program("ideal", "ideal", stage.homeserver.url, account, in_flight=width)
    lifetimes = {room.room_id: DAY for room in rooms}
    async with Watcher(stage.talker, lifetimes, pause=0.25) as watcher:
        sent = await stage.send(rooms, MESSAGES)
        messages = await watcher.until_said(sent)
        await ideal.start()
        try:
            cost, began = Cost(stage.homeserver.pid), time.time_ns() // 1_000_000
            ideal.expect(Message(room=m.room, event_id=m.event_id, due=began) for m in messages)
            assert await watcher.until_gone(sent, PATIENCE), "not all are gone"
            cost.stop()
        finally:
            await ideal.stop()
        last = max(watcher.gone[one].redacted for one in sent)
    return {
        ("redacted", "per second"): MESSAGES / (last - began) * 1000,
        ("homeserver's CPU for each", "ms"): cost.cpu / MESSAGES * 1000,
        ("forward extremities after", ""): await asyncio.to_thread(extremities, database, rooms),
    }


def extremities(database: dict[str, Any], rooms: Sequence[Room]) -> int:
    """Return how many forward extremities the room has that has most."""
    asked = {room.room_id for room in rooms}
    return max(number for room, number in _extremities(database) if room in asked)


def _extremities(database: dict[str, Any]) -> list[tuple[str, int]]:
    args = database["args"]
    found: list[tuple[str, int]]
    if database["name"] == "sqlite3":
        with closing(sqlite3.connect(f"file:{args['database']}?mode=ro", uri=True)) as db:
            found = db.execute(EXTREMITIES).fetchall()
    else:
        own = {name: args[name] for name in ("user", "dbname", "host")}
        with closing(psycopg2.connect(**own)) as connection, connection.cursor() as cursor:
            cursor.execute(EXTREMITIES)
            found = cursor.fetchall()
    return found
