"""What redactions and state do on a homeserver: one contract for the fake one and for Synapse."""

from __future__ import annotations

from typing import Any

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Done, Forbidden, NotFound, OutcomeError
from bot.core.successors import predecessor, replacement
from bot.core.timeline import is_gone, redacts
from bot.core.types import EventID, RoomID
from tests.support.worlds import World

UNKNOWN = RoomID("!no-such-room:example.org")
MINUTE = 60_000


async def redactions(world: World, room: RoomID, target: EventID) -> int:
    return sum(
        event["type"] == "m.room.redaction" and redacts(event) == target
        for event in await world.history(room)
    )


# --- redactions ----------------------------------------------------------------------------------


async def test_a_redacted_event_is_gone(world: World) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    assert not await world.bot.is_gone(room, sent)
    assert isinstance(await world.bot.redact(room, sent, "t1"), Done)
    assert await world.bot.is_gone(room, sent)
    event = await world.event(room, sent)
    assert event["content"] == {}
    assert is_gone(event)


async def test_the_same_transaction_is_the_same_redaction(world: World) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    first = await world.bot.redact(room, sent, "t1")
    second = await world.bot.redact(room, sent, "t1")
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert first.body == second.body
    assert await redactions(world, room, sent) == 1


async def test_a_transaction_reused_for_another_event_redacts_nothing(world: World) -> None:
    room = await world.room()
    sent, other = await world.send(room, "one"), await world.send(room, "two")
    await world.bot.redact(room, sent, "t1")
    assert isinstance(await world.bot.redact(room, other, "t1"), Done)
    assert not await world.bot.is_gone(room, other)


async def test_a_transaction_of_one_room_is_another_in_another(world: World) -> None:
    for room in (await world.room(), await world.room()):
        sent = await world.send(room, "hello")
        assert isinstance(await world.bot.redact(room, sent, "t1"), Done)
        assert await world.bot.is_gone(room, sent)


async def test_what_is_gone_can_be_redacted_again(world: World) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    await world.bot.redact(room, sent, "t1")
    assert isinstance(await world.bot.redact(room, sent, "t2"), Done)
    assert await world.bot.is_gone(room, sent)
    assert await redactions(world, room, sent) == 2


@pytest.mark.parametrize("levels", [{}, {"redact": 51}, {"events": {"m.room.redaction": 51}}])
async def test_a_redaction_without_the_power_is_forbidden(
    world: World, levels: dict[str, Any]
) -> None:
    room = await world.room(power=50 if levels else 0, **levels)
    sent = await world.send(room, "hello")
    assert isinstance(await world.bot.redact(room, sent, "t1"), Forbidden)
    assert not await world.bot.is_gone(room, sent)


async def test_what_was_forbidden_works_with_the_same_transaction_later(world: World) -> None:
    room = await world.room(redact=51)
    own = await world.bot.say(room, {"msgtype": "m.notice", "body": "x"}, "s1", encrypted=False)
    assert isinstance(own, Done)
    assert isinstance(await world.bot.redact(room, own.body["event_id"], "t1"), Done)
    sent = await world.send(room, "hello")
    assert isinstance(await world.bot.redact(room, sent, "t2"), Forbidden)


async def test_an_unknown_event_is_redacted_in_vain_or_not_found(world: World) -> None:
    strong, weak = await world.room(), await world.room(power=0)
    nothing = EventID("$" + "a" * 43)
    assert isinstance(await world.bot.redact(strong, nothing, "t1"), Done)
    assert isinstance(await world.bot.redact(weak, nothing, "t1"), NotFound)
    assert await world.bot.is_gone(strong, nothing)


async def test_nothing_belongs_to_an_event_that_is_not_there(world: World) -> None:
    room = await world.room()
    assert await world.bot.relations(room, EventID("$" + "a" * 43)) == ([], True)


async def test_a_redaction_in_an_unknown_room_says_so(world: World) -> None:
    outcome = await world.bot.redact(UNKNOWN, EventID("$" + "a" * 43), "t1")
    assert isinstance(outcome, NotFound)


async def test_a_redaction_by_a_bot_that_was_thrown_out_is_forbidden(world: World) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    await world.kick(room)
    assert isinstance(await world.bot.redact(room, sent, "t1"), Forbidden)
    assert not is_gone(await world.event(room, sent))
    assert room not in await world.bot.joined_rooms()


async def test_a_room_that_was_left_still_shows_its_state_and_its_events(world: World) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    await world.kick(room)
    assert (await world.bot.power(room)).of(world.bot.own_id) == 50
    assert not await world.bot.is_gone(room, sent)


async def test_a_room_that_banned_the_bot_shows_it_what_it_saw(
    world: World,
) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    await world.ban(room)
    with pytest.raises(OutcomeError) as caught:
        await world.bot.power(room)
    assert isinstance(caught.value.outcome, Forbidden)
    assert isinstance(await world.bot.redact(room, sent, "t1"), Forbidden)
    assert not await world.bot.is_gone(room, sent)
    assert room not in await world.bot.joined_rooms()


async def test_others_are_those_in_the_room_and_those_invited(world: World) -> None:
    room = await world.room()
    assert await world.bot.others(room) == (1, 0)
    await world.let_bob_in(room, "bob")
    assert await world.bot.others(room) == (2, 0)


async def test_whoever_is_not_in_a_room_is_not_told_who_is(world: World) -> None:
    left, invited = await world.room(), await world.room(joined=False)
    await world.kick(left)
    for room in (left, invited, UNKNOWN):
        with pytest.raises(OutcomeError):
            await world.bot.others(room)


# --- a room's state ------------------------------------------------------------------------------


async def test_power_is_what_the_rooms_state_says(world: World) -> None:
    room = await world.room(power=42, redact=43)
    power = await world.bot.power(room)
    assert (power.of(world.bot.own_id), power.of(world.alice), power.of(world.bob)) == (42, 100, 0)
    assert power.redact == 43
    assert not power.may_redact(world.bot.own_id)


async def test_the_state_of_a_room_the_bot_was_never_in_is_closed(world: World) -> None:
    invited = await world.room(joined=False)
    for room in (UNKNOWN, invited):
        for ask in (world.bot.power, world.bot.policy_event):
            with pytest.raises(OutcomeError) as caught:
                await ask(room)
            assert isinstance(caught.value.outcome, Forbidden)


async def test_the_policy_is_none_until_it_is_set(world: World) -> None:
    room = await world.room()
    assert await world.bot.policy_event(room) is None
    content = {"type": "after_send", "timer": MINUTE}
    assert isinstance(await world.bot.set_policy(room, content), Done)
    event = await world.bot.policy_event(room)
    assert event is not None
    assert event["content"] == content
    assert event["sender"] == world.bot.own_id
    assert event["type"] == POLICY_EVENT
    assert event["state_key"] == ""
    assert event["event_id"].startswith("$")


async def test_the_same_policy_again_is_the_same_event(world: World) -> None:
    room = await world.room()
    first = await world.bot.set_policy(room, {"timer": 1})
    assert await world.bot.set_policy(room, {"timer": 1}) == first
    assert await world.bot.set_policy(room, {"timer": 2}) != first


async def test_a_policy_without_the_power_is_forbidden(world: World) -> None:
    room = await world.room(events={POLICY_EVENT: 51})
    assert isinstance(await world.bot.set_policy(room, {"timer": 1}), Forbidden)
    assert await world.bot.policy_event(room) is None


async def test_people_have_the_names_that_they_choose_or_none(world: World) -> None:
    room = await world.room()
    assert await world.bot.name_of(room, world.alice) == "alice"
    assert await world.bot.name_of(room, world.bob) == ""
    await world.let_bob_in(room, "alice")
    assert await world.bot.name_of(room, world.bob) == "alice"
    await world.let_bob_in(room, world.alice)
    assert await world.bot.name_of(room, world.bob) == world.alice


# --- rooms that are replaced ---------------------------------------------------------------------


async def test_a_replaced_room_names_its_successor_and_is_named_by_it(world: World) -> None:
    old = await world.room()
    assert await world.bot.state(old, "m.room.tombstone") is None
    new = await world.upgrade(old, public=True)
    tombstone = await world.bot.state(old, "m.room.tombstone")
    assert tombstone is not None
    assert tombstone["sender"] == world.alice
    assert replacement(tombstone, old) == new
    assert type(tombstone["origin_server_ts"]) is int
    server = world.alice.partition(":")[2]
    assert isinstance(await world.bot.join(new, server), Done)
    assert new in await world.bot.joined_rooms()
    assert predecessor(await world.bot.state(new, "m.room.create")) == old
    assert await world.bot.policy_event(new) is None
    assert (await world.bot.power(new)).of(world.bot.own_id) == 50


async def test_the_successor_of_a_closed_room_is_closed(world: World) -> None:
    old = await world.room()
    await world.set_lifetime(old, MINUTE)
    new = await world.upgrade(old, public=False)
    outcome = await world.bot.join(new, world.alice.partition(":")[2])
    assert isinstance(outcome, Forbidden)
    sent = await world.send(old, "still here")
    assert isinstance(await world.bot.redact(old, sent, "t1"), Done)
    assert await world.bot.is_gone(old, sent)


async def test_the_own_member_event_is_state_like_any_other(world: World) -> None:
    room = await world.room()
    member = await world.bot.state(room, "m.room.member", world.bot.own_id)
    assert member is not None
    assert member["content"]["membership"] == "join"
    assert type(member["origin_server_ts"]) is int
