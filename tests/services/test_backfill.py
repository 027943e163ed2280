"""Gaps: what the bot was not sent is read back, page by page, and nothing in it is missed."""

from __future__ import annotations

import pytest

from bot.core.types import EventID, Millis, RoomID
from tests.support.fake_homeserver import BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

SET = "“alice” (@alice:example.org) set disappearing messages to 5 minutes."


@pytest.fixture
async def room(house: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    house.homeserver.limit = 3
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    house.homeserver.send(room, "the last that was read")
    async with house.running(house.intake):
        pass
    return room


async def dues(house: Harness, sent: list[EventID]) -> list[Millis | None]:
    """Return in how many milliseconds from now each message is due."""
    timers = await house.timers()
    return [timers[one] - house.clock.now() if one in timers else None for one in sent]


def say(house: Harness, room: RoomID, count: int) -> list[EventID]:
    return [house.homeserver.send(room, f"message {number}") for number in range(count)]


async def test_a_limited_timeline_is_read_back(house: Harness, room: RoomID) -> None:
    sent = say(house, room, 23)
    async with house.running(house.intake, house.backfill):
        assert await dues(house, sent) == [MINUTE] * 23
    assert len(house.homeserver.times("page_back")) == 5
    assert not await house.store.unread.reads(room)


async def test_what_was_read_before_is_not_read_again(house: Harness, room: RoomID) -> None:
    """A message that stays must stay, also when the bot comes by it a second time."""
    house.homeserver.set_lifetime(room, None)
    stays = say(house, room, 2)
    async with house.running(house.intake, house.backfill):
        house.homeserver.set_lifetime(room, MINUTE)
        await house.rest()
    sent = say(house, room, 9)
    async with house.running(house.intake, house.backfill):
        assert await dues(house, stays) == [None, None]
        assert await dues(house, sent) == [MINUTE] * 9


async def test_a_whole_timeline_needs_no_reading_back(house: Harness, room: RoomID) -> None:
    say(house, room, 3)
    async with house.running(house.intake, house.backfill):
        pass
    assert house.homeserver.times("page_back") == []


async def test_messages_in_a_gap_began_when_they_were_sent(house: Harness, room: RoomID) -> None:
    house.clock.advance(10 * SECOND)
    sent = say(house, room, 1)
    house.clock.advance(20 * SECOND)
    sent += [house.homeserver.send(room, "forged", at=0)]
    sent += [house.homeserver.send(room, "forged", at=house.clock.now() + DAY)]
    say(house, room, 5)
    async with house.running(house.intake):
        pass
    house.clock.advance(5 * SECOND)
    async with house.running(house.backfill):
        assert await dues(house, sent) == [35 * SECOND, 25 * SECOND, 55 * SECOND]


async def test_a_command_in_a_gap_covers_what_follows_it(house: Harness, room: RoomID) -> None:
    before = say(house, room, 4)
    house.homeserver.send(room, "!expire 5m")
    inside, after = say(house, room, 4), say(house, room, 3)
    async with house.running(*house.everything):
        assert await dues(house, before) == [MINUTE] * 4
        assert await dues(house, inside) == [5 * MINUTE] * 4
        assert await dues(house, after) == [5 * MINUTE] * 3
        live = await house.said_in(room, "live")
        assert await dues(house, [live]) == [5 * MINUTE]
    assert house.homeserver.heard(room) == [
        "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
    ]


async def test_a_change_in_a_gap_counts_from_its_own_place(house: Harness, room: RoomID) -> None:
    before = say(house, room, 4)
    house.homeserver.set_lifetime(room, 5 * MINUTE, sender=BOB)
    after = say(house, room, 8)
    async with house.running(house.intake, house.backfill):
        assert await dues(house, before + after) == [MINUTE] * 4 + [5 * MINUTE] * 8


async def test_what_is_said_while_a_gap_is_open_waits_for_it(house: Harness, room: RoomID) -> None:
    house.homeserver.send(room, "!expire 5m")
    say(house, room, 5)
    async with house.running(house.intake):
        live = await house.said_in(room, "live")
        assert await dues(house, [live]) == [None]
        async with house.running(house.backfill):
            assert await dues(house, [live]) == [5 * MINUTE]


async def test_two_gaps_one_after_the_other_keep_their_order(house: Harness, room: RoomID) -> None:
    first = say(house, room, 6)
    async with house.running(house.intake):
        pass
    house.homeserver.send(room, "!expire 5m")
    second = say(house, room, 6)
    async with house.running(house.intake):
        pass
    house.homeserver.send(room, "!expire off")
    third = say(house, room, 6)
    async with house.running(house.intake, house.backfill):
        found = await dues(house, first + second + third)
    assert found == [MINUTE] * 6 + [5 * MINUTE] * 6 + [None] * 6


async def test_a_restart_in_the_middle_of_a_gap_goes_on_where_it_was(
    house: Harness, room: RoomID
) -> None:
    sent = say(house, room, 23)
    async with house.running(house.intake):
        found = await house.store.unread.next_gap()
        assert found is not None
        await house.backfill.read(found[0])
    await house.restart()
    house.homeserver.asked.clear()
    async with house.running(house.intake, house.backfill):
        assert await dues(house, sent) == [MINUTE] * 23
    assert len(house.homeserver.times("page_back")) == 4


async def test_rooms_with_long_gaps_are_read_in_turns(house: Harness, room: RoomID) -> None:
    other = house.homeserver.make_room()
    async with house.running(house.intake):
        pass
    for each in (room, other):
        say(house, each, 20)
    async with house.running(house.intake):
        pass
    seen: list[RoomID] = []
    while (found := await house.store.unread.next_gap()) is not None:
        seen.append(found[0].room_id)
        house.clock.advance(1)
        await house.backfill.read(found[0])
    assert seen[:6] in ([room, other] * 3, [other, room] * 3)


async def test_what_is_redacted_in_a_gap_gets_no_timer(house: Harness, room: RoomID) -> None:
    sent = say(house, room, 10)
    house.homeserver.redact_as(room, sent[0], BOB)
    async with house.running(house.intake):
        pass
    house.homeserver.redact_as(room, sent[5], BOB)
    async with house.running(house.intake, house.backfill):
        found = await dues(house, sent)
    assert found == [None] + [MINUTE] * 4 + [None] + [MINUTE] * 4


async def test_a_busy_room_that_the_bot_has_just_joined_is_read_back_to_its_joining(
    house: Harness,
) -> None:
    """The lifetime that the room has holds for the gap as well."""
    house.homeserver.limit = 3
    await house.store.commit("s0", house.clock.now(), [])
    room = house.homeserver.make_room(joined=False, invited=False)
    house.homeserver.set_lifetime(room, MINUTE)
    before = say(house, room, 6)
    house.homeserver.set_member(room, BOT, "join")
    after = say(house, room, 12)
    async with house.running(house.intake, house.backfill):
        assert await dues(house, before) == [None] * 6
        assert await dues(house, after) == [MINUTE] * 12
