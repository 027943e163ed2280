"""Invitations of a homeserver that is then out of reach: they wait, and nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.federation import Federation
from tests.support.people import wait_until

pytestmark = pytest.mark.synapse


@pytest.fixture(scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("dead_server"))
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def test_a_dead_servers_invitations_hold_up_nobody_and_wait_for_it(
    federation: Federation,
) -> None:
    alice, ben = await federation.on_a("alice"), await federation.on_b("ben")
    declined = await federation.bots(start=False)
    bot = await federation.bots(invites={"allow": ["*"]})
    room = await alice.create_room(invite=[bot.user_id])
    await alice.until_notice(room, bot.user_id, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await alice.send(room, "!expire 1h")
    await alice.until_notice(room, bot.user_id, "set disappearing messages")
    await bot.stop()
    theirs = [await ben.create_room() for _ in range(6)]
    for one in theirs:
        await ben.invite(one, bot.user_id)
        await ben.invite(one, declined.user_id)
    async with federation.outage():
        await bot.start()
        await declined.start()
        await alice.set_power(room, bot.user_id, 0)
        await alice.until_notice(room, bot.user_id, "I can no longer remove messages", 10)
        other = await alice.create_room(invite=[bot.user_id, declined.user_id])
        await alice.until_notice(other, bot.user_id, "I make messages disappear", 10)
        await alice.until_notice(other, declined.user_id, "I make messages disappear", 10)
        await asyncio.sleep(2)
    for one in theirs:
        await ben.until_joined(one, bot.user_id, 90)

    async def none_waits() -> bool:
        return declined.words().count("declined an invitation") >= len(theirs)

    await wait_until(none_waits, 90, "the others to be declined")
    assert "Traceback" not in bot.words() + declined.words()
