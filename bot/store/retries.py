"""Finds what is to be tried next in a table, and puts off what could not be done.

The rows of such a table have `retry_at`, the time before which they are not tried, and `attempts`,
their failures in a row. An index has them in the order of `retry_at`.
"""

from __future__ import annotations

from collections.abc import Collection

from bot.core.types import Millis
from bot.store.database import Database, Row, as_json, ask, run


def next_ready(table: str, columns: str, *, index: str = "", where: str = "TRUE") -> str:
    """Return SQL for the row that is to be tried first, for `first_ready`.

    It tells the room's id, the row's attempts and its time, then `columns`. In these, and in
    `where`, the table is called `q` and the table of rooms `r`.
    """
    return (
        f"SELECT r.room_id, q.attempts, q.retry_at, {columns}"  # noqa: S608
        f" FROM {table} q INDEXED BY {index or table + '_retry'}"
        f" CROSS JOIN rooms r ON r.id = q.room WHERE {where} AND q.room NOT IN"
        " (SELECT id FROM rooms WHERE room_id IN (SELECT value FROM json_each(?)))"
        " ORDER BY q.retry_at, q.rowid LIMIT 1"
    )


def next_check(at: str, attempts: str, *, index: str, where: str) -> str:
    """Return SQL for the room that is to be looked at first, for `first_ready`.

    It tells the room's id, the attempts and the time. Each kind of look has columns of its own.
    """
    return (
        f"SELECT room_id, {attempts}, {at} FROM rooms INDEXED BY {index} WHERE {where}"  # noqa: S608
        f" AND room_id NOT IN (SELECT value FROM json_each(?)) ORDER BY {at}, id LIMIT 1"
    )


async def first_ready(database: Database, sql: str, busy: Collection[str]) -> Row | None:
    """Return the row to be tried first that is none of what others are at work on."""
    return await ask(database, sql, as_json(busy))


async def put_off(
    database: Database, table: str, number: int, until: Millis, *, counts: bool = True
) -> None:
    """Let a row wait; `counts`: that was a failure of its own."""
    sql = f"UPDATE {table} SET retry_at = ?, attempts = attempts + ? WHERE id = ?"  # noqa: S608
    await run(database, sql, until, counts, number)
