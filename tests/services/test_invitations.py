"""Invitations: answered once, whatever the homeserver says meanwhile, and with an end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.core.invitations import Invite
from bot.core.outcomes import Failed, Forbidden, Outcome, RateLimited, Unreachable
from bot.core.types import RoomID, UserID
from bot.services.invitations import WAITS, WITHIN
from tests.support.fake_homeserver import ALICE, BOT
from tests.support.harness import MINUTE, SECOND, Harness

HOUR = 60 * MINUTE
DEAD = Failed(status=502, errcode="M_UNKNOWN")
"""What Synapse says when the server that an invitation came from does not answer."""


def is_in(house: Harness, room: RoomID) -> str:
    return house.homeserver.rooms[room].membership(BOT)


async def waiting(house: Harness) -> int:
    async with house.store._db.transaction() as db:
        [(found,)] = await db.rows("SELECT count(*) FROM invites")
    return int(found)


@pytest.fixture(autouse=True)
async def synced(house: Harness) -> None:
    """The bot has read what there is: rooms that come now are new."""
    await house.store.commit("s0", house.clock.now(), [])


async def test_an_invitation_is_accepted_and_the_room_is_greeted_once(house: Harness) -> None:
    async with house.running(*house.everything):
        room = house.homeserver.make_room(joined=False)
        await house.rest()
        assert is_in(house, room) == "join"
    await house.restart()
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    [greeting] = house.homeserver.heard(room)
    assert greeting.startswith("I make messages disappear")
    assert await waiting(house) == 0


async def test_an_invitation_by_somebody_the_operator_does_not_allow_is_declined(
    house: Harness,
) -> None:
    house.allow = ["@bob:*"]
    await house.restart()
    async with house.running(*house.everything):
        room = house.homeserver.make_room(joined=False)
        await house.rest()
        assert is_in(house, room) == "leave"
    assert house.homeserver.times("join") == []
    assert await waiting(house) == 0


# --- what cannot be answered now -----------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        RateLimited(retry_after=10),
        Unreachable(reason="reset"),
        Failed(status=500),
        Forbidden(),  # in the first moment, another server may not know of it yet
    ],
)
async def test_an_invitation_that_cannot_be_answered_now_is_answered_later(
    house: Harness, trouble: Outcome
) -> None:
    room = house.homeserver.make_room(joined=False)
    house.homeserver.fail_next(trouble, trouble, on="join")
    async with house.running(*house.everything):
        assert is_in(house, room) == "invite"
        await house.advance(10 * SECOND)
        await house.advance(10 * SECOND)
        assert is_in(house, room) == "join"


async def test_an_invitation_survives_a_restart(house: Harness) -> None:
    room = house.homeserver.make_room(joined=False)
    async with house.running(house.intake):
        pass
    await house.restart()
    async with house.running(house.invitations):
        assert is_in(house, room) == "join"


@pytest.mark.parametrize("answer", [DEAD, Forbidden(), Unreachable(reason="TimeoutError")])
async def test_an_invitation_of_a_dead_server_is_tried_for_a_day_and_declined(
    house: Harness, answer: Outcome
) -> None:
    room = house.homeserver.make_room(joined=False)
    house.homeserver.fail_next(*[answer] * 10_000, on="join")
    async with house.running(*house.everything):
        for _ in range(12):
            await house.advance(SECOND)
        for _ in range(26 * 12):
            await house.advance(5 * MINUTE)
        tries = house.homeserver.times("join")
        assert len(tries) == len(WAITS) + 1 < 30
        assert tries[2] - tries[0] <= 10 * SECOND
        assert tries[-1] - tries[0] > 18 * HOUR
        assert is_in(house, room) == "leave"
        assert await waiting(house) == 0


@pytest.mark.parametrize("answer", [DEAD, Forbidden(), Unreachable(reason="TimeoutError")])
async def test_a_decline_that_fails_has_an_end(house: Harness, answer: Outcome) -> None:
    house.allow = []
    house.keep_anew()
    house.homeserver.make_room(joined=False)
    house.homeserver.fail_next(*[answer] * 10_000, on="leave")
    async with house.running(*house.everything):
        for _ in range(26 * 12):
            await house.advance(5 * MINUTE)
        assert len(house.homeserver.times("leave")) == len(WAITS) + 1
        assert await waiting(house) == 0


async def test_a_server_that_comes_back_within_the_day_has_its_invitation_accepted(
    house: Harness,
) -> None:
    room = house.homeserver.make_room(joined=False)
    house.homeserver.fail_next(*[DEAD] * 10, on="join")
    async with house.running(*house.everything):
        for _ in range(11):
            await house.advance(HOUR)
        assert is_in(house, room) == "join"


async def test_a_homeserver_that_is_away_for_days_costs_no_invitation(house: Harness) -> None:
    room = house.homeserver.make_room(joined=False)
    async with house.running(house.intake):
        pass
    away = [Unreachable(reason="refused")] * 10_000
    house.homeserver.fail_next(*away, on="join")
    house.homeserver.fail_next(*away, on="joined_rooms")
    async with house.running(house.invitations):
        for _ in range(3 * 24):
            await house.advance(HOUR)
        house.homeserver.recover()
        await house.advance(MINUTE)
        assert is_in(house, room) == "join"


async def test_while_the_homeserver_is_away_all_invitations_wait_together(house: Harness) -> None:
    for _ in range(50):
        house.homeserver.make_room(joined=False)
    house.guests = replace(house.guests, per_inviter=100)
    house.keep_anew()
    away = [Unreachable(reason="refused")] * 10_000
    house.homeserver.fail_next(*away, on="join")
    house.homeserver.fail_next(*away, on="joined_rooms")
    async with house.running(house.intake, house.invitations):
        for _ in range(10):
            await house.advance(MINUTE)
        asked = len(house.homeserver.times("join"))
        for _ in range(10):
            await house.advance(MINUTE)
    assert len(house.homeserver.times("join")) - asked <= 10 * 8


async def test_a_withdrawn_invitation_is_not_tried_again(house: Harness) -> None:
    room = house.homeserver.make_room(joined=False)
    house.homeserver.fail_next(*[DEAD] * 10_000, on="join")
    async with house.running(*house.everything):
        await house.advance(MINUTE)
        house.homeserver.kick(room)
        await house.rest()
        assert await waiting(house) == 0
        house.homeserver.asked.clear()
        await house.advance(HOUR)
        assert house.homeserver.times("join") == []


async def test_whoever_invites_again_and_again_has_the_bot_try_no_longer(house: Harness) -> None:
    room = house.homeserver.make_room(joined=False)
    house.homeserver.fail_next(*[DEAD] * 10_000, on="join")
    async with house.running(*house.everything):
        for number in range(2 * len(WAITS)):
            if is_in(house, room) == "leave":
                break
            invite = Invite(room_id=room, inviter=ALICE)
            await house.store.commit(f"s{number}", house.clock.now(), [], [invite])
            house.wake()
            await house.advance(SECOND)
        assert is_in(house, room) == "leave"
        assert len(house.homeserver.times("join")) <= len(WAITS) + 1


async def test_what_was_declined_is_not_accepted_later(house: Harness) -> None:
    """Not when the hour is over that had too many invitations, nor after a restart."""
    house.guests = replace(house.guests, per_inviter=1)
    house.keep_anew()
    first, second = (house.homeserver.make_room(joined=False) for _ in range(2))
    house.homeserver.fail_next(*[DEAD] * 6, on="leave")
    async with house.running(*house.everything):
        await house.advance(SECOND)
    await house.restart()
    async with house.running(*house.everything):
        for _ in range(6):
            await house.advance(HOUR)
    assert (is_in(house, first), is_in(house, second)) == ("join", "leave")


async def test_an_invitation_to_a_room_that_the_bot_is_in_leads_not_out_of_it(
    house: Harness,
) -> None:
    house.allow = ["@bob:*"]
    house.keep_anew()
    room = house.homeserver.make_room(joined=False)
    async with house.running(*house.everything):
        house.homeserver.fail_next(*[RateLimited(retry_after=MINUTE)] * 2, on="leave")
        await house.rest()
        house.homeserver.set_member(room, BOT, "join")  # somebody else has let it in
        await house.rest()
        await house.advance(HOUR)
        assert is_in(house, room) == "join"


async def test_a_room_that_threw_the_bot_out_may_invite_it_again(house: Harness) -> None:
    async with house.running(*house.everything):
        room = house.homeserver.make_room(joined=False)
        await house.rest()
        house.homeserver.kick(room)
        await house.rest()
        assert await house.store.room(room) is None
        await house.advance(MINUTE)
        house.homeserver.set_member(room, BOT, "invite", sender=ALICE)
        await house.rest()
        assert is_in(house, room) == "join"
    assert len(house.homeserver.heard(room)) == 2


# --- nobody waits for another --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["join", "leave"])
async def test_answers_that_do_not_come_hold_up_nobody(house: Harness, method: str) -> None:
    """Neither other invitations, nor the news that the bot has lost its power."""
    house.allow = ["@alice:example.org"]
    house.keep_anew()
    old = house.homeserver.make_room()
    house.homeserver.set_lifetime(old, MINUTE)
    async with house.running(*house.everything):
        stalled = [house.homeserver.make_room(joined=False, invited=False) for _ in range(10)]
        for room in stalled:
            house.homeserver.hang(method, room)
            sender = ALICE if method == "join" else UserID("@eve:dead.org")
            house.homeserver.set_member(room, BOT, "invite", sender=sender)
        await house.advance(SECOND)
        house.homeserver.set_power(old, BOT, 0)
        await house.advance(SECOND)
        assert "I can no longer remove messages" in house.homeserver.heard(old)[-1]
        await house.advance(10 * SECOND)
        last = house.homeserver.make_room(joined=False)
        await house.advance(SECOND)
        assert is_in(house, last) == "join"
        for _ in range(4):
            await house.advance(WITHIN // 2)
        house.homeserver.release(method)
        for _ in range(4):
            await house.advance(HOUR)
        wanted = {"join" if method == "join" else "leave"}
        assert {is_in(house, room) for room in stalled} == wanted


async def test_a_room_whose_state_is_not_told_holds_up_no_other(house: Harness) -> None:
    rooms = [house.homeserver.make_room() for _ in range(3)]
    for room in rooms:
        house.homeserver.set_lifetime(room, MINUTE)
    async with house.running(*house.everything):
        house.homeserver.hang("power", rooms[0])
        for room in rooms:
            house.homeserver.set_power(room, BOT, 0)
        await house.rest()
        for room in rooms[1:]:
            known = await house.store.room(room)
            assert known is not None
            assert known.suspended
        house.homeserver.release("power")
        for _ in range(3):
            await house.advance(MINUTE)
        known = await house.store.room(rooms[0])
        assert known is not None
        assert known.suspended
