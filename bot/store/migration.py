"""Brings a database to the schema of this version, and begins those of early versions anew."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

from bot.store.errors import StoreError
from bot.store.schema import MARK, MIGRATIONS

log = logging.getLogger(__name__)

TABLES: Final = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
EARLY: Final = frozenset({"meta", "rooms", "timers"})
"""Tables of every early development version. Its database has them and no mark."""


def refuse_others(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreError` when the database is not the bot's at all; nothing is written to it."""
    mark, tables = _number(connection, "application_id"), _tables(connection)
    if mark != MARK and tables and (mark or not tables >= EARLY):
        raise StoreError(f"{path} is another program's database; move it out of the way")


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Move the schema of one of the bot's own forward, each step and its number in a transaction.

    Raises `StoreError` when the database is of a newer version.
    """
    mark, version = (_number(connection, name) for name in ("application_id", "user_version"))
    tables = _tables(connection)
    if mark != MARK and tables:
        _begin_anew(connection, tables)
        log.warning("the database is of an early development version: rebuilt from the rooms")
        version = 0
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} was written by a newer version of the bot (schema {version}, this one"
            f" knows {len(MIGRATIONS)}); install that version or move the file away"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;"
        )


def _begin_anew(connection: sqlite3.Connection, tables: set[str]) -> None:
    """Delete all that is in the database, and leave nothing of it on the disk.

    It is not kept aside as a damaged one is: it is whole, so nothing in it needs to be saved, and
    ids of messages that are gone would stay in it for ever. SQLite overwrites what it drops
    (`secure_delete`), and `VACUUM` gives the room on the disk back.
    """
    drop = " ".join(f'DROP TABLE "{name}";' for name in sorted(tables))
    connection.executescript(
        "PRAGMA foreign_keys = OFF;"  # they are dropped in any order
        f"BEGIN IMMEDIATE; {drop} PRAGMA user_version = 0; COMMIT;"
        "PRAGMA foreign_keys = ON; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);"
    )


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {str(row[0]) for row in connection.execute(TABLES)}


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    [[number]] = connection.execute(f"PRAGMA {pragma}").fetchall()
    return int(number)
