"""A database is told by its mark: early ones begin anew, newer and foreign ones are refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bot.store import StoreError
from bot.store.schema import MARK, MIGRATIONS
from tests.support.harness import Opener

EARLY = """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
    CREATE TABLE rooms (id INTEGER PRIMARY KEY AUTOINCREMENT, room_id TEXT NOT NULL) STRICT;
    CREATE TABLE timers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL
    ) STRICT;
    INSERT INTO meta VALUES ('token', 's-of-then');
    INSERT INTO rooms (room_id) VALUES ('!known-then');
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO timers (room, event_id) SELECT 1, '$known-then-' || i FROM n;
    DELETE FROM timers WHERE id % 2;
"""


def run(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


def number(path: Path, pragma: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


@pytest.mark.parametrize("version", [1, 7])
async def test_an_early_database_begins_anew_and_says_so(
    open_store: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    path = tmp_path / "timers.db"
    run(path, f"PRAGMA journal_mode = WAL; {EARLY} PRAGMA user_version = {version}")
    store = await open_store(path)
    assert await store.position() == (None, 0)
    assert await store.rooms() == []
    assert caplog.messages == [
        "the database is of an early development version: rebuilt from the rooms"
    ]
    assert (number(path, "application_id"), number(path, "user_version")) == (MARK, len(MIGRATIONS))


async def test_nothing_of_an_early_database_stays_on_the_disk(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "timers.db"
    run(path, f"{EARLY} PRAGMA user_version = 7")
    assert b"known-then" in path.read_bytes()
    await open_store(path)
    for part in tmp_path.iterdir():
        assert b"known-then" not in part.read_bytes(), part.name
        assert b"s-of-then" not in part.read_bytes(), part.name


async def test_a_database_that_began_anew_is_known_the_next_time(
    open_store: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "timers.db"
    run(path, f"{EARLY} PRAGMA user_version = 7")
    first = await open_store(path)
    await first.commit("s1", 1, [])
    await first.close()
    caplog.clear()
    assert await (await open_store(path)).position() == ("s1", 1)
    assert caplog.messages == []


async def test_after_version_one_nothing_is_taken_for_seen(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "timers.db"
    rows = """
        INSERT INTO rooms (room_id) VALUES ('!room');
        INSERT INTO timers (room, event_id, due, retry_at) VALUES (1, '$one', 5, 5);
    """
    run(path, f"BEGIN; {MIGRATIONS[0]} {rows} PRAGMA user_version = 1; COMMIT;")
    store = await open_store(path)
    assert number(path, "user_version") == len(MIGRATIONS)
    [one] = await store.due(9, [1], 9)
    assert (one.timer.event_id, one.timer.relations_loaded) == ("$one", False)


async def test_a_database_of_the_same_number_with_the_mark_is_kept(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "timers.db"
    first = await open_store(path)
    await first.commit("s1", 1, [])
    await first.close()
    assert number(path, "user_version") in range(1, 8)
    assert await (await open_store(path)).position() == ("s1", 1)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE shopping (item TEXT); PRAGMA user_version = 3",
        "CREATE TABLE shopping (item TEXT)",
        f"{EARLY} PRAGMA application_id = 7",
    ],
)
async def test_another_programs_database_is_refused_untouched(
    open_store: Opener, tmp_path: Path, script: str
) -> None:
    path = tmp_path / "timers.db"
    run(path, script)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program's database"):
        await open_store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("moved", [True, False])
async def test_a_newer_database_is_refused_with_or_without_the_tables_of_today(
    open_store: Opener, tmp_path: Path, *, moved: bool
) -> None:
    path = tmp_path / "timers.db"
    await (await open_store(path)).close()
    run(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}; {'DROP TABLE media' * moved}")
    with pytest.raises(StoreError, match="newer version of the bot"):
        await open_store(path)
    assert number(path, "user_version") == len(MIGRATIONS) + 1
