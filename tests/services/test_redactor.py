"""The redactor: on time and not before, a few at once, until each message is known to be gone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bot.core.outcomes import Failed, Forbidden, RateLimited, TokenRejectedError
from bot.core.redaction import CONFIRM_AFTER, IN_FLIGHT, PER_ROOM, SPARE
from bot.core.throughput import FIRST_WIDTH
from bot.core.types import EventID, RoomID
from tests.support.fake_homeserver import BOB
from tests.support.harness import MINUTE, SECOND, Harness


async def messages(harness: Harness, room: RoomID, count: int, *, due: int = 0) -> list[EventID]:
    """Send messages that are due so many milliseconds from now."""
    sent = [harness.homeserver.send(room, f"message {number}") for number in range(count)]
    await harness.remember(room, *sent, due=harness.clock.now() + due)
    return sent


def gone(harness: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(harness.homeserver.is_redacted(room, one) for one in sent)


async def see(harness: Harness) -> None:
    """Let the bot read what the homeserver has to say, its own redactions among it."""
    since, synced_at = await harness.store.position()
    batch = await harness.homeserver.sync(since, 0)
    await harness.sync.take(batch, live=True, first=False, synced_at=synced_at)


async def test_a_message_goes_exactly_when_it_is_due_and_not_before(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 1, due=30_000)
    async with harness.running(harness.redactor):
        await harness.advance(29_999)
        assert harness.homeserver.times("redact") == []
        await harness.advance(1)
        assert harness.homeserver.times("redact") == [harness.clock.now()]
    assert gone(harness, room, sent) == 1


async def test_what_was_due_long_ago_goes_at_once(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 3, due=-400 * 86_400_000)
    async with harness.running(harness.redactor):
        assert gone(harness, room, sent) == 3


async def test_a_message_that_is_seen_later_but_due_earlier_is_not_overslept(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1, due=10 * MINUTE)
    async with harness.running(harness.redactor):
        sent = await messages(harness, room, 1, due=5 * SECOND)
        harness.wake()
        await harness.advance(5 * SECOND)
        assert gone(harness, room, sent) == 1


async def test_no_more_than_a_few_redactions_are_in_flight(harness: Harness) -> None:
    room, other = harness.homeserver.make_room(), harness.homeserver.make_room()
    sent = await messages(harness, room, 30)
    await messages(harness, other, 30)
    harness.homeserver.hold("redact")
    async with harness.running(harness.redactor):
        assert harness.homeserver.in_flight.total() == FIRST_WIDTH
        assert harness.homeserver.in_flight == {room: 4, other: 4}
        harness.homeserver.release("redact")
        await harness.rest()
        assert gone(harness, room, sent) == 30
        # The homeserver has shown that it bears more.
        harness.homeserver.hold("redact")
        await messages(harness, room, 60)
        harness.wake()
        await harness.rest()
        assert +harness.homeserver.in_flight == {room: PER_ROOM}
        for _ in range(4):
            await messages(harness, harness.homeserver.make_room(), 60)
        harness.wake()
        await harness.rest()
        assert IN_FLIGHT <= harness.homeserver.in_flight.total() <= IN_FLIGHT + SPARE
        assert max(harness.homeserver.in_flight.values()) <= PER_ROOM
        harness.homeserver.release("redact")


async def test_a_sweep_of_one_room_does_not_hold_up_another(harness: Harness) -> None:
    busy, quiet = harness.homeserver.make_room(), harness.homeserver.make_room()
    await messages(harness, busy, 100, due=-MINUTE)
    sent = await messages(harness, quiet, 1)
    harness.homeserver.hold("redact")
    async with harness.running(harness.redactor):
        assert harness.homeserver.in_flight[quiet] == 1
        harness.homeserver.release("redact")
    assert gone(harness, quiet, sent) == 1


async def test_a_rate_limit_pauses_for_exactly_what_was_said(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 1)
    harness.homeserver.fail_next(RateLimited(retry_after=4_321), on="redact")
    async with harness.running(harness.redactor):
        asked_at = harness.clock.now()
        await harness.advance(4_320)
        assert harness.homeserver.times("redact") == [asked_at]
        await harness.advance(1)
        assert harness.homeserver.times("redact") == [asked_at, asked_at + 4_321]
    assert gone(harness, room, sent) == 1


async def test_an_event_that_cannot_be_redacted_does_not_starve_the_others(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    stuck = await messages(harness, room, 12, due=-MINUTE)
    harness.homeserver.fail_next(*[Failed(status=500)] * 12, on="redact")
    sent = await messages(harness, room, 12)
    async with harness.running(harness.redactor):
        assert gone(harness, room, sent) == 12
        assert gone(harness, room, stuck) == 0
        await harness.advance(2 * SECOND)
        assert gone(harness, room, stuck) == 12


async def test_a_failing_event_is_tried_less_and_less_but_for_ever(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 1)
    harness.homeserver.fail_next(*[Failed(status=500)] * 30, on="redact")
    async with harness.running(harness.redactor):
        while gone(harness, room, sent) == 0:
            await harness.advance(10 * MINUTE)
    asked = harness.homeserver.times("redact")
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert len(asked) == 31
    assert max(waits) <= 10 * MINUTE


async def test_a_message_forbidden_for_no_known_reason_is_tried_now_and_then(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    stuck = await messages(harness, room, 1, due=-MINUTE)
    harness.homeserver.fail_next(*[Forbidden()] * 20, on="redact")
    async with harness.running(harness.redactor, harness.permissions):
        for _ in range(120):
            await harness.advance(SECOND)
        assert 4 <= len(harness.homeserver.times("redact")) <= 9
        harness.homeserver.recover()
        sent = await messages(harness, room, 1)
        harness.wake()
        await harness.advance(10 * MINUTE)
        assert gone(harness, room, stuck + sent) == 2


async def test_the_timer_stays_until_the_timeline_shows_the_redaction(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    async with harness.running(harness.redactor):
        assert await harness.pending(room) == 1
        await see(harness)
        assert await harness.pending(room) == 0
        await harness.advance(CONFIRM_AFTER)
    assert len(harness.homeserver.redactions(room)) == 1
    assert harness.homeserver.times("is_gone") == []


async def test_a_redaction_not_seen_in_the_timeline_is_looked_up(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    async with harness.running(harness.redactor):
        await harness.advance(CONFIRM_AFTER - 1)
        assert harness.homeserver.times("is_gone") == []
        await harness.advance(1)
        assert await harness.pending(room) == 0
    assert len(harness.homeserver.redactions(room)) == 1


async def test_a_redaction_that_did_not_happen_is_done_anew(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 1)
    harness.homeserver.lying = True
    async with harness.running(harness.redactor):
        assert len(harness.homeserver.times("redact")) == 1
        harness.homeserver.lying = False
        await harness.advance(CONFIRM_AFTER)
        assert gone(harness, room, sent) == 1
        assert await harness.pending(room) == 1
        await see(harness)
        assert await harness.pending(room) == 0
    assert len(harness.homeserver.rooms[room].transactions) == 2


async def test_the_logged_summary_counts_what_was_accepted_and_did_not_happen(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    harness.homeserver.lying = True
    async with harness.running(harness.redactor):
        harness.homeserver.lying = False
        await harness.advance(CONFIRM_AFTER)
        await harness.advance(MINUTE)
    summaries = [one for one in caplog.messages if one.startswith("redacted ")]
    assert [one.rpartition(", ")[2] for one in summaries] == [
        "0 did not happen",
        "1 did not happen",
    ]


async def test_a_look_that_gets_no_answer_is_repeated(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    harness.homeserver.fail_next(*[Failed(status=500)] * 3, on="is_gone")
    async with harness.running(harness.redactor):
        await harness.advance(CONFIRM_AFTER)
        assert await harness.pending(room) == 1
        await harness.advance(MINUTE)
        await harness.advance(MINUTE)
        await harness.advance(MINUTE)
        assert await harness.pending(room) == 0


async def test_what_somebody_else_redacted_is_not_redacted_again(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 2, due=MINUTE)
    harness.homeserver.redact_as(room, sent[0], BOB)
    await see(harness)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
    assert len(harness.homeserver.redactions(room, sent[0])) == 1
    assert len(harness.homeserver.redactions(room, sent[1])) == 1


async def test_a_forbidden_redaction_of_what_is_gone_already_ends_its_timer(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 1)
    harness.homeserver.redact_as(room, sent[0], BOB)
    harness.homeserver.fail_next(Forbidden(), on="redact")
    async with harness.running(harness.redactor):
        assert await harness.pending(room) == 0


async def test_a_restart_goes_on_with_the_same_redactions(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 3)
    harness.homeserver.hold("redact")
    async with harness.running(harness.redactor):
        pass
    await harness.restart()
    harness.homeserver.release("redact")
    async with harness.running(harness.redactor):
        assert gone(harness, room, sent) == 3
    await harness.restart()
    async with harness.running(harness.redactor):
        await harness.advance(CONFIRM_AFTER)
        assert await harness.pending(room) == 0
    assert len(harness.homeserver.redactions(room)) == 3


async def test_a_crash_after_the_homeserver_redacted_makes_no_second_redaction(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    async with harness.running(harness.redactor):
        pass
    async with harness.store._db.transaction() as db:
        await db.rows(
            "UPDATE timers SET redaction_sent_at = NULL, retry_at = due"
        )  # the answer never came
    await harness.restart()
    async with harness.running(harness.redactor):
        assert len(harness.homeserver.times("redact")) == 2
    assert len(harness.homeserver.redactions(room)) == 1


@pytest.mark.parametrize("late", ["redact", "is_gone"])
async def test_an_answer_that_comes_late_settles_no_other_message(
    harness: Harness, late: str
) -> None:
    """The timeline may show a redaction before its own request is answered."""
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    if late == "is_gone":
        harness.homeserver.fail_next(Forbidden(), on="redact")
    harness.homeserver.hold(late, answer=True)
    async with harness.running(harness.redactor):
        [first] = await harness.timers()
        harness.homeserver.redact_as(room, first, BOB)
        await see(harness)
        sent = await messages(harness, room, 1, due=10 * MINUTE)
        harness.homeserver.release(late)
        await harness.advance(9 * MINUTE)
        assert gone(harness, room, sent) == 0
        await harness.advance(MINUTE)
        assert gone(harness, room, sent) == 1


async def test_stopping_finishes_what_is_in_flight_and_takes_nothing_new(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 20)
    harness.homeserver.hold("redact")
    async with harness.running(harness.redactor):
        harness.redactor.stop()
        await harness.rest()
        harness.homeserver.release("redact")
        await harness.rest()
    assert gone(harness, room, sent) == FIRST_WIDTH


async def test_a_rejected_token_ends_the_redactor(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    harness.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="redact")
    with pytest.RaisesGroup(TokenRejectedError, flatten_subgroups=True):
        async with harness.running(harness.redactor):
            pass
    assert await harness.pending(room) == 1
