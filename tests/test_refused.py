"""What the homeserver refuses to redact though the power suffices: told, and tried rarely."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bot.model import EventID, Forbidden, NotFound, RoomID
from tests.fakes import BOT
from tests.house import DAY, MINUTE, SECOND, House, due_of

HOUR = 60 * MINUTE
TOO_OLD = (
    "The server does not let me remove messages older than 3 days here. They stay until it does;"
    " I keep trying."
)
REFUSED = (
    "The server does not let me remove some messages here. They stay until it does; I keep trying."
)


@pytest.fixture
def room(house: House) -> RoomID:
    """A room of a homeserver that lets nobody redact what is older than three days."""
    house.homeserver.allowed_period = 3 * DAY
    return house.homeserver.make_room()


async def messages(house: House, room: RoomID, count: int, *, age: int) -> list[EventID]:
    """Let messages be due that were sent so long ago."""
    at = house.clock.now() - age
    sent = [house.homeserver.send(room, f"message {number}", at=at) for number in range(count)]
    await house.remember(room, *sent, due=house.clock.now())
    house.wake()
    await house.rest()
    return sent


def gone(house: House, room: RoomID, sent: list[EventID]) -> int:
    return sum(house.homeserver.is_redacted(room, one) for one in sent)


def told(house: House, room: RoomID) -> list[str]:
    return [text for text in house.homeserver.heard(room) if "remove" in text]


async def test_what_is_too_old_for_the_homeserver_is_told_once_and_with_the_remedy(
    house: House, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    async with house.running(*house.everything):
        old = await messages(house, room, 3, age=4 * DAY)
        new = await messages(house, room, 3, age=DAY)
        for _ in range(3):
            await house.advance(DAY)
            await messages(house, room, 1, age=4 * DAY)
    assert told(house, room) == [TOO_OLD]
    assert (gone(house, room, old), gone(house, room, new)) == (0, 3)
    [said] = [record for record in caplog.records if "redaction_allowed_period" in record.message]
    assert "older than 3 days" in said.message
    assert said.levelname == "WARNING"


async def test_it_is_tried_about_every_hour_however_many_messages_wait(
    house: House, room: RoomID
) -> None:
    async with house.running(*house.everything):
        await messages(house, room, 40, age=4 * DAY)
        await house.advance(MINUTE)
        house.homeserver.asked.clear()
        for _ in range(6 * 60):
            await house.advance(MINUTE // 2)
    tried = house.homeserver.times("redact")
    assert 3 <= len(tried) <= 2 * 3 + 4
    assert max(later - earlier for earlier, later in pairwise(tried)) <= HOUR + MINUTE


async def test_once_the_homeserver_allows_it_all_of_them_go(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        old = await messages(house, room, 40, age=4 * DAY)
        await house.advance(HOUR)
        house.homeserver.allowed_period = None
        started = house.clock.now()
        while gone(house, room, old) == 0:
            await house.advance(MINUTE // 2)
        assert house.clock.now() - started <= HOUR
        assert gone(house, room, old) == 40  # nobody waits for a turn
        house.homeserver.allowed_period = 3 * DAY
        await messages(house, room, 1, age=4 * DAY)
    assert told(house, room) == [TOO_OLD] * 2


async def test_a_restart_does_not_tell_it_again(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        await messages(house, room, 3, age=4 * DAY)
    await house.restart()
    async with house.running(*house.everything):
        await house.advance(2 * HOUR)
    assert told(house, room) == [TOO_OLD]


async def test_without_the_power_only_that_is_told_and_the_rest_when_it_is_back(
    house: House, room: RoomID
) -> None:
    await house.enter(room, SECOND)
    async with house.running(*house.everything):
        house.homeserver.set_power(room, BOT, 0)
        await messages(house, room, 3, age=4 * DAY)
        [paused] = told(house, room)
        assert paused.startswith("I can no longer remove messages")
        house.homeserver.set_power(room, BOT, 50)
        await house.advance(SECOND)
        assert told(house, room)[-1] == TOO_OLD


async def test_what_somebody_else_removed_is_not_missed(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        [old] = await messages(house, room, 1, age=4 * DAY)
    house.homeserver.redact_as(room, old)
    async with house.running(house.redactor):  # which reads nothing of it
        await house.advance(HOUR)
        assert old not in await house.timers()


async def test_a_refusal_without_a_reason_is_told_when_it_lasts(house: House) -> None:
    room = house.homeserver.make_room()
    house.homeserver.fail_next(*[Forbidden(reason="M_USER_SUSPENDED")] * 3, on="redact")
    async with house.running(*house.everything):
        await messages(house, room, 1, age=0)
        for _ in range(3):
            await house.advance(10 * SECOND)
        assert told(house, room) == []
        assert await house.pending(room) == 0
        house.homeserver.fail_next(*[Forbidden(reason="M_USER_SUSPENDED")] * 20, on="redact")
        await messages(house, room, 1, age=0)
        for _ in range(3):
            await house.advance(10 * SECOND)
        assert told(house, room) == [REFUSED]
        house.homeserver.recover()
        await house.advance(10 * MINUTE)
        assert await house.pending(room) == 0


async def test_who_asks_is_told_what_stays(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        await messages(house, room, 3, age=4 * DAY)
        house.homeserver.set_lifetime(room, HOUR)
        await house.rest()
        await house.said_in(room, "!expire status")
    said = house.homeserver.heard(room)[-1]
    assert "The server does not let me remove 3 messages that should be gone." in said
    assert "the next goes in" in said


async def test_what_the_homeserver_purged_and_no_longer_finds_is_not_missed(house: House) -> None:
    room = house.homeserver.make_room()
    house.homeserver.fail_next(*[NotFound()] * 50, on="redact")
    purged = EventID("$purged")
    await house.remember(room, purged, due=house.clock.now())
    async with house.running(*house.everything):
        for _ in range(12):
            await house.advance(5 * SECOND)
        assert purged not in await house.timers()
    assert told(house, room) == []


@pytest.mark.parametrize(
    ("refused", "expected"),
    [([], (0, 0)), ([0], (1, 0)), ([0, 0], (2, 0)), ([0, 5_000], (2, 5_000)), ([7, 5], (2, 7))],
)
async def test_refusals_are_counted_with_their_age_if_that_is_the_reason(
    house: House, refused: list[int], expected: tuple[int, int]
) -> None:
    room, now = house.homeserver.make_room(), house.clock.now()
    await house.remember(room, *(EventID(f"${number}") for number in range(3)), due=now)
    timers = await due_of(house.store, now, backlog=True)
    for timer, older_than in zip(timers, refused, strict=False):
        await house.store.refused(timer, now + 1_000, older_than)
    assert await house.store.refusals(room) == expected
    assert await house.store.refusals(RoomID("!other")) == (0, 0)
