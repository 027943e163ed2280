"""A room in which the bot is alone is left, once nothing waits there and nobody may come."""

from __future__ import annotations

import pytest

from bot.core.outcomes import Failed, Outcome, Unreachable
from bot.core.types import RoomID
from bot.services.empty_rooms import LOOK_AGAIN, LOOK_AT_WORK
from bot.services.timeline_writer import LOOK_AFTER
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

HOUR = 60 * MINUTE


@pytest.fixture(params=[False, True], ids=["told who goes", "told how many are there"])
def homeserver(harness: Harness, request: pytest.FixtureRequest) -> None:
    """Homeservers differ in whether they count a room's members."""
    harness.homeserver.counts_members = request.param


@pytest.fixture
async def room(harness: Harness, homeserver: None) -> RoomID:
    """A room of alice's with the bot, which it has known for a while."""
    room = harness.homeserver.make_room()
    async with harness.running(*harness.everything):
        await harness.advance(2 * LOOK_AFTER)
    return room


def is_in(harness: Harness, room: RoomID) -> bool:
    return harness.homeserver.rooms[room].membership(BOT) == "join"


async def test_a_room_that_everybody_has_left_is_left_and_forgotten(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        harness.homeserver.set_member(room, ALICE, "leave")
        await harness.rest()
        await harness.advance(LOOK_AFTER - SECOND)
        assert is_in(harness, room)
        await harness.advance(2 * SECOND)
        assert not is_in(harness, room)
        assert await harness.store.room(room) is None
    async with harness.store._db.transaction() as db:
        assert await db.rows("SELECT * FROM rooms") == []


async def test_whoever_invites_the_bot_and_goes_leaves_it_behind(
    harness: Harness, homeserver: None
) -> None:
    await harness.store.commit("s0", harness.clock.now(), [])
    async with harness.running(*harness.everything):
        harness.homeserver.hold("join")
        room = harness.homeserver.make_room(joined=False)
        await harness.rest()
        harness.homeserver.set_member(room, ALICE, "leave")
        harness.homeserver.release("join")
        await harness.rest()
        assert is_in(harness, room)  # not in the first moments
        await harness.advance(LOOK_AFTER)
        assert not is_in(harness, room)


async def test_a_room_with_others_is_kept(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        harness.homeserver.set_member(room, BOB, "join")
        harness.homeserver.set_member(room, ALICE, "leave")
        await harness.rest()
        await harness.advance(LOOK_AFTER)
        assert is_in(harness, room)
        harness.homeserver.asked.clear()
        for _ in range(10):
            await harness.advance(DAY)
        assert harness.homeserver.times("others") == []
        harness.homeserver.set_member(room, BOB, "ban", sender=ALICE)
        await harness.rest()
        await harness.advance(LOOK_AFTER)
        assert not is_in(harness, room)


async def test_a_room_is_kept_while_somebody_is_invited(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        harness.homeserver.set_member(room, BOB, "invite", sender=ALICE)
        harness.homeserver.set_member(room, ALICE, "leave")
        await harness.rest()
        for _ in range(5):
            await harness.advance(LOOK_AGAIN)
        assert is_in(harness, room)
        harness.homeserver.set_member(room, BOB, "leave")
        await harness.rest()
        await harness.advance(LOOK_AGAIN)
        assert not is_in(harness, room)


async def test_a_room_is_kept_until_what_waits_there_is_gone(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.set_lifetime(room, 2 * HOUR)
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "still to go")
        harness.homeserver.set_member(room, ALICE, "leave")
        await harness.rest()
        await harness.advance(HOUR)
        assert is_in(harness, room)
        await harness.advance(HOUR)
        assert harness.homeserver.is_redacted(room, sent)
        await harness.advance(LOOK_AT_WORK)
        await harness.advance(LOOK_AT_WORK)
        assert not is_in(harness, room)


async def test_what_cannot_be_done_without_power_holds_nobody(
    harness: Harness, room: RoomID
) -> None:
    """Nobody is left to give the bot what it lacks."""
    harness.homeserver.set_lifetime(room, HOUR)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "stays for good")
        harness.homeserver.set_power(room, BOT, 0)
        await harness.rest()
        harness.homeserver.set_member(room, ALICE, "leave")
        await harness.rest()
        await harness.advance(LOOK_AFTER)
        await harness.advance(LOOK_AT_WORK)
        assert not is_in(harness, room)


@pytest.mark.parametrize("trouble", [Unreachable(reason="reset"), Failed(status=200)])
async def test_an_unreadable_list_of_members_is_no_reason_to_leave(
    harness: Harness, room: RoomID, trouble: Outcome
) -> None:
    harness.homeserver.fail_next(*[trouble] * 3, on="others")
    async with harness.running(*harness.everything):
        harness.homeserver.set_member(room, ALICE, "leave")
        await harness.rest()
        await harness.advance(LOOK_AFTER)
        for _ in range(2):
            await harness.advance(LOOK_AGAIN)
            assert is_in(harness, room)
        await harness.advance(LOOK_AGAIN)
        assert not is_in(harness, room)


async def test_a_room_that_cannot_be_left_now_is_left_later(harness: Harness, room: RoomID) -> None:
    harness.homeserver.fail_next(Unreachable(reason="reset"), on="leave")
    async with harness.running(*harness.everything):
        harness.homeserver.set_member(room, ALICE, "leave")
        await harness.rest()
        await harness.advance(LOOK_AFTER)
        assert is_in(harness, room)
        await harness.advance(LOOK_AT_WORK)
        assert not is_in(harness, room)


async def test_it_is_looked_at_after_a_restart_too(harness: Harness, room: RoomID) -> None:
    async with harness.running(harness.sync):
        harness.homeserver.set_member(room, ALICE, "leave")
    await harness.restart()
    async with harness.running(*harness.everything):
        await harness.advance(LOOK_AFTER)
        assert not is_in(harness, room)


async def test_who_comes_back_in_time_keeps_the_bot(harness: Harness) -> None:
    room = harness.homeserver.make_room(public=True)
    async with harness.running(*harness.everything):
        await harness.advance(LOOK_AFTER)
        harness.homeserver.set_member(room, ALICE, "leave")
        await harness.rest()
        await harness.advance(LOOK_AFTER - SECOND)
        harness.homeserver.set_member(room, ALICE, "join")
        await harness.rest()
        await harness.advance(HOUR)
        assert is_in(harness, room)
