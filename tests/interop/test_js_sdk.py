"""With the crypto of Element: whom it shuts out, and that it does not shut out the bot.

A client is in one of two modes. In `all` it exchanges keys with every device, and marks what comes
from one that its owner has not signed with a red shield. In `signed`, which MSC4153 asks for, it
exchanges no keys with such a device, in either direction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nio
import pytest

from tests.interop.jsclient import NO_SHIELD, JsPeople, JsPerson, Mode, Shield, Shown
from tests.support.people import EncryptedPerson, People, wait_until

if TYPE_CHECKING:
    from bot.core.types import EventID, RoomID
    from tests.support.bot_process import BotProcess

pytestmark = pytest.mark.synapse

UNSIGNED_DEVICE = Shield(colour="red", reason="unsigned_device")


KINDS = {
    "text": "m.text",
    "edit": "m.text",
    "reaction": None,  # is not encrypted: no reaction in Matrix is
    "reply": "m.text",
    "thread": "m.text",
    "poll": "org.matrix.msc3381.poll.start",
    "vote": "org.matrix.msc3381.poll.response",
    "poll's end": "org.matrix.msc3381.poll.end",
    "image": "m.image",
    "sticker": "m.sticker",
}


async def say_everything(alice: JsPerson, room: RoomID, text: str) -> dict[str, EventID]:
    """Send an event of every kind that people send; return their ids, by kind."""
    first = await alice.say(room, text)
    poll = await alice.start_poll(room, "Is it there?", "yes", "no")
    return {
        "text": first,
        "edit": await alice.edit(room, first, "a better secret"),
        "reaction": await alice.react(room, first, "👍"),
        "reply": await alice.reply(room, first, "an answer"),
        "thread": await alice.thread(room, first, "an aside"),
        "poll": poll,
        "vote": await alice.vote(room, poll, 0),
        "poll's end": await alice.end_poll(room, poll, "It was."),
        "image": await alice.send_image(room, "pixel.png"),
        "sticker": await alice.send_sticker(room, "a sticker"),
    }


async def shown(person: JsPerson, room: str, event_id: str) -> Shown:
    """Wait until a person's client shows an event, readable or known to be unreadable."""

    async def found() -> Shown | None:
        event = (await person.timeline(room)).get(event_id)
        return event if event and (event.shield or event.failure) else None

    return await wait_until(found, 15, f"{event_id} to be shown")


async def all_gone(person: JsPerson, room: str, event_ids: list[EventID]) -> None:
    """Wait until a person's client shows each of these events as removed, and nothing of it."""

    async def gone() -> bool:
        timeline = await person.timeline(room)
        events = [timeline[one] for one in event_ids if one in timeline]
        there = [event for event in events if event.content or not event.redacted]
        return len(events) == len(event_ids) and not there

    await wait_until(gone, 15, f"{person.user_id} to see everything gone")


@pytest.mark.parametrize("mode", ["all", "signed"])
async def test_what_elements_crypto_sent_disappears_and_no_shield_warns_of_the_bot(
    js_people: JsPeople, bot: BotProcess, mode: Mode
) -> None:
    alice, bob = await js_people("alice", mode), await js_people("bob", mode)
    room = await alice.create_room(bot.user_id, bob.user_id)
    await bob.join(room)
    await alice.until_joined(room, bot.user_id)
    await alice.until_joined(room, bob.user_id)
    await alice.set_power(room, bot.user_id, 50)
    (device,) = (await alice.devices(bot.user_id)).values()
    # Signed by an owner whom alice has not verified: what every user is to her at first.
    assert device == {"signed_by_owner": True, "verified": False}

    command = await alice.say(room, "!expire 3s")
    notice = await alice.until_heard(room, bot.user_id, "set disappearing messages to 3 seconds.")
    assert (notice.encrypted, notice.shield) == (True, NO_SHIELD)
    greeting = await bob.say(room, "a person's device, to compare with")
    assert (await shown(alice, room, greeting)).shield == notice.shield

    said = await say_everything(alice, room, "a secret")
    everything = [command, notice.event_id, greeting, *said.values()]
    await all_gone(alice, room, everything)
    await all_gone(bob, room, everything)
    timeline = await bob.timeline(room)
    assert {kind: timeline[event_id].was for kind, event_id in said.items()} == KINDS
    for event_id in everything:
        assert await alice.server.is_redacted(room, event_id)


async def with_an_unsigned_device(
    people: People, js_people: JsPeople, mode: Mode
) -> tuple[JsPerson, EncryptedPerson, RoomID]:
    """Put alice into a room with a client that has no cross-signing, as the bot's was."""
    alice, nio_alone = await js_people("alice", mode), await people.encrypted("nio")
    room = await alice.create_room(nio_alone.user_id)
    await nio_alone.join(room)
    await alice.until_joined(room, nio_alone.user_id)
    (device,) = (await alice.devices(nio_alone.user_id)).values()
    assert device == {"signed_by_owner": False, "verified": False}
    return alice, nio_alone, room


async def test_without_a_signature_a_client_that_takes_all_devices_warns(
    people: People, js_people: JsPeople
) -> None:
    alice, nio_alone, room = await with_an_unsigned_device(people, js_people, "all")
    await alice.say(room, "!expire 3s")
    await nio_alone.until_heard(room, "!expire 3s")
    answer = await nio_alone.send_text(room, "an answer")
    assert (await shown(alice, room, answer)).shield == UNSIGNED_DEVICE


async def test_without_a_signature_a_client_that_wants_one_exchanges_no_messages(
    people: People, js_people: JsPeople
) -> None:
    alice, nio_alone, room = await with_an_unsigned_device(people, js_people, "signed")
    withheld: list[dict[str, Any]] = []

    async def hear(event: nio.UnknownToDeviceEvent) -> None:
        if event.type == "m.room_key.withheld":
            withheld.append(event.source["content"])

    nio_alone._device._client.add_to_device_callback(hear, nio.UnknownToDeviceEvent)
    command = await alice.say(room, "!expire 3s")

    async def told() -> bool:
        return bool(withheld)

    await wait_until(told, 15, "the news that there is no key")
    (refusal,) = withheld
    session = (await alice.server.event(room, command))["content"]["session_id"]
    assert (refusal["code"], refusal["session_id"]) == ("m.unverified", session)
    assert nio_alone.timeline(room) == []

    answer = await nio_alone.send_text(room, "an answer")
    gaps = await shown(alice, room, answer)
    assert (gaps.failure, gaps.shield) == ("UNSIGNED_SENDER_DEVICE", None)
    assert "an answer" not in str(gaps.content)
