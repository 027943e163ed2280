"""The bot's standing in rooms: lost and regained power, being thrown out."""

from __future__ import annotations

import pytest

from bot.model import Bounds, EventID, Failed, Forbidden, Outcome, RoomID, Unreachable
from bot.rooms import LOOK_TWICE
from bot.timeline import Stretch
from tests.fakes import ALICE, BOT
from tests.house import DAY, MINUTE, SECOND, House

PAUSED = "I can no longer remove messages: that needs power level 50, and I have 0."
RESUMED = "I can remove messages again."


async def messages(house: House, room: RoomID, count: int, *, due: int = 0) -> list[EventID]:
    """Send messages that are due so many milliseconds from now."""
    sent = [house.homeserver.send(room, f"message {number}") for number in range(count)]
    await house.remember(room, *sent, due=house.clock.now() + due)
    return sent


def gone(house: House, room: RoomID, sent: list[EventID]) -> int:
    return sum(house.homeserver.is_redacted(room, one) for one in sent)


def about_power(house: House, room: RoomID) -> list[str]:
    return [text for text in house.homeserver.heard(room) if "remove messages" in text]


# --- power ---------------------------------------------------------------------------------------


async def test_a_forbidden_redaction_suspends_the_room_and_is_told_once(house: House) -> None:
    room = house.homeserver.make_room(power=0)
    await messages(house, room, 20)
    async with house.running(house.redactor, house.rooms, house.speaker):
        for _ in range(30):
            await house.advance(MINUTE)
    [told] = about_power(house, room)
    assert told.startswith(PAUSED)
    assert await house.pending(room) == 20
    assert len(house.homeserver.times("redact")) <= 20


async def test_with_its_power_back_the_room_is_resumed_and_everything_redacted(
    house: House,
) -> None:
    room = house.homeserver.make_room(power=50)
    async with house.running(*house.everything):
        sent = await messages(house, room, 20, due=MINUTE)
        house.homeserver.set_power(room, BOT, 0)
        await house.advance(MINUTE)
        assert gone(house, room, sent) == 0
        house.homeserver.set_power(room, BOT, 50)
        await house.advance(SECOND)
        assert gone(house, room, sent) == 20
    paused, resumed = about_power(house, room)
    assert paused.startswith(PAUSED)
    assert resumed.startswith(RESUMED)


async def test_what_was_tried_in_vain_goes_at_once_with_the_power(house: House) -> None:
    """However long it would have waited for its next try."""
    room = house.homeserver.make_room(power=0)
    sent = await messages(house, room, 3)
    async with house.running(*house.everything):
        known = await house.store.room(room)
        assert known is not None
        assert known.suspended
        assert len(house.homeserver.times("redact")) == 3
        house.homeserver.set_power(room, BOT, 50)
        await house.rest()
        assert gone(house, room, sent) == 3


async def test_what_has_not_changed_is_not_told_again(house: House) -> None:
    room = house.homeserver.make_room(power=50)
    async with house.running(*house.everything):
        await messages(house, room, 1, due=DAY)
        for power in (50, 50, 0, 0, 0, 50, 50):
            house.homeserver.set_power(room, BOT, power)
            await house.advance(SECOND)
            house.homeserver.set_power(room, ALICE, 100)
            await house.advance(SECOND)
    assert len(about_power(house, room)) == 2


async def test_a_suspended_room_stays_suspended_across_a_restart(house: House) -> None:
    room = house.homeserver.make_room(power=0)
    sent = await messages(house, room, 1)
    async with house.running(*house.everything):
        await house.rest()
    await house.restart()
    house.homeserver.asked.clear()
    async with house.running(*house.everything):
        await house.advance(MINUTE)
        assert house.homeserver.times("redact") == []
        house.homeserver.set_power(room, BOT, 50)
        await house.advance(SECOND)
    assert gone(house, room, sent) == 1
    assert len(about_power(house, room)) == 2


async def test_a_suspended_room_does_not_hold_up_another(house: House) -> None:
    weak, strong = house.homeserver.make_room(power=0), house.homeserver.make_room()
    await messages(house, weak, 50)
    sent = await messages(house, strong, 5)
    async with house.running(house.redactor, house.rooms, house.speaker):
        assert gone(house, strong, sent) == 5


async def test_a_suspended_room_costs_nothing_while_it_waits(house: House) -> None:
    room = house.homeserver.make_room(power=0)
    sent = await messages(house, room, 20)
    await messages(house, room, 1, due=365 * DAY)
    async with house.running(*house.everything):
        await house.advance(MINUTE)
        known = await house.store.room(room)
        assert known is not None
        assert known.suspended
        house.homeserver.asked.clear()
        house.clock.waits.clear()
        for _ in range(60):
            await house.advance(DAY)
        assert house.homeserver.asked == []
        # Only the timekeeper looks at the clock, in bots without a single timer too.
        until = [at for at in house.clock.waits if at is not None]
        assert len(until) == len(house.clock.waits) == 60
        assert await house.store.next_due(house.clock.now()) is None
        house.homeserver.set_power(room, BOT, 50)  # and no restart is needed
        await house.advance(SECOND)
    assert gone(house, room, sent) == 20


async def test_the_timers_of_a_suspended_room_are_not_looked_at(house: House) -> None:
    room = house.homeserver.make_room()

    async def effort() -> int:
        """Count SQLite's steps when the redactor asks what is due."""
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection = house.store._db._connection
        await connection.set_progress_handler(step, 1)
        for backlog in (False, True):
            assert await house.store.rooms_due(house.clock.now(), 0, 8, backlog=backlog) == []
        assert await house.store.next_due(house.clock.now()) is None
        await connection.set_progress_handler(lambda: 0, 1_000_000)
        return steps

    await messages(house, room, 1)
    await house.store.reviewed(room, suspended=True, owed=[])
    await effort()  # the statements are prepared once
    one = await effort()
    await messages(house, room, 500)
    assert await effort() == one


async def test_nobody_is_told_of_lost_power_where_nothing_is_to_be_removed(house: House) -> None:
    room = house.homeserver.make_room(power=50)
    await house.enter(room)
    async with house.running(*house.everything):
        house.homeserver.set_power(room, BOT, 0)
        await house.rest()
        house.homeserver.set_power(room, BOT, 50)
        await house.rest()
    assert about_power(house, room) == []


async def test_a_change_of_power_during_a_review_is_reviewed_as_well(house: House) -> None:
    """The review that has just been made must not be taken for the one asked for since."""
    room = house.homeserver.make_room(power=0)
    sent = await messages(house, room, 1)
    await house.commit(Stretch(room_id=room, items=[], review=True))
    look = house.homeserver.joined_rooms

    async def slowly() -> set[RoomID]:
        """Answer after the power came back, and intake has read of it."""
        house.homeserver.joined_rooms = look  # type: ignore[method-assign]
        house.homeserver.set_power(room, BOT, 50)
        await house.commit(Stretch(room_id=room, items=[], review=True))
        return await look()

    async with house.running(house.redactor, house.rooms):
        await house.rest()
        house.homeserver.joined_rooms = slowly  # type: ignore[method-assign]
        house.homeserver.set_power(room, BOT, 0)
        await house.store.ask_review(room)
        house.wake()
        await house.advance(MINUTE)
        house.wake()
        await house.advance(MINUTE)
    assert gone(house, room, sent) == 1


async def test_a_room_whose_state_cannot_be_read_now_is_looked_at_later(house: House) -> None:
    room = house.homeserver.make_room(power=0)
    await messages(house, room, 1)
    house.homeserver.fail_next(*[Unreachable(reason="reset")] * 3, on="power")
    async with house.running(house.redactor, house.rooms):
        for _ in range(5):
            await house.advance(MINUTE)
    known = await house.store.room(room)
    assert known is not None
    assert known.suspended


async def test_a_room_met_without_power_is_not_told_that_something_was_lost(house: House) -> None:
    """Where a default lifetime holds, the welcome says what is missing."""
    house.bounds = Bounds(minimum=SECOND, maximum=DAY, default=DAY)
    await house.restart()
    await house.store.commit("s0", house.clock.now(), [])
    room = house.homeserver.make_room(power=0)
    async with house.running(*house.everything):
        await house.rest()
    assert [text for text in house.homeserver.heard(room) if "no longer" in text] == []


# --- membership ----------------------------------------------------------------------------------


async def test_a_kicked_bot_forgets_the_room(house: House) -> None:
    room, other = house.homeserver.make_room(), house.homeserver.make_room()
    await messages(house, room, 10, due=MINUTE)
    await messages(house, other, 1, due=MINUTE)
    async with house.running(*house.everything):
        house.homeserver.kick(room)
        await house.rest()
        assert await house.store.room(room) is None
        await house.advance(MINUTE)
        assert await house.pending(other) == 0
    assert house.homeserver.redactions(room) == []
    assert await house.pending(room) == 0


@pytest.mark.parametrize("gone_for_good", [False, True])
async def test_a_room_left_while_the_bot_was_away_is_forgotten_at_the_start(
    house: House, gone_for_good: bool
) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1, due=DAY)
    house.homeserver.kick(room)
    if gone_for_good:
        del house.homeserver.rooms[room]
    async with house.running(house.rooms):
        assert await house.store.room(room) is not None
        await house.advance(LOOK_TWICE)
        assert await house.store.room(room) is None


@pytest.mark.parametrize("times", [1, 2])
async def test_a_room_that_one_look_does_not_show_is_not_forgotten(
    house: House, times: int
) -> None:
    """A worker of the homeserver may be behind, and answer the same in the same moment."""
    room, other = house.homeserver.make_room(), house.homeserver.make_room()
    await messages(house, room, 1, due=DAY)
    await messages(house, other, 1, due=DAY)
    look = house.homeserver.joined_rooms
    looks = 0

    async def behind() -> set[RoomID]:
        nonlocal looks
        looks += 1
        return await look() - ({room} if looks <= times else set())

    house.homeserver.joined_rooms = behind  # type: ignore[method-assign]
    async with house.running(*house.everything):
        await house.store.ask_review(room)
        house.wake()
        for _ in range(6):
            await house.advance(LOOK_TWICE)
    assert looks > times
    assert await house.pending(room) == 1
    assert await house.store.to_review() == []


async def test_a_room_that_comes_back_by_itself_is_what_it_was(house: House) -> None:
    """Forgotten by mistake: nothing in the sync says that it is encrypted, or its lifetime."""
    room = house.homeserver.make_room(encrypted=True)
    house.homeserver.set_lifetime(room, MINUTE)
    async with house.running(*house.everything):
        old = await house.said_in(room, "old")
        await house.store.forget(room, house.clock.now())
        sent = await house.said_in(room, "new")
        command = await house.said_in(room, "!expire 1d")  # in clear: it does not count
        known = await house.store.room(room)
        assert known is not None
        assert (known.setting, known.encrypted) == (MINUTE, True)
        assert {old, sent, command} <= set(await house.timers())
        await house.advance(MINUTE)
        assert gone(house, room, [old, sent, command]) == 3


@pytest.mark.parametrize("trouble", [Failed(status=504, errcode="M_UNKNOWN"), Forbidden()])
async def test_a_room_that_comes_back_and_cannot_be_read_holds_up_no_other_for_long(
    house: House, trouble: Outcome
) -> None:
    room, other = house.homeserver.make_room(), house.homeserver.make_room()
    house.homeserver.set_lifetime(other, MINUTE)
    async with house.running(house.intake):
        await house.rest()
        await house.store.forget(room, house.clock.now())
        house.homeserver.fail_next(*[trouble] * 100, on="state")
        house.homeserver.send(room, "!expire 1d")
        sent = await house.said_in(other, "hello")
        for _ in range(6):
            await house.advance(10 * SECOND)
        assert sent in await house.timers()
        known = await house.store.room(room)
        assert known is not None
        assert (known.setting, known.encrypted) == (None, True)


async def test_a_homeserver_that_does_not_answer_at_the_start_costs_no_room(house: House) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1, due=DAY)
    house.homeserver.fail_next(Unreachable(reason="refused"), on="joined_rooms")
    async with house.running(house.rooms):
        await house.advance(MINUTE)
    assert await house.pending(room) == 1


async def test_a_room_that_is_closed_but_not_left_is_kept(house: House) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1, due=DAY)
    await house.store.ask_review(room)
    house.homeserver.fail_next(Forbidden(), Forbidden(), on="power")
    async with house.running(house.rooms):
        await house.advance(MINUTE)
        await house.advance(MINUTE)
    assert await house.pending(room) == 1
    assert await house.store.to_review() == []
