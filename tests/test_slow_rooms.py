"""A room whose requests are never answered holds up no other."""

from __future__ import annotations

import logging

import pytest

from bot.model import EventID, RoomID
from bot.speaker import SETTING_WITHIN, WORDS_WITHIN
from tests.fakes import BOB
from tests.house import MINUTE, House
from tests.test_kin import relate


@pytest.fixture
async def rooms(house: House) -> list[RoomID]:
    """Rooms with a lifetime of a minute, which the bot has known for a while."""
    found = [house.homeserver.make_room() for _ in range(3)]
    async with house.running(house.intake):
        for room in found:
            house.homeserver.set_lifetime(room, MINUTE)
            house.homeserver.set_member(room, BOB, "join", displayname="bob")
    return found


async def command(house: House, room: RoomID, text: str) -> EventID:
    """Let the bot read a command, and not react yet."""
    async with house.running(house.intake):
        return await house.said_in(room, text)


def lifetime(house: House, room: RoomID) -> object:
    return (house.homeserver.lifetime_of(room) or {}).get("timer")


@pytest.mark.parametrize("method", ["name_of", "power", "say", "policy_event", "set_policy"])
async def test_answers_and_lifetimes_of_other_rooms_go_on(
    house: House, rooms: list[RoomID], method: str
) -> None:
    for room in rooms:
        await command(house, room, "!expire 5m")
    house.homeserver.hang(method, rooms[0])
    async with house.running(house.speaker):
        for room in rooms[1:]:
            assert lifetime(house, room) == 5 * MINUTE
            said = "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
            assert house.homeserver.heard(room)[-1] == said
        house.homeserver.release(method)
        await house.advance(MINUTE)
        assert lifetime(house, rooms[0]) == 5 * MINUTE
        assert house.homeserver.heard(rooms[0])[-1] == said


@pytest.mark.parametrize("answer", [False, True])
async def test_a_lifetime_waits_for_no_words(
    house: House, rooms: list[RoomID], answer: bool
) -> None:
    """Not for those before it, which cannot be sent, and not for those that say it is set."""
    await command(house, rooms[0], "!expire help")
    house.homeserver.hold("say", answer=answer)
    async with house.running(house.intake, house.speaker):
        await house.said_in(rooms[0], "!expire 5m")
        assert lifetime(house, rooms[0]) == 5 * MINUTE
        await house.said_in(rooms[0], "!expire off")
        assert lifetime(house, rooms[0]) is None
        house.homeserver.release("say")
        await house.rest()
    said = house.homeserver.heard(rooms[0])[-2:]
    assert said[0] == "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
    assert said[1].startswith("“alice” (@alice:example.org) turned disappearing messages off")


async def test_a_lifetime_waits_for_no_words_that_hang_in_many_rooms(house: House) -> None:
    many = [house.homeserver.make_room() for _ in range(25)]
    house.homeserver.hold("say")
    async with house.running(house.intake, house.speaker):
        for room in many:
            await house.said_in(room, "!expire 5m")
        assert [lifetime(house, room) for room in many] == [5 * MINUTE] * 25


async def test_words_that_take_too_long_are_put_off_and_that_is_said(
    house: House, rooms: list[RoomID], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    house.homeserver.hang("say", rooms[0])
    async with house.running(house.intake, house.speaker):
        await house.said_in(rooms[0], "!expire help")
        await house.advance(WORDS_WITHIN)
        assert [text for text in caplog.messages if text.startswith("notices: put off")] == [
            "notices: put off, while others go on: no end within 180 s (1)"
        ]
        assert not any(rooms[0] in text for text in caplog.messages)
        house.homeserver.release("say")
        await house.advance(MINUTE)
        assert len(house.homeserver.heard(rooms[0])) == 2


async def test_a_lifetime_that_takes_too_long_to_write_is_tried_again(
    house: House, rooms: list[RoomID], caplog: pytest.LogCaptureFixture
) -> None:
    house.homeserver.hang("set_policy", rooms[0])
    async with house.running(house.intake, house.speaker):
        await house.said_in(rooms[0], "!expire 5m")
        await house.advance(SETTING_WITHIN)
        assert "lifetimes to be set: put off" in caplog.text
        house.homeserver.release("set_policy")
        await house.advance(MINUTE)
        assert lifetime(house, rooms[0]) == 5 * MINUTE


async def test_questions_about_parents_in_other_rooms_go_on(
    house: House, rooms: list[RoomID]
) -> None:
    gone = {room: EventID(f"$gone-in-{room}") for room in rooms}
    edits = []
    for room in [rooms[0], *rooms]:
        edits.append(relate(house, room, "m.replace", gone[room]))
        house.homeserver.add(
            room,
            {
                "event_id": gone[room],
                "type": "m.room.message",
                "unsigned": {"redacted_because": {"type": "m.room.redaction"}},
            },
        )
    async with house.running(house.intake):
        pass
    house.homeserver.hang("event", rooms[0])
    async with house.running(house.kin):
        timers = await house.timers()
        now = house.clock.now()
        assert [timers[edit] - now for edit in edits] == [MINUTE, MINUTE, 0, 0]
        house.homeserver.release("event")
        await house.advance(2 * MINUTE)
        timers = await house.timers()
        assert all(timers[edit] <= now + 2 * MINUTE for edit in edits)
