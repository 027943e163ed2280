"""Who walks back through a room finds what held where: since the command, not its state event."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.core.lifetimes import POLICY_EVENT
from bot.core.policy import MOST_MARKS, SINCE, policy_content, read_marks, read_setting
from bot.core.timeline import Sweep
from bot.core.types import EventID, RoomID
from tests.services.test_relations import relate
from tests.services.test_sweeps import HOUR, REMOTE, hole, lose_disk
from tests.support.fake_homeserver import ALICE
from tests.support.harness import DAY, MINUTE, SECOND, Harness


async def settled(house: Harness, lifetime: int | None = MINUTE, *, shared: bool = False) -> RoomID:
    """Return a room that nothing is to be found in any more."""
    room = house.homeserver.make_room()
    if shared:
        house.homeserver.set_member(room, REMOTE, "join")
    if lifetime:
        house.homeserver.set_lifetime(room, lifetime)
    async with house.running(*house.everything):
        for _ in range(10):
            await house.advance(HOUR)
    assert await house.store.sweeps.left() == 0
    return room


async def pass_by(house: Harness, times: int, wait: int) -> None:
    async with house.running(*house.everything):
        for _ in range(times):
            await house.advance(wait)


def gone(house: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(house.homeserver.is_redacted(room, one) for one in sent)


async def test_what_is_said_after_off_stays_though_a_hole_is_swept(house: Harness) -> None:
    room = await settled(house, shared=True)
    house.homeserver.limit = 5
    house.homeserver.send(room, "!expire off")  # the bot is away
    house.clock.advance(SECOND)
    stays = [house.homeserver.send(room, f"keep {number}") for number in range(12)]
    house.clock.advance(10 * MINUTE)
    await pass_by(house, 5, HOUR)
    assert gone(house, room, stays) == 0
    await hole(house, room)
    await pass_by(house, 5, HOUR)
    assert gone(house, room, stays) == 0


async def test_what_is_said_after_off_stays_though_the_disk_is_lost(house: Harness) -> None:
    room = await settled(house)
    goes = house.homeserver.send(room, "goes")
    off = house.homeserver.send(room, "!expire off")
    stays = [house.homeserver.send(room, f"keep {number}") for number in range(12)]
    await pass_by(house, 2, SECOND)
    await lose_disk(house)
    await pass_by(house, 5, MINUTE)
    assert house.homeserver.is_redacted(room, goes)
    assert gone(house, room, [off, *stays]) == 0


async def test_a_command_and_what_follows_goes_though_the_disk_is_lost(house: Harness) -> None:
    room = await settled(house, lifetime=None)
    stays = [house.homeserver.send(room, f"before {number}") for number in range(7)]
    goes = [house.homeserver.send(room, "!expire 1m")]  # the bot is away
    goes += [house.homeserver.send(room, f"after {number}") for number in range(7)]
    await pass_by(house, 2, SECOND)
    await lose_disk(house)
    await pass_by(house, 5, MINUTE)
    assert gone(house, room, goes) == 8
    assert gone(house, room, stays) == 0


async def test_a_command_that_is_gone_already_still_marks_its_place(house: Harness) -> None:
    room = await settled(house, lifetime=None)
    stays = house.homeserver.send(room, "before")
    async with house.running(*house.everything):
        command = await house.said_in(room, "!expire 1m")
        await house.advance(2 * MINUTE)
        assert house.homeserver.is_redacted(room, command)
    await lose_disk(house)
    await pass_by(house, 5, MINUTE)
    assert not house.homeserver.is_redacted(room, stays)


async def test_between_two_commands_of_one_absence_holds_what_the_first_said(
    house: Harness,
) -> None:
    room = await settled(house)
    house.homeserver.send(room, "!expire off")
    stays = [house.homeserver.send(room, f"keep {number}") for number in range(7)]
    house.homeserver.send(room, "!expire 1m")  # as it was: the room's state would not say more
    goes = house.homeserver.send(room, "goes")
    await pass_by(house, 2, SECOND)
    await lose_disk(house)
    await pass_by(house, 5, MINUTE)
    assert house.homeserver.is_redacted(room, goes)
    assert gone(house, room, stays) == 0


async def test_a_walk_that_is_killed_between_an_event_and_its_command_knows_that(
    house: Harness,
) -> None:
    room = await settled(house)
    house.homeserver.send(room, "!expire off")
    stays = [house.homeserver.send(room, f"keep {number}") for number in range(12)]
    await pass_by(house, 2, SECOND)
    await house.store.sweeps.begin(Sweep(room_id=room, whole=True, since=0, until=1))
    for _ in range(9):
        sweep = await house.store.sweeps.next()
        if sweep is None:
            break
        await house.sweeper.step(sweep)
        await house.restart()
    await pass_by(house, 5, MINUTE)
    assert await house.store.sweeps.left() == 0
    assert gone(house, room, stays) == 0


async def test_a_walk_begins_only_when_the_state_event_of_a_command_has_come_back(
    house: Harness,
) -> None:
    """Its marks say since when it holds: without them all that was said before would go."""
    room = await settled(house, lifetime=None)
    stays = [house.homeserver.send(room, f"before {number}") for number in range(3)]
    house.homeserver.hold("set_policy")
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 1m")
        await house.advance(HOUR)
        await house.store.sweeps.begin(Sweep(room_id=room, whole=True, since=0, until=1))
        house.wake()
        await house.rest()
        assert await house.store.sweeps.left() == 1
        house.homeserver.release("set_policy")
        await house.advance(HOUR)
        assert await house.store.sweeps.left() == 0
    assert gone(house, room, stays) == 0


async def test_a_sweep_changes_no_timer_that_is_there(house: Harness) -> None:
    room = await settled(house, DAY)
    async with house.running(*house.everything):
        message = await house.said_in(room, "hello")
        house.homeserver.set_lifetime(room, MINUTE)
        house.homeserver.set_lifetime(room, DAY)
        edit = relate(house, room, "m.replace", message, origin_server_ts=1)
        await house.rest()
        before = await house.timers()
        assert {message, edit} <= set(before)
        await house.store.sweeps.begin(Sweep(room_id=room, whole=True, since=0, until=1))
        house.wake()
        await house.advance(HOUR)
        assert await house.store.sweeps.left() == 0
        after = await house.timers()
        assert {one: after[one] for one in (message, edit)} == {
            one: before[one] for one in (message, edit)
        }


async def test_only_what_the_bot_itself_wrote_says_since_when(house: Harness) -> None:
    room = await settled(house)
    first = [house.homeserver.send(room, f"goes {number}") for number in range(3)]
    content = policy_content(0, [(first[0], 0)])
    house.homeserver.set_state(room, POLICY_EVENT, content, sender=ALICE)
    await lose_disk(house)
    await pass_by(house, 5, MINUTE)
    assert gone(house, room, first) == 3


@given(st.lists(st.tuples(st.text().map(EventID), st.integers()), max_size=MOST_MARKS))
def test_what_is_written_of_commands_is_read_again(marks: list[tuple[EventID, int]]) -> None:
    content = policy_content(MINUTE, marks)
    assert read_marks(content) == tuple(marks)
    assert read_setting(content) == (MINUTE, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({SINCE: JSON | st.lists(st.lists(JSON))}))
def test_whatever_stands_there_is_read(content: object) -> None:
    assert all(isinstance(place, str) for place, _ in read_marks(content))
