"""One room of a real homeserver that is slow or silent: people in the other rooms do not notice."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from bot.core.lifetimes import POLICY_EVENT
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.fault_proxy import FaultProxy
from tests.support.people import People, Person, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bot.core.types import EventID, RoomID
    from bot.demo.homeserver import Homeserver
    from tests.support.bot_process import BotProcess, Bots

pytestmark = pytest.mark.synapse

SOON = 25
"""Seconds; one request that is not answered takes the bot thirty."""
AWAY = {"errcode": "M_UNKNOWN", "error": "upstream timed out"}


def of(room: RoomID, what: str) -> str:
    """Return what matches requests of one room."""
    return f"/rooms/(!|%21){re.escape(room[1:].partition(':')[0])}[^/]*/{what}"


@asynccontextmanager
async def two_rooms(
    homeserver: Homeserver, people: People, bots: Bots
) -> AsyncIterator[tuple[FaultProxy, Person, BotProcess, RoomID, RoomID]]:
    async with FaultProxy(homeserver.url) as proxy:
        alice, bot = await people("alice"), await bots(homeserver=proxy.url)
        slow, other = await settle_in(alice, bot), await settle_in(alice, bot)
        yield proxy, alice, bot, slow, other
        proxy.mend()


async def lifetime(alice: Person, room: RoomID) -> int:
    return int((await alice.get_state(room, POLICY_EVENT))["timer"])


async def asked(proxy: FaultProxy, match: str) -> None:
    async def seen() -> bool:
        return proxy.count(match) > 0

    await wait_until(seen, SOON, match)


async def test_answers_come_while_another_rooms_members_are_never_told(
    homeserver: Homeserver, people: People, bots: Bots
) -> None:
    async with two_rooms(homeserver, people, bots) as (proxy, alice, bot, slow, other):
        proxy.stall(of(slow, "state/m.room.member"), 600)
        await alice.send(slow, "!expire 1h")
        await asked(proxy, of(slow, "state/m.room.member"))
        assert await lifetime(alice, slow) == 3_600_000
        await alice.send(other, "!expire 2h")
        said = "set disappearing messages to 2 hours."
        await alice.until_notice(other, bot.user_id, said, SOON)
        proxy.mend()
        await alice.until_notice(slow, bot.user_id, "disappearing messages to 1 hour.", SOON)


async def test_a_lifetime_is_set_where_nothing_can_be_said(
    homeserver: Homeserver, people: People, bots: Bots
) -> None:
    async with two_rooms(homeserver, people, bots) as (proxy, alice, bot, slow, _):
        proxy.stall(of(slow, "send"), 600)
        await alice.send(slow, "!expire help")
        await asked(proxy, of(slow, "send"))
        await alice.send(slow, "!expire 2s")

        async def is_set() -> bool:
            return await lifetime(alice, slow) == 2_000

        await alice.state(slow, POLICY_EVENT, {"type": "after_send", "timer": 9_000})
        await alice.send(slow, "!expire 2s")
        await wait_until(is_set, SOON, "the lifetime")
        await alice.until_redacted(slow, await alice.send(slow, "hello"), SOON)
        assert await bot.stop() == 0, "it waits for nothing that hangs"
        assert "Traceback" not in bot.words()


async def fill(alice: Person, *rooms: RoomID) -> dict[RoomID, list[EventID]]:
    """Say more in each room than one sync brings."""

    async def one(room: RoomID) -> list[EventID]:
        return [await alice.send(room, f"{number}") for number in range(120)]

    found = await asyncio.gather(*map(one, rooms))
    return dict(zip(rooms, found, strict=True))


async def test_a_gap_is_read_while_another_rooms_page_does_not_come(
    homeserver: Homeserver, people: People, bots: Bots
) -> None:
    async with two_rooms(homeserver, people, bots) as (proxy, alice, bot, slow, other):
        for room in (slow, other):
            await alice.send(room, "!expire 3s")
            await alice.until_notice(room, bot.user_id, "3 seconds")
        assert await bot.stop() == 0
        sent = await fill(alice, slow, other)
        proxy.stall(of(slow, "messages"), 600)
        await bot.start()
        await asked(proxy, of(slow, "messages"))
        await alice.until_redacted(other, sent[other][0], SOON)
        assert not await alice.is_redacted(slow, sent[slow][0])
        assert proxy.count(of(slow, "messages")) == 1


async def test_smaller_pages_bring_what_a_large_one_does_not(
    homeserver: Homeserver, people: People, bots: Bots
) -> None:
    async with two_rooms(homeserver, people, bots) as (proxy, alice, bot, slow, _):
        await alice.send(slow, "!expire 3s")
        await alice.until_notice(slow, bot.user_id, "3 seconds")
        assert await bot.stop() == 0
        sent = await fill(alice, slow)
        proxy.answer(of(slow, "messages.*limit=1000?(&|$)"), status=504, body=AWAY)
        await bot.start()
        await alice.until_redacted(slow, sent[slow][0], 60)
        pages = [re.findall(r"/messages.*limit=(\d+)", one.what) for one in proxy.seen]
        sizes = [int(found[0]) for found in pages if found]
        assert sizes[:5] == [1000, 1000, 100, 100, 10]
