"""What a homeserver gives to read, and who is where: the contract goes on."""

from __future__ import annotations

import pytest

from bot.core.invitations import Invite
from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Done, Forbidden, OutcomeError
from bot.core.sync_batch import RoomBatch
from bot.core.timeline import is_gone, redacts
from bot.core.types import Event, RoomID
from tests.support.worlds import LIMIT, PAGE, World

MINUTE = 60_000


def ids(events: list[Event]) -> list[str]:
    return [str(event["event_id"]) for event in events]


async def read_on(world: World, token: str, room: RoomID) -> tuple[RoomBatch | None, str]:
    """Return what a sync brings of one room, and the token after it."""
    batch = await world.bot.sync(token, 0)
    found = [part for part in batch.joined if part.room_id == room]
    return (found[0] if found else None), batch.next_batch


# --- reading -------------------------------------------------------------------------------------


async def test_a_sync_brings_what_is_new_and_nothing_twice(world: World) -> None:
    room = await world.room()
    token = (await world.bot.sync(None, 0)).next_batch
    sent = [await world.send(room, f"{number}") for number in range(LIMIT)]
    part, token = await read_on(world, token, room)
    assert part is not None
    assert ids(part.timeline) == sent
    assert not part.limited
    assert (await read_on(world, token, room))[0] is None


async def test_a_redaction_comes_with_the_next_sync(world: World) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    token = (await world.bot.sync(None, 0)).next_batch
    await world.bot.redact(room, sent, "t1")
    part, _ = await read_on(world, token, room)
    assert part is not None
    assert [redacts(event) for event in part.timeline] == [sent]


async def test_a_long_timeline_is_limited_and_its_gap_can_be_read_back(world: World) -> None:
    room = await world.room()
    last = await world.send(room, "the last that was read")
    token = (await world.bot.sync(None, 0)).next_batch
    sent = [await world.send(room, f"{number}") for number in range(LIMIT + PAGE + 1)]
    part, _ = await read_on(world, token, room)
    assert part is not None
    assert part.limited
    assert ids(part.timeline) == sent[-LIMIT:]
    page, before = await world.bot.page_back(room, part.prev_batch)
    assert ids(page) == sent[PAGE - 2 : -LIMIT][::-1]
    assert before is not None
    page, before = await world.bot.page_back(room, before)
    assert ids(page)[:2] == [sent[0], last]


async def test_a_limited_timeline_comes_with_the_state_that_changed_before_it(
    world: World,
) -> None:
    room = await world.room()
    token = (await world.bot.sync(None, 0)).next_batch
    await world.set_lifetime(room, 1 * MINUTE)
    await world.set_lifetime(room, 2 * MINUTE)
    for number in range(LIMIT):
        await world.send(room, f"{number}")
    part, token = await read_on(world, token, room)
    assert part is not None
    [policy] = [event for event in part.state if event["type"] == POLICY_EVENT]
    assert policy["content"]["timer"] == 2 * MINUTE
    await world.set_lifetime(room, 3 * MINUTE)
    part, _ = await read_on(world, token, room)
    assert part is not None
    assert part.state == []
    assert [event["content"].get("timer") for event in part.timeline] == [3 * MINUTE]


async def test_paging_back_ends_at_the_beginning_of_the_room(world: World) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    await world.bot.redact(room, sent, "t1")
    batch = await world.bot.sync(None, 0)
    [part] = [part for part in batch.joined if part.room_id == room]
    read, token = ids(part.timeline), part.prev_batch
    page, before = await world.bot.page_back(room, token)
    while page:
        assert len(page) <= PAGE
        read = ids(page)[::-1] + read
        if before is None:
            break
        page, before = await world.bot.page_back(room, before)
    assert before is None
    assert read == ids(await world.history(room))


async def test_paging_back_shows_what_is_gone_as_gone(world: World) -> None:
    room = await world.room()
    sent = await world.send(room, "hello")
    for number in range(LIMIT):
        await world.send(room, f"{number}")
    await world.bot.redact(room, sent, "t1")
    [part] = [part for part in (await world.bot.sync(None, 0)).joined if part.room_id == room]
    page, _ = await world.bot.page_back(room, part.prev_batch)
    assert [is_gone(event) for event in page if event["event_id"] == sent] == [True]


async def test_paging_back_in_a_room_the_bot_was_never_in_is_forbidden(world: World) -> None:
    other = await world.room()
    [part] = [part for part in (await world.bot.sync(None, 0)).joined if part.room_id == other]
    room = await world.room(joined=False)
    with pytest.raises(OutcomeError) as caught:
        await world.bot.page_back(room, part.prev_batch)
    assert isinstance(caught.value.outcome, Forbidden)


# --- membership ----------------------------------------------------------------------------------


async def test_an_invitation_names_the_inviter_and_comes_once(world: World) -> None:
    token = (await world.bot.sync(None, 0)).next_batch
    room = await world.room(joined=False)
    batch = await world.bot.sync(token, 0)
    assert batch.invited == [Invite(room_id=room, inviter=world.alice)]
    assert batch.joined == []
    assert (await world.bot.sync(batch.next_batch, 0)).invited == []


async def test_a_room_that_was_joined_comes_with_its_state_and_the_joining(world: World) -> None:
    token = (await world.bot.sync(None, 0)).next_batch
    room = await world.room(joined=False)
    await world.set_lifetime(room, MINUTE)
    for number in range(LIMIT):
        await world.send(room, f"{number}")
    assert isinstance(await world.bot.join(room), Done)
    part, _ = await read_on(world, token, room)
    assert part is not None
    assert part.limited
    assert POLICY_EVENT in [event["type"] for event in part.state]
    assert part.timeline[-1]["state_key"] == world.bot.own_id
    assert part.timeline[-1]["content"]["membership"] == "join"
    assert await world.bot.joined_rooms() == {room}


async def test_an_invitation_can_be_declined(world: World) -> None:
    room = await world.room(joined=False)
    assert isinstance(await world.bot.leave(room), Done)
    assert isinstance(await world.bot.join(room), Forbidden)


async def test_a_room_that_threw_the_bot_out_is_left(world: World) -> None:
    room = await world.room()
    token = (await world.bot.sync(None, 0)).next_batch
    await world.kick(room)
    batch = await world.bot.sync(token, 0)
    assert batch.left == [room]
    assert batch.joined == []
    assert isinstance(await world.bot.join(room), Forbidden)


# --- speaking ------------------------------------------------------------------------------------


async def test_words_said_twice_with_one_transaction_are_said_once(world: World) -> None:
    room = await world.room()
    words = {"msgtype": "m.notice", "body": "hello"}
    first = await world.bot.say(room, words, "s1", encrypted=False)
    assert isinstance(first, Done)
    assert await world.bot.say(room, words, "s1", encrypted=False) == first
    said = [event for event in await world.history(room) if event["content"] == words]
    assert [event["sender"] for event in said] == [world.bot.own_id]


async def test_a_bot_that_may_not_speak_is_forbidden_to(world: World) -> None:
    room = await world.room(events={"m.room.message": 51})
    words = {"msgtype": "m.notice", "body": "hello"}
    assert isinstance(await world.bot.say(room, words, "s1", encrypted=False), Forbidden)


async def test_a_homeserver_that_is_there_answers(world: World) -> None:
    assert await world.bot.answers()
