"""A room whose requests are never answered holds up no other."""

from __future__ import annotations

import pytest

from bot.model import EventID, RoomID
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
