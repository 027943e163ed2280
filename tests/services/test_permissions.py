"""The bot's standing in rooms: lost and regained power, being thrown out."""

from __future__ import annotations

import pytest

from bot.core.lifetimes import LifetimeLimits
from bot.core.outcomes import Failed, Forbidden, Outcome, Unreachable
from bot.core.timeline import RoomUpdate
from bot.core.types import EventID, RoomID
from bot.services.permissions import LOOK_TWICE
from tests.support.fake_homeserver import ALICE, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

PAUSED = "I can no longer remove messages: that needs power level 50, and I have 0."
RESUMED = "I can remove messages again."


async def messages(harness: Harness, room: RoomID, count: int, *, due: int = 0) -> list[EventID]:
    """Send messages that are due so many milliseconds from now."""
    sent = [harness.homeserver.send(room, f"message {number}") for number in range(count)]
    await harness.remember(room, *sent, due=harness.clock.now() + due)
    return sent


def gone(harness: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(harness.homeserver.is_redacted(room, one) for one in sent)


def about_power(harness: Harness, room: RoomID) -> list[str]:
    return [text for text in harness.homeserver.heard(room) if "remove messages" in text]


# --- power ---------------------------------------------------------------------------------------


async def test_a_forbidden_redaction_suspends_the_room_and_is_told_once(harness: Harness) -> None:
    room = harness.homeserver.make_room(power=0)
    await messages(harness, room, 20)
    async with harness.running(harness.redactor, harness.permissions, harness.outbox):
        for _ in range(30):
            await harness.advance(MINUTE)
    [told] = about_power(harness, room)
    assert told.startswith(PAUSED)
    assert await harness.pending(room) == 20
    assert len(harness.homeserver.times("redact")) <= 20


async def test_with_its_power_back_the_room_is_resumed_and_everything_redacted(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room(power=50)
    async with harness.running(*harness.everything):
        sent = await messages(harness, room, 20, due=MINUTE)
        harness.homeserver.set_power(room, BOT, 0)
        await harness.advance(MINUTE)
        assert gone(harness, room, sent) == 0
        harness.homeserver.set_power(room, BOT, 50)
        await harness.advance(SECOND)
        assert gone(harness, room, sent) == 20
    paused, resumed = about_power(harness, room)
    assert paused.startswith(PAUSED)
    assert resumed.startswith(RESUMED)


async def test_what_was_tried_in_vain_goes_at_once_with_the_power(harness: Harness) -> None:
    """However long it would have waited for its next try."""
    room = harness.homeserver.make_room(power=0)
    sent = await messages(harness, room, 3)
    async with harness.running(*harness.everything):
        known = await harness.store.room(room)
        assert known is not None
        assert known.suspended
        assert len(harness.homeserver.times("redact")) == 3
        harness.homeserver.set_power(room, BOT, 50)
        await harness.rest()
        assert gone(harness, room, sent) == 3


async def test_what_has_not_changed_is_not_told_again(harness: Harness) -> None:
    room = harness.homeserver.make_room(power=50)
    async with harness.running(*harness.everything):
        await messages(harness, room, 1, due=DAY)
        for power in (50, 50, 0, 0, 0, 50, 50):
            harness.homeserver.set_power(room, BOT, power)
            await harness.advance(SECOND)
            harness.homeserver.set_power(room, ALICE, 100)
            await harness.advance(SECOND)
    assert len(about_power(harness, room)) == 2


async def test_a_suspended_room_stays_suspended_across_a_restart(harness: Harness) -> None:
    room = harness.homeserver.make_room(power=0)
    sent = await messages(harness, room, 1)
    async with harness.running(*harness.everything):
        await harness.rest()
    await harness.restart()
    harness.homeserver.asked.clear()
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
        assert harness.homeserver.times("redact") == []
        harness.homeserver.set_power(room, BOT, 50)
        await harness.advance(SECOND)
    assert gone(harness, room, sent) == 1
    assert len(about_power(harness, room)) == 2


async def test_a_suspended_room_does_not_hold_up_another(harness: Harness) -> None:
    weak, strong = harness.homeserver.make_room(power=0), harness.homeserver.make_room()
    await messages(harness, weak, 50)
    sent = await messages(harness, strong, 5)
    async with harness.running(harness.redactor, harness.permissions, harness.outbox):
        assert gone(harness, strong, sent) == 5


async def test_a_suspended_room_costs_nothing_while_it_waits(harness: Harness) -> None:
    room = harness.homeserver.make_room(power=0)
    sent = await messages(harness, room, 20)
    await messages(harness, room, 1, due=365 * DAY)
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
        known = await harness.store.room(room)
        assert known is not None
        assert known.suspended
        harness.homeserver.asked.clear()
        harness.clock.waits.clear()
        for _ in range(60):
            await harness.advance(DAY)
        assert harness.homeserver.asked == []
        # Only the timekeeper looks at the clock, in bots without a single timer too.
        until = [at for at in harness.clock.waits if at is not None]
        assert len(until) == len(harness.clock.waits) == 60
        assert await harness.store.next_due(harness.clock.now()) is None
        harness.homeserver.set_power(room, BOT, 50)  # and no restart is needed
        await harness.advance(SECOND)
    assert gone(harness, room, sent) == 20


async def test_the_timers_of_a_suspended_room_are_not_looked_at(harness: Harness) -> None:
    room = harness.homeserver.make_room()

    async def effort() -> int:
        """Count SQLite's steps when the redactor asks what is due."""
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection = harness.store._db._connection
        await connection.set_progress_handler(step, 1)
        for backlog in (False, True):
            assert await harness.store.rooms_due(harness.clock.now(), 0, 8, backlog=backlog) == []
        assert await harness.store.next_due(harness.clock.now()) is None
        await connection.set_progress_handler(lambda: 0, 1_000_000)
        return steps

    await messages(harness, room, 1)
    await harness.store.reviewed(room, suspended=True, outgoing=[])
    await effort()  # the statements are prepared once
    one = await effort()
    await messages(harness, room, 500)
    assert await effort() == one


async def test_nobody_is_told_of_lost_power_where_nothing_is_to_be_removed(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room(power=50)
    await harness.enter(room)
    async with harness.running(*harness.everything):
        harness.homeserver.set_power(room, BOT, 0)
        await harness.rest()
        harness.homeserver.set_power(room, BOT, 50)
        await harness.rest()
    assert about_power(harness, room) == []


async def test_a_change_of_power_during_a_review_is_reviewed_as_well(harness: Harness) -> None:
    """The review that has just been made must not be taken for the one asked for since."""
    room = harness.homeserver.make_room(power=0)
    sent = await messages(harness, room, 1)
    await harness.commit(RoomUpdate(room_id=room, items=[], review=True))
    look = harness.homeserver.joined_rooms

    async def slowly() -> set[RoomID]:
        """Answer after the power came back, and intake has read of it."""
        harness.homeserver.joined_rooms = look  # type: ignore[method-assign]
        harness.homeserver.set_power(room, BOT, 50)
        await harness.commit(RoomUpdate(room_id=room, items=[], review=True))
        return await look()

    async with harness.running(harness.redactor, harness.permissions):
        await harness.rest()
        harness.homeserver.joined_rooms = slowly  # type: ignore[method-assign]
        harness.homeserver.set_power(room, BOT, 0)
        await harness.store.ask_review(room)
        harness.wake()
        await harness.advance(MINUTE)
        harness.wake()
        await harness.advance(MINUTE)
    assert gone(harness, room, sent) == 1


async def test_a_room_whose_state_cannot_be_read_now_is_looked_at_later(harness: Harness) -> None:
    room = harness.homeserver.make_room(power=0)
    await messages(harness, room, 1)
    harness.homeserver.fail_next(*[Unreachable(reason="reset")] * 3, on="power")
    async with harness.running(harness.redactor, harness.permissions):
        for _ in range(5):
            await harness.advance(MINUTE)
    known = await harness.store.room(room)
    assert known is not None
    assert known.suspended


async def test_a_room_met_without_power_is_not_told_that_something_was_lost(
    harness: Harness,
) -> None:
    """Where a default lifetime holds, the welcome says what is missing."""
    harness.limits = LifetimeLimits(minimum=SECOND, maximum=DAY, default=DAY)
    await harness.restart()
    await harness.store.commit("s0", harness.clock.now(), [])
    room = harness.homeserver.make_room(power=0)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert [text for text in harness.homeserver.heard(room) if "no longer" in text] == []


# --- membership ----------------------------------------------------------------------------------


async def test_a_kicked_bot_forgets_the_room(harness: Harness) -> None:
    room, other = harness.homeserver.make_room(), harness.homeserver.make_room()
    await messages(harness, room, 10, due=MINUTE)
    await messages(harness, other, 1, due=MINUTE)
    async with harness.running(*harness.everything):
        harness.homeserver.kick(room)
        await harness.rest()
        assert await harness.store.room(room) is None
        await harness.advance(MINUTE)
        assert await harness.pending(other) == 0
    assert harness.homeserver.redactions(room) == []
    assert await harness.pending(room) == 0


@pytest.mark.parametrize("gone_for_good", [False, True])
async def test_a_room_left_while_the_bot_was_away_is_forgotten(
    harness: Harness, gone_for_good: bool
) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1, due=DAY)
    harness.homeserver.kick(room)
    if gone_for_good:
        del harness.homeserver.rooms[room]
    async with harness.running(harness.permissions):
        assert await harness.store.room(room) is not None
        await harness.advance(LOOK_TWICE)
        assert await harness.store.room(room) is None


@pytest.mark.parametrize("times", [1, 2])
async def test_a_room_that_one_look_does_not_show_is_not_forgotten(
    harness: Harness, times: int
) -> None:
    """A worker of the homeserver may be behind, and answer the same in the same moment."""
    room, other = harness.homeserver.make_room(), harness.homeserver.make_room()
    await messages(harness, room, 1, due=DAY)
    await messages(harness, other, 1, due=DAY)
    look = harness.homeserver.joined_rooms
    looks = 0

    async def behind() -> set[RoomID]:
        nonlocal looks
        looks += 1
        return await look() - ({room} if looks <= times else set())

    harness.homeserver.joined_rooms = behind  # type: ignore[method-assign]
    async with harness.running(*harness.everything):
        await harness.store.ask_review(room)
        harness.wake()
        for _ in range(6):
            await harness.advance(LOOK_TWICE)
    assert looks > times
    assert await harness.pending(room) == 1
    assert await harness.store.to_review() == []


async def test_a_room_that_comes_back_by_itself_is_what_it_was(harness: Harness) -> None:
    """Forgotten by mistake: nothing in the sync says that it is encrypted, or its lifetime."""
    room = harness.homeserver.make_room(encrypted=True)
    harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(*harness.everything):
        old = await harness.said_in(room, "old")
        await harness.store.forget(room, harness.clock.now())
        sent = await harness.said_in(room, "new")
        command = await harness.said_in(room, "!expire 1d")  # in clear: it does not count
        known = await harness.store.room(room)
        assert known is not None
        assert (known.setting, known.encrypted) == (MINUTE, True)
        assert {old, sent, command} <= set(await harness.timers())
        await harness.advance(MINUTE)
        assert gone(harness, room, [old, sent, command]) == 3


@pytest.mark.parametrize("trouble", [Failed(status=504, errcode="M_UNKNOWN"), Forbidden()])
async def test_a_returning_room_that_cannot_be_read_holds_up_no_other_long(
    harness: Harness, trouble: Outcome
) -> None:
    room, other = harness.homeserver.make_room(), harness.homeserver.make_room()
    harness.homeserver.set_lifetime(other, MINUTE)
    async with harness.running(harness.sync):
        await harness.rest()
        await harness.store.forget(room, harness.clock.now())
        harness.homeserver.fail_next(*[trouble] * 100, on="state")
        harness.homeserver.send(room, "!expire 1d")
        sent = await harness.said_in(other, "hello")
        for _ in range(6):
            await harness.advance(10 * SECOND)
        assert sent in await harness.timers()
        known = await harness.store.room(room)
        assert known is not None
        assert (known.setting, known.encrypted) == (None, True)


async def test_a_homeserver_that_does_not_answer_at_the_start_costs_no_room(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1, due=DAY)
    harness.homeserver.fail_next(Unreachable(reason="refused"), on="joined_rooms")
    async with harness.running(harness.permissions):
        await harness.advance(MINUTE)
    assert await harness.pending(room) == 1


async def test_a_room_that_is_closed_but_not_left_is_kept(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1, due=DAY)
    await harness.store.ask_review(room)
    harness.homeserver.fail_next(Forbidden(), Forbidden(), on="power")
    async with harness.running(harness.permissions):
        await harness.advance(MINUTE)
        await harness.advance(MINUTE)
    assert await harness.pending(room) == 1
    assert await harness.store.to_review() == []
