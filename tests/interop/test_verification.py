"""With the crypto of Element: a person verifies the bot by emoji that both of them see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.person import wait_until

if TYPE_CHECKING:
    from bot.core.types import RoomID
    from tests.interop.jsclient import JsPeople, JsPerson
    from tests.support.bot_process import BotProcess

pytestmark = pytest.mark.synapse


async def shown_to(alice: JsPerson, user_id: str, **where: Any) -> str:
    """Have a person ask the bot to be verified; return what she sees, as the bot's log has it."""
    sas: dict[str, Any] = await alice._client.ask("verify", user=user_id, **where)
    emoji = ", ".join(f"{symbol} {name}" for symbol, name in sas["emoji"])
    return f"compare {emoji} (or {' '.join(map(str, sas['decimal']))})"


def in_the_log(bot: BotProcess, alice: JsPerson) -> str:
    """Return what the bot asks its operator to compare, as its log has it."""
    (line,) = [
        one for one in bot.words().splitlines() if f"{alice.user_id} verifies the bot" in one
    ]
    return line[line.index("compare") :]


async def confirms(alice: JsPerson, bot: BotProcess) -> None:
    """Have a person confirm; afterwards she trusts the bot's every device."""
    before = (await alice.devices(bot.user_id)).values()
    assert not any(device["verified"] for device in before)
    await alice._client.ask("confirm", user=bot.user_id)
    after = (await alice.devices(bot.user_id)).values()
    assert all(device["verified"] for device in after)
    await ends(alice, bot, "is done: they have confirmed")


async def ends(alice: JsPerson, bot: BotProcess, how: str) -> None:
    async def said() -> bool:
        return f"the verification by {alice.user_id} {how}" in bot.words()

    await wait_until(said, 15, "the bot to say how it ended")


async def with_the_bot(js_people: JsPeople, bot: BotProcess) -> tuple[JsPerson, RoomID]:
    """Put a person into an encrypted room with the bot."""
    alice = await js_people("alice", "signed")
    room = await alice.create_room(bot.user_id)
    await alice.until_joined(room, bot.user_id)
    return alice, room


async def test_a_person_verifies_the_bots_device(js_people: JsPeople, bot: BotProcess) -> None:
    alice, _ = await with_the_bot(js_people, bot)
    (device,) = await alice.devices(bot.user_id)
    shown = await shown_to(alice, bot.user_id, device=device)
    assert in_the_log(bot, alice).casefold() == shown.casefold()
    await confirms(alice, bot)


async def verifies_in(room: RoomID, alice: JsPerson, bot: BotProcess) -> None:
    shown = await shown_to(alice, bot.user_id, room=room)
    assert in_the_log(bot, alice).casefold() == shown.casefold()
    await confirms(alice, bot)


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_person_verifies_the_bot_in_an_encrypted_room(
    js_people: JsPeople, bot: BotProcess, *, sealed: bool
) -> None:
    alice, room = await with_the_bot(js_people, bot)
    if sealed:
        await alice._client.ask("seal")
    await verifies_in(room, alice, bot)
    events = await alice.server.messages(room)
    own = [event for event in events if event["sender"] == bot.user_id and "state_key" not in event]
    related = [event for event in own if "m.relates_to" in event["content"]]
    names = ["ready", "accept", "key", "mac", "done"]
    plain = [f"m.key.verification.{name}" for name in names]
    assert [event["type"] for event in related] == (["m.room.encrypted"] * 5 if sealed else plain)


async def test_a_person_verifies_the_bot_in_a_room_that_is_not_encrypted(
    js_people: JsPeople, bot: BotProcess
) -> None:
    alice, _ = await with_the_bot(js_people, bot)
    room = await alice.server.create_room(invite=[bot.user_id])
    await alice.server.until_joined(room, bot.user_id)
    await verifies_in(room, alice, bot)


async def test_a_person_sees_other_emoji_and_verifies_nothing(
    js_people: JsPeople, bot: BotProcess
) -> None:
    alice, _ = await with_the_bot(js_people, bot)
    (device,) = await alice.devices(bot.user_id)
    await shown_to(alice, bot.user_id, device=device)
    assert await alice._client.ask("mismatch") == "m.mismatched_sas"
    await ends(alice, bot, "was cancelled (m.mismatched_sas)")
    assert not any(one["verified"] for one in (await alice.devices(bot.user_id)).values())
