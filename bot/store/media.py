"""Remembers which files a message shows, until the message is gone and then its files are."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Final

from bot.core.timeline import MediaReference
from bot.core.timers import File
from bot.core.types import Millis
from bot.store.database import Database, as_list, run

ATTACH: Final = (
    "INSERT OR IGNORE INTO media (room, timer, media_id, owner_digest)"
    " SELECT room, id, ?, ? FROM timers WHERE room = ? AND event_id = ?"
)
NEXT_FILE: Final = (
    "SELECT media_id, retry_at FROM media f INDEXED BY media_retry WHERE timer IS NULL"
    " AND media_id NOT IN (SELECT value FROM json_each(?)) AND NOT EXISTS"
    " (SELECT 1 FROM media o WHERE o.media_id = f.media_id AND o.owner_digest = f.owner_digest"
    " AND o.timer IS NOT NULL)"
    " ORDER BY retry_at, id LIMIT 1"
)
"""A row without a timer is one whose message is gone."""
OWNERS: Final = "SELECT owner_digest, attempts FROM media WHERE timer IS NULL AND media_id = ?"
DONE_WITH: Final = (
    "DELETE FROM media WHERE timer IS NULL AND media_id = ?"
    " AND owner_digest IN (SELECT value FROM json_each(?))"
)
FILE_LATER: Final = (
    "UPDATE media SET retry_at = ?, attempts = attempts + 1 WHERE timer IS NULL AND media_id = ?"
)


class Files:
    """The files of messages that have a timer, and those that are to be deleted."""

    _db: Database

    async def next_file(self, busy: Collection[str] = ()) -> File | None:
        """Return the file to be deleted next, none of `busy`.

        No message that still has a timer shows it.
        """
        async with self._db.transaction() as db:
            row = await db.one(NEXT_FILE, as_list(busy))
            if row is None:
                return None
            found = await db.rows(OWNERS, row[0])
        return File(
            media_id=row[0],
            owners=frozenset(str(one[0]) for one in found),
            attempts=max(int(one[1]) for one in found),
            retry_at=row[1],
        )

    async def done_with(self, file: File) -> None:
        """The file is gone, or is not to be deleted."""
        await run(self._db, DONE_WITH, file.media_id, json.dumps(sorted(file.owners)))

    async def file_later(self, file: File, until: Millis) -> None:
        """The file could not be deleted now."""
        await run(self._db, FILE_LATER, until, file.media_id)

    async def forget_files(self) -> None:
        """Forget all files: this bot deletes none."""
        await run(self._db, "DELETE FROM media")


async def attach(db: Database, row: int, found: Sequence[MediaReference]) -> None:
    """Note which files the messages of a room show, of those messages that have a timer."""
    await db.many(
        ATTACH,
        [(media, one.owner_digest, row, one.event_id) for one in found for media in one.media_ids],
    )
