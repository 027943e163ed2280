"""Remembers which commands were counted, so that none counts twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from bot.core.commands import Command, UndecidedCommand
from bot.core.timeline import Item
from bot.core.types import Millis
from bot.store.database import Database

HANDLED_FOR: Final = 90 * 24 * 3_600_000
"""How long the digest of a command is kept, in ms; a homeserver repeats events within hours."""
SURPLUS_FOR: Final = 24 * 3_600_000
"""How long that of one over its sender's limit is kept, in ms."""
MOST_HANDLED: Final = 1_000_000
MOST_SURPLUS: Final = 100_000
"""The newest that are kept, of all and of those over the limit."""

HANDLED: Final = (
    "SELECT digest FROM handled_commands WHERE digest IN (SELECT value FROM json_each(?))"
)
HANDLE: Final = "INSERT OR IGNORE INTO handled_commands (digest, handled_at) VALUES (?, ?)"
FORGET: Final = "DELETE FROM handled_commands WHERE handled_at < ?"
FORGET_ALL_BUT: Final = (
    "DELETE FROM handled_commands WHERE digest IN (SELECT digest FROM handled_commands"
    " WHERE handled_at <= ? ORDER BY handled_at DESC, digest LIMIT -1 OFFSET ?)"
)


async def count_once(db: Database, items: list[Item]) -> list[Item]:
    """Leave out the commands that were counted before, in this sync or an earlier one."""
    digests = json.dumps(
        [item.digest for item in items if isinstance(item, Command | UndecidedCommand)]
    )
    seen = {str(row[0]) for row in await db.rows(HANDLED, digests)} if digests != "[]" else set()
    fresh: list[Item] = []
    for item in items:
        if isinstance(item, Command | UndecidedCommand):
            if item.digest in seen:
                continue
            seen.add(item.digest)
        fresh.append(item)
    return fresh


async def remember_handled(
    db: Database, handled: Sequence[str], surplus: Sequence[str], now: Millis
) -> None:
    """Note which commands are done with; `surplus` are those over their sender's limit."""
    await db.many(HANDLE, [(digest, now) for digest in handled])
    if surplus:
        # Dated back: they go sooner, and there may be any number of them.
        dated = now - HANDLED_FOR + SURPLUS_FOR
        await db.many(HANDLE, [(digest, dated) for digest in surplus])
        await db.rows(FORGET_ALL_BUT, dated, MOST_SURPLUS)


async def forget_handled(db: Database, now: Millis) -> None:
    """Forget what no homeserver repeats any more."""
    await db.rows(FORGET, now - HANDLED_FOR)
    await db.rows(FORGET_ALL_BUT, now, MOST_HANDLED)
