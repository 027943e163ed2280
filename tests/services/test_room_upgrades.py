"""Following a replaced room: both rooms must say so, and nobody's lifetime is overruled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot.core.lifetimes import POLICY_EVENT, LifetimeLimits
from bot.core.outcomes import Failed, Forbidden, NotFound, OutcomeError, RateLimited, Unreachable
from bot.core.successors import predecessor, replacement
from bot.core.types import RoomID
from bot.store.successors import MOST_OF_ONE
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

MOVED = "Messages disappear here as in the old room: after 1 day."
NEEDS = "To go on like that here I need power level 50, and I have 0."
CLOSED = "This room was replaced by a new one"
WELCOME = "I make messages disappear"
TAKEN = {"type": "after_send", "timer": DAY}


def is_in(harness: Harness, room: RoomID) -> bool:
    return harness.homeserver.rooms[room].membership(BOT) == "join"


async def old_room(harness: Harness, lifetime: int | None = DAY, **room: Any) -> RoomID:
    """A room that the bot has known for a while; alice's server has a later clock."""
    made = harness.homeserver.make_room(**room)
    if lifetime is not None:
        harness.homeserver.set_lifetime(made, lifetime)
    async with harness.running(*harness.everything):
        pass
    harness.clock.advance(SECOND)
    return made


# --- the way there -------------------------------------------------------------------------------


async def test_the_bot_follows_into_an_open_room_and_takes_the_lifetime_along(
    harness: Harness,
) -> None:
    old = await old_room(harness, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.rest()
        assert is_in(harness, new)
        assert harness.homeserver.lifetime_of(new) == TAKEN
        sent = await harness.said_in(new, "hello")
        assert (await harness.timers())[sent] == harness.clock.now() + DAY
    assert harness.homeserver.heard(new) == [MOVED]
    assert harness.homeserver.heard(old) == []


async def test_what_waits_in_the_old_room_still_goes(harness: Harness) -> None:
    old = await old_room(harness, MINUTE, public=True)
    async with harness.running(*harness.everything):
        sent = await harness.said_in(old, "hello")
        harness.homeserver.upgrade(old)
        await harness.rest()
        await harness.advance(MINUTE)
    assert harness.homeserver.is_redacted(old, sent)


async def test_a_closed_room_is_entered_after_an_invitation(harness: Harness) -> None:
    old = await old_room(harness)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.rest()
        [told] = harness.homeserver.heard(old)
        assert told.startswith(CLOSED)
        assert not is_in(harness, new)
        harness.homeserver.set_power(old, BOB, 10)  # one more review says nothing more
        await harness.rest()
    await harness.restart()
    async with harness.running(*harness.everything):
        harness.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await harness.rest()
    assert harness.homeserver.lifetime_of(new) == TAKEN
    assert harness.homeserver.heard(new) == [MOVED]
    assert len(harness.homeserver.heard(old)) == 1


async def test_somebody_who_may_not_invite_the_bot_does_not_lead_it_on(harness: Harness) -> None:
    harness.allow = ["@bob:*"]
    await harness.restart()
    old = await old_room(harness, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old, sender=ALICE)
        await harness.rest()
        assert not is_in(harness, new)
        [told] = harness.homeserver.heard(old)
        assert told.startswith(CLOSED)
        harness.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await harness.rest()
        assert not is_in(harness, new)
        harness.homeserver.set_member(new, BOT, "invite", sender=BOB)
        await harness.rest()
    assert harness.homeserver.heard(new) == [MOVED]


@pytest.mark.parametrize(
    "trouble", [RateLimited(retry_after=10), Unreachable(reason="reset"), Failed(status=500)]
)
@pytest.mark.parametrize("method", ["join", "state", "set_policy", "joined_rooms"])
async def test_what_fails_on_the_way_is_tried_again(
    harness: Harness, trouble: RateLimited | Unreachable | Failed, method: str
) -> None:
    old = await old_room(harness, public=True)
    harness.homeserver.fail_next(trouble, trouble, on=method)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        for _ in range(4):
            await harness.advance(MINUTE)
    assert harness.homeserver.lifetime_of(new) == TAKEN
    assert harness.homeserver.heard(new) == [MOVED]


async def test_a_crash_on_the_way_says_and_sets_nothing_twice(harness: Harness) -> None:
    old = await old_room(harness, public=True)
    harness.homeserver.hold("set_policy", answer=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.rest()
        assert harness.homeserver.lifetime_of(new) == TAKEN
    await harness.restart()
    harness.homeserver.release("set_policy")
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    assert harness.homeserver.heard(new) == [MOVED]
    assert len(harness.homeserver.times("set_policy")) == 1


# --- power in the new room -----------------------------------------------------------------------


async def test_without_power_it_says_what_it_needs_and_then_goes_on(
    harness: Harness,
) -> None:
    old = await old_room(harness, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old, power=0)
        await harness.rest()
        [told] = harness.homeserver.heard(new)
        assert NEEDS in told
        assert harness.homeserver.lifetime_of(new) is None
        harness.homeserver.set_power(new, BOT, 10)
        await harness.rest()
        assert len(harness.homeserver.heard(new)) == 1
    await harness.restart()
    async with harness.running(*harness.everything):
        harness.homeserver.set_power(new, BOT, 50)
        await harness.rest()
    assert harness.homeserver.lifetime_of(new) == TAKEN
    assert harness.homeserver.heard(new)[1:] == [MOVED]


# --- what somebody has set holds -----------------------------------------------------------------


@pytest.mark.parametrize("setting", [MINUTE, None])
async def test_a_lifetime_that_somebody_has_set_there_holds(
    harness: Harness, setting: int | None
) -> None:
    old = await old_room(harness, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        there = harness.homeserver.set_lifetime(new, setting)
        await harness.rest()
        state = harness.homeserver.rooms[new].state()[(POLICY_EVENT, "")]
        assert state["event_id"] == there
    [greeting] = harness.homeserver.heard(new)
    assert greeting.startswith(WELCOME)


async def test_a_lifetime_set_while_the_bot_waited_for_its_power_holds(harness: Harness) -> None:
    old = await old_room(harness, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old, power=0)
        await harness.rest()
        harness.homeserver.set_lifetime(new, MINUTE)
        harness.homeserver.set_power(new, BOT, 50)
        await harness.rest()
    assert harness.homeserver.lifetime_of(new) == {"type": "after_send", "timer": MINUTE}
    assert MOVED not in harness.homeserver.heard(new)


async def test_turning_it_off_by_a_command_counts_as_setting_it(harness: Harness) -> None:
    """Where nothing is set, `off` leaves no state event behind."""
    old = await old_room(harness, public=True)
    harness.homeserver.fail_next(Unreachable(reason="reset"), on="set_policy")
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.rest()
        await harness.said_in(new, "!expire off")
        await harness.advance(MINUTE)
    assert harness.homeserver.lifetime_of(new) is None
    assert MOVED not in harness.homeserver.heard(new)


async def test_without_a_lifetime_the_new_room_is_greeted_like_any_other(harness: Harness) -> None:
    old = await old_room(harness, None, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.rest()
    [greeting] = harness.homeserver.heard(new)
    assert greeting.startswith(WELCOME)
    assert harness.homeserver.lifetime_of(new) is None


async def test_what_was_turned_off_stays_off_where_the_operator_has_a_default(
    harness: Harness,
) -> None:
    harness.limits = LifetimeLimits(minimum=SECOND, maximum=DAY, default=DAY)
    await harness.restart()
    old = await old_room(harness, None, public=True)
    async with harness.running(*harness.everything):
        harness.homeserver.set_state(old, POLICY_EVENT, {})
        await harness.rest()
        harness.homeserver.notices.clear()
        new = harness.homeserver.upgrade(old)
        await harness.rest()
        sent = await harness.said_in(new, "hello")
        assert sent not in await harness.timers()
    assert harness.homeserver.lifetime_of(new) == {}
    assert harness.homeserver.heard(new) == ["Messages stay here as in the old room."]


async def test_a_pair_of_rooms_counts_once(harness: Harness) -> None:
    """Whoever still rules over the old room does not rule over the new one."""
    old = await old_room(harness, None, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.rest()
        harness.homeserver.set_lifetime(old, MINUTE)
        harness.homeserver.set_power(old, BOT, 50)
        await harness.rest()
    assert harness.homeserver.lifetime_of(new) is None


async def test_a_lifetime_set_after_the_room_was_replaced_does_not_go_along(
    harness: Harness,
) -> None:
    old = await old_room(harness, None, public=True)
    new = harness.homeserver.upgrade(old)
    harness.clock.advance(SECOND)
    harness.homeserver.set_lifetime(old, MINUTE)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert harness.homeserver.lifetime_of(new) is None


async def test_a_bot_that_is_brought_into_a_dead_room_takes_nothing_along(harness: Harness) -> None:
    await harness.store.commit("s0", harness.clock.now(), [])
    old = harness.homeserver.make_room(joined=False, invited=False, public=True)
    harness.homeserver.set_lifetime(old, MINUTE)
    new = harness.homeserver.upgrade(old)
    harness.clock.advance(SECOND)
    async with harness.running(*harness.everything):
        harness.homeserver.set_member(old, BOT, "invite", sender=ALICE)
        await harness.rest()
    assert is_in(harness, old)
    assert harness.homeserver.lifetime_of(new) is None


# --- who may say that a room is a successor ---------------------------------------------------


async def test_a_tombstone_that_points_at_a_foreign_room_leads_out_again(harness: Harness) -> None:
    old = await old_room(harness, public=True)
    foreign = harness.homeserver.make_room(joined=False, invited=False, public=True)
    async with harness.running(*harness.everything):
        harness.homeserver.bury(old, foreign)
        await harness.rest()
        assert not is_in(harness, foreign)
        assert len(harness.homeserver.times("join")) == 1
        harness.homeserver.set_power(old, BOB, 10)
        await harness.rest()
    assert len(harness.homeserver.times("join")) == 1
    assert harness.homeserver.lifetime_of(foreign) is None
    assert harness.homeserver.heard(foreign) == []


@pytest.mark.parametrize(
    ("answer", "asked"), [(Forbidden(), 1), (Unreachable(reason="x"), 2), (Failed(status=500), 2)]
)
async def test_who_is_not_let_out_of_a_foreign_room_does_not_insist(
    harness: Harness, answer: Any, asked: int
) -> None:
    old = await old_room(harness, public=True)
    foreign = harness.homeserver.make_room(joined=False, invited=False, public=True)
    harness.homeserver.fail_next(answer, on="leave")
    async with harness.running(*harness.everything):
        harness.homeserver.bury(old, foreign)
        await harness.rest()
        for _ in range(5):
            await harness.advance(MINUTE)
    assert len(harness.homeserver.times("leave")) == asked
    assert is_in(harness, foreign) == (asked == 1)


async def test_a_foreign_room_that_the_bot_is_in_is_left_alone(harness: Harness) -> None:
    old = await old_room(harness, public=True)
    foreign = await old_room(harness, None, public=True)
    harness.homeserver.notices.clear()
    async with harness.running(*harness.everything):
        harness.homeserver.bury(old, foreign)
        await harness.rest()
    assert is_in(harness, foreign)
    assert harness.homeserver.lifetime_of(foreign) is None
    assert harness.homeserver.heard(foreign) == []


async def test_a_room_only_calling_itself_a_successor_is_greeted_like_any(
    harness: Harness,
) -> None:
    old = await old_room(harness)
    async with harness.running(*harness.everything):
        fake = harness.homeserver.make_room(joined=False, predecessor=old)
        await harness.rest()
    [greeting] = harness.homeserver.heard(fake)
    assert greeting.startswith(WELCOME)
    assert harness.homeserver.lifetime_of(fake) is None


async def test_of_two_rooms_that_claim_a_successor_the_true_one_counts(harness: Harness) -> None:
    old, liar = await old_room(harness, public=True), await old_room(harness, MINUTE, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old, tombstone=False)
        harness.homeserver.bury(liar, new)
        await harness.rest()
        assert not is_in(harness, new)
        harness.homeserver.bury(old, new)
        await harness.rest()
    assert is_in(harness, new)
    assert harness.homeserver.lifetime_of(new) == TAKEN
    assert harness.homeserver.heard(new) == [MOVED]


async def test_two_claims_at_once_lead_to_the_true_lifetime(harness: Harness) -> None:
    liar, old = await old_room(harness, MINUTE, public=True), await old_room(harness, public=True)
    new = harness.homeserver.upgrade(old)
    harness.homeserver.bury(liar, new)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert is_in(harness, new)
    assert harness.homeserver.lifetime_of(new) == TAKEN
    assert harness.homeserver.heard(new)[-1] == MOVED


async def test_a_tombstone_that_was_taken_back_leads_nowhere(harness: Harness) -> None:
    old = await old_room(harness)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old, tombstone=False)
        tombstone = harness.homeserver.bury(old, new)
        await harness.rest()
        harness.homeserver.redact_as(old, tombstone)
        harness.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await harness.rest()
    assert is_in(harness, new)
    assert harness.homeserver.lifetime_of(new) is None
    [greeting] = harness.homeserver.heard(new)
    assert greeting.startswith(WELCOME)


@pytest.mark.parametrize("named", [None, 7, {}, "", "#alias:example.org", "!" + "x" * 300, "self"])
async def test_a_tombstone_that_names_no_room_leads_nowhere(
    harness: Harness, named: object
) -> None:
    old = await old_room(harness)
    async with harness.running(*harness.everything):
        harness.homeserver.bury(old, old if named == "self" else named)
        await harness.rest()
    assert harness.homeserver.times("join") == []
    assert harness.homeserver.heard(old) == []


async def test_a_message_that_looks_like_a_tombstone_leads_nowhere(harness: Harness) -> None:
    old = await old_room(harness)
    new = harness.homeserver.upgrade(old, tombstone=False)
    content = {"replacement_room": new}
    async with harness.running(*harness.everything):
        harness.homeserver.add(old, {"type": "m.room.tombstone", "content": content})
        harness.homeserver.set_state(old, "m.room.tombstone", content, key="else")
        await harness.rest()
    assert harness.homeserver.times("join") == []


# --- more than one upgrade -----------------------------------------------------------------------


async def test_a_chain_of_upgrades_is_followed_to_its_end(harness: Harness) -> None:
    first = await old_room(harness, public=True)
    second = harness.homeserver.upgrade(first)
    third = harness.homeserver.upgrade(second)
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    assert is_in(harness, second)
    assert is_in(harness, third)
    assert harness.homeserver.lifetime_of(third) == TAKEN
    assert harness.homeserver.heard(third) == [MOVED]


async def test_nothing_foreign_is_inherited_along_a_chain(harness: Harness) -> None:
    """A liar points at a room that was replaced itself: its heir gets nothing of the liar's."""
    liar = await old_room(harness, MINUTE, public=True)
    second = harness.homeserver.make_room(joined=False, invited=False, public=True)
    third = harness.homeserver.upgrade(second)
    harness.homeserver.bury(liar, second)
    harness.homeserver.set_member(second, BOT, "join")
    async with harness.running(harness.sync, harness.permissions):
        pass  # both rooms are reviewed before anybody looks whether the liar lies
    [claim] = await harness.store.successors.of(third)
    assert claim.predecessor == second
    assert claim.setting is None
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    assert harness.homeserver.lifetime_of(third) is None


async def test_a_successor_that_the_bot_is_in_already_gets_the_lifetime(harness: Harness) -> None:
    old = await old_room(harness)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old, tombstone=False)
        harness.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await harness.rest()
        harness.homeserver.bury(old, new)
        await harness.rest()
    assert harness.homeserver.lifetime_of(new) == TAKEN
    assert harness.homeserver.heard(new)[1:] == [MOVED]


async def test_a_bot_that_is_banned_there_asks_once(harness: Harness) -> None:
    old = await old_room(harness, public=True)
    harness.homeserver.fail_next(Forbidden(), on="join")
    async with harness.running(*harness.everything):
        harness.homeserver.upgrade(old)
        await harness.advance(MINUTE)
    assert len(harness.homeserver.heard(old)) == 1
    assert len(harness.homeserver.times("join")) == 1


@pytest.mark.parametrize(
    "event", [None, {}, {"content": 1}, {"content": {"predecessor": "!a"}}, {"content": []}]
)
def test_malformed_state_names_no_room(event: Any) -> None:
    assert predecessor(event) is None
    assert replacement(event, RoomID("!a:b")) is None


# --- what is remembered ---------------------------------------------------------------------------


async def pairs(harness: Harness) -> int:
    async with harness.store._db.transaction() as db:
        [(found,)] = await db.rows("SELECT count(*) FROM successors")
    return int(found)


async def test_a_room_that_names_one_successor_after_another_is_believed_some(
    harness: Harness,
) -> None:
    old = await old_room(harness)
    async with harness.running(*harness.everything):
        for number in range(MOST_OF_ONE + 5):
            harness.homeserver.bury(old, RoomID(f"!{number}:example.org"))
            await harness.advance(MINUTE)
        assert await pairs(harness) == MOST_OF_ONE
        assert len(harness.homeserver.heard(old)) <= MOST_OF_ONE
    other = await old_room(harness, public=True)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(other)
        await harness.advance(MINUTE)
    assert harness.homeserver.lifetime_of(new) == TAKEN


async def test_pairs_end_a_month_after_the_older_room_was_left(harness: Harness) -> None:
    old = await old_room(harness)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.rest()
        harness.homeserver.kick(old)
        await harness.rest()
        harness.homeserver.make_room()
        await harness.advance(DAY)
        assert await pairs(harness) == 1
        await harness.advance(30 * DAY)
        harness.homeserver.make_room()
        await harness.rest()
        assert await pairs(harness) == 0
        harness.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await harness.rest()
    [greeting] = harness.homeserver.heard(new)
    assert greeting.startswith(WELCOME)


async def test_a_bot_in_as_many_rooms_as_allowed_says_it_stays_outside(
    harness: Harness,
) -> None:
    old = await old_room(harness, public=True)
    harness.invite_policy = replace(harness.invite_policy, max_rooms=1)
    harness.keep_anew()
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.advance(MINUTE)
    assert not is_in(harness, new)
    assert harness.homeserver.times("join") == []
    [said] = harness.homeserver.heard(old)
    assert CLOSED in said


async def test_a_join_that_fails_again_and_again_is_given_up_and_said(harness: Harness) -> None:
    old = await old_room(harness, public=True)
    harness.homeserver.fail_next(*[Failed(status=500)] * 99, on="join")
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        for _ in range(200):
            await harness.advance(10 * MINUTE)
    assert not is_in(harness, new)
    assert 5 <= len(harness.homeserver.times("join")) <= 20
    [said] = harness.homeserver.heard(old)
    assert CLOSED in said


@pytest.mark.parametrize(
    ("answer", "moved"), [(Forbidden(), True), (NotFound(), True), (Failed(status=500), False)]
)
async def test_an_old_room_that_may_not_be_looked_at_is_believed(
    harness: Harness, answer: Any, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await old_room(harness, public=True)
    state = harness.homeserver.state

    async def closed(room_id: RoomID, kind: str, key: str = "") -> Any:
        if (room_id, kind) == (old, "m.room.tombstone") and is_in(harness, new):
            raise OutcomeError(answer)
        return await state(room_id, kind, key)

    monkeypatch.setattr(harness.homeserver, "state", closed)
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        await harness.rest()
        for _ in range(3):
            await harness.advance(MINUTE)
    assert (harness.homeserver.lifetime_of(new) == TAKEN) is moved
    assert harness.homeserver.heard(new) == [MOVED] * moved


async def test_a_lifetime_that_is_never_taken_leaves_the_new_room_greeted(harness: Harness) -> None:
    old = await old_room(harness, public=True)
    harness.homeserver.fail_next(*[Failed(status=500)] * 99, on="set_policy")
    async with harness.running(*harness.everything):
        new = harness.homeserver.upgrade(old)
        for _ in range(200):
            await harness.advance(10 * MINUTE)
    assert harness.homeserver.lifetime_of(new) is None
    assert 5 <= len(harness.homeserver.times("set_policy")) <= 20
    assert all(MOVED not in one for one in harness.homeserver.heard(new))
