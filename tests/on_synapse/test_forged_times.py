"""Times that a bridge forged, on a real homeserver: neither too early nor too late."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from bot.services.sync import GATHER
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import BotProcess, Bots
from tests.support.people import People, Person, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bot.core.types import RoomID
    from tests.support.bridge import Puppet

pytestmark = pytest.mark.synapse

LONG_AGO = 1
FAR_AHEAD = 4_102_444_800_000  # the year 2100
MOMENT = GATHER / 1000
"""Seconds for which a message's own time counts though the bot is there."""
LIFETIME = 3600
"""Seconds. Nothing goes during a test: the database tells when it would."""


async def bridged(alice: Person, bot: BotProcess, puppet: Puppet) -> RoomID:
    """Make a room with the bot and somebody from the bridge, where messages last an hour."""
    room = await settle_in(alice, bot)
    await alice.invite(room, puppet)
    await puppet.join(room)
    await alice.send(room, "!expire 1h")
    await alice.until_notice(room, bot.user_id, "to 1 hour.")
    return room


async def due(bot: BotProcess, *event_ids: str) -> tuple[list[float], float]:
    """Return when each message is due, and by when the bot had read all, in seconds."""

    async def read() -> list[float] | None:
        with closing(sqlite3.connect(bot.data_dir / "timers.db")) as db:
            found = dict(db.execute("SELECT event_id, due FROM timers").fetchall())
        return [found[one] / 1000 for one in event_ids] if found.keys() >= {*event_ids} else None

    times = await wait_until(read, 20, "the bot to have read all")
    return times, time.time()


async def test_a_forged_time_changes_nothing_while_the_bot_is_there(
    people: People, bots: Bots, puppets: Callable[[], Awaitable[Puppet]]
) -> None:
    alice, bot, puppet = await people("alice"), await bots(), await puppets()
    room = await bridged(alice, bot, puppet)
    before = time.time()
    sent = [await puppet.send_at(room, "forged", stamp) for stamp in (LONG_AGO, FAR_AHEAD)]
    shown = [(await alice.event(room, one))["origin_server_ts"] for one in sent]
    assert shown == [LONG_AGO, FAR_AHEAD]
    when, read = await due(bot, *sent)
    assert all(before - MOMENT + LIFETIME <= one <= read + LIFETIME for one in when)


async def test_a_forged_time_counts_between_the_last_sync_and_the_start(
    people: People, bots: Bots, puppets: Callable[[], Awaitable[Puppet]]
) -> None:
    alice, bot, puppet = await people("alice"), await bots(), await puppets()
    room = await bridged(alice, bot, puppet)
    last_seen = time.time()
    seen = await alice.send(room, "the last that the bot sees")
    await due(bot, seen)
    await bot.stop()
    stopped = time.time()
    old = await puppet.send_at(room, "long ago", LONG_AGO)
    new = await puppet.send_at(room, "far ahead", FAR_AHEAD)
    honest = await alice.send(room, "honest")
    # What a bot finds within five seconds of its last sync is as good as live.
    await asyncio.sleep(max(0, 5.5 - (time.time() - stopped)))
    back = time.time()
    await bot.start()
    when, read = await due(bot, seen, old, honest, new)
    assert last_seen + LIFETIME <= when[0] <= stopped + LIFETIME
    assert last_seen + LIFETIME <= when[1] <= stopped + LIFETIME
    assert stopped + LIFETIME <= when[2] <= back + LIFETIME
    assert back + LIFETIME <= when[3] <= read + LIFETIME
