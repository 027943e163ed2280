"""Where homeservers disagreed about a lifetime, the room's state holds, and nothing older."""

from __future__ import annotations

from typing import Any

import pytest

from bot.disputes import LOOK_TWICE
from bot.model import POLICY_EVENT, Event, Failed, Millis, RoomBatch, RoomID, SyncBatch, UserID
from bot.policy import Room
from tests.fakes import ALICE, BOB
from tests.house import DAY, MINUTE, SECOND, House

KEY = (POLICY_EVENT, "")
HOUR = 60 * MINUTE


@pytest.fixture
async def room(house: House) -> RoomID:
    """A room in which alice has set an hour and then a minute, both known to the bot."""
    room = house.homeserver.make_room()
    for lifetime in (HOUR, MINUTE):
        lifetime_of(house, room, lifetime)
        async with house.running(*house.everything):
            pass
    return room


def lifetime_of(house: House, room: RoomID, lifetime: Millis, sender: UserID = ALICE) -> Event:
    """Set it, and return the state event."""
    content = {"type": "after_send", "timer": lifetime}
    event_id = house.homeserver.set_state(room, POLICY_EVENT, content, sender=sender)
    found = house.homeserver.rooms[room].find(event_id)
    assert found is not None
    return found


def policies(house: House, room: RoomID) -> list[Event]:
    events = house.homeserver.rooms[room].events
    return [event for event in events if event["type"] == POLICY_EVENT]


async def known(house: House, room: RoomID) -> Room:
    found = await house.store.room(room)
    assert found is not None
    return found


async def asked(house: House, room: RoomID) -> bool:
    """Whether the room's state is to be asked for its lifetime."""
    found = await house.store.next_dispute()
    return found is not None and found.room_id == room


async def read(house: House, room: RoomID, **batch: Any) -> None:
    """Let the homeserver say this of the room in a sync."""
    _, synced_at = await house.store.position()
    told = RoomBatch(room_id=room, **({"state": [], "timeline": []} | batch))
    sync = SyncBatch(next_batch="s99", joined=[told])
    await house.intake.take(sync, live=True, first=False, synced_at=synced_at)


async def test_an_older_state_beside_a_new_message_changes_nothing(
    house: House, room: RoomID
) -> None:
    older, newer = policies(house, room)
    sent = house.homeserver.send(room, "from elsewhere", sender=BOB)
    message = house.homeserver.rooms[room].find(sent)
    assert message is not None
    await read(house, room, state=[older], timeline=[message])
    assert (await known(house, room)).setting == MINUTE
    assert (await house.timers())[sent] == house.clock.now() + MINUTE
    assert await asked(house, room)
    async with house.running(*house.everything):
        assert not await asked(house, room)
    assert (await known(house, room)).policy_digest == house.store.digest(newer["event_id"])


async def test_the_own_echo_asks_nobody(house: House, room: RoomID) -> None:
    house.homeserver.send(room, "!expire 1d")
    async with house.running(*house.everything):
        pass
    assert (await known(house, room)).setting == DAY
    await read(house, room, state=[policies(house, room)[-1]])
    assert not await asked(house, room)


async def test_what_the_state_is_resolved_to_holds_once_it_has_stood_a_while(
    house: House, room: RoomID
) -> None:
    held = lifetime_of(house, room, DAY)
    house.homeserver.rooms[room].resolved[KEY] = held
    lifetime_of(house, room, 2 * MINUTE, BOB)
    async with house.running(*house.everything):
        await house.advance(LOOK_TWICE - SECOND)
        assert (await known(house, room)).setting == 2 * MINUTE
        await house.advance(SECOND)
        assert (await known(house, room)).setting == DAY
        sent = house.homeserver.send(room, "after all that")
        await house.rest()
        assert (await house.timers())[sent] == house.clock.now() + DAY
        await house.advance(MINUTE)
    assert not await asked(house, room)
    assert house.homeserver.heard(room)[-1].endswith("set disappearing messages to 1 day.")


async def test_an_answer_that_lags_behind_once_does_not_count(house: House, room: RoomID) -> None:
    older = policies(house, room)[-1]
    house.homeserver.rooms[room].resolved[KEY] = older
    lifetime_of(house, room, DAY, BOB)
    async with house.running(*house.everything):
        assert await asked(house, room)
        house.homeserver.rooms[room].resolved.clear()
        await house.advance(LOOK_TWICE)
        assert not await asked(house, room)
    assert (await known(house, room)).setting == DAY


async def test_a_homeserver_that_does_not_tell_is_asked_until_it_does(
    house: House, room: RoomID
) -> None:
    house.homeserver.rooms[room].resolved[KEY] = policies(house, room)[0]
    house.homeserver.fail_next(*[Failed(status=504)] * 3, on="state")
    lifetime_of(house, room, DAY, BOB)
    async with house.running(*house.everything):
        for _ in range(10):
            await house.advance(MINUTE)
    assert (await known(house, room)).setting == HOUR


async def test_what_was_set_since_is_not_taken_back(house: House, room: RoomID) -> None:
    held = policies(house, room)[0]
    change = house.reader.state_change(held)[0]
    before = (await known(house, room)).revision
    lifetime_of(house, room, DAY)
    async with house.running(house.intake):
        pass
    await house.store.policy_stands(room, change, house.clock.now(), revision=before)  # type: ignore[arg-type]
    assert (await known(house, room)).setting == DAY
    assert await asked(house, room)
