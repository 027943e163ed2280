"""Times that a bridge forged, on a real homeserver: neither too early nor too late."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.peers import People, Person
from tests.process import BotProcess, Bots
from tests.test_lifecycle import settle_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bot.model import RoomID
    from tests.bridge import Puppet

pytestmark = pytest.mark.synapse

LONG_AGO = 1
FAR_AHEAD = 4_102_444_800_000  # the year 2100
SLACK = 3.0
"""Seconds that the bot and a busy machine get for a redaction."""


async def bridged(alice: Person, bot: BotProcess, puppet: Puppet, lifetime: int) -> RoomID:
    """Make a room with the bot and somebody from the bridge, where messages last so long."""
    room = await settle_in(alice, bot)
    await alice.invite(room, puppet)
    await puppet.join(room)
    await alice.send(room, f"!expire {lifetime}s")
    await alice.until_notice(room, bot.user_id, f"to {lifetime} seconds.")
    return room


async def redacted_at(alice: Person, room: str, event_id: str, within: float) -> float:
    """Wait for a message's redaction; return when that was sent, in seconds."""
    await alice.until_redacted(room, event_id, within)
    because = (await alice.event(room, event_id))["unsigned"]["redacted_because"]
    return float(because["origin_server_ts"] / 1000)


async def test_a_forged_time_changes_nothing_while_the_bot_is_there(
    people: People, bots: Bots, puppets: Callable[[], Awaitable[Puppet]]
) -> None:
    alice, bot, puppet = await people("alice"), await bots(), await puppets()
    room = await bridged(alice, bot, puppet, lifetime=3)
    before = time.time()
    sent = [await puppet.send_at(room, "forged", stamp) for stamp in (LONG_AGO, FAR_AHEAD)]
    after = time.time()
    shown = [(await alice.event(room, one))["origin_server_ts"] for one in sent]
    assert shown == [LONG_AGO, FAR_AHEAD]
    for message in sent:
        gone = await redacted_at(alice, room, message, 3 + SLACK)
        assert before + 3 <= gone <= after + 3 + SLACK


async def test_a_forged_time_counts_between_the_last_sync_and_the_start(
    people: People, bots: Bots, puppets: Callable[[], Awaitable[Puppet]]
) -> None:
    alice, bot, puppet = await people("alice"), await bots(), await puppets()
    room = await bridged(alice, bot, puppet, lifetime=8)
    last_seen = time.time()
    seen = await alice.send(room, "the last that the bot sees")
    await asyncio.sleep(0.5)
    await bot.stop()
    stopped = time.time()
    old = await puppet.send_at(room, "long ago", LONG_AGO)
    new = await puppet.send_at(room, "far ahead", FAR_AHEAD)
    honest = await alice.send(room, "honest")
    # What a bot finds within five seconds of its last sync is as good as live.
    await asyncio.sleep(5.5 - (time.time() - stopped))
    back = time.time()
    await bot.start()
    started = time.time()
    when = [await redacted_at(alice, room, one, 20) for one in (seen, old, honest, new)]
    at_latest = max(stopped + 8, started) + SLACK
    assert last_seen + 8 <= when[0] <= at_latest
    assert last_seen + 8 <= when[1] <= at_latest
    assert stopped + 8 <= when[2] <= at_latest
    assert back + 8 <= when[3] <= started + 8 + SLACK
