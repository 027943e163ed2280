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


async def settled(
    harness: Harness, lifetime: int | None = MINUTE, *, shared: bool = False
) -> RoomID:
    """Return a room that nothing is to be found in any more."""
    room = harness.homeserver.make_room()
    if shared:
        harness.homeserver.set_member(room, REMOTE, "join")
    if lifetime:
        harness.homeserver.set_lifetime(room, lifetime)
    async with harness.running(*harness.everything):
        for _ in range(10):
            await harness.advance(HOUR)
    assert await harness.store.sweeps.left() == 0
    return room


async def pass_by(harness: Harness, times: int, wait: int) -> None:
    async with harness.running(*harness.everything):
        for _ in range(times):
            await harness.advance(wait)


def gone(harness: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(harness.homeserver.is_redacted(room, one) for one in sent)


async def test_what_is_said_after_off_stays_though_a_hole_is_swept(harness: Harness) -> None:
    room = await settled(harness, shared=True)
    harness.homeserver.limit = 5
    harness.homeserver.send(room, "!expire off")  # the bot is away
    harness.clock.advance(SECOND)
    stays = [harness.homeserver.send(room, f"keep {number}") for number in range(12)]
    harness.clock.advance(10 * MINUTE)
    await pass_by(harness, 5, HOUR)
    assert gone(harness, room, stays) == 0
    await hole(harness, room)
    await pass_by(harness, 5, HOUR)
    assert gone(harness, room, stays) == 0


async def test_what_is_said_after_off_stays_though_the_disk_is_lost(harness: Harness) -> None:
    room = await settled(harness)
    goes = harness.homeserver.send(room, "goes")
    off = harness.homeserver.send(room, "!expire off")
    stays = [harness.homeserver.send(room, f"keep {number}") for number in range(12)]
    await pass_by(harness, 2, SECOND)
    await lose_disk(harness)
    await pass_by(harness, 5, MINUTE)
    assert harness.homeserver.is_redacted(room, goes)
    assert gone(harness, room, [off, *stays]) == 0


async def test_a_command_and_what_follows_goes_though_the_disk_is_lost(harness: Harness) -> None:
    room = await settled(harness, lifetime=None)
    stays = [harness.homeserver.send(room, f"before {number}") for number in range(7)]
    goes = [harness.homeserver.send(room, "!expire 1m")]  # the bot is away
    goes += [harness.homeserver.send(room, f"after {number}") for number in range(7)]
    await pass_by(harness, 2, SECOND)
    await lose_disk(harness)
    await pass_by(harness, 5, MINUTE)
    assert gone(harness, room, goes) == 8
    assert gone(harness, room, stays) == 0


async def test_a_command_that_is_gone_already_still_marks_its_place(harness: Harness) -> None:
    room = await settled(harness, lifetime=None)
    stays = harness.homeserver.send(room, "before")
    async with harness.running(*harness.everything):
        command = await harness.said_in(room, "!expire 1m")
        await harness.advance(2 * MINUTE)
        assert harness.homeserver.is_redacted(room, command)
    await lose_disk(harness)
    await pass_by(harness, 5, MINUTE)
    assert not harness.homeserver.is_redacted(room, stays)


async def test_between_two_commands_of_one_absence_holds_what_the_first_said(
    harness: Harness,
) -> None:
    room = await settled(harness)
    harness.homeserver.send(room, "!expire off")
    stays = [harness.homeserver.send(room, f"keep {number}") for number in range(7)]
    harness.homeserver.send(room, "!expire 1m")  # as it was: the room's state would not say more
    goes = harness.homeserver.send(room, "goes")
    await pass_by(harness, 2, SECOND)
    await lose_disk(harness)
    await pass_by(harness, 5, MINUTE)
    assert harness.homeserver.is_redacted(room, goes)
    assert gone(harness, room, stays) == 0


async def test_a_walk_killed_between_an_event_and_its_command_knows_that(
    harness: Harness,
) -> None:
    room = await settled(harness)
    harness.homeserver.send(room, "!expire off")
    stays = [harness.homeserver.send(room, f"keep {number}") for number in range(12)]
    await pass_by(harness, 2, SECOND)
    await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=True, since=0, until=1))
    for _ in range(9):
        sweep = await harness.store.sweeps.next()
        if sweep is None:
            break
        await harness.sweeper.step(sweep)
        await harness.restart()
    await pass_by(harness, 5, MINUTE)
    assert await harness.store.sweeps.left() == 0
    assert gone(harness, room, stays) == 0


async def test_a_walk_begins_once_a_commands_state_event_has_come_back(
    harness: Harness,
) -> None:
    """Its marks say since when it holds: without them all that was said before would go."""
    room = await settled(harness, lifetime=None)
    stays = [harness.homeserver.send(room, f"before {number}") for number in range(3)]
    harness.homeserver.hold("set_policy")
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 1m")
        await harness.advance(HOUR)
        await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=True, since=0, until=1))
        harness.wake()
        await harness.rest()
        assert await harness.store.sweeps.left() == 1
        harness.homeserver.release("set_policy")
        await harness.advance(HOUR)
        assert await harness.store.sweeps.left() == 0
    assert gone(harness, room, stays) == 0


async def test_a_sweep_changes_no_timer_that_is_there(harness: Harness) -> None:
    room = await settled(harness, DAY)
    async with harness.running(*harness.everything):
        message = await harness.said_in(room, "hello")
        harness.homeserver.set_lifetime(room, MINUTE)
        harness.homeserver.set_lifetime(room, DAY)
        edit = relate(harness, room, "m.replace", message, origin_server_ts=1)
        await harness.rest()
        before = await harness.timers()
        assert {message, edit} <= set(before)
        await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=True, since=0, until=1))
        harness.wake()
        await harness.advance(HOUR)
        assert await harness.store.sweeps.left() == 0
        after = await harness.timers()
        assert {one: after[one] for one in (message, edit)} == {
            one: before[one] for one in (message, edit)
        }


async def test_only_what_the_bot_itself_wrote_says_since_when(harness: Harness) -> None:
    room = await settled(harness)
    first = [harness.homeserver.send(room, f"goes {number}") for number in range(3)]
    content = policy_content(0, [(first[0], 0)])
    harness.homeserver.set_state(room, POLICY_EVENT, content, sender=ALICE)
    await lose_disk(harness)
    await pass_by(harness, 5, MINUTE)
    assert gone(harness, room, first) == 3


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
