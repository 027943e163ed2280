"""Holds the data folder, so that no second bot works on the same timers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FILE: Final = "lock"
"""What is locked. The file stays, and means nothing by itself: the lock goes with the process."""
HELD: Final = 0
TRIED: Final = 1
"""The bytes that a bot holds, and that somebody tries who only wants to know."""


class OccupiedError(Exception):
    """Another bot holds the data folder."""


class LockError(Exception):
    """The data folder cannot be locked; the message says why and what to do."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the data folder, which is made if need be.

    It takes two locks. That on the file works on network file systems too; it is of the kind that
    SQLite takes on the database. That on the folder tells apart two holders in one process, but
    some file systems lock no folders: there it is left out.

    Raises `OccupiedError` and `LockError`, and `OSError` when the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _occupied(folder) from error
        except OSError:
            pass  # NFS says EBADF, others that they have no locks
        with _locked(folder, HELD) as ours:
            if not ours:
                raise _occupied(folder)
            yield
    finally:
        os.close(handle)


def try_lock(folder: Path) -> None:
    """Raise `LockError` if the folder could not be held, whether or not somebody holds it now."""
    with _locked(folder, TRIED):
        pass


@contextmanager
def _locked(folder: Path, byte: int) -> Iterator[bool]:
    """Lock one byte of the file; whether it could be had: `False` means that somebody has it."""
    try:
        handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LockError(
            f"{folder / FILE} cannot be opened ({_reason(error)}): remove it, or make it writable"
            f" for user {os.getuid()}"
        ) from error
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            ours = True
        except (BlockingIOError, PermissionError):  # POSIX allows either
            ours = False
        except OSError as error:
            raise LockError(
                f"{folder}: its file system gives no locks ({_reason(error)}): move data_dir to a"
                " local disk, or mount it with locks"
            ) from error
        yield ours
    finally:
        os.close(handle)


def _occupied(folder: Path) -> OccupiedError:
    return OccupiedError(f"{folder}: another bot is running on this folder")


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__
