"""The redactor: on time and not before, a few at once, until each message is known to be gone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bot.core.outcomes import Failed, Forbidden, RateLimited, TokenRejectedError
from bot.core.redaction import CONFIRM_AFTER, IN_FLIGHT
from bot.core.types import EventID, RoomID
from tests.support.fake_homeserver import BOB
from tests.support.harness import MINUTE, SECOND, Harness


async def messages(house: Harness, room: RoomID, count: int, *, due: int = 0) -> list[EventID]:
    """Send messages that are due so many milliseconds from now."""
    sent = [house.homeserver.send(room, f"message {number}") for number in range(count)]
    await house.remember(room, *sent, due=house.clock.now() + due)
    return sent


def gone(house: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(house.homeserver.is_redacted(room, one) for one in sent)


async def see(house: Harness) -> None:
    """Let the bot read what the homeserver has to say, its own redactions among it."""
    since, synced_at = await house.store.position()
    batch = await house.homeserver.sync(since, 0)
    await house.intake.take(batch, live=True, first=False, synced_at=synced_at)


async def test_a_message_goes_exactly_when_it_is_due_and_not_before(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 1, due=30_000)
    async with house.running(house.redactor):
        await house.advance(29_999)
        assert house.homeserver.times("redact") == []
        await house.advance(1)
        assert house.homeserver.times("redact") == [house.clock.now()]
    assert gone(house, room, sent) == 1


async def test_what_was_due_long_ago_goes_at_once(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 3, due=-400 * 86_400_000)
    async with house.running(house.redactor):
        assert gone(house, room, sent) == 3


async def test_a_message_that_is_seen_later_but_due_earlier_is_not_overslept(
    house: Harness,
) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1, due=10 * MINUTE)
    async with house.running(house.redactor):
        sent = await messages(house, room, 1, due=5 * SECOND)
        house.wake()
        await house.advance(5 * SECOND)
        assert gone(house, room, sent) == 1


async def test_no_more_than_a_few_redactions_are_in_flight(house: Harness) -> None:
    room, other = house.homeserver.make_room(), house.homeserver.make_room()
    sent = await messages(house, room, 30)
    await messages(house, other, 30)
    house.homeserver.hold("redact")
    async with house.running(house.redactor):
        assert house.homeserver.in_flight.total() == IN_FLIGHT
        assert house.homeserver.in_flight == {room: 4, other: 4}
        house.homeserver.release("redact")
        await house.rest()
        assert gone(house, room, sent) == 30
    assert house.homeserver.most_in_flight == IN_FLIGHT


async def test_a_sweep_of_one_room_does_not_hold_up_another(house: Harness) -> None:
    busy, quiet = house.homeserver.make_room(), house.homeserver.make_room()
    await messages(house, busy, 100, due=-MINUTE)
    sent = await messages(house, quiet, 1)
    house.homeserver.hold("redact")
    async with house.running(house.redactor):
        assert house.homeserver.in_flight[quiet] == 1
        house.homeserver.release("redact")
    assert gone(house, quiet, sent) == 1


async def test_a_rate_limit_pauses_for_exactly_what_was_said(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 1)
    house.homeserver.fail_next(RateLimited(retry_after=4_321), on="redact")
    async with house.running(house.redactor):
        asked_at = house.clock.now()
        await house.advance(4_320)
        assert house.homeserver.times("redact") == [asked_at]
        await house.advance(1)
        assert house.homeserver.times("redact") == [asked_at, asked_at + 4_321]
    assert gone(house, room, sent) == 1


async def test_an_event_that_cannot_be_redacted_does_not_starve_the_others(house: Harness) -> None:
    room = house.homeserver.make_room()
    stuck = await messages(house, room, 12, due=-MINUTE)
    house.homeserver.fail_next(*[Failed(status=500)] * 12, on="redact")
    sent = await messages(house, room, 12)
    async with house.running(house.redactor):
        assert gone(house, room, sent) == 12
        assert gone(house, room, stuck) == 0
        await house.advance(2 * SECOND)
        assert gone(house, room, stuck) == 12


async def test_an_event_that_fails_is_tried_less_and_less_often_but_for_ever(
    house: Harness,
) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 1)
    house.homeserver.fail_next(*[Failed(status=500)] * 30, on="redact")
    async with house.running(house.redactor):
        while gone(house, room, sent) == 0:
            await house.advance(10 * MINUTE)
    asked = house.homeserver.times("redact")
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert len(asked) == 31
    assert max(waits) <= 10 * MINUTE


async def test_a_message_that_is_forbidden_for_no_known_reason_is_tried_now_and_then(
    house: Harness,
) -> None:
    room = house.homeserver.make_room()
    stuck = await messages(house, room, 1, due=-MINUTE)
    house.homeserver.fail_next(*[Forbidden()] * 20, on="redact")
    async with house.running(house.redactor, house.rooms):
        for _ in range(120):
            await house.advance(SECOND)
        assert 4 <= len(house.homeserver.times("redact")) <= 9
        house.homeserver.recover()
        sent = await messages(house, room, 1)
        house.wake()
        await house.advance(10 * MINUTE)
        assert gone(house, room, stuck + sent) == 2


async def test_the_timer_stays_until_the_timeline_shows_the_redaction(house: Harness) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    async with house.running(house.redactor):
        assert await house.pending(room) == 1
        await see(house)
        assert await house.pending(room) == 0
        await house.advance(CONFIRM_AFTER)
    assert len(house.homeserver.redactions(room)) == 1
    assert house.homeserver.times("is_gone") == []


async def test_a_redaction_not_seen_in_the_timeline_is_looked_up(house: Harness) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    async with house.running(house.redactor):
        await house.advance(CONFIRM_AFTER - 1)
        assert house.homeserver.times("is_gone") == []
        await house.advance(1)
        assert await house.pending(room) == 0
    assert len(house.homeserver.redactions(room)) == 1


async def test_a_redaction_that_did_not_happen_is_done_anew(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 1)
    house.homeserver.lying = True
    async with house.running(house.redactor):
        assert len(house.homeserver.times("redact")) == 1
        house.homeserver.lying = False
        await house.advance(CONFIRM_AFTER)
        assert gone(house, room, sent) == 1
        assert await house.pending(room) == 1
        await see(house)
        assert await house.pending(room) == 0
    assert len(house.homeserver.rooms[room].transactions) == 2


async def test_the_summary_in_the_log_counts_what_was_accepted_and_did_not_happen(
    house: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    house.homeserver.lying = True
    async with house.running(house.redactor):
        house.homeserver.lying = False
        await house.advance(CONFIRM_AFTER)
        await house.advance(MINUTE)
    summaries = [one for one in caplog.messages if one.startswith("redacted ")]
    assert [one.rpartition(", ")[2] for one in summaries] == [
        "0 did not happen",
        "1 did not happen",
    ]


async def test_a_look_that_gets_no_answer_is_repeated(house: Harness) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    house.homeserver.fail_next(*[Failed(status=500)] * 3, on="is_gone")
    async with house.running(house.redactor):
        await house.advance(CONFIRM_AFTER)
        assert await house.pending(room) == 1
        await house.advance(MINUTE)
        await house.advance(MINUTE)
        await house.advance(MINUTE)
        assert await house.pending(room) == 0


async def test_what_somebody_else_redacted_is_not_redacted_again(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 2, due=MINUTE)
    house.homeserver.redact_as(room, sent[0], BOB)
    await see(house)
    async with house.running(house.redactor):
        await house.advance(MINUTE)
    assert len(house.homeserver.redactions(room, sent[0])) == 1
    assert len(house.homeserver.redactions(room, sent[1])) == 1


async def test_a_forbidden_redaction_of_what_is_gone_already_ends_its_timer(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 1)
    house.homeserver.redact_as(room, sent[0], BOB)
    house.homeserver.fail_next(Forbidden(), on="redact")
    async with house.running(house.redactor):
        assert await house.pending(room) == 0


async def test_a_restart_goes_on_with_the_same_redactions(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 3)
    house.homeserver.hold("redact")
    async with house.running(house.redactor):
        pass
    await house.restart()
    house.homeserver.release("redact")
    async with house.running(house.redactor):
        assert gone(house, room, sent) == 3
    await house.restart()
    async with house.running(house.redactor):
        await house.advance(CONFIRM_AFTER)
        assert await house.pending(room) == 0
    assert len(house.homeserver.redactions(room)) == 3


async def test_a_crash_after_the_homeserver_redacted_makes_no_second_redaction(
    house: Harness,
) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    async with house.running(house.redactor):
        pass
    async with house.store._db.transaction() as db:
        await db.rows("UPDATE timers SET sent_at = NULL, next = due")  # the answer never came
    await house.restart()
    async with house.running(house.redactor):
        assert len(house.homeserver.times("redact")) == 2
    assert len(house.homeserver.redactions(room)) == 1


@pytest.mark.parametrize("late", ["redact", "is_gone"])
async def test_an_answer_that_comes_late_settles_no_other_message(
    house: Harness, late: str
) -> None:
    """The timeline may show a redaction before its own request is answered."""
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    if late == "is_gone":
        house.homeserver.fail_next(Forbidden(), on="redact")
    house.homeserver.hold(late, answer=True)
    async with house.running(house.redactor):
        [first] = await house.timers()
        house.homeserver.redact_as(room, first, BOB)
        await see(house)
        sent = await messages(house, room, 1, due=10 * MINUTE)
        house.homeserver.release(late)
        await house.advance(9 * MINUTE)
        assert gone(house, room, sent) == 0
        await house.advance(MINUTE)
        assert gone(house, room, sent) == 1


async def test_to_stop_is_to_finish_what_is_in_flight_and_take_nothing_new(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 20)
    house.homeserver.hold("redact")
    async with house.running(house.redactor):
        house.redactor.stop()
        await house.rest()
        house.homeserver.release("redact")
        await house.rest()
    assert gone(house, room, sent) == IN_FLIGHT


async def test_a_rejected_token_ends_the_redactor(house: Harness) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    house.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="redact")
    with pytest.RaisesGroup(TokenRejectedError, flatten_subgroups=True):
        async with house.running(house.redactor):
            pass
    assert await house.pending(room) == 1
