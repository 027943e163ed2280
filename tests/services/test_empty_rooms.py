"""A room in which the bot is alone is left, once nothing waits there and nobody may come."""

from __future__ import annotations

import pytest

from bot.core.outcomes import Failed, Outcome, Unreachable
from bot.core.types import RoomID
from bot.services.empty_rooms import LOOK_AGAIN, LOOK_AT_WORK
from bot.store.store import LOOK_AFTER
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

HOUR = 60 * MINUTE


@pytest.fixture(params=[False, True], ids=["told who goes", "told how many are there"])
def homeserver(house: Harness, request: pytest.FixtureRequest) -> None:
    """Homeservers differ in whether they count a room's members."""
    house.homeserver.counts_members = request.param


@pytest.fixture
async def room(house: Harness, homeserver: None) -> RoomID:
    """A room of alice's with the bot, which it has known for a while."""
    room = house.homeserver.make_room()
    async with house.running(*house.everything):
        await house.advance(2 * LOOK_AFTER)
    return room


def is_in(house: Harness, room: RoomID) -> bool:
    return house.homeserver.rooms[room].membership(BOT) == "join"


async def test_a_room_that_everybody_has_left_is_left_and_forgotten(
    house: Harness, room: RoomID
) -> None:
    async with house.running(*house.everything):
        house.homeserver.set_member(room, ALICE, "leave")
        await house.rest()
        await house.advance(LOOK_AFTER - SECOND)
        assert is_in(house, room)
        await house.advance(2 * SECOND)
        assert not is_in(house, room)
        assert await house.store.room(room) is None
    async with house.store._db.transaction() as db:
        assert await db.rows("SELECT * FROM rooms") == []


async def test_whoever_invites_the_bot_and_goes_leaves_it_behind(
    house: Harness, homeserver: None
) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    async with house.running(*house.everything):
        house.homeserver.hold("join")
        room = house.homeserver.make_room(joined=False)
        await house.rest()
        house.homeserver.set_member(room, ALICE, "leave")
        house.homeserver.release("join")
        await house.rest()
        assert is_in(house, room)  # not in the first moments
        await house.advance(LOOK_AFTER)
        assert not is_in(house, room)


async def test_a_room_with_others_is_kept(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        house.homeserver.set_member(room, BOB, "join")
        house.homeserver.set_member(room, ALICE, "leave")
        await house.rest()
        await house.advance(LOOK_AFTER)
        assert is_in(house, room)
        house.homeserver.asked.clear()
        for _ in range(10):
            await house.advance(DAY)
        assert house.homeserver.times("others") == []
        house.homeserver.set_member(room, BOB, "ban", sender=ALICE)
        await house.rest()
        await house.advance(LOOK_AFTER)
        assert not is_in(house, room)


async def test_a_room_is_kept_while_somebody_is_invited(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        house.homeserver.set_member(room, BOB, "invite", sender=ALICE)
        house.homeserver.set_member(room, ALICE, "leave")
        await house.rest()
        for _ in range(5):
            await house.advance(LOOK_AGAIN)
        assert is_in(house, room)
        house.homeserver.set_member(room, BOB, "leave")
        await house.rest()
        await house.advance(LOOK_AGAIN)
        assert not is_in(house, room)


async def test_a_room_is_kept_until_what_waits_there_is_gone(house: Harness, room: RoomID) -> None:
    house.homeserver.set_lifetime(room, 2 * HOUR)
    async with house.running(*house.everything):
        sent = await house.said_in(room, "still to go")
        house.homeserver.set_member(room, ALICE, "leave")
        await house.rest()
        await house.advance(HOUR)
        assert is_in(house, room)
        await house.advance(HOUR)
        assert house.homeserver.is_redacted(room, sent)
        await house.advance(LOOK_AT_WORK)
        await house.advance(LOOK_AT_WORK)
        assert not is_in(house, room)


async def test_what_cannot_be_done_without_power_holds_nobody(house: Harness, room: RoomID) -> None:
    """Nobody is left to give the bot what it lacks."""
    house.homeserver.set_lifetime(room, HOUR)
    async with house.running(*house.everything):
        await house.said_in(room, "stays for good")
        house.homeserver.set_power(room, BOT, 0)
        await house.rest()
        house.homeserver.set_member(room, ALICE, "leave")
        await house.rest()
        await house.advance(LOOK_AFTER)
        await house.advance(LOOK_AT_WORK)
        assert not is_in(house, room)


@pytest.mark.parametrize("trouble", [Unreachable(reason="reset"), Failed(status=200)])
async def test_a_list_of_members_that_cannot_be_read_is_no_reason_to_leave(
    house: Harness, room: RoomID, trouble: Outcome
) -> None:
    house.homeserver.fail_next(*[trouble] * 3, on="others")
    async with house.running(*house.everything):
        house.homeserver.set_member(room, ALICE, "leave")
        await house.rest()
        await house.advance(LOOK_AFTER)
        for _ in range(2):
            await house.advance(LOOK_AGAIN)
            assert is_in(house, room)
        await house.advance(LOOK_AGAIN)
        assert not is_in(house, room)


async def test_a_room_that_cannot_be_left_now_is_left_later(house: Harness, room: RoomID) -> None:
    house.homeserver.fail_next(Unreachable(reason="reset"), on="leave")
    async with house.running(*house.everything):
        house.homeserver.set_member(room, ALICE, "leave")
        await house.rest()
        await house.advance(LOOK_AFTER)
        assert is_in(house, room)
        await house.advance(LOOK_AT_WORK)
        assert not is_in(house, room)


async def test_it_is_looked_at_after_a_restart_too(house: Harness, room: RoomID) -> None:
    async with house.running(house.intake):
        house.homeserver.set_member(room, ALICE, "leave")
    await house.restart()
    async with house.running(*house.everything):
        await house.advance(LOOK_AFTER)
        assert not is_in(house, room)


async def test_who_comes_back_in_time_keeps_the_bot(house: Harness) -> None:
    room = house.homeserver.make_room(public=True)
    async with house.running(*house.everything):
        await house.advance(LOOK_AFTER)
        house.homeserver.set_member(room, ALICE, "leave")
        await house.rest()
        await house.advance(LOOK_AFTER - SECOND)
        house.homeserver.set_member(room, ALICE, "join")
        await house.rest()
        await house.advance(HOUR)
        assert is_in(house, room)
