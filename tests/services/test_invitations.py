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


def is_in(harness: Harness, room: RoomID) -> str:
    return harness.homeserver.rooms[room].membership(BOT)


async def waiting(harness: Harness) -> int:
    async with harness.store._db.transaction() as db:
        [(found,)] = await db.rows("SELECT count(*) FROM invitations")
    return int(found)


@pytest.fixture(autouse=True)
async def synced(harness: Harness) -> None:
    """The bot has read what there is: rooms that come now are new."""
    await harness.store.commit("s0", harness.clock.now(), [])


async def test_an_invitation_is_accepted_and_the_room_is_greeted_once(harness: Harness) -> None:
    async with harness.running(*harness.everything):
        room = harness.homeserver.make_room(joined=False)
        await harness.rest()
        assert is_in(harness, room) == "join"
    await harness.restart()
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    [greeting] = harness.homeserver.heard(room)
    assert greeting.startswith("I make messages disappear")
    assert await waiting(harness) == 0


async def test_an_invitation_by_somebody_the_operator_does_not_allow_is_declined(
    harness: Harness,
) -> None:
    harness.allow = ["@bob:*"]
    await harness.restart()
    async with harness.running(*harness.everything):
        room = harness.homeserver.make_room(joined=False)
        await harness.rest()
        assert is_in(harness, room) == "leave"
    assert harness.homeserver.times("join") == []
    assert await waiting(harness) == 0


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
    harness: Harness, trouble: Outcome
) -> None:
    room = harness.homeserver.make_room(joined=False)
    harness.homeserver.fail_next(trouble, trouble, on="join")
    async with harness.running(*harness.everything):
        assert is_in(harness, room) == "invite"
        await harness.advance(10 * SECOND)
        await harness.advance(10 * SECOND)
        assert is_in(harness, room) == "join"


async def test_an_invitation_survives_a_restart(harness: Harness) -> None:
    room = harness.homeserver.make_room(joined=False)
    async with harness.running(harness.sync):
        pass
    await harness.restart()
    async with harness.running(harness.invitations):
        assert is_in(harness, room) == "join"


@pytest.mark.parametrize("answer", [DEAD, Forbidden(), Unreachable(reason="TimeoutError")])
async def test_a_dead_servers_invitation_is_tried_for_a_day_and_declined(
    harness: Harness, answer: Outcome
) -> None:
    room = harness.homeserver.make_room(joined=False)
    harness.homeserver.fail_next(*[answer] * 10_000, on="join")
    async with harness.running(*harness.everything):
        for _ in range(12):
            await harness.advance(SECOND)
        for _ in range(26 * 12):
            await harness.advance(5 * MINUTE)
        tries = harness.homeserver.times("join")
        assert len(tries) == len(WAITS) + 1 < 30
        assert tries[2] - tries[0] <= 10 * SECOND
        assert tries[-1] - tries[0] > 18 * HOUR
        assert is_in(harness, room) == "leave"
        assert await waiting(harness) == 0


@pytest.mark.parametrize("answer", [DEAD, Forbidden(), Unreachable(reason="TimeoutError")])
async def test_a_decline_that_fails_has_an_end(harness: Harness, answer: Outcome) -> None:
    harness.allow = []
    harness.keep_anew()
    harness.homeserver.make_room(joined=False)
    harness.homeserver.fail_next(*[answer] * 10_000, on="leave")
    async with harness.running(*harness.everything):
        for _ in range(26 * 12):
            await harness.advance(5 * MINUTE)
        assert len(harness.homeserver.times("leave")) == len(WAITS) + 1
        assert await waiting(harness) == 0


async def test_a_server_that_comes_back_within_the_day_has_its_invitation_accepted(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room(joined=False)
    harness.homeserver.fail_next(*[DEAD] * 10, on="join")
    async with harness.running(*harness.everything):
        for _ in range(11):
            await harness.advance(HOUR)
        assert is_in(harness, room) == "join"


async def test_a_homeserver_that_is_away_for_days_costs_no_invitation(harness: Harness) -> None:
    room = harness.homeserver.make_room(joined=False)
    async with harness.running(harness.sync):
        pass
    away = [Unreachable(reason="refused")] * 10_000
    harness.homeserver.fail_next(*away, on="join")
    harness.homeserver.fail_next(*away, on="joined_rooms")
    async with harness.running(harness.invitations):
        for _ in range(3 * 24):
            await harness.advance(HOUR)
        harness.homeserver.recover()
        await harness.advance(MINUTE)
        assert is_in(harness, room) == "join"


async def test_while_the_homeserver_is_away_all_invitations_wait_together(harness: Harness) -> None:
    for _ in range(50):
        harness.homeserver.make_room(joined=False)
    harness.invite_policy = replace(harness.invite_policy, per_inviter=100)
    harness.keep_anew()
    away = [Unreachable(reason="refused")] * 10_000
    harness.homeserver.fail_next(*away, on="join")
    harness.homeserver.fail_next(*away, on="joined_rooms")
    async with harness.running(harness.sync, harness.invitations):
        for _ in range(10):
            await harness.advance(MINUTE)
        asked = len(harness.homeserver.times("join"))
        for _ in range(10):
            await harness.advance(MINUTE)
    assert len(harness.homeserver.times("join")) - asked <= 10 * 8


async def test_a_withdrawn_invitation_is_not_tried_again(harness: Harness) -> None:
    room = harness.homeserver.make_room(joined=False)
    harness.homeserver.fail_next(*[DEAD] * 10_000, on="join")
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
        harness.homeserver.kick(room)
        await harness.rest()
        assert await waiting(harness) == 0
        harness.homeserver.asked.clear()
        await harness.advance(HOUR)
        assert harness.homeserver.times("join") == []


async def test_whoever_invites_again_and_again_has_the_bot_try_no_longer(harness: Harness) -> None:
    room = harness.homeserver.make_room(joined=False)
    harness.homeserver.fail_next(*[DEAD] * 10_000, on="join")
    async with harness.running(*harness.everything):
        for number in range(2 * len(WAITS)):
            if is_in(harness, room) == "leave":
                break
            invite = Invite(room_id=room, inviter=ALICE)
            await harness.store.commit(f"s{number}", harness.clock.now(), [], [invite])
            harness.wake()
            await harness.advance(SECOND)
        assert is_in(harness, room) == "leave"
        assert len(harness.homeserver.times("join")) <= len(WAITS) + 1


async def test_what_was_declined_is_not_accepted_later(harness: Harness) -> None:
    """Not when the hour is over that had too many invitations, nor after a restart."""
    harness.invite_policy = replace(harness.invite_policy, per_inviter=1)
    harness.keep_anew()
    first, second = (harness.homeserver.make_room(joined=False) for _ in range(2))
    harness.homeserver.fail_next(*[DEAD] * 6, on="leave")
    async with harness.running(*harness.everything):
        await harness.advance(SECOND)
    await harness.restart()
    async with harness.running(*harness.everything):
        for _ in range(6):
            await harness.advance(HOUR)
    assert (is_in(harness, first), is_in(harness, second)) == ("join", "leave")


async def test_an_invitation_to_a_joined_room_does_not_lead_out_of_it(
    harness: Harness,
) -> None:
    harness.allow = ["@bob:*"]
    harness.keep_anew()
    room = harness.homeserver.make_room(joined=False)
    async with harness.running(*harness.everything):
        harness.homeserver.fail_next(*[RateLimited(retry_after=MINUTE)] * 2, on="leave")
        await harness.rest()
        harness.homeserver.set_member(room, BOT, "join")  # somebody else has let it in
        await harness.rest()
        await harness.advance(HOUR)
        assert is_in(harness, room) == "join"


async def test_an_invitation_that_follows_a_ban_within_one_sync_counts(
    harness: Harness,
) -> None:
    """Synapse tells such a room as one that was left, too."""
    room = harness.homeserver.make_room(joined=False)
    invite = Invite(room_id=room, inviter=ALICE)
    for number in range(2):
        await harness.store.commit(f"t{number}", harness.clock.now(), [], [invite], [room])
        waits = await harness.store.invitations.undecided()
        assert waits is not None
        assert waits.room_id == room


async def test_a_room_that_threw_the_bot_out_may_invite_it_again(harness: Harness) -> None:
    async with harness.running(*harness.everything):
        room = harness.homeserver.make_room(joined=False)
        await harness.rest()
        harness.homeserver.kick(room)
        await harness.rest()
        assert await harness.store.room(room) is None
        await harness.advance(MINUTE)
        harness.homeserver.set_member(room, BOT, "invite", sender=ALICE)
        await harness.rest()
        assert is_in(harness, room) == "join"
    assert len(harness.homeserver.heard(room)) == 2


# --- nobody waits for another --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["join", "leave"])
async def test_answers_that_do_not_come_hold_up_nobody(harness: Harness, method: str) -> None:
    """Neither other invitations, nor the news that the bot has lost its power."""
    harness.allow = ["@alice:example.org"]
    harness.keep_anew()
    old = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(old, MINUTE)
    async with harness.running(*harness.everything):
        stalled = [harness.homeserver.make_room(joined=False, invited=False) for _ in range(10)]
        for room in stalled:
            harness.homeserver.hang(method, room)
            sender = ALICE if method == "join" else UserID("@eve:dead.org")
            harness.homeserver.set_member(room, BOT, "invite", sender=sender)
        await harness.advance(SECOND)
        harness.homeserver.set_power(old, BOT, 0)
        await harness.advance(SECOND)
        assert "I can no longer remove messages" in harness.homeserver.heard(old)[-1]
        await harness.advance(10 * SECOND)
        last = harness.homeserver.make_room(joined=False)
        await harness.advance(SECOND)
        assert is_in(harness, last) == "join"
        for _ in range(4):
            await harness.advance(WITHIN // 2)
        harness.homeserver.release(method)
        for _ in range(4):
            await harness.advance(HOUR)
        wanted = {"join" if method == "join" else "leave"}
        assert {is_in(harness, room) for room in stalled} == wanted


async def test_a_room_whose_state_is_not_told_holds_up_no_other(harness: Harness) -> None:
    rooms = [harness.homeserver.make_room() for _ in range(3)]
    for room in rooms:
        harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(*harness.everything):
        harness.homeserver.hang("power", rooms[0])
        for room in rooms:
            harness.homeserver.set_power(room, BOT, 0)
        await harness.rest()
        for room in rooms[1:]:
            known = await harness.store.room(room)
            assert known is not None
            assert known.suspended
        harness.homeserver.release("power")
        for _ in range(3):
            await harness.advance(MINUTE)
        known = await harness.store.room(rooms[0])
        assert known is not None
        assert known.suspended
