"""Wipes from the file what SQLite leaves of deleted rows, a portion of its pages at a time.

With `secure_delete`, SQLite overwrites a row that is deleted, and a page that is not used any more.
But where it moved rows from one page to another, it leaves copies of them in the unallocated space
of the first: between the list of a page's cells and the first cell. `VACUUM` gets rid of that by
writing the whole file anew, in one go and in memory. This overwrites just that space, in the file
itself (https://www.sqlite.org/fileformat2.html, section 1.6). What SQLite makes of a page does not
depend on what stands there, so whatever interrupts this leaves the database as it was.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST: Final = 1
"""The page to begin with, counted from 0; the one before it holds the schema, and no rows."""
PAGES: Final = 512
"""Pages that are looked through at once: of 4 KiB each, a few milliseconds."""
SMALL: Final = 2_000
"""Pages in use that `VACUUM` writes anew in less than 100 ms."""
WAIT: Final = 50
"""How long to wait, in ms, for another program that reads the database."""

INTERIOR, LEAVES = frozenset({2, 5}), frozenset({10, 13})
"""The first byte of the pages of tables and indices. That of all others is zero."""


class BusyError(Exception):
    """Another program reads or writes the database: not now."""


def rewrite_if_small(connection: sqlite3.Connection) -> bool:
    """Write the whole file anew if that is soon done; return whether it was.

    It also gives room on the disk back. Raises `BusyError`, and `sqlite3.Error`.
    """
    if _number(connection, "page_count") - _number(connection, "freelist_count") > SMALL:
        return False
    connection.execute("VACUUM").close()
    _empty_the_journal(connection)
    return True


class Wiper:
    """Goes through a database's file. To be closed after the connection, and not before.

    To close any handle of a file takes all locks from it that the process has, SQLite's too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("r+b", buffering=0)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def wipe(self, page: int, connection: sqlite3.Connection) -> int | None:
        """Wipe a portion that begins with this page; return where the next begins, if any does.

        To be called in the connection's thread, outside of transactions. Raises `BusyError`, and
        `sqlite3.Error`.
        """
        file = self._file.fileno()
        with _all_in_the_file(connection, self._path):
            size = _number(connection, "page_size")
            found = os.pread(file, PAGES * size, page * size)
            for start in range(0, len(found), size):
                first, last = unallocated(found[start : start + size])
                if found[start + first : start + last].strip(b"\0"):
                    place = page * size + start + first
                    os.pwrite(file, bytes(last - first), place)
            os.fsync(file)
        return page + PAGES if len(found) == PAGES * size else None


def unallocated(page: bytes) -> tuple[int, int]:
    """Return where the unallocated space of a page begins and ends, if it is one with cells."""
    if len(page) < 12 or page[0] not in INTERIOR | LEAVES:
        return 0, 0
    cells, content = int.from_bytes(page[3:5], "big"), int.from_bytes(page[5:7], "big") or 65_536
    first = (12 if page[0] in INTERIOR else 8) + 2 * cells
    return (first, content) if first <= content <= len(page) else (0, 0)


@contextmanager
def _all_in_the_file(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Have all pages in the file itself, none in the journal or in memory, and nobody writing."""
    _empty_the_journal(connection)
    connection.execute("PRAGMA shrink_memory").close()
    connection.execute("BEGIN IMMEDIATE").close()
    try:
        journal = path.with_name(f"{path.name}-wal")
        if journal.exists() and journal.stat().st_size:
            raise BusyError  # somebody wrote just now
        yield
    finally:
        connection.rollback()


def _empty_the_journal(connection: sqlite3.Connection) -> None:
    """Move what is in the journal into the file; raises `BusyError` when somebody reads it."""
    patience = _number(connection, "busy_timeout")
    connection.execute(f"PRAGMA busy_timeout = {WAIT}").close()
    try:
        with closing(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")) as found:
            if found.fetchone()[0]:
                raise BusyError
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}").close()


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    with closing(connection.execute(f"PRAGMA {pragma}")) as found:
        return int(found.fetchone()[0])
