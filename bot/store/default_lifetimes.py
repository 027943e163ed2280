"""Remembers since when `lifetime.default` holds in each room, and what the room's state says of it.

Of a room, `default_lifetime` is the default at the place to which its timeline was read; `defaults`
says what held when; `published_defaults` is what the bot has written into its state of that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from bot.core.default_lifetime import Defaults, DefaultSaid, change, current, keeps_longer
from bot.core.outbox import Outgoing, WriteDefault
from bot.core.timeline import Item
from bot.core.types import Millis, RoomID
from bot.store.database import Database, run
from bot.store.outbox import enqueue

SYNCED_AT: Final = "SELECT value FROM meta WHERE key = 'synced_at'"
ALL: Final = "SELECT id, defaults FROM rooms WHERE left_at IS NULL"
SAVE: Final = "UPDATE rooms SET defaults = ? WHERE id = ?"
MEET: Final = "UPDATE rooms SET defaults = ?, published_defaults = ? WHERE id = ?"
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


async def change_default(db: Database, default: Millis | None, now: Millis) -> list[int]:
    """Note in every room that has known another default since when this one holds.

    Returns those rooms: there it begins behind all that was said and is still to be read. One
    under which messages stay longer begins at once.
    """
    found = await db.one(SYNCED_AT)
    ended = min(int(found[0]), now) if found else now
    changed: list[int] = []
    for row, text in await db.rows(ALL):
        known = load_defaults(text)
        if current(known) == default:
            continue
        await db.rows(SAVE, dump_defaults(change(known, default, ended=ended, now=now)), row)
        if keeps_longer(default, current(known)):
            await db.rows(INHERIT, default, row)
        changed.append(int(row))
    return changed


async def inherit(db: Database, row: int, default: Millis | None) -> None:
    """This default holds for what follows in a room."""
    await db.rows(INHERIT, default, row)


async def meet_default(
    db: Database,
    row: int,
    published: Defaults,
    default: Millis | None,
    now: Millis,
    *,
    entered: bool,
) -> None:
    """Note since when the default holds in a room that was not known; its state says `published`.

    `entered`: the bot has just come. Else it was there before this database was made, and
    only the room's state knows anything of that time.
    """
    known = published
    if current(published) != default:
        ended = published[-1][0] if published else 0
        known = ((0, default),) if entered else change(published, default, ended=ended, now=now)
    await db.rows(MEET, dump_defaults(known), dump_defaults(published), row)


def published_in(items: Sequence[Item]) -> Defaults | None:
    """Return what the bot's own state event says, if there is one among them."""
    found = [item.defaults for item in items if isinstance(item, DefaultSaid)]
    return found[-1] if found else None


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
