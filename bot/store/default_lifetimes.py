"""Remembers since when `lifetime.default` holds in each room, and what the room's state says of it.

Of a room, `default_lifetime` is the default at the place to which its timeline was read; `defaults`
says what held when; `published_defaults` is what the bot has written into its state of that.
"""

from __future__ import annotations

import json
from typing import Final

from bot.core.default_lifetime import Defaults
from bot.core.outbox import Outgoing, WriteDefault
from bot.core.types import Millis, RoomID
from bot.store.database import Database, run
from bot.store.outbox import enqueue

ALL: Final = "SELECT id, defaults FROM rooms WHERE left_at IS NULL"
SAVE: Final = "UPDATE rooms SET defaults = ? WHERE id = ?"
DEFAULT: Final = "SELECT default_lifetime FROM rooms WHERE id = ?"
INHERIT: Final = "UPDATE rooms SET default_lifetime = ? WHERE id = ?"
PUBLISH: Final = "UPDATE rooms SET published_defaults = ? WHERE id = ?"
UNPUBLISHED: Final = (
    "SELECT defaults FROM rooms WHERE id = ? AND defaults <> published_defaults AND setting IS NULL"
)


def load_defaults(text: str) -> Defaults:
    """Return what a column holds."""
    return tuple((one[0], one[1]) for one in json.loads(text))


def dump_defaults(defaults: Defaults) -> str:
    """Return what a column is to hold."""
    return json.dumps(defaults)


class RoomDefaults:
    """Since when `lifetime.default` holds in rooms."""

    _db: Database

    async def defaults_published(self, room_id: RoomID, published: Defaults) -> None:
        """The room's state says this now."""
        sql = "UPDATE rooms SET published_defaults = ? WHERE room_id = ?"
        await run(self._db, sql, dump_defaults(published), room_id)


async def all_defaults(db: Database) -> list[tuple[int, Defaults]]:
    """Return for every room that the bot is in since when which default held."""
    return [(int(row), load_defaults(text)) for row, text in await db.rows(ALL)]


async def save_defaults(
    db: Database, row: int, defaults: Defaults, published: Defaults | None
) -> None:
    """Save since when which default held, and what the room's state says of that, if known."""
    await db.rows(SAVE, dump_defaults(defaults), row)
    if published is not None:
        await note_published_defaults(db, row, published)


async def default_lifetime(db: Database, row: int) -> Millis | None:
    """Return the default where the room's timeline was read to."""
    found = await db.one(DEFAULT, row)
    assert found is not None
    return None if found[0] is None else int(found[0])


async def inherit(db: Database, row: int, default: Millis | None) -> None:
    """This default holds for what follows in a room."""
    await db.rows(INHERIT, default, row)


async def note_published_defaults(db: Database, row: int, published: Defaults) -> None:
    """The room's state says this."""
    await db.rows(PUBLISH, dump_defaults(published), row)


async def publish_defaults(db: Database, row: int) -> None:
    """Have it written into the room's state, where no lifetime of its own holds there."""
    found = await db.one(UNPUBLISHED, row)
    if found is not None:
        latest = load_defaults(found[0])[-1][0]
        await enqueue(db, row, [Outgoing(key=f"default:{latest}", content=WriteDefault())])


async def shift_defaults(db: Database, now: Millis) -> None:
    """The clock was set back to `now`: what has begun began before that."""
    for row, text in await db.rows(f"{ALL} AND defaults <> '[]'"):
        known = load_defaults(text)
        if known[-1][0] > now:
            mended = tuple((min(since, now), span) for since, span in known)
            await db.rows(SAVE, dump_defaults(mended), row)
            await publish_defaults(db, row)
