"""The rate that a homeserver lets through is learnt from its answers, and kept to."""

from __future__ import annotations

import logging
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.core.outcomes import RateLimited, Unreachable
from bot.core.redaction import IN_FLIGHT
from bot.core.throughput import FAILING_PAUSE, MANY_FAILED, PROBE_AFTER, Throughput
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
    pace: Throughput, bucket: Bucket | None, now: Millis, until: Millis
) -> tuple[int, int, Millis]:
    """Send all the time; return how many were accepted and refused, and when it ended."""
    accepted = refused = 0
    while now < until:
        now = max(now + 1, pace.paused_until)
        wait = bucket.take(now) if bucket else 0
        if wait:
            refused += 1
            pace.paused(RateLimited(retry_after=wait), now + wait, now, again=False)
        else:
            accepted += 1
            pace.accepted(now)
    return accepted, refused, now


@settings(max_examples=20)
@given(st.integers(200, 20_000))
def test_nearly_all_that_is_let_through_is_used_and_little_is_refused(interval: Millis) -> None:
    accepted, refused, _ = send(Throughput(), Bucket(interval), 0, 100 * interval)
    assert accepted >= 0.95 * (100 + 9)
    assert refused <= accepted / 3


def test_the_rate_is_learnt() -> None:
    pace = Throughput()
    send(pace, Bucket(5_000), 0, 200_000)
    assert 2_400 <= pace.interval <= 5_100
    assert pace.width == 1


def test_a_limit_that_is_lifted_is_noticed_soon() -> None:
    pace = Throughput()
    _, _, now = send(pace, Bucket(5_000), 0, 200_000)
    for _ in range(2 * PROBE_AFTER):
        now = max(now, pace.paused_until)
        pace.accepted(now)
    assert pace.interval == 0
    send(pace, None, now, now + 20)
    assert pace.width == IN_FLIGHT


@given(st.integers(1_000, MINUTE))
def test_a_limit_that_has_passed_is_forgotten_within_a_few_redactions(wait: Millis) -> None:
    pace, now = Throughput(), SECOND
    pace.accepted(now)
    pace.paused(RateLimited(retry_after=wait), now + wait, now, again=False)
    back = now = pace.paused_until
    for _ in range(PROBE_AFTER):
        now = max(now, pace.paused_until)
        pace.accepted(now)
    assert pace.interval == 0
    assert now - back < 2 * wait


def test_after_a_rest_several_go_at_once_again() -> None:
    pace, bucket = Throughput(), Bucket(5_000)
    _, _, now = send(pace, bucket, 0, 100_000)
    rested = now + 600_000
    accepted, refused, _ = send(pace, bucket, rested, rested + 1_000)
    assert accepted >= 8
    assert refused <= 2


def test_a_message_never_answered_holds_up_the_others_less_and_less() -> None:
    pace, now = Throughput(), 0
    for _ in range(10):
        pace.paused(Unreachable(reason="x"), now + MINUTE, now, again=True)
        assert pace.paused_until - now <= FAILING_PAUSE
        now = pace.paused_until
    pace.paused(Unreachable(reason="x"), now + MINUTE, now, again=False)
    assert pace.paused_until == now + MINUTE


def test_many_failures_in_a_row_slow_everything_down() -> None:
    pace = Throughput()
    for _ in range(MANY_FAILED - 1):
        pace.failed(0)
    assert (pace.width, pace.paused_until) == (IN_FLIGHT, 0)
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
