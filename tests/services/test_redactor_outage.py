"""The redactor while the homeserver is away or busy: patient, gentle, and back at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from bot.core.outcomes import Failed, Outcome, RateLimited, Unreachable
from bot.core.redaction import CONFIRM_AFTER, IN_FLIGHT
from bot.core.retry import PAUSE_CEILING
from bot.core.types import EventID, RoomID
from tests.support.harness import MINUTE, SECOND, Harness

AWAY = Unreachable(reason="refused")


async def messages(house: Harness, room: RoomID, count: int) -> list[EventID]:
    """Send messages that are due now."""
    sent = [house.homeserver.send(room, f"message {number}") for number in range(count)]
    await house.remember(room, *sent, due=house.clock.now())
    return sent


def gone(house: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(house.homeserver.is_redacted(room, one) for one in sent)


async def test_an_unreachable_homeserver_is_tried_again_after_a_while(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 1)
    house.homeserver.fail_next(AWAY, on="redact")
    async with house.running(house.redactor):
        await house.advance(SECOND // 2 - 1)
        assert len(house.homeserver.times("redact")) == 1
        await house.advance(SECOND // 2 + 1)
        assert gone(house, room, sent) == 1


async def test_a_long_outage_is_met_with_one_request_a_minute(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 50)
    house.homeserver.fail_next(*[AWAY] * 200, on="redact")
    async with house.running(house.redactor):
        for _ in range(60):
            await house.advance(MINUTE)
        asked = house.homeserver.times("redact")
        late = [at for at in asked if at > asked[0] + 10 * MINUTE]
        waits = [later - earlier for earlier, later in pairwise(late)]
        assert min(waits) >= PAUSE_CEILING // 2
        assert max(waits) <= PAUSE_CEILING
        house.homeserver.recover()
        await house.advance(MINUTE)
        assert gone(house, room, sent) == 50


# Answers that never came to requests made at once do not count as failures in a row: a hiccup of a
# second would make every message up to a minute late.
async def test_one_hiccup_of_the_homeserver_is_one_failure(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, IN_FLIGHT)
    house.homeserver.fail_next(*[AWAY] * IN_FLIGHT, on="redact")
    async with house.running(house.redactor):
        await house.advance(2 * SECOND)
        assert gone(house, room, sent) == IN_FLIGHT


async def test_an_outage_costs_no_timer_across_a_restart(house: Harness) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 20)
    house.homeserver.fail_next(*[AWAY] * 8, on="redact")
    async with house.running(house.redactor):
        await house.advance(MINUTE)
    await house.restart()
    house.homeserver.recover()
    async with house.running(house.redactor):
        assert gone(house, room, sent) == 20


async def test_after_an_outage_the_homeserver_is_asked_gently_at_first(house: Harness) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 40)
    house.homeserver.fail_next(*[AWAY] * IN_FLIGHT, on="redact")
    async with house.running(house.redactor):
        house.homeserver.hold("redact")
        await house.advance(MINUTE)
        assert house.homeserver.in_flight.total() == 1
        house.homeserver.release("redact")


async def test_a_rate_limit_on_a_look_pauses_as_well(house: Harness) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    house.homeserver.lying = True
    async with house.running(house.redactor):
        house.homeserver.fail_next(RateLimited(retry_after=40_000), on="is_gone")
        await house.advance(CONFIRM_AFTER)
        sent = await messages(house, room, 1)
        house.wake()
        await house.advance(39_999)
        assert len(house.homeserver.times("redact")) == 1
        assert len(house.homeserver.times("is_gone")) == 1
        house.homeserver.lying = False
        await house.advance(1)
    assert gone(house, room, sent) == 1


# A homeserver whose own database is away says 500 to everything, at once: a backlog would be thrown
# at it as fast as it can refuse, again and again.
async def test_a_backlog_is_not_thrown_at_a_homeserver_that_fails_on_everything(
    house: Harness,
) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 500)
    house.homeserver.fail_next(*[Failed(status=500)] * 10_000, on="redact")
    async with house.running(house.redactor):
        for _ in range(60):
            await house.advance(SECOND)
        assert len(house.homeserver.times("redact")) < 60
        house.homeserver.recover()
        for _ in range(12):
            await house.advance(10 * SECOND)
        assert gone(house, room, sent) == 500


async def test_messages_that_cannot_be_redacted_hold_others_up_for_seconds_only(
    house: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = house.homeserver.make_room(), house.homeserver.make_room()
    redact = house.homeserver.redact

    async def failing(room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        answer = await redact(room_id, event_id, txn)
        return Failed(status=500) if room_id == bad else answer

    monkeypatch.setattr(house.homeserver, "redact", failing)
    await messages(house, bad, 50)
    async with house.running(house.redactor):
        for _ in range(60):
            sent = await messages(house, good, 1)
            for _ in range(6):
                await house.advance(SECOND)
            assert gone(house, good, sent) == 1


async def test_a_room_that_never_answers_holds_up_no_other(house: Harness) -> None:
    dead, alive = house.homeserver.make_room(), house.homeserver.make_room()
    stuck = await messages(house, dead, 50)
    house.homeserver.hang("redact", dead)
    async with house.running(house.redactor):
        assert house.homeserver.in_flight[dead] == IN_FLIGHT
        for _ in range(3):
            sent = await messages(house, alive, 3)
            house.wake()
            await house.rest()
            assert gone(house, alive, sent) == 3
        house.homeserver.release("redact")
    assert gone(house, dead, stuck) > 0


async def test_a_room_that_times_out_pauses_only_itself(house: Harness) -> None:
    dead, alive = house.homeserver.make_room(), house.homeserver.make_room()
    await messages(house, dead, 1)
    house.homeserver.hang("redact", dead)
    async with house.running(house.redactor):
        await house.advance(SECOND)
        first = await messages(house, alive, 1)
        house.wake()
        await house.rest()
        assert gone(house, alive, first) == 1
        house.homeserver.fail_next(AWAY, on="redact")
        house.homeserver.release("redact")
        await house.rest()
        second = await messages(house, alive, 1)
        house.wake()
        await house.rest()
        assert gone(house, alive, second) == 1
        assert len(house.homeserver.times("redact")) == 3


async def test_rooms_that_never_answer_share_half_of_what_may_be_in_flight(
    house: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = [house.homeserver.make_room() for _ in range(20)]
    alive = house.homeserver.make_room()
    timeout, waiting = asyncio.Event(), Counter[RoomID]()
    redact = house.homeserver.redact

    async def silent(room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        if room_id == alive:
            return await redact(room_id, event_id, txn)
        waiting[room_id] += 1
        await timeout.wait()
        waiting[room_id] -= 1
        return AWAY

    monkeypatch.setattr(house.homeserver, "redact", silent)
    for room in dead:
        await messages(house, room, 3)
    async with house.running(house.redactor):
        for _ in range(10):
            timeout.set()
            await house.rest()
            timeout.clear()
            await house.advance(MINUTE)
        sent = await messages(house, alive, 10)
        house.wake()
        await house.rest()
        assert 0 < waiting.total() <= IN_FLIGHT // 2
        assert gone(house, alive, sent) == 10
        timeout.set()
