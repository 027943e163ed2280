"""A bot that was removed and is asked back: what was waiting goes on, as if it had been there."""

from __future__ import annotations

from typing import Any

import pytest

from bot.model import EventID, RoomID
from bot.store.standing import KEPT_FOR
from tests.fakes import ALICE, BOT
from tests.house import DAY, MINUTE, SECOND, House


@pytest.fixture
async def room(house: House) -> RoomID:
    """A room that the bot knows."""
    room = house.homeserver.make_room()
    await house.enter(room, SECOND)
    return room


async def messages(house: House, room: RoomID, count: int, *, due: int) -> list[EventID]:
    """Send messages that are due so many milliseconds from now."""
    sent = [house.homeserver.send(room, f"message {number}") for number in range(count)]
    await house.remember(room, *sent, due=house.clock.now() + due)
    return sent


def gone(house: House, room: RoomID, sent: list[EventID]) -> int:
    return sum(house.homeserver.is_redacted(room, one) for one in sent)


async def kept(house: House) -> int:
    async with house.store._db.transaction() as db:
        [(found,)] = await db.rows("SELECT count(*) FROM left_behind")
    return int(found)


async def invite_again(house: House, room: RoomID) -> None:
    house.homeserver.set_member(room, BOT, "invite", sender=ALICE)
    await house.rest()
    assert house.homeserver.rooms[room].membership(BOT) == "join"


@pytest.mark.parametrize("how", ["leave", "ban"])
async def test_what_waited_when_the_bot_was_removed_goes_when_it_is_asked_back(
    house: House, room: RoomID, how: str
) -> None:
    async with house.running(*house.everything):
        early = await messages(house, room, 3, due=MINUTE)
        late = await messages(house, room, 2, due=10 * MINUTE)
        house.homeserver.set_member(room, BOT, how, sender=ALICE)
        await house.rest()
        assert await house.store.room(room) is None
        await house.advance(5 * MINUTE)
        assert gone(house, room, early + late) == 0
        await invite_again(house, room)
        await house.advance(SECOND)
        assert gone(house, room, early) == 3
        assert gone(house, room, late) == 0
        await house.advance(5 * MINUTE)
        assert gone(house, room, late) == 2
    assert await kept(house) == 0
    assert "What waited when I was removed still goes: 5 messages." in "".join(
        house.homeserver.heard(room)
    )


async def test_it_is_kept_over_restarts_and_a_second_removal(house: House, room: RoomID) -> None:
    sent = await messages(house, room, 3, due=2 * DAY)
    for _ in range(2):
        house.homeserver.kick(room)
        await house.restart()
        async with house.running(*house.everything):
            await house.advance(MINUTE)
            assert await kept(house) == 3
            await invite_again(house, room)
            assert await house.pending(room) == 3
    async with house.running(*house.everything):
        await house.advance(2 * DAY)
    assert gone(house, room, sent) == 3


async def test_it_costs_nothing_while_nobody_asks_the_bot_back(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        await messages(house, room, 3, due=MINUTE)
        house.homeserver.kick(room)
        await house.rest()
        house.homeserver.asked.clear()
        for _ in range(10):
            await house.advance(DAY)
    assert house.homeserver.asked == []


async def test_after_a_month_it_is_forgotten(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        sent = await messages(house, room, 3, due=2 * KEPT_FOR)
        house.homeserver.kick(room)
        await house.rest()
        await house.advance(KEPT_FOR + SECOND)
        assert await kept(house) == 3
        house.homeserver.make_room()  # there is news again
        await house.rest()
        assert await kept(house) == 0
        await invite_again(house, room)
        await house.advance(2 * KEPT_FOR)
    assert gone(house, room, sent) == 0
    assert "What waited" not in "".join(house.homeserver.heard(room))


async def test_a_room_that_was_deleted_is_forgotten_after_a_month_too(
    house: House, room: RoomID
) -> None:
    """It answers as one does that has banned the bot."""
    async with house.running(*house.everything):
        await messages(house, room, 3, due=MINUTE)
        del house.homeserver.rooms[room]
        await house.advance(MINUTE)
        assert await house.store.room(room) is None
        house.homeserver.asked.clear()
        await house.advance(KEPT_FOR + SECOND)
        assert house.homeserver.asked == []
        house.homeserver.make_room()
        await house.rest()
    assert await kept(house) == 0


async def test_what_belongs_to_a_message_goes_before_it_after_the_return_too(
    house: House, room: RoomID
) -> None:
    async with house.running(*house.everything):
        [old] = await messages(house, room, 1, due=SECOND // 2)
        edit: dict[str, Any] = {"m.relates_to": {"rel_type": "m.replace", "event_id": old}}
        child = house.homeserver.send(room, "edited", **edit)
        await house.rest()
        house.homeserver.kick(room)
        await house.rest()
        await house.advance(MINUTE)
        await invite_again(house, room)
        await house.advance(MINUTE)
    targets = [event["redacts"] for event in house.homeserver.redactions(room)]
    assert targets.index(child) < targets.index(old)
