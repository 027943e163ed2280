"""On a real homeserver: who comes is given the key in use, and who leaves ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.bot_process import BotProcess, Bots
    from tests.support.people import EncryptedPerson, People

pytestmark = pytest.mark.synapse


async def sessions(alice: EncryptedPerson, bot: BotProcess, room: str) -> list[str]:
    """Return the sessions of the bot's words, the oldest first."""
    return [
        event["content"]["session_id"]
        for event in await alice.messages(room)
        if event["sender"] == bot.user_id and event["type"] == "m.room.encrypted"
    ]


def known(person: EncryptedPerson) -> set[str]:
    """Return the sessions that a person's device has."""
    return {session.id for session in person._device._client.olm.inbound_group_store}


async def test_who_comes_shares_the_key_and_who_leaves_ends_it(people: People, bots: Bots) -> None:
    alice, bob, eve = [await people.encrypted(name) for name in ("alice", "bob", "eve")]
    bot = await bots()
    room = await alice.create_room(encrypted=True, invite=[bot.user_id, bob.user_id])
    await alice.until_heard(room, "I make messages disappear", 40)
    await bob.join(room)
    await alice.send_text(room, "!expire help")
    await bob.until_heard(room, "!expire off", 40)
    await alice.invite(room, eve.user_id)
    await eve.join(room)
    await alice.send_text(room, "!expire status")
    await eve.until_heard(room, "no lifetime is set", 40)
    first = set(await sessions(alice, bot, room))
    assert len(first) == 1
    await bob.leave(room)
    await alice.send_text(room, "!expire abc")
    await eve.until_heard(room, "Try !expire", 40)
    (second,) = set(await sessions(alice, bot, room)) - first
    assert second in known(alice)
    assert second in known(eve)
    assert second not in known(bob)
    assert first <= known(bob)
