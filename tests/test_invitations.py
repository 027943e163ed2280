"""Invitations: answered once, whatever the homeserver says meanwhile."""

from __future__ import annotations

import pytest

from bot.model import Failed, Forbidden, RateLimited, RoomID, Unreachable, UserID
from bot.rooms import TRIES
from tests.fakes import ALICE, BOT
from tests.house import MINUTE, House


def is_in(house: House, room: RoomID) -> str:
    return house.homeserver.rooms[room].membership(BOT)


async def test_an_invitation_is_accepted_and_the_room_is_greeted_once(house: House) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    async with house.running(*house.everything):
        room = house.homeserver.make_room(joined=False)
        await house.rest()
        assert is_in(house, room) == "join"
    await house.restart()
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    [greeting] = house.homeserver.heard(room)
    assert greeting.startswith("I make messages disappear")


async def test_an_invitation_by_somebody_the_operator_does_not_allow_is_declined(
    house: House,
) -> None:
    house.allow = ["@bob:*"]
    await house.restart()
    await house.store.commit("s0", house.clock.now(), [])
    async with house.running(*house.everything):
        room = house.homeserver.make_room(joined=False)
        await house.rest()
        assert is_in(house, room) == "leave"
    assert house.homeserver.times("join") == []


@pytest.mark.parametrize(
    "trouble", [RateLimited(retry_after=10), Unreachable(reason="reset"), Failed(status=500)]
)
async def test_an_invitation_that_cannot_be_answered_now_is_answered_later(
    house: House, trouble: RateLimited | Unreachable | Failed
) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    room = house.homeserver.make_room(joined=False)
    house.homeserver.fail_next(trouble, trouble, on="join")
    async with house.running(*house.everything):
        assert is_in(house, room) == "invite"
        await house.advance(MINUTE)
        await house.advance(MINUTE)
        assert is_in(house, room) == "join"


async def test_an_invitation_survives_a_restart(house: House) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    room = house.homeserver.make_room(joined=False)
    async with house.running(house.intake):
        pass
    await house.restart()
    async with house.running(house.rooms):
        assert is_in(house, room) == "join"


@pytest.mark.parametrize("final", [Forbidden(), Failed(status=500)])
async def test_an_invitation_that_leads_nowhere_is_given_up(
    house: House, final: Forbidden | Failed
) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    house.homeserver.make_room(joined=False)
    house.homeserver.fail_next(*[final] * (TRIES + 1), on="join")
    async with house.running(*house.everything):
        for _ in range(2 * TRIES):
            await house.advance(MINUTE)
    assert await house.store.next_invite() is None


async def test_a_room_that_threw_the_bot_out_may_invite_it_again(house: House) -> None:
    await house.store.commit("s0", house.clock.now(), [])
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


@pytest.mark.parametrize(
    ("glob", "who", "may"),
    [
        ("*:[2001:db8::1]", "@alice:[2001:db8::1]", True),
        ("*:[2001:db8::1]:8448", "@alice:[2001:db8::1]:8448", True),
        ("*:[2001:db8::?]", "@alice:[2001:db8::7]", True),
        ("@alice:[*", "@alice:[2001:db8::1]:8448", True),
        ("*:[2001:db8::1]", "@alice:2", False),
        ("*:[!a]*", "@alice:[!a]", True),
        ("@[ab]:*", "@a:example.org", False),
        ("*:example.org", "@alice:example.org", True),
        ("*:example.org", "@alice:example.org.evil.org", False),
        ("*:example.org", "@alice:EXAMPLE.org", False),
    ],
)
async def test_only_stars_and_question_marks_have_a_meaning_in_a_pattern(
    house: House, glob: str, who: str, may: bool
) -> None:
    house.allow = [glob]
    await house.restart()
    assert house.rooms.may_invite(UserID(who)) is may
