"""Timers that fall due in a moment are found before their time, and only while they hold."""

from __future__ import annotations

from typing import Any

import pytest

from bot.core.topics import Topic
from bot.core.types import Millis
from bot.services.due_timers import Ahead
from tests.services.test_redactor import gone, messages
from tests.support.harness import MINUTE, SECOND, Harness


@pytest.fixture
def asked(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> list[Millis]:
    """When the store was asked which timers go next."""
    times: list[Millis] = []
    at_once = harness.store.at_once

    async def noted(work: Any) -> Any:
        times.append(harness.clock.now())
        return await at_once(work)

    monkeypatch.setattr(harness.store, "at_once", noted)
    return times


async def test_when_its_time_has_come_nobody_asks_the_store_first(
    harness: Harness, asked: list[Millis], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 3, due=MINUTE)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE - SECOND)
        assert asked == [harness.clock.now()]

        async def never(_: Any) -> Any:
            raise AssertionError("the store was asked before the redaction was sent")

        harness.homeserver.hold("redact")
        monkeypatch.setattr(harness.store, "at_once", never)
        monkeypatch.setattr(harness.store, "first_due", first_due_of(harness))
        await harness.advance(SECOND)
        assert harness.homeserver.in_flight[room] == 3
        monkeypatch.undo()
        harness.homeserver.release("redact")
    assert gone(harness, room, sent) == 3


def first_due_of(harness: Harness) -> Any:
    """Return the store's own answer, but that no lane has anything else to begin."""
    first_due = harness.store.first_due

    async def found(*, backlog: bool | None = None) -> Millis | None:
        return await first_due() if backlog is None else None

    return found


async def test_none_goes_before_its_time(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 1, due=MINUTE)
    later = await messages(harness, room, 1, due=MINUTE + 1)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE - SECOND // 2)
        harness.wake()  # it looks anew, and sees both
        await harness.advance(SECOND // 2 - 1)
        assert gone(harness, room, sent) == 0
        await harness.advance(1)
        assert gone(harness, room, sent) == 1
        assert gone(harness, room, later) == 0
        await harness.advance(1)
        assert gone(harness, room, later) == 1


async def test_what_has_changed_meanwhile_is_looked_at_again(
    harness: Harness, asked: list[Millis]
) -> None:
    room = harness.homeserver.make_room()
    [stays, goes] = await messages(harness, room, 2, due=MINUTE)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE - SECOND)
        [timer] = [
            one.timer
            for one in await harness.store.due(harness.clock.now() + SECOND, [1], 9)
            if one.timer.event_id == stays
        ]
        await harness.store.postpone(timer, harness.clock.now() + 2 * MINUTE)
        await harness.advance(SECOND)
        assert gone(harness, room, [stays]) == 0
        assert gone(harness, room, [goes]) == 1
    assert len(asked) >= 2


@pytest.mark.parametrize(
    "topic", [Topic.TIMERS, Topic.ACCESS, Topic.CLOCK, Topic.GAPS, Topic.SWEEPS]
)
async def test_what_was_found_is_not_used_after_a_change(harness: Harness, topic: Topic) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 1, due=SECOND)
    ahead, due = Ahead(harness.store), harness.clock.now() + SECOND
    await ahead.look(harness.clock.now(), due)
    harness.store.publish(topic)
    assert ahead.take(due) == []
    await ahead.look(harness.clock.now(), due)
    assert len(ahead.take(due)) == 1
    assert ahead.take(due) == []
