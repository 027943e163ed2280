"""What SQLite leaves of deleted rows is wiped from a large file, and the database stays whole."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest

from bot.core.lifetimes import LifetimeLimits
from bot.core.topics import Topic
from bot.core.types import Millis, UserID
from bot.store import wiping
from bot.store.database import Database
from bot.store.wiping import FIRST, unallocated
from tests.support.store import Store

ADD = "INSERT INTO timers (room, event_id, due, retry_at, parent) VALUES (?, ?, 0, ?, ?)"
LATER = "UPDATE timers SET retry_at = ?, attempts = attempts + 1000 WHERE id = ?"
PAGE = 4096


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr(wiping, "SMALL", 0)
    monkeypatch.setattr(wiping, "PAGES", 7)
    limits = LifetimeLimits(minimum=1, maximum=2)
    made = await Store.open(tmp_path / "timers.db", limits=limits, own_id=UserID("@bot:x"))
    async with made._db.transaction() as db:
        await db.many("INSERT INTO rooms (id, room_id) VALUES (?, ?)", [(n, n) for n in range(4)])
    yield made
    with suppress(ValueError):  # closed already
        await made.close()


async def come_and_go(store: Store, random: Random, turns: int) -> tuple[set[str], set[str]]:
    """Let messages of all lengths come, be put off, and go; return the marks of who stays, goes."""
    stays: dict[int, str] = {}
    goes: set[str] = set()

    async def turn(db: Database) -> None:
        for _ in range(60):
            name = f"${'x' * random.randrange(200)}Z{random.getrandbits(64):016x}"
            values = (random.randrange(4), name, random.randrange(10**6))
            await db.rows(ADD, *values, None)
            [(number,)] = await db.rows("SELECT last_insert_rowid()")
            stays[number] = name.rpartition("Z")[2]
        for number in random.sample(sorted(stays), random.randrange(50)):
            if random.random() < 0.5:
                await db.rows(LATER, random.randrange(10**12), number)
            else:
                goes.add(stays.pop(number))
                await db.rows("DELETE FROM timers WHERE id = ?", number)

    for _ in range(turns):
        await store._db.whole(turn)
    return set(stays.values()), goes


def on_disk(folder: Path, marks: set[str]) -> set[str]:
    data = b"".join(file.read_bytes() for file in folder.glob("timers.db*"))
    return {mark for mark in marks if mark.encode() in data}


def is_whole(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_of_what_is_gone_is_left_and_all_that_stays_is(
    store: Store, tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    for _ in range(2):
        stays, goes = await come_and_go(store, random, 60)
        await store.wipe()
        assert on_disk(tmp_path, goes) == set()
        assert on_disk(tmp_path, stays) == stays
        # What SQLite still has in memory is not written back over it.
        async with store._db.transaction() as db:
            await db.rows("UPDATE timers SET retry_at = retry_at + 1")
        await store._db._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        assert on_disk(tmp_path, goes) == set()
    await store.close()
    assert is_whole(tmp_path / "timers.db")


async def test_others_have_turns_between_and_their_deletions_wait_for_the_next(
    store: Store, tmp_path: Path
) -> None:
    random = Random(1)
    await come_and_go(store, random, 40)
    wiping_now = asyncio.create_task(store.wipe())
    turns = 0
    later: set[str] = set()
    while not wiping_now.done():
        later |= (await come_and_go(store, random, 1))[1]
        turns += 1
    await wiping_now
    assert turns >= 3
    assert later
    await store.wipe()
    assert on_disk(tmp_path, later) == set()
    assert is_whole(tmp_path / "timers.db")


async def test_while_somebody_reads_the_database_it_is_put_off(
    store: Store, tmp_path: Path
) -> None:
    _, goes = await come_and_go(store, Random(2), 40)
    with closing(sqlite3.connect(tmp_path / "timers.db", isolation_level=None)) as backup:
        backup.execute("BEGIN")
        backup.execute("SELECT count(*) FROM timers").fetchone()
        await come_and_go(store, Random(3), 1)
        deleted = store.listen(Topic.DELETED)
        await store.wipe()
        assert on_disk(tmp_path, goes)
        assert deleted.is_set()
    await store.wipe()
    assert on_disk(tmp_path, goes) == set()


async def test_to_be_cancelled_leaves_the_rest_for_the_next_time(
    store: Store, tmp_path: Path
) -> None:
    _, goes = await come_and_go(store, Random(4), 40)
    for turns in range(8):
        task = asyncio.create_task(store.wipe())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.wipe()
    assert on_disk(tmp_path, goes) == set()
    assert is_whole(tmp_path / "timers.db")


async def test_to_be_closed_wipes_a_large_file_too(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, goes = await come_and_go(store, Random(5), 40)
    with caplog.at_level(logging.WARNING):
        await store.close()
    assert caplog.messages == []
    assert on_disk(tmp_path, goes) == set()
    assert [file.name for file in tmp_path.iterdir()] == ["timers.db"]
    limits = LifetimeLimits(minimum=1, maximum=2)
    again = await Store.open(tmp_path / "timers.db", limits=limits, own_id=UserID("@bot:x"))
    assert await again.any_timer()
    store._db = again._db


def page(kind: int, cells: int, content: Millis, size: int = PAGE) -> bytes:
    head = bytes([kind, 0, 0]) + cells.to_bytes(2, "big") + (content % 65_536).to_bytes(2, "big")
    return head + bytes(size - len(head))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (page(13, 3, 4000), (14, 4000)),
        (page(10, 0, 4096), (8, 4096)),
        (page(5, 2, 100), (16, 100)),
        (page(2, 0, 4096), (12, 4096)),
        (page(13, 0, 65_536, 65_536), (8, 65_536)),
        (page(13, 2, 12), (12, 12)),
        (page(13, 3, 13), (0, 0)),
        (page(13, 3, 4097), (0, 0)),
        (page(0, 3, 4000), (0, 0)),
        (page(1, 3, 4000), (0, 0)),
        (b"", (0, 0)),
        (b"\x0d", (0, 0)),
    ],
)
def test_only_what_lies_between_cells_and_content_is_free(
    found: bytes, expected: tuple[int, int]
) -> None:
    assert unallocated(found) == expected


def test_the_page_with_the_schema_is_passed_over() -> None:
    assert FIRST == 1


async def test_what_a_cancelled_transaction_deletes_is_wiped_later(store: Store) -> None:
    """It goes on in the thread of the database: whoever began it is not there any more."""
    database, begun, go = store._db, threading.Event(), threading.Event()
    await database.wipe()
    assert not database._dirty

    async def work(db: Database) -> None:
        begun.set()
        go.wait(60)
        await db.rows("DELETE FROM timers")

    task = asyncio.create_task(database.whole(work))
    assert await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await store.rooms()  # comes after it in the thread
    assert database._dirty
