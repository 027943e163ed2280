"""Redactions go as fast as the homeserver lets them, whatever it refuses."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.core.redaction import IN_FLIGHT
from bot.core.throughput import (
    FAILING_PAUSE,
    FIRST_WIDTH,
    MANY_FAILED,
    MOST_WAITING,
    REFUSED,
    LimitShare,
    Throughput,
)
from bot.core.types import Millis
from tests.services.test_redactor import gone, messages
from tests.support.harness import MINUTE, SECOND, Harness


class Bucket:
    """A rate limit as Synapse keeps it: so many at once, then one an interval."""

    def __init__(self, interval: Millis, burst: int = 10) -> None:
        self.interval = interval
        self.burst = burst
        self._level = 0.0
        self._at: Millis = 0

    def take(self, now: Millis) -> Millis:
        """Let one through, and return 0; or return how long to wait."""
        self._level = max(0.0, self._level - (now - self._at) / self.interval)
        self._at = now
        if self._level + 1 > self.burst:
            # Rounded up: the answer takes longer to arrive than what Synapse rounds down.
            return math.ceil((self._level + 1 - self.burst) * self.interval) + 1
        self._level += 1
        return 0


def send(
    pace: Throughput, limit: Callable[[Millis], Millis], now: Millis, most: int
) -> tuple[list[Millis], int, Millis]:
    """Send `most` messages, one at a time; return how late each went, refusals, and the end.

    A message that waits singly is sent again when its wait is over, before others.
    """
    began, refused = now, 0
    late: list[Millis] = []
    waiting: list[Millis] = []
    left = most
    while left or waiting:
        now = max(now + 1, pace.paused_until)
        if waiting and (waiting[0] <= now or not left):
            now = max(now, waiting.pop(0))
        else:
            left -= 1
        wait = limit(now)
        if not wait:
            late.append(now - began)
            pace.accepted(now, begun=now)
            continue
        refused += 1
        if pace.refused(now, now + wait, waiting=len(waiting)):
            waiting.append(now + wait)
        else:
            left += 1 + len(waiting)
            waiting.clear()
    return late, refused, now


@settings(max_examples=20)
@given(st.integers(100, 20_000))
def test_nearly_all_that_is_let_through_is_used_and_little_is_refused(interval: Millis) -> None:
    late, refused, _ = send(Throughput(), Bucket(interval).take, 0, 110)
    assert late[-1] <= 1.05 * 100 * interval + 200
    assert refused <= 2.2 * 100 + 10


@pytest.mark.parametrize("seed", range(20))
def test_chance_refusals_hold_up_nobody_else(seed: int) -> None:
    pace, random = Throughput(), Random(seed)
    late, refused, _ = send(pace, lambda _: 500 * (random.random() < 0.2), 0, 1_000)
    assert refused >= 100
    assert median(late) <= 2_500  # all that are let through at once take 1.25 seconds
    assert not pace.limited


def test_one_refusal_holds_up_one_message() -> None:
    pace = Throughput()
    assert pace.refused(0, 5_000, waiting=0)
    assert (pace.paused_until, pace.width, pace.limited) == (0, FIRST_WIDTH, False)


def test_refusals_in_a_row_hold_up_all() -> None:
    pace = Throughput()
    told = [pace.refused(0, 5_000, waiting=0) for _ in range(REFUSED)]
    assert told == [True] * (REFUSED - 1) + [False]
    assert (pace.paused_until, pace.width, pace.limited) == (5_000, 1, True)


def test_waits_in_vain_become_longer() -> None:
    pace, now, waits = Throughput(), 0, []
    for _ in range(10):
        while pace.refused(now, now + 200, waiting=0):
            pass
        waits.append(pace.paused_until - now)
        now = pace.paused_until
    assert waits == [200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000, 5_000]
    pace.accepted(now, begun=now)
    while pace.refused(now, now + 200, waiting=0):
        pass
    assert pace.paused_until == now + 200


def test_a_wait_that_is_told_long_stays_as_it_is() -> None:
    pace = Throughput()
    for now in (0, 60_000):
        while pace.refused(now, now + 60_000, waiting=0):
            pass
        assert pace.paused_until == now + 60_000


def test_no_more_wait_singly_than_are_counted() -> None:
    pace = Throughput()
    assert not pace.refused(0, 5_000, waiting=MOST_WAITING)
    assert pace.paused_until == 5_000


def test_a_limit_that_is_lifted_is_noticed_at_once() -> None:
    pace, bucket = Throughput(), Bucket(5_000)
    _, _, now = send(pace, bucket.take, 0, 30)
    assert pace.limited
    send(pace, lambda _: 0, max(now, pace.paused_until), IN_FLIGHT)
    assert pace.width == IN_FLIGHT
    assert not pace.limited


def test_after_a_rest_several_go_at_once_again() -> None:
    pace, bucket = Throughput(), Bucket(5_000)
    _, _, now = send(pace, bucket.take, 0, 30)
    late, _, _ = send(pace, bucket.take, now + 600_000, 10)
    assert late[8] < 100


def test_the_time_of_each_is_counted_while_a_limit_holds() -> None:
    pace = Throughput()
    pace.interval(0)
    _, _, now = send(pace, Bucket(5_000).take, 0, 10)
    pace.interval(now)
    _, _, now = send(pace, Bucket(5_000, burst=1).take, now, 20)
    assert 4_500 <= pace.interval(now) <= 5_500
    _, _, now = send(pace, lambda _: 0, now + 10_000, 20)
    assert pace.interval(now) == 0


def test_a_pause_that_has_not_ended_counts_when_it_has_passed() -> None:
    share = LimitShare()
    share.add(0, 60_000)
    assert share.interval(10_000) == 60_000
    share = share.next(10_000)
    assert share.interval(20_000) == 50_000
    share = share.next(60_000)
    share.accepted = 5
    assert share.interval(70_000) == 0


def test_a_message_never_answered_holds_up_the_others_less_and_less() -> None:
    pace, now = Throughput(), 0
    for _ in range(10):
        pace.unanswered(now, now + MINUTE, again=True)
        assert pace.paused_until - now <= FAILING_PAUSE
        now = pace.paused_until
    pace.unanswered(now, now + MINUTE, again=False)
    assert pace.paused_until == now + MINUTE


def test_many_failures_in_a_row_slow_everything_down() -> None:
    pace = Throughput()
    for _ in range(MANY_FAILED - 1):
        pace.failed(0)
    assert (pace.width, pace.paused_until) == (FIRST_WIDTH, 0)
    pace.failed(0)
    assert (pace.width, pace.paused_until) == (1, FAILING_PAUSE)


async def test_more_due_than_is_let_through_is_said_once_an_episode(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    room = harness.homeserver.make_room()
    bucket = Bucket(5 * SECOND)
    harness.homeserver.limit_redactions(lambda: bucket.take(harness.clock.now()))
    for _ in range(2):
        sent = await messages(harness, room, 20)
        async with harness.running(harness.redactor):
            for _ in range(4):
                await harness.advance(5 * SECOND)
            assert harness.redactor.behind is not None
            assert 4_000 < harness.redactor.behind.interval < 6_000
            for _ in range(20):
                await harness.advance(5 * SECOND)
            assert gone(harness, room, sent) == 20
            assert harness.redactor.behind is None
    told = [one for one in caplog.messages if "lift-rate-limit" in one]
    assert len(told) == 2
    assert sum("caught up" in one for one in caplog.messages) == 2


async def test_status_tells_people_of_the_limit(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    bucket = Bucket(5 * SECOND)
    harness.homeserver.limit_redactions(lambda: bucket.take(harness.clock.now()))
    await messages(harness, room, 40)
    async with harness.running(harness.redactor):
        for _ in range(4):
            await harness.advance(5 * SECOND)
        await harness.said_in(room, "!expire")
    async with harness.running(harness.sync, harness.outbox):
        pass
    [answer] = harness.homeserver.heard(room)
    assert "one message in 5 seconds" in answer
    assert "My operator can lift that limit." in answer
