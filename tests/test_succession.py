"""Following a replaced room: both rooms must say so, and nobody's lifetime is overruled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot.model import (
    POLICY_EVENT,
    Bounds,
    Failed,
    Forbidden,
    NotFound,
    OutcomeError,
    RateLimited,
    RoomID,
    Unreachable,
)
from bot.store.successors import MOST_OF_ONE
from bot.succession import predecessor, replacement
from tests.fakes import ALICE, BOB, BOT
from tests.house import DAY, MINUTE, SECOND, House

MOVED = "Messages disappear here as in the old room: after 1 day."
NEEDS = "To go on like that here I need power level 50, and I have 0."
CLOSED = "This room was replaced by a new one"
WELCOME = "I make messages disappear"
TAKEN = {"type": "after_send", "timer": DAY}


def is_in(house: House, room: RoomID) -> bool:
    return house.homeserver.rooms[room].membership(BOT) == "join"


async def old_room(house: House, lifetime: int | None = DAY, **room: Any) -> RoomID:
    """A room that the bot has known for a while; alice's server has a later clock."""
    made = house.homeserver.make_room(**room)
    if lifetime is not None:
        house.homeserver.set_lifetime(made, lifetime)
    async with house.running(*house.everything):
        pass
    house.clock.advance(SECOND)
    return made


# --- the way there -------------------------------------------------------------------------------


async def test_the_bot_follows_into_an_open_room_and_takes_the_lifetime_along(house: House) -> None:
    old = await old_room(house, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.rest()
        assert is_in(house, new)
        assert house.homeserver.lifetime_of(new) == TAKEN
        sent = await house.said_in(new, "hello")
        assert (await house.timers())[sent] == house.clock.now() + DAY
    assert house.homeserver.heard(new) == [MOVED]
    assert house.homeserver.heard(old) == []


async def test_what_waits_in_the_old_room_still_goes(house: House) -> None:
    old = await old_room(house, MINUTE, public=True)
    async with house.running(*house.everything):
        sent = await house.said_in(old, "hello")
        house.homeserver.upgrade(old)
        await house.rest()
        await house.advance(MINUTE)
    assert house.homeserver.is_redacted(old, sent)


async def test_a_closed_room_is_entered_after_an_invitation(house: House) -> None:
    old = await old_room(house)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.rest()
        [told] = house.homeserver.heard(old)
        assert told.startswith(CLOSED)
        assert not is_in(house, new)
        house.homeserver.set_power(old, BOB, 10)  # one more review says nothing more
        await house.rest()
    await house.restart()
    async with house.running(*house.everything):
        house.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await house.rest()
    assert house.homeserver.lifetime_of(new) == TAKEN
    assert house.homeserver.heard(new) == [MOVED]
    assert len(house.homeserver.heard(old)) == 1


async def test_somebody_who_may_not_invite_the_bot_does_not_lead_it_on(house: House) -> None:
    house.allow = ["@bob:*"]
    await house.restart()
    old = await old_room(house, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old, sender=ALICE)
        await house.rest()
        assert not is_in(house, new)
        [told] = house.homeserver.heard(old)
        assert told.startswith(CLOSED)
        house.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await house.rest()
        assert not is_in(house, new)
        house.homeserver.set_member(new, BOT, "invite", sender=BOB)
        await house.rest()
    assert house.homeserver.heard(new) == [MOVED]


@pytest.mark.parametrize(
    "trouble", [RateLimited(retry_after=10), Unreachable(reason="reset"), Failed(status=500)]
)
@pytest.mark.parametrize("method", ["join", "state", "set_policy", "joined_rooms"])
async def test_what_fails_on_the_way_is_tried_again(
    house: House, trouble: RateLimited | Unreachable | Failed, method: str
) -> None:
    old = await old_room(house, public=True)
    house.homeserver.fail_next(trouble, trouble, on=method)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        for _ in range(4):
            await house.advance(MINUTE)
    assert house.homeserver.lifetime_of(new) == TAKEN
    assert house.homeserver.heard(new) == [MOVED]


async def test_a_crash_on_the_way_says_and_sets_nothing_twice(house: House) -> None:
    old = await old_room(house, public=True)
    house.homeserver.hold("set_policy", answer=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.rest()
        assert house.homeserver.lifetime_of(new) == TAKEN
    await house.restart()
    house.homeserver.release("set_policy")
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    assert house.homeserver.heard(new) == [MOVED]
    assert len(house.homeserver.times("set_policy")) == 1


# --- power in the new room -----------------------------------------------------------------------


async def test_without_the_power_it_says_what_it_needs_and_goes_on_when_it_has_it(
    house: House,
) -> None:
    old = await old_room(house, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old, power=0)
        await house.rest()
        [told] = house.homeserver.heard(new)
        assert NEEDS in told
        assert house.homeserver.lifetime_of(new) is None
        house.homeserver.set_power(new, BOT, 10)
        await house.rest()
        assert len(house.homeserver.heard(new)) == 1
    await house.restart()
    async with house.running(*house.everything):
        house.homeserver.set_power(new, BOT, 50)
        await house.rest()
    assert house.homeserver.lifetime_of(new) == TAKEN
    assert house.homeserver.heard(new)[1:] == [MOVED]


# --- what somebody has set holds -----------------------------------------------------------------


@pytest.mark.parametrize("setting", [MINUTE, None])
async def test_a_lifetime_that_somebody_has_set_there_holds(
    house: House, setting: int | None
) -> None:
    old = await old_room(house, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        there = house.homeserver.set_lifetime(new, setting)
        await house.rest()
        state = house.homeserver.rooms[new].state()[(POLICY_EVENT, "")]
        assert state["event_id"] == there
    [greeting] = house.homeserver.heard(new)
    assert greeting.startswith(WELCOME)


async def test_a_lifetime_set_while_the_bot_waited_for_its_power_holds(house: House) -> None:
    old = await old_room(house, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old, power=0)
        await house.rest()
        house.homeserver.set_lifetime(new, MINUTE)
        house.homeserver.set_power(new, BOT, 50)
        await house.rest()
    assert house.homeserver.lifetime_of(new) == {"type": "after_send", "timer": MINUTE}
    assert MOVED not in house.homeserver.heard(new)


async def test_turning_it_off_by_a_command_counts_as_setting_it(house: House) -> None:
    """Where nothing is set, `off` leaves no state event behind."""
    old = await old_room(house, public=True)
    house.homeserver.fail_next(Unreachable(reason="reset"), on="set_policy")
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.rest()
        await house.said_in(new, "!expire off")
        await house.advance(MINUTE)
    assert house.homeserver.lifetime_of(new) is None
    assert MOVED not in house.homeserver.heard(new)


async def test_without_a_lifetime_the_new_room_is_greeted_like_any_other(house: House) -> None:
    old = await old_room(house, None, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.rest()
    [greeting] = house.homeserver.heard(new)
    assert greeting.startswith(WELCOME)
    assert house.homeserver.lifetime_of(new) is None


async def test_what_was_turned_off_stays_off_where_the_operator_has_a_default(house: House) -> None:
    house.bounds = Bounds(minimum=SECOND, maximum=DAY, default=DAY)
    await house.restart()
    old = await old_room(house, None, public=True)
    async with house.running(*house.everything):
        house.homeserver.set_state(old, POLICY_EVENT, {})
        await house.rest()
        house.homeserver.notices.clear()
        new = house.homeserver.upgrade(old)
        await house.rest()
        sent = await house.said_in(new, "hello")
        assert sent not in await house.timers()
    assert house.homeserver.lifetime_of(new) == {}
    assert house.homeserver.heard(new) == ["Messages stay here as in the old room."]


async def test_a_pair_of_rooms_counts_once(house: House) -> None:
    """Whoever still rules over the old room does not rule over the new one."""
    old = await old_room(house, None, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.rest()
        house.homeserver.set_lifetime(old, MINUTE)
        house.homeserver.set_power(old, BOT, 50)
        await house.rest()
    assert house.homeserver.lifetime_of(new) is None


async def test_a_lifetime_set_after_the_room_was_replaced_does_not_go_along(house: House) -> None:
    old = await old_room(house, None, public=True)
    new = house.homeserver.upgrade(old)
    house.clock.advance(SECOND)
    house.homeserver.set_lifetime(old, MINUTE)
    async with house.running(*house.everything):
        await house.rest()
    assert house.homeserver.lifetime_of(new) is None


async def test_a_bot_that_is_brought_into_a_dead_room_takes_nothing_along(house: House) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    old = house.homeserver.make_room(joined=False, invited=False, public=True)
    house.homeserver.set_lifetime(old, MINUTE)
    new = house.homeserver.upgrade(old)
    house.clock.advance(SECOND)
    async with house.running(*house.everything):
        house.homeserver.set_member(old, BOT, "invite", sender=ALICE)
        await house.rest()
    assert is_in(house, old)
    assert house.homeserver.lifetime_of(new) is None


# --- who may say that a room is a successor ---------------------------------------------------


async def test_a_tombstone_that_points_at_a_foreign_room_leads_out_again(house: House) -> None:
    old = await old_room(house, public=True)
    foreign = house.homeserver.make_room(joined=False, invited=False, public=True)
    async with house.running(*house.everything):
        house.homeserver.bury(old, foreign)
        await house.rest()
        assert not is_in(house, foreign)
        assert len(house.homeserver.times("join")) == 1
        house.homeserver.set_power(old, BOB, 10)
        await house.rest()
    assert len(house.homeserver.times("join")) == 1
    assert house.homeserver.lifetime_of(foreign) is None
    assert house.homeserver.heard(foreign) == []


@pytest.mark.parametrize(
    ("answer", "asked"), [(Forbidden(), 1), (Unreachable(reason="x"), 2), (Failed(status=500), 2)]
)
async def test_who_is_not_let_out_of_a_foreign_room_does_not_insist(
    house: House, answer: Any, asked: int
) -> None:
    old = await old_room(house, public=True)
    foreign = house.homeserver.make_room(joined=False, invited=False, public=True)
    house.homeserver.fail_next(answer, on="leave")
    async with house.running(*house.everything):
        house.homeserver.bury(old, foreign)
        await house.rest()
        for _ in range(5):
            await house.advance(MINUTE)
    assert len(house.homeserver.times("leave")) == asked
    assert is_in(house, foreign) == (asked == 1)


async def test_a_foreign_room_that_the_bot_is_in_is_left_alone(house: House) -> None:
    old = await old_room(house, public=True)
    foreign = await old_room(house, None, public=True)
    house.homeserver.notices.clear()
    async with house.running(*house.everything):
        house.homeserver.bury(old, foreign)
        await house.rest()
    assert is_in(house, foreign)
    assert house.homeserver.lifetime_of(foreign) is None
    assert house.homeserver.heard(foreign) == []


async def test_a_room_that_only_calls_itself_a_successor_is_greeted_like_any_other(
    house: House,
) -> None:
    old = await old_room(house)
    async with house.running(*house.everything):
        fake = house.homeserver.make_room(joined=False, predecessor=old)
        await house.rest()
    [greeting] = house.homeserver.heard(fake)
    assert greeting.startswith(WELCOME)
    assert house.homeserver.lifetime_of(fake) is None


async def test_of_two_rooms_that_claim_a_successor_the_true_one_counts(house: House) -> None:
    old, liar = await old_room(house, public=True), await old_room(house, MINUTE, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old, tombstone=False)
        house.homeserver.bury(liar, new)
        await house.rest()
        assert not is_in(house, new)
        house.homeserver.bury(old, new)
        await house.rest()
    assert is_in(house, new)
    assert house.homeserver.lifetime_of(new) == TAKEN
    assert house.homeserver.heard(new) == [MOVED]


async def test_two_claims_at_once_lead_to_the_true_lifetime(house: House) -> None:
    liar, old = await old_room(house, MINUTE, public=True), await old_room(house, public=True)
    new = house.homeserver.upgrade(old)
    house.homeserver.bury(liar, new)
    async with house.running(*house.everything):
        await house.rest()
    assert is_in(house, new)
    assert house.homeserver.lifetime_of(new) == TAKEN
    assert house.homeserver.heard(new)[-1] == MOVED


async def test_a_tombstone_that_was_taken_back_leads_nowhere(house: House) -> None:
    old = await old_room(house)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old, tombstone=False)
        tombstone = house.homeserver.bury(old, new)
        await house.rest()
        house.homeserver.redact_as(old, tombstone)
        house.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await house.rest()
    assert is_in(house, new)
    assert house.homeserver.lifetime_of(new) is None
    [greeting] = house.homeserver.heard(new)
    assert greeting.startswith(WELCOME)


@pytest.mark.parametrize("named", [None, 7, {}, "", "#alias:example.org", "!" + "x" * 300, "self"])
async def test_a_tombstone_that_names_no_room_leads_nowhere(house: House, named: object) -> None:
    old = await old_room(house)
    async with house.running(*house.everything):
        house.homeserver.bury(old, old if named == "self" else named)
        await house.rest()
    assert house.homeserver.times("join") == []
    assert house.homeserver.heard(old) == []


async def test_a_message_that_looks_like_a_tombstone_leads_nowhere(house: House) -> None:
    old = await old_room(house)
    new = house.homeserver.upgrade(old, tombstone=False)
    content = {"replacement_room": new}
    async with house.running(*house.everything):
        house.homeserver.add(old, {"type": "m.room.tombstone", "content": content})
        house.homeserver.set_state(old, "m.room.tombstone", content, key="else")
        await house.rest()
    assert house.homeserver.times("join") == []


# --- more than one upgrade -----------------------------------------------------------------------


async def test_a_chain_of_upgrades_is_followed_to_its_end(house: House) -> None:
    first = await old_room(house, public=True)
    second = house.homeserver.upgrade(first)
    third = house.homeserver.upgrade(second)
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    assert is_in(house, second)
    assert is_in(house, third)
    assert house.homeserver.lifetime_of(third) == TAKEN
    assert house.homeserver.heard(third) == [MOVED]


async def test_nothing_foreign_is_inherited_along_a_chain(house: House) -> None:
    """A liar points at a room that was replaced itself: its heir gets nothing of the liar's."""
    liar = await old_room(house, MINUTE, public=True)
    second = house.homeserver.make_room(joined=False, invited=False, public=True)
    third = house.homeserver.upgrade(second)
    house.homeserver.bury(liar, second)
    house.homeserver.set_member(second, BOT, "join")
    async with house.running(house.intake, house.rooms):
        pass  # both rooms are reviewed before anybody looks whether the liar lies
    [claim] = await house.store.successors.of(third)
    assert claim.predecessor == second
    assert claim.setting is None
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    assert house.homeserver.lifetime_of(third) is None


async def test_a_successor_that_the_bot_is_in_already_gets_the_lifetime(house: House) -> None:
    old = await old_room(house)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old, tombstone=False)
        house.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await house.rest()
        house.homeserver.bury(old, new)
        await house.rest()
    assert house.homeserver.lifetime_of(new) == TAKEN
    assert house.homeserver.heard(new)[1:] == [MOVED]


async def test_a_bot_that_is_banned_there_asks_once(house: House) -> None:
    old = await old_room(house, public=True)
    house.homeserver.fail_next(Forbidden(), on="join")
    async with house.running(*house.everything):
        house.homeserver.upgrade(old)
        await house.advance(MINUTE)
    assert len(house.homeserver.heard(old)) == 1
    assert len(house.homeserver.times("join")) == 1


@pytest.mark.parametrize(
    "event", [None, {}, {"content": 1}, {"content": {"predecessor": "!a"}}, {"content": []}]
)
def test_malformed_state_names_no_room(event: Any) -> None:
    assert predecessor(event) is None
    assert replacement(event, RoomID("!a:b")) is None


# --- what is remembered ---------------------------------------------------------------------------


async def pairs(house: House) -> int:
    async with house.store._db.transaction() as db:
        [(found,)] = await db.rows("SELECT count(*) FROM successors")
    return int(found)


async def test_a_room_that_names_one_successor_after_another_is_believed_some(
    house: House,
) -> None:
    old = await old_room(house)
    async with house.running(*house.everything):
        for number in range(MOST_OF_ONE + 5):
            house.homeserver.bury(old, RoomID(f"!{number}:example.org"))
            await house.advance(MINUTE)
        assert await pairs(house) == MOST_OF_ONE
        assert len(house.homeserver.heard(old)) <= MOST_OF_ONE
    other = await old_room(house, public=True)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(other)
        await house.advance(MINUTE)
    assert house.homeserver.lifetime_of(new) == TAKEN


async def test_pairs_end_a_month_after_the_older_room_was_left(house: House) -> None:
    old = await old_room(house)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.rest()
        house.homeserver.kick(old)
        await house.rest()
        house.homeserver.make_room()
        await house.advance(DAY)
        assert await pairs(house) == 1
        await house.advance(30 * DAY)
        house.homeserver.make_room()
        await house.rest()
        assert await pairs(house) == 0
        house.homeserver.set_member(new, BOT, "invite", sender=ALICE)
        await house.rest()
    [greeting] = house.homeserver.heard(new)
    assert greeting.startswith(WELCOME)


async def test_a_bot_that_is_in_as_many_rooms_as_it_may_says_that_it_stays_outside(
    house: House,
) -> None:
    old = await old_room(house, public=True)
    house.guests = replace(house.guests, max_rooms=1)
    house.keep_anew()
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.advance(MINUTE)
    assert not is_in(house, new)
    assert house.homeserver.times("join") == []
    [said] = house.homeserver.heard(old)
    assert CLOSED in said


async def test_a_join_that_fails_again_and_again_is_given_up_and_said(house: House) -> None:
    old = await old_room(house, public=True)
    house.homeserver.fail_next(*[Failed(status=500)] * 99, on="join")
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        for _ in range(200):
            await house.advance(10 * MINUTE)
    assert not is_in(house, new)
    assert 5 <= len(house.homeserver.times("join")) <= 20
    [said] = house.homeserver.heard(old)
    assert CLOSED in said


@pytest.mark.parametrize(
    ("answer", "moved"), [(Forbidden(), True), (NotFound(), True), (Failed(status=500), False)]
)
async def test_an_old_room_that_may_not_be_looked_at_is_believed(
    house: House, answer: Any, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await old_room(house, public=True)
    state = house.homeserver.state

    async def closed(room_id: RoomID, kind: str, key: str = "") -> Any:
        if (room_id, kind) == (old, "m.room.tombstone") and is_in(house, new):
            raise OutcomeError(answer)
        return await state(room_id, kind, key)

    monkeypatch.setattr(house.homeserver, "state", closed)
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        await house.rest()
        for _ in range(3):
            await house.advance(MINUTE)
    assert (house.homeserver.lifetime_of(new) == TAKEN) is moved
    assert house.homeserver.heard(new) == [MOVED] * moved


async def test_a_lifetime_that_is_never_taken_leaves_the_new_room_greeted(house: House) -> None:
    old = await old_room(house, public=True)
    house.homeserver.fail_next(*[Failed(status=500)] * 99, on="set_policy")
    async with house.running(*house.everything):
        new = house.homeserver.upgrade(old)
        for _ in range(200):
            await house.advance(10 * MINUTE)
    assert house.homeserver.lifetime_of(new) is None
    assert 5 <= len(house.homeserver.times("set_policy")) <= 20
    assert all(MOVED not in one for one in house.homeserver.heard(new))
