"""Whose commands count: by the device they come from, and by the room's state at that moment."""

from __future__ import annotations

import pytest

from bot.core.commands import Command
from bot.core.outbox import DeviceUnverified
from bot.services.event_reader import EventReader
from tests.support.fake_homeserver import ALICE, BOB
from tests.support.harness import LIMITS, MINUTE, Harness


def strict(harness: Harness, *, signed_only: bool = True) -> EventReader:
    return EventReader(
        harness.homeserver,
        prefix="!expire",
        limits=LIMITS,
        digest=harness.store.digest,
        signed_only=signed_only,
    )


@pytest.mark.parametrize("text", ["!expire 5m", "!expire off", "!expire status"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("signed_only", [False, True])
async def test_only_encrypted_changes_ask_for_a_signed_device(
    harness: Harness, text: str, *, signed: bool, encrypted: bool, signed_only: bool
) -> None:
    room = harness.homeserver.make_room(encrypted=encrypted)
    if signed:
        harness.homeserver.signers.add(ALICE)
    send = harness.homeserver.send_encrypted if encrypted else harness.homeserver.send
    event = harness.homeserver.rooms[room].find(send(room, text))
    assert event is not None
    reader = strict(harness, signed_only=signed_only)
    items = await reader.items(room, [event], encrypted=encrypted, live=True, since=0, now=1)
    said = [item for item in items if isinstance(item, Command)]
    counts = "status" in text or not encrypted or signed or not signed_only
    assert [isinstance(one.effect, DeviceUnverified) for one in said] == [not counts]
    assert all(one.setting is None for one in said if isinstance(one.effect, DeviceUnverified))


# The levels are asked for once a batch; they must not be those of the batch before.
async def test_a_demotion_between_two_batches_takes_effect(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    harness.homeserver.set_power(room, BOB, 50)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m", sender=BOB)
        harness.homeserver.set_power(room, BOB, 0)
        await harness.rest()
        await harness.said_in(room, "!expire 1m", sender=BOB)
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert "you have 0" in harness.homeserver.heard(room)[-1]


async def test_a_promotion_between_two_batches_takes_effect(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m", sender=BOB)
        harness.homeserver.set_power(room, BOB, 50)
        await harness.rest()
        await harness.said_in(room, "!expire 1m", sender=BOB)
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": MINUTE}


async def test_many_commands_of_one_batch_ask_for_the_levels_once(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    async with harness.running(harness.sync):
        pass
    asked = len(harness.homeserver.times("power"))
    for number in range(5):
        harness.homeserver.send(room, f"!expire {number + 1}m")
    async with harness.running(harness.sync):
        pass
    assert len(harness.homeserver.times("power")) == asked + 1


async def test_the_levels_of_one_room_are_not_those_of_another(harness: Harness) -> None:
    own, other = harness.homeserver.make_room(), harness.homeserver.make_room()
    harness.homeserver.set_member(other, BOB, "join", displayname="bob")
    harness.homeserver.set_member(own, BOB, "join", displayname="bob")
    harness.homeserver.set_power(own, BOB, 50)
    async with harness.running(*harness.everything):
        harness.homeserver.send(own, "!expire 5m", sender=BOB)
        harness.homeserver.send(other, "!expire 5m", sender=BOB)
        await harness.rest()
    assert harness.homeserver.lifetime_of(own) == {"type": "after_send", "timer": 5 * MINUTE}
    assert harness.homeserver.lifetime_of(other) is None


async def test_a_command_that_does_not_count_disappears_like_any_message(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(harness.sync):
        sent = await harness.said_in(room, "!expire off", sender=BOB)
    assert (await harness.timers())[sent] == harness.clock.now() + MINUTE
