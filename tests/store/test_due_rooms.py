"""What the store knows in memory of when each room's next timer is due is always so."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.core.lifetimes import LifetimeLimits
from bot.core.types import UserID
from bot.store.database import Database, Row
from tests.support.store import Store

KNOWN = "SELECT backlog, room, retry_at FROM due_rooms ORDER BY backlog, room"
TRUE = (
    "SELECT t.backlog, t.room, min(t.retry_at) FROM timers t JOIN rooms r ON r.id = t.room"
    " WHERE NOT r.suspended AND NOT r.returned_at GROUP BY t.backlog, t.room ORDER BY 1, 2"
)
ADD = "INSERT INTO timers (room, event_id, due, retry_at, backlog) VALUES (?, ?, 0, ?, ?) "
ACTS = {
    "add": ADD + "ON CONFLICT DO NOTHING",
    "again": ADD + "ON CONFLICT DO UPDATE SET retry_at = min(retry_at, excluded.retry_at)",
    "later": ADD
    + "ON CONFLICT DO UPDATE SET retry_at = excluded.retry_at, backlog = excluded.backlog",
    "or ignore": ADD.replace("INSERT", "INSERT OR IGNORE"),
    "move": "UPDATE timers SET retry_at = ?3 WHERE room = ?1 AND event_id >= ?2 AND ?4 IN (0, 1)",
    "overdue": "UPDATE timers SET backlog = 1 WHERE room = ?1 AND retry_at <= ?3 AND ?2 <> ?4",
    "drop": "DELETE FROM timers WHERE room = ?1 AND event_id = ?2 AND ?3 <> -?4 - 1",
    "suspend": "UPDATE rooms SET suspended = ?4 WHERE id = ?1 AND ?2 <> ?3",
    "return": "UPDATE rooms SET returned_at = ?4 * 7 WHERE id = ?1 AND ?2 <> ?3",
    "forget": "DELETE FROM rooms WHERE id = ?1 AND ?2 <> ?3 AND ?4 = 1",
    "enter": "INSERT OR IGNORE INTO rooms (id, room_id) SELECT ?1, '!' || ?1 WHERE ?2 <> ?3 + ?4",
}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(sorted(ACTS)),
        st.tuples(st.integers(1, 3), st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 1)),
    ),
    max_size=40,
)


def positional(sql: str) -> str:
    """Write `:1` for `?1`, which some releases of Python take for a name."""
    for number in range(1, 5):
        sql = sql.replace(f"?{number}", f":p{number}")
    return sql


async def act(db: Database, name: str, values: Row) -> None:
    sql = positional(ACTS[name])
    if sql == ACTS[name]:
        await db.rows(sql, *values)
    else:
        await db.rows(sql, **{f"p{number}": one for number, one in enumerate(values, start=1)})


async def opened(folder: str) -> Store:
    limits = LifetimeLimits(minimum=1, maximum=2)
    return await Store.open(Path(folder) / "timers.db", limits=limits, own_id=UserID("@bot:x"))


async def play(steps: list[tuple[str, Row]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = await opened(folder)
        for room in (1, 2, 3):
            async with store._db.transaction() as db:
                await act(db, "enter", (room, "a", 1, 0))
        for name, values in steps:
            async with store._db.transaction() as db:
                there = await db.one("SELECT 1 FROM rooms WHERE id = ?", values[0])
                if there or name == "enter":
                    await act(db, name, values)
                assert await db.rows(KNOWN) == (true := await db.rows(TRUE)), name
            assert await store.first_due() == min((row[2] for row in true), default=None), name
        await store.close()
        store = await opened(folder)
        async with store._db.transaction() as db:
            assert await db.rows(KNOWN) == await db.rows(TRUE)
        await store.close()


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_it_says_what_the_timers_say_whatever_is_written(steps: list[tuple[str, Row]]) -> None:
    asyncio.run(play(steps))


async def test_it_goes_back_with_a_transaction_that_fails(tmp_path: Path) -> None:
    store, random = await opened(str(tmp_path)), Random(1)
    async with store._db.transaction() as db:
        await act(db, "enter", (1, "a", 1, 0))
        for number in range(20):
            await act(db, "add", (1, f"{number}", random.randrange(100), number % 2))
        before = await db.rows(KNOWN)

    async def fails(db: Database) -> None:
        await db.rows("DELETE FROM timers")
        assert await db.rows(KNOWN) == []
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store._db.whole(fails)
    async with store._db.transaction() as db:
        assert await db.rows(KNOWN) == before
    await store.close()


async def test_when_the_next_timer_is_due_is_known_while_somebody_writes(tmp_path: Path) -> None:
    store = await opened(str(tmp_path))
    async with store._db.transaction() as db:
        await act(db, "enter", (1, "a", 1, 0))
        await act(db, "add", (1, "a", 7, 0))
    async with store._db.transaction() as db:
        await act(db, "add", (1, "b", 3, 0))
        assert await store.first_due() == 7, "as of the last commit"
    assert await store.first_due() == 3

    async def fail(db: Database) -> None:
        await act(db, "drop", (1, "b", 1, 0))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store._db.whole(fail)
    assert await store.first_due() == 3, "nothing was dropped"
    await store.close()
    store = await opened(str(tmp_path))
    assert await store.first_due() == 3, "another process knows it, too"
    await store.close()
