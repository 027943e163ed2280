"""Writes the small files that hold secrets, and names what fails with the crypto store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from peewee import OperationalError

from bot.core.outcomes import DiskError

NO_FOLDERS: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
"""What a network file system says that sees files on the disk, but no folders."""


@contextmanager
def disk() -> Iterator[None]:
    """Raise `DiskError` when the crypto store cannot be written: nio uses it through peewee."""
    try:
        yield
    except OperationalError as error:
        raise DiskError(f"the crypto store: {error}") from error


def write_private(where: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all, and see it on the disk."""
    where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = where.with_name(where.name + ".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(where)
    folder = os.open(where.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_FOLDERS:
            raise
    finally:
        os.close(folder)
