"""Where homeservers disagreed about a lifetime, the room's state holds, and nothing older."""

from __future__ import annotations

from typing import Any

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Failed
from bot.core.policy import Room
from bot.core.sync_batch import RoomBatch, SyncBatch
from bot.core.timeline import Change, Gap, RoomUpdate
from bot.core.types import Event, Millis, RoomID, UserID
from bot.services.policy_check import LOOK_TWICE
from tests.support.fake_homeserver import ALICE, BOB
from tests.support.harness import DAY, MINUTE, SECOND, Harness

KEY = (POLICY_EVENT, "")
HOUR = 60 * MINUTE


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room in which alice has set an hour and then a minute, both known to the bot."""
    room = harness.homeserver.make_room()
    for lifetime in (HOUR, MINUTE):
        lifetime_of(harness, room, lifetime)
        async with harness.running(*harness.everything):
            pass
    return room


def lifetime_of(harness: Harness, room: RoomID, lifetime: Millis, sender: UserID = ALICE) -> Event:
    """Set it, and return the state event."""
    content = {"type": "after_send", "timer": lifetime}
    event_id = harness.homeserver.set_state(room, POLICY_EVENT, content, sender=sender)
    found = harness.homeserver.rooms[room].find(event_id)
    assert found is not None
    return found


def policies(harness: Harness, room: RoomID) -> list[Event]:
    events = harness.homeserver.rooms[room].events
    return [event for event in events if event["type"] == POLICY_EVENT]


async def known(harness: Harness, room: RoomID) -> Room:
    found = await harness.store.room(room)
    assert found is not None
    return found


async def asked(harness: Harness, room: RoomID) -> bool:
    """Whether the room's state is to be asked for its lifetime."""
    found = await harness.store.next_policy_check()
    return found is not None and found.room_id == room


async def read(harness: Harness, room: RoomID, **batch: Any) -> None:
    """Let the homeserver say this of the room in a sync."""
    _, synced_at = await harness.store.position()
    told = RoomBatch(room_id=room, **({"state": [], "timeline": []} | batch))
    sync = SyncBatch(next_batch="s99", joined=[told])
    await harness.sync.take(sync, live=True, first=False, synced_at=synced_at)


async def test_an_older_state_beside_a_new_message_changes_nothing(
    harness: Harness, room: RoomID
) -> None:
    older, newer = policies(harness, room)
    sent = harness.homeserver.send(room, "from elsewhere", sender=BOB)
    message = harness.homeserver.rooms[room].find(sent)
    assert message is not None
    await read(harness, room, state=[older], timeline=[message])
    assert (await known(harness, room)).setting == MINUTE
    assert (await harness.timers())[sent] == harness.clock.now() + MINUTE
    assert await asked(harness, room)
    async with harness.running(*harness.everything):
        assert not await asked(harness, room)
    assert (await known(harness, room)).policy_digest == harness.store.digest(newer["event_id"])


async def test_the_own_echo_asks_nobody(harness: Harness, room: RoomID) -> None:
    harness.homeserver.send(room, "!expire 1d")
    async with harness.running(*harness.everything):
        pass
    assert (await known(harness, room)).setting == DAY
    await read(harness, room, state=[policies(harness, room)[-1]])
    assert not await asked(harness, room)


async def test_what_the_state_resolves_to_holds_once_it_has_stood(
    harness: Harness, room: RoomID
) -> None:
    held = lifetime_of(harness, room, DAY)
    harness.homeserver.rooms[room].resolved[KEY] = held
    lifetime_of(harness, room, 2 * MINUTE, BOB)
    async with harness.running(*harness.everything):
        await harness.advance(LOOK_TWICE - SECOND)
        assert (await known(harness, room)).setting == 2 * MINUTE
        await harness.advance(SECOND)
        assert (await known(harness, room)).setting == DAY
        sent = harness.homeserver.send(room, "after all that")
        await harness.rest()
        assert (await harness.timers())[sent] == harness.clock.now() + DAY
        await harness.advance(MINUTE)
    assert not await asked(harness, room)
    assert harness.homeserver.heard(room)[-1].endswith("set disappearing messages to 1 day.")


async def test_an_answer_that_lags_behind_once_does_not_count(
    harness: Harness, room: RoomID
) -> None:
    older = policies(harness, room)[-1]
    harness.homeserver.rooms[room].resolved[KEY] = older
    lifetime_of(harness, room, DAY, BOB)
    async with harness.running(*harness.everything):
        assert await asked(harness, room)
        harness.homeserver.rooms[room].resolved.clear()
        await harness.advance(LOOK_TWICE)
        assert not await asked(harness, room)
    assert (await known(harness, room)).setting == DAY


async def test_changes_that_a_sync_repeats_are_told_once(harness: Harness, room: RoomID) -> None:
    changes = [lifetime_of(harness, room, DAY), lifetime_of(harness, room, 2 * MINUTE, BOB)]
    async with harness.running(*harness.everything):
        pass
    told = harness.homeserver.heard(room)
    await read(harness, room, timeline=changes)
    async with harness.running(*harness.everything):
        await harness.advance(HOUR)
    assert harness.homeserver.heard(room) == told


async def test_a_homeserver_that_does_not_tell_is_asked_until_it_does(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.rooms[room].resolved[KEY] = policies(harness, room)[0]
    harness.homeserver.fail_next(*[Failed(status=504)] * 3, on="state")
    harness.homeserver.asked.clear()
    lifetime_of(harness, room, DAY, BOB)
    async with harness.running(*harness.everything):
        asked_at_once = [what for what, _ in harness.homeserver.asked].count("state")
        for _ in range(10):
            await harness.advance(MINUTE)
    assert asked_at_once == 1
    assert (await known(harness, room)).setting == HOUR


async def test_a_command_that_is_still_to_be_written_is_not_overruled(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.rooms[room].resolved[KEY] = policies(harness, room)[0]
    lifetime_of(harness, room, MINUTE, BOB)
    harness.homeserver.fail_next(*[Failed(status=504)] * 3, on="set_policy")
    async with harness.running(*harness.everything):
        harness.homeserver.send(room, "!expire 1d")
        await harness.rest()
        await harness.advance(LOOK_TWICE)
        assert (await known(harness, room)).set_by_command
        assert (await known(harness, room)).setting == DAY


async def test_behind_a_gap_the_two_are_compared_again_later(
    harness: Harness, room: RoomID
) -> None:
    change = harness.reader.state_change(policies(harness, room)[0])[0]
    assert isinstance(change, Change)
    now, revision = harness.clock.now(), (await known(harness, room)).revision
    gap = Gap(room_id=room, token="t", stop_digest="", stop_at=0, since=now, until=now)
    await harness.commit(RoomUpdate(room_id=room, items=[], gap=gap))
    applied = harness.store.policy_resolved
    assert not await applied(room, change, now, revision=revision)
    assert (await known(harness, room)).setting == MINUTE
    assert await asked(harness, room)


async def test_what_was_set_since_is_not_taken_back(harness: Harness, room: RoomID) -> None:
    held = policies(harness, room)[0]
    change = harness.reader.state_change(held)[0]
    assert isinstance(change, Change)
    before = (await known(harness, room)).revision
    lifetime_of(harness, room, DAY)
    async with harness.running(harness.sync):
        pass
    applied = harness.store.policy_resolved
    assert not await applied(room, change, harness.clock.now(), revision=before)
    assert (await known(harness, room)).setting == DAY
    assert await asked(harness, room)
