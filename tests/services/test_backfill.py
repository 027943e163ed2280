"""Gaps: what the bot was not sent is read back, page by page, and nothing in it is missed."""

from __future__ import annotations

import pytest

from bot.core.types import EventID, Millis, RoomID
from tests.support.fake_homeserver import BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

SET = "“alice” (@alice:example.org) set disappearing messages to 5 minutes."


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    harness.homeserver.limit = 3
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    harness.homeserver.send(room, "the last that was read")
    async with harness.running(harness.sync):
        pass
    return room


async def dues(harness: Harness, sent: list[EventID]) -> list[Millis | None]:
    """Return in how many milliseconds from now each message is due."""
    timers = await harness.timers()
    return [timers[one] - harness.clock.now() if one in timers else None for one in sent]


def say(harness: Harness, room: RoomID, count: int) -> list[EventID]:
    return [harness.homeserver.send(room, f"message {number}") for number in range(count)]


async def test_a_limited_timeline_is_read_back(harness: Harness, room: RoomID) -> None:
    sent = say(harness, room, 23)
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, sent) == [MINUTE] * 23
    assert len(harness.homeserver.times("page_back")) == 5
    assert not await harness.store.gaps.reads(room)


async def test_what_was_read_before_is_not_read_again(harness: Harness, room: RoomID) -> None:
    """A message that stays must stay, also when the bot comes by it a second time."""
    harness.homeserver.set_lifetime(room, None)
    stays = say(harness, room, 2)
    async with harness.running(harness.sync, harness.backfill):
        harness.homeserver.set_lifetime(room, MINUTE)
        await harness.rest()
    sent = say(harness, room, 9)
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, stays) == [None, None]
        assert await dues(harness, sent) == [MINUTE] * 9


async def test_a_whole_timeline_needs_no_reading_back(harness: Harness, room: RoomID) -> None:
    say(harness, room, 3)
    async with harness.running(harness.sync, harness.backfill):
        pass
    assert harness.homeserver.times("page_back") == []


async def test_messages_in_a_gap_began_when_they_were_sent(harness: Harness, room: RoomID) -> None:
    harness.clock.advance(10 * SECOND)
    sent = say(harness, room, 1)
    harness.clock.advance(20 * SECOND)
    sent += [harness.homeserver.send(room, "forged", at=0)]
    sent += [harness.homeserver.send(room, "forged", at=harness.clock.now() + DAY)]
    say(harness, room, 5)
    async with harness.running(harness.sync):
        pass
    harness.clock.advance(5 * SECOND)
    async with harness.running(harness.backfill):
        assert await dues(harness, sent) == [35 * SECOND, 25 * SECOND, 55 * SECOND]


async def test_a_command_in_a_gap_covers_what_follows_it(harness: Harness, room: RoomID) -> None:
    before = say(harness, room, 4)
    harness.homeserver.send(room, "!expire 5m")
    inside, after = say(harness, room, 4), say(harness, room, 3)
    async with harness.running(*harness.everything):
        assert await dues(harness, before) == [MINUTE] * 4
        assert await dues(harness, inside) == [5 * MINUTE] * 4
        assert await dues(harness, after) == [5 * MINUTE] * 3
        live = await harness.said_in(room, "live")
        assert await dues(harness, [live]) == [5 * MINUTE]
    assert harness.homeserver.heard(room) == [
        "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
    ]


async def test_a_change_in_a_gap_counts_from_its_own_place(harness: Harness, room: RoomID) -> None:
    before = say(harness, room, 4)
    harness.homeserver.set_lifetime(room, 5 * MINUTE, sender=BOB)
    after = say(harness, room, 8)
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, before + after) == [MINUTE] * 4 + [5 * MINUTE] * 8


async def test_what_is_said_while_a_gap_is_open_waits_for_it(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.send(room, "!expire 5m")
    say(harness, room, 5)
    async with harness.running(harness.sync):
        live = await harness.said_in(room, "live")
        assert await dues(harness, [live]) == [None]
        async with harness.running(harness.backfill):
            assert await dues(harness, [live]) == [5 * MINUTE]


async def test_two_gaps_one_after_the_other_keep_their_order(
    harness: Harness, room: RoomID
) -> None:
    first = say(harness, room, 6)
    async with harness.running(harness.sync):
        pass
    harness.homeserver.send(room, "!expire 5m")
    second = say(harness, room, 6)
    async with harness.running(harness.sync):
        pass
    harness.homeserver.send(room, "!expire off")
    third = say(harness, room, 6)
    async with harness.running(harness.sync, harness.backfill):
        found = await dues(harness, first + second + third)
    assert found == [MINUTE] * 6 + [5 * MINUTE] * 6 + [None] * 6


async def test_a_restart_within_a_gap_goes_on_where_it_was(harness: Harness, room: RoomID) -> None:
    sent = say(harness, room, 23)
    async with harness.running(harness.sync):
        found = await harness.store.gaps.next_gap()
        assert found is not None
        await harness.backfill.read(found[0])
    await harness.restart()
    harness.homeserver.asked.clear()
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, sent) == [MINUTE] * 23
    assert len(harness.homeserver.times("page_back")) == 4


async def test_rooms_with_long_gaps_are_read_in_turns(harness: Harness, room: RoomID) -> None:
    other = harness.homeserver.make_room()
    async with harness.running(harness.sync):
        pass
    for each in (room, other):
        say(harness, each, 20)
    async with harness.running(harness.sync):
        pass
    seen: list[RoomID] = []
    while (found := await harness.store.gaps.next_gap()) is not None:
        seen.append(found[0].room_id)
        harness.clock.advance(1)
        await harness.backfill.read(found[0])
    assert seen[:6] in ([room, other] * 3, [other, room] * 3)


async def test_what_is_redacted_in_a_gap_gets_no_timer(harness: Harness, room: RoomID) -> None:
    sent = say(harness, room, 10)
    harness.homeserver.redact_as(room, sent[0], BOB)
    async with harness.running(harness.sync):
        pass
    harness.homeserver.redact_as(room, sent[5], BOB)
    async with harness.running(harness.sync, harness.backfill):
        found = await dues(harness, sent)
    assert found == [None] + [MINUTE] * 4 + [None] + [MINUTE] * 4


async def test_a_busy_room_just_joined_is_read_back_to_the_joining(
    harness: Harness,
) -> None:
    """The lifetime that the room has holds for the gap as well."""
    harness.homeserver.limit = 3
    await harness.store.commit("s0", harness.clock.now(), [])
    room = harness.homeserver.make_room(joined=False, invited=False)
    harness.homeserver.set_lifetime(room, MINUTE)
    before = say(harness, room, 6)
    harness.homeserver.set_member(room, BOT, "join")
    after = say(harness, room, 12)
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, before) == [None] * 6
        assert await dues(harness, after) == [MINUTE] * 12
