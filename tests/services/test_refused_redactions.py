"""What the homeserver refuses to redact though the power suffices: told, and tried rarely."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bot.core.outcomes import Forbidden, NotFound
from bot.core.types import EventID, RoomID
from bot.services.sync import GATHER
from tests.support.fake_homeserver import BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness, due_of

HOUR = 60 * MINUTE
TOO_OLD = (
    "The server does not let me remove messages older than 3 days here. They stay until it does;"
    " I keep trying."
)
REFUSED = (
    "The server does not let me remove some messages here. They stay until it does; I keep trying."
)


@pytest.fixture
def room(harness: Harness) -> RoomID:
    """A room of a homeserver that lets nobody redact what is older than three days."""
    harness.homeserver.allowed_period = 3 * DAY
    return harness.homeserver.make_room()


async def messages(harness: Harness, room: RoomID, count: int, *, age: int) -> list[EventID]:
    """Let messages be due that were sent so long ago."""
    at = harness.clock.now() - age
    sent = [harness.homeserver.send(room, f"message {number}", at=at) for number in range(count)]
    await harness.remember(room, *sent, due=harness.clock.now())
    harness.wake()
    await harness.rest()
    return sent


def gone(harness: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(harness.homeserver.is_redacted(room, one) for one in sent)


def told(harness: Harness, room: RoomID) -> list[str]:
    return [text for text in harness.homeserver.heard(room) if "remove" in text]


async def test_what_is_too_old_is_told_once_and_with_the_remedy(
    harness: Harness, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    async with harness.running(*harness.everything):
        old = await messages(harness, room, 3, age=4 * DAY)
        new = await messages(harness, room, 3, age=DAY)
        for _ in range(3):
            await harness.advance(DAY)
            await messages(harness, room, 1, age=4 * DAY)
    assert told(harness, room) == [TOO_OLD]
    assert (gone(harness, room, old), gone(harness, room, new)) == (0, 3)
    [said] = [record for record in caplog.records if "redaction_allowed_period" in record.message]
    assert "older than 3 days" in said.message
    assert said.levelname == "WARNING"


async def test_it_is_tried_about_every_hour_however_many_messages_wait(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        await messages(harness, room, 40, age=4 * DAY)
        await harness.advance(MINUTE)
        harness.homeserver.asked.clear()
        for _ in range(6 * 60):
            await harness.advance(MINUTE // 2)
    tried = harness.homeserver.times("redact")
    assert 3 <= len(tried) <= 2 * 3 + 4
    assert max(later - earlier for earlier, later in pairwise(tried)) <= HOUR + MINUTE


async def test_once_the_homeserver_allows_it_all_of_them_go(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        old = await messages(harness, room, 40, age=4 * DAY)
        await harness.advance(HOUR)
        harness.homeserver.allowed_period = None
        started = harness.clock.now()
        while gone(harness, room, old) == 0:
            await harness.advance(MINUTE // 2)
        assert harness.clock.now() - started <= HOUR
        assert gone(harness, room, old) == 40  # nobody waits for a turn
        harness.homeserver.allowed_period = 3 * DAY
        await messages(harness, room, 1, age=4 * DAY)
    assert told(harness, room) == [TOO_OLD] * 2


async def test_a_restart_does_not_tell_it_again(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        await messages(harness, room, 3, age=4 * DAY)
    await harness.restart()
    async with harness.running(*harness.everything):
        await harness.advance(2 * HOUR)
    assert told(harness, room) == [TOO_OLD]


async def test_without_the_power_only_that_is_told_until_it_is_back(
    harness: Harness, room: RoomID
) -> None:
    await harness.enter(room, SECOND)
    async with harness.running(*harness.everything):
        harness.homeserver.set_power(room, BOT, 0)
        await messages(harness, room, 3, age=4 * DAY)
        [paused] = told(harness, room)
        assert paused.startswith("I can no longer remove messages")
        harness.homeserver.set_power(room, BOT, 50)
        await harness.advance(SECOND)
        assert told(harness, room)[-1] == TOO_OLD


async def test_what_somebody_else_removed_is_not_missed(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        [old] = await messages(harness, room, 1, age=4 * DAY)
    harness.homeserver.redact_as(room, old)
    async with harness.running(harness.redactor):  # which reads nothing of it
        await harness.advance(HOUR)
        assert old not in await harness.timers()


async def test_a_refusal_without_a_reason_is_told_when_it_lasts(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.fail_next(*[Forbidden(reason="M_USER_SUSPENDED")] * 3, on="redact")
    async with harness.running(*harness.everything):
        await messages(harness, room, 1, age=0)
        for _ in range(3):
            await harness.advance(10 * SECOND)
        assert told(harness, room) == []
        assert await harness.pending(room) == 0
        harness.homeserver.fail_next(*[Forbidden(reason="M_USER_SUSPENDED")] * 20, on="redact")
        await messages(harness, room, 1, age=0)
        for _ in range(3):
            await harness.advance(10 * SECOND)
        assert told(harness, room) == [REFUSED]
        harness.homeserver.recover()
        await harness.advance(10 * MINUTE)
        await harness.advance(GATHER)
        assert await harness.pending(room) == 0


async def test_who_asks_is_told_what_stays(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        await messages(harness, room, 3, age=4 * DAY)
        harness.homeserver.set_lifetime(room, HOUR)
        await harness.rest()
        await harness.said_in(room, "!expire status")
    said = harness.homeserver.heard(room)[-1]
    assert "The server does not let me remove 3 messages that should be gone." in said
    assert "the next goes in" in said


async def test_what_the_homeserver_purged_and_no_longer_finds_is_not_missed(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.fail_next(*[NotFound()] * 50, on="redact")
    purged = EventID("$purged")
    await harness.remember(room, purged, due=harness.clock.now())
    async with harness.running(*harness.everything):
        for _ in range(12):
            await harness.advance(5 * SECOND)
        assert purged not in await harness.timers()
    assert told(harness, room) == []


@pytest.mark.parametrize(
    ("refused", "expected"),
    [([], (0, 0)), ([0], (1, 0)), ([0, 0], (2, 0)), ([0, 5_000], (2, 5_000)), ([7, 5], (2, 7))],
)
async def test_refusals_are_counted_with_their_age_if_that_is_the_reason(
    harness: Harness, refused: list[int], expected: tuple[int, int]
) -> None:
    room, now = harness.homeserver.make_room(), harness.clock.now()
    await harness.remember(room, *(EventID(f"${number}") for number in range(3)), due=now)
    timers = await due_of(harness.store, now, backlog=True)
    for timer, older_than in zip(timers, refused, strict=False):
        await harness.store.refused(timer, now + 1_000, older_than)
    assert await harness.store.refusals(room) == expected
    assert await harness.store.refusals(RoomID("!other")) == (0, 0)
