"""Tells what a failure of SQLite means: wait for the disk, or have an operator see to the file."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from bot.core.outcomes import DiskError

DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
PASSING: Final = {
    sqlite3.SQLITE_BUSY: "another program holds it: is a backup being made?",
    sqlite3.SQLITE_LOCKED: "another program holds it: is a backup being made?",
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable for the bot",
    sqlite3.SQLITE_PERM: "make the file and its folder writable for the bot",
    sqlite3.SQLITE_CANTOPEN: "is the folder there, and writable for the bot?",
    sqlite3.SQLITE_IOERR: "look at the disk",
    sqlite3.SQLITE_PROTOCOL: "another program holds it: is a backup being made?",
    sqlite3.SQLITE_NOMEM: "give the bot more memory",
}
"""What can be over in a moment, by SQLite's primary result codes, and what to do about it."""


class StoreError(Exception):
    """The database cannot be used; the message says why and what to do."""


def explain(error: sqlite3.Error, path: Path) -> Exception:
    """Return what to raise for `error`: `DiskError`, `StoreError`, or what is our own mistake."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in PASSING:
        return DiskError(f"{path}: {error}; {PASSING[code]}")
    if code in DAMAGED:
        return StoreError(f"{path}: {error}")
    return error


def keep_aside(path: Path, error: StoreError) -> StoreError:
    """Move a damaged database out of the way, with its journal; return what to tell of it.

    Nothing is deleted: what is in it may still be saved, and it may not be ours.
    """
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    try:
        for suffix in ("-wal", "-shm", ""):  # the file last: without it, the others are nobody's
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
    except OSError as reason:
        return StoreError(f"{error}; move it out of the way: that failed ({reason.strerror})")
    return StoreError(
        f"{error}; it was moved to {aside.name}: put a backup in its place, or start again, and"
        " the timers are built anew from the rooms"
    )
