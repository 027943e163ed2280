"""The redactor while the homeserver is away or busy: patient, gentle, and back at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from bot.core.outcomes import Failed, Outcome, RateLimited, Unreachable
from bot.core.redaction import CONFIRM_AFTER, IN_FLIGHT
from bot.core.retry import PAUSE_CEILING
from bot.core.throughput import FIRST_WIDTH
from bot.core.types import EventID, RoomID
from tests.support.harness import MINUTE, SECOND, Harness

AWAY = Unreachable(reason="refused")


async def messages(harness: Harness, room: RoomID, count: int) -> list[EventID]:
    """Send messages that are due now."""
    sent = [harness.homeserver.send(room, f"message {number}") for number in range(count)]
    await harness.remember(room, *sent, due=harness.clock.now())
    return sent


def gone(harness: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(harness.homeserver.is_redacted(room, one) for one in sent)


async def test_an_unreachable_homeserver_is_tried_again_after_a_while(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 1)
    harness.homeserver.fail_next(AWAY, on="redact")
    async with harness.running(harness.redactor):
        await harness.advance(SECOND // 2 - 1)
        assert len(harness.homeserver.times("redact")) == 1
        await harness.advance(SECOND // 2 + 1)
        assert gone(harness, room, sent) == 1


async def test_a_long_outage_is_met_with_one_request_a_minute(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 50)
    harness.homeserver.fail_next(*[AWAY] * 200, on="redact")
    async with harness.running(harness.redactor):
        for _ in range(60):
            await harness.advance(MINUTE)
        asked = harness.homeserver.times("redact")
        late = [at for at in asked if at > asked[0] + 10 * MINUTE]
        waits = [later - earlier for earlier, later in pairwise(late)]
        assert min(waits) >= PAUSE_CEILING // 2
        assert max(waits) <= PAUSE_CEILING
        harness.homeserver.recover()
        await harness.advance(MINUTE)
        assert gone(harness, room, sent) == 50


# Answers that never came to requests made at once do not count as failures in a row: a hiccup of a
# second would make every message up to a minute late.
async def test_one_hiccup_of_the_homeserver_is_one_failure(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, FIRST_WIDTH)
    harness.homeserver.fail_next(*[AWAY] * FIRST_WIDTH, on="redact")
    async with harness.running(harness.redactor):
        await harness.advance(2 * SECOND)
        assert gone(harness, room, sent) == FIRST_WIDTH


async def test_an_outage_costs_no_timer_across_a_restart(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 20)
    harness.homeserver.fail_next(*[AWAY] * 8, on="redact")
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
    await harness.restart()
    harness.homeserver.recover()
    async with harness.running(harness.redactor):
        assert gone(harness, room, sent) == 20


async def test_after_an_outage_the_homeserver_is_asked_gently_at_first(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 40)
    harness.homeserver.fail_next(*[AWAY] * FIRST_WIDTH, on="redact")
    async with harness.running(harness.redactor):
        harness.homeserver.hold("redact")
        await harness.advance(MINUTE)
        assert harness.homeserver.in_flight.total() == 1
        harness.homeserver.release("redact")


async def test_a_rate_limit_on_a_look_holds_up_its_message_alone(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    first = await messages(harness, room, 1)
    harness.homeserver.lying = True
    async with harness.running(harness.redactor):
        harness.homeserver.fail_next(RateLimited(retry_after=40_000), on="is_gone")
        await harness.advance(CONFIRM_AFTER)
        harness.homeserver.lying = False
        other = await messages(harness, room, 1)
        harness.wake()
        await harness.advance(39_999)
        assert gone(harness, room, other) == 1
        assert gone(harness, room, first) == 0
        assert len(harness.homeserver.times("is_gone")) == 1
        await harness.advance(1)
    assert gone(harness, room, first) == 1


# A homeserver whose own database is away says 500 to everything, at once: a backlog would be thrown
# at it as fast as it can refuse, again and again.
async def test_a_backlog_is_not_thrown_at_a_homeserver_that_fails_on_everything(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 500)
    harness.homeserver.fail_next(*[Failed(status=500)] * 10_000, on="redact")
    async with harness.running(harness.redactor):
        for _ in range(60):
            await harness.advance(SECOND)
        assert len(harness.homeserver.times("redact")) < 60
        harness.homeserver.recover()
        for _ in range(12):
            await harness.advance(10 * SECOND)
        assert gone(harness, room, sent) == 500


async def test_messages_that_cannot_be_redacted_hold_others_up_for_seconds_only(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = harness.homeserver.make_room(), harness.homeserver.make_room()
    redact = harness.homeserver.redact

    async def failing(room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        answer = await redact(room_id, event_id, txn)
        return Failed(status=500) if room_id == bad else answer

    monkeypatch.setattr(harness.homeserver, "redact", failing)
    await messages(harness, bad, 50)
    async with harness.running(harness.redactor):
        for _ in range(60):
            sent = await messages(harness, good, 1)
            for _ in range(6):
                await harness.advance(SECOND)
            assert gone(harness, good, sent) == 1


async def test_a_room_that_never_answers_holds_up_no_other(harness: Harness) -> None:
    dead, alive = harness.homeserver.make_room(), harness.homeserver.make_room()
    stuck = await messages(harness, dead, 50)
    harness.homeserver.hang("redact", dead)
    async with harness.running(harness.redactor):
        assert harness.homeserver.in_flight[dead] == FIRST_WIDTH
        for _ in range(3):
            sent = await messages(harness, alive, 3)
            harness.wake()
            await harness.rest()
            assert gone(harness, alive, sent) == 3
        harness.homeserver.release("redact")
    assert gone(harness, dead, stuck) > 0


async def test_a_room_that_times_out_pauses_only_itself(harness: Harness) -> None:
    dead, alive = harness.homeserver.make_room(), harness.homeserver.make_room()
    await messages(harness, dead, 1)
    harness.homeserver.hang("redact", dead)
    async with harness.running(harness.redactor):
        await harness.advance(SECOND)
        first = await messages(harness, alive, 1)
        harness.wake()
        await harness.rest()
        assert gone(harness, alive, first) == 1
        harness.homeserver.fail_next(AWAY, on="redact")
        harness.homeserver.release("redact")
        await harness.rest()
        second = await messages(harness, alive, 1)
        harness.wake()
        await harness.rest()
        assert gone(harness, alive, second) == 1
        assert len(harness.homeserver.times("redact")) == 3


async def test_rooms_that_never_answer_share_half_of_what_may_be_in_flight(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = [harness.homeserver.make_room() for _ in range(20)]
    alive = harness.homeserver.make_room()
    timeout, waiting = asyncio.Event(), Counter[RoomID]()
    redact = harness.homeserver.redact

    async def silent(room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        if room_id == alive:
            return await redact(room_id, event_id, txn)
        waiting[room_id] += 1
        await timeout.wait()
        waiting[room_id] -= 1
        return AWAY

    monkeypatch.setattr(harness.homeserver, "redact", silent)
    for room in dead:
        await messages(harness, room, 3)
    async with harness.running(harness.redactor):
        for _ in range(10):
            timeout.set()
            await harness.rest()
            timeout.clear()
            await harness.advance(MINUTE)
        sent = await messages(harness, alive, 10)
        harness.wake()
        await harness.rest()
        assert 0 < waiting.total() <= IN_FLIGHT // 2
        assert gone(harness, alive, sent) == 10
        timeout.set()
