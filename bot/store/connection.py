"""Connects to the SQLite file, and says how it is written."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, cast

import aiosqlite

T = TypeVar("T")

PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # token and timers go back together, and are read again
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",  # no id may reach a temporary file
    "PRAGMA busy_timeout = 5000",
)


STATEMENTS: Final = 512
"""Statements that are kept prepared: more than there are."""


class Connection(aiosqlite.Connection):
    """A connection whose thread can be given more than one statement at a time."""

    async def in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the connection's thread, where nothing comes between its statements."""
        return cast("T", await self._execute(work, self._conn))  # type: ignore[no-untyped-call]


def connect(path: Path) -> Connection:
    """Return a connection that is not open yet."""

    def opened() -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, cached_statements=STATEMENTS)

    return Connection(opened, iter_chunk_size=64)


async def secret_of(connection: aiosqlite.Connection) -> bytes:
    """Return the key of the digests, made once."""
    await connection.execute_fetchall(
        "INSERT OR IGNORE INTO meta (key, value) VALUES ('secret', ?)", (secrets.token_bytes(32),)
    )
    query = "SELECT value FROM meta WHERE key = 'secret'"
    return bytes(next(iter(await connection.execute_fetchall(query)))[0])
