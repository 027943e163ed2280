"""The redactor's order and patience: what is looked up first, the backlog's turn, what is told."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest

from bot.core.in_flight import Lanes
from bot.core.outcomes import Failed, Outcome, RateLimited, Unreachable
from bot.core.outcomes import Forbidden as No
from bot.core.timers import Timer
from bot.core.topics import Topic
from bot.core.types import EventID, Millis, RoomID
from tests.core.test_throughput import Bucket
from tests.services.test_redactor import gone, messages
from tests.services.test_relations import order_of_redactions, relate
from tests.support.harness import MINUTE, SECOND, Harness


def timer(number: int) -> Timer:
    return Timer(id=number, room_id=RoomID("!room"), event_id=EventID(f"${number}"), due=0)


async def state_of_timers(harness: Harness) -> list[Any]:
    async with harness.store._db.transaction() as db:
        return await db.rows("SELECT attempts, retry_at FROM timers ORDER BY id")


async def test_somebody_who_adds_for_ever_holds_a_message_up_for_ten_seconds(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = harness.homeserver.make_room()
    [whole] = await messages(harness, room, 1)
    await harness.store.not_all_seen()
    looks: list[Millis] = []

    async def relations(_: RoomID, event_id: EventID) -> tuple[list[EventID], bool]:
        if event_id != whole:
            return [], True
        looks.append(harness.clock.now())
        return [EventID(relate(harness, room, "m.replace", whole))], False

    monkeypatch.setattr(harness.homeserver, "relations", relations)
    start = harness.clock.now()
    async with harness.running(harness.redactor):
        for _ in range(10):
            await harness.advance(SECOND)
        assert gone(harness, room, [whole]) == 0
        for _ in range(5):
            await harness.advance(SECOND)
    assert 10 * SECOND < looks[-1] - start <= 15 * SECOND
    assert len(looks) <= 12
    assert gone(harness, room, [whole]) == 1
    assert len(await order_of_redactions(harness, room)) == len(looks) + 1
    assert harness.redactor._looked_at == {}


async def test_a_message_to_which_nothing_more_is_found_goes_at_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 1)

    async def relations(*_: object) -> tuple[list[EventID], bool]:
        return [], False

    monkeypatch.setattr(harness.homeserver, "relations", relations)
    async with harness.running(harness.redactor):
        assert gone(harness, room, sent) == 1
    assert len(harness.homeserver.times("redact")) == 1


@pytest.mark.parametrize(
    ("outcome", "attempts"),
    [(RateLimited(retry_after=5_000), 0), (Unreachable(reason="x"), 1), (Failed(status=500), 1)],
)
async def test_a_question_that_fails_puts_off_its_message_unless_all_must_wait(
    harness: Harness, outcome: Outcome, attempts: int
) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    await harness.store.not_all_seen()
    harness.homeserver.fail_next(outcome, on="relations")
    async with harness.running(harness.redactor):
        [(tries, at)] = await state_of_timers(harness)
        assert tries == attempts
        assert (at > harness.clock.now()) == bool(attempts)
        paused = harness.redactor._pace.paused_until > harness.clock.now()
        assert paused == isinstance(outcome, Unreachable)
        assert harness.homeserver.times("redact") == []


@pytest.mark.parametrize("limited", [False, True])
def test_every_eighth_redaction_gives_the_backlog_one_turn(limited: bool) -> None:
    lanes, one, other = Lanes(), timer(1), timer(2)
    usual = lanes.order(limited=limited, busy=[])
    assert [(lane.backlog, lane.spare > 0) for lane in usual] == [
        (False, True),
        (True, not limited),
    ]
    for _ in range(2):
        for _ in range(8):
            assert lanes.order(limited=limited, busy=[]) == usual
            lanes.accepted(other)
        [turn, *others] = lanes.order(limited=limited, busy=[])
        assert (turn.backlog, turn.most, turn.turn) == (True, 1, True)
        assert others == usual
        lanes.begun(one)
        assert lanes.order(limited=limited, busy=[one.id]) == usual
        # It was refused, and has its turn again.
        assert lanes.order(limited=limited, busy=[])[0] == turn
        lanes.accepted(one)


async def test_a_backlog_moves_on_however_much_is_live(harness: Harness) -> None:
    room, live = harness.homeserver.make_room(), harness.homeserver.make_room()
    old = await messages(harness, room, 20, due=-MINUTE)
    new = await messages(harness, live, 90, due=10)
    harness.clock.advance(10)
    harness.homeserver.fail_next(Unreachable(reason="x"), on="redact")  # one at a time from now on
    async with harness.running(harness.redactor):
        await harness.advance(2 * SECOND)
    assert gone(harness, room, old) + gone(harness, live, new) == 110


async def test_what_was_done_is_told_in_numbers_once_a_minute(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bot.services.redactor")
    room = harness.homeserver.make_room()
    await messages(harness, room, 4, due=-3 * SECOND)
    harness.homeserver.fail_next(Failed(status=500), No(reason="M_FORBIDDEN"), on="redact")
    harness.redactor._tally.since = harness.clock.now()

    def told() -> list[str]:
        return [one for one in caplog.messages if one.startswith("redacted ")]

    async with harness.running(harness.redactor):
        await harness.advance(2 * SECOND)
        await harness.advance(57_999)
        harness.store.publish(Topic.TIMERS)
        await harness.rest()
        assert told() == []
        await harness.advance(1)
        harness.store.publish(Topic.TIMERS)
        await harness.rest()
        assert told() == ["redacted 4, at worst 5.0 s late; 2 must wait, 0 did not happen"]
        await harness.advance(5 * MINUTE)
        harness.store.publish(Topic.TIMERS)
        await harness.rest()
    assert len(told()) == 1


async def test_overdue_timers_are_counted_every_ten_seconds_and_only_when_limited(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, counted, count = harness.homeserver.make_room(), list[Millis](), harness.store.overdue

    async def overdue(now: Millis) -> int:
        counted.append(now)
        return await count(now)

    monkeypatch.setattr(harness.store, "overdue", overdue)
    await messages(harness, room, 3)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
        harness.wake()
        await harness.rest()
        assert counted == []
        limit(harness)
        await messages(harness, room, 40)
        for _ in range(8):
            await harness.advance(5 * SECOND)
        assert harness.redactor.behind is not None
        assert len(counted) >= 2
        assert all(after - before >= 10 * SECOND for before, after in pairwise(counted))


async def test_a_clock_that_is_set_back_does_not_stop_the_counting(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    limit(harness)
    await messages(harness, room, 60, due=-2 * 60 * MINUTE)
    async with harness.running(harness.redactor):
        for _ in range(4):
            await harness.advance(5 * SECOND)
        assert harness.redactor.behind is not None
        counted = harness.redactor._counted_at
        harness.clock.jump(-60 * MINUTE)
        harness.store.publish(Topic.CLOCK)
        for _ in range(4):
            await harness.advance(5 * SECOND)
        assert harness.redactor._counted_at < counted


def limit(harness: Harness) -> None:
    """Let one redaction through every five seconds."""
    bucket = Bucket(5 * SECOND, burst=1)
    harness.homeserver.limit_redactions(lambda: bucket.take(harness.clock.now()))


async def test_a_message_that_is_refused_is_told_of_once(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    harness.homeserver.fail_next(*[No(reason="M_FORBIDDEN")] * 9, on="redact")
    told = "a message cannot be redacted (status 403 M_FORBIDDEN)"
    async with harness.running(harness.redactor):
        for tries in range(1, 9):
            await harness.advance(10 * MINUTE if tries > 1 else 0)
            assert len(harness.homeserver.times("redact")) == tries
            assert caplog.messages.count(told) == (tries >= 4)


async def test_a_message_that_is_too_old_is_no_news_for_the_operator(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1)
    harness.homeserver.fail_next(*[No(reason="M_FORBIDDEN", older_than=5)] * 9, on="redact")
    async with harness.running(harness.redactor):
        for _ in range(8):
            await harness.advance(60 * MINUTE)
    assert len(harness.homeserver.times("redact")) >= 7
    assert not any("cannot be redacted" in one for one in caplog.messages)


async def test_a_clock_that_is_set_back_does_not_stop_the_telling(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bot.services.redactor")
    room = harness.homeserver.make_room()
    harness.redactor._tally.since = harness.clock.now()
    async with harness.running(harness.redactor):
        harness.clock.jump(-60 * MINUTE)
        harness.store.publish(Topic.CLOCK)
        await messages(harness, room, 1)
        harness.wake()
        await harness.rest()
        await harness.advance(MINUTE - 1)
        harness.store.publish(Topic.TIMERS)
        await harness.rest()
        assert not any(one.startswith("redacted 1,") for one in caplog.messages)
        await harness.advance(1)
        harness.store.publish(Topic.TIMERS)
        await harness.rest()
    assert any(one.startswith("redacted 1,") for one in caplog.messages)


async def test_what_fails_while_the_next_are_looked_for_holds_them_up(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, at_once = harness.homeserver.make_room(), harness.store.at_once
    sent = await messages(harness, room, 2)
    pause = harness.clock.now() + 5 * SECOND

    async def failing(work: Any) -> Any:
        found = await at_once(work)
        harness.redactor._pace.unanswered(harness.clock.now(), pause, again=False)
        return found

    monkeypatch.setattr(harness.store, "at_once", failing)
    async with harness.running(harness.redactor):
        assert harness.homeserver.times("redact") == []
        monkeypatch.undo()
        harness.wake()
        await harness.advance(5 * SECOND - 1)
        assert harness.homeserver.times("redact") == []
        await harness.advance(1)
        assert gone(harness, room, sent) >= 1
