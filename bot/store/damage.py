"""Finds damage in the database before it is met one day in the middle of work."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from bot.store.errors import StoreError, explain, keep_aside

SOON_READ: Final = 40 * 2**20
"""Bytes that are looked through in less than 100 ms."""


def look_through_if_small(connection: sqlite3.Connection) -> bool:
    """Look through a database that does not take long; return whether it was.

    Raises `sqlite3.DatabaseError` when it is damaged.
    """
    [[pages]], [[size]] = (
        connection.execute(f"PRAGMA {name}").fetchall() for name in ("page_count", "page_size")
    )
    if pages * size > SOON_READ:
        return False
    _look_through(connection)
    return True


def look_through_beside(path: Path) -> None:
    """Look through a large database while others work with it, by a connection of its own.

    Raises `StoreError` when it is damaged; then it was moved aside, and the next start begins anew.
    """
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as beside:
            _look_through(beside)
    except sqlite3.Error as error:
        found = explain(error, path)
        raise (keep_aside(path, found) if isinstance(found, StoreError) else found) from error


def _look_through(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
