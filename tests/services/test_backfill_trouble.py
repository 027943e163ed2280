"""Gaps that cannot be read, or not now, or not as far as they should: no room is lost to one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.core.lifetimes import LifetimeLimits
from bot.core.missing_events import OLDER
from bot.core.outcomes import (
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    RateLimited,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.core.types import Event, EventID, Millis, RoomID
from tests.support.fake_homeserver import ALICE
from tests.support.harness import DAY, MINUTE, SECOND, Harness


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    harness.homeserver.limit = 3
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    harness.homeserver.send(room, "the last that was read")
    async with harness.running(harness.sync):
        pass
    return room


async def dues(harness: Harness, sent: list[EventID]) -> list[Millis | None]:
    """Return in how many milliseconds from now each message is due."""
    timers = await harness.timers()
    return [timers[one] - harness.clock.now() if one in timers else None for one in sent]


def say(harness: Harness, room: RoomID, count: int) -> list[EventID]:
    return [harness.homeserver.send(room, f"message {number}") for number in range(count)]


async def test_a_gap_ends_at_old_messages_where_the_known_one_is_gone(
    harness: Harness, room: RoomID
) -> None:
    """What was decided to stay gets no timer when it is come by again."""
    harness.homeserver.set_lifetime(room, None)
    stays = say(harness, room, 8)
    harness.homeserver.set_lifetime(room, MINUTE)
    last = harness.homeserver.send(room, "the last that was read, and purged")
    async with harness.running(harness.sync, harness.backfill):
        pass
    harness.homeserver.purge(room, last)
    harness.clock.advance(OLDER + MINUTE)
    await harness.commit()
    sent = say(harness, room, 9)
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, sent) == [MINUTE] * 9
        assert await dues(harness, stays) == [None] * 8


async def test_old_times_that_others_wrote_end_no_gap(tmp_path: Path) -> None:
    """A bridge that imports history while the bot is away hides nothing that was said before."""
    harness = await Harness.build(
        tmp_path / "default.db", LifetimeLimits(minimum=SECOND, maximum=DAY, default=MINUTE)
    )
    harness.homeserver.limit = 3
    room = harness.homeserver.make_room()
    async with harness.running(harness.sync):
        harness.homeserver.send(room, "read")
        await harness.rest()
    harness.clock.advance(MINUTE)
    important = harness.homeserver.send(room, "important")
    imported = [harness.homeserver.send(room, f"old {number}", at=1) for number in range(12)]
    say(harness, room, 4)
    async with harness.running(harness.sync, harness.backfill):
        assert {important, *imported} <= set(await harness.timers())
    await harness.store.close()


@pytest.mark.parametrize(
    "trouble",
    [
        RateLimited(retry_after=3_000),
        Unreachable(reason="reset"),
        Failed(status=500),
        Forbidden(),
        NotFound(),
    ],
)
async def test_a_page_that_cannot_be_had_now_is_had_later(
    harness: Harness, room: RoomID, trouble: Outcome
) -> None:
    sent = say(harness, room, 9)
    harness.homeserver.fail_next(trouble, trouble, trouble, on="page_back")
    async with harness.running(harness.sync, harness.backfill, harness.permissions):
        assert await dues(harness, sent) == [None] * 9
        for _ in range(3):
            await harness.advance(MINUTE)
        assert await dues(harness, sent) == [MINUTE - 3 * MINUTE] * 9


async def test_an_unreadable_gap_does_not_hold_up_its_room_for_ever(
    harness: Harness, room: RoomID
) -> None:
    """What was said after the gap waits behind it, without a timer."""
    say(harness, room, 9)
    harness.homeserver.fail_next(*[Refused(status=400, errcode="M_UNKNOWN")] * 999, on="page_back")
    async with harness.running(harness.sync, harness.backfill):
        live = await harness.said_in(room, "live")
        for _ in range(120):
            await harness.advance(10 * MINUTE)
        assert await dues(harness, [live]) != [None]


async def test_what_a_homeserver_fails_on_for_hours_is_found_afterwards(
    harness: Harness, room: RoomID
) -> None:
    sent = say(harness, room, 9)
    harness.homeserver.fail_next(*[Failed(status=500)] * 72, on="page_back")
    services = (harness.sync, harness.backfill, harness.sweeper, harness.outbox)
    async with harness.running(*services):
        for _ in range(6 * 11):  # every ten minutes it is asked again, by then
            await harness.advance(10 * MINUTE)
        assert (await dues(harness, sent))[:6] == [None] * 6
        for _ in range(6 * 2):
            await harness.advance(10 * MINUTE)
        assert None not in await dues(harness, sent)
    said = [one for one in harness.homeserver.heard(room) if "could not read everything" in one]
    assert len(said) == 1


async def test_a_homeserver_that_leads_in_a_circle_is_not_followed(
    harness: Harness, room: RoomID
) -> None:
    """A page with nothing in it and its own token again would be asked for for ever."""
    sent = say(harness, room, 9)
    asked = 0

    async def page_back(
        room_id: RoomID, token: str, size: int | None = None
    ) -> tuple[list[Event], str | None]:
        nonlocal asked
        asked += 1
        assert asked < 99
        return [], token

    harness.homeserver.page_back = page_back  # type: ignore[method-assign]
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, sent[-3:]) == [MINUTE] * 3


async def test_a_gap_of_one_room_does_not_hold_up_another(harness: Harness, room: RoomID) -> None:
    other = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(other, MINUTE)
    async with harness.running(harness.sync):
        pass
    say(harness, room, 9)
    harness.homeserver.fail_next(Failed(status=500), on="page_back")
    sent = say(harness, other, 9)
    async with harness.running(harness.sync, harness.backfill):
        assert await dues(harness, sent) == [MINUTE] * 9


async def test_a_command_in_a_gap_that_cannot_be_decided_is_decided_later(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.send(room, "!expire 5m", sender=ALICE)
    sent = say(harness, room, 5)
    async with harness.running(harness.sync):
        pass
    harness.homeserver.fail_next(Unreachable(reason="reset"), on="power")
    async with harness.running(harness.backfill):
        assert await dues(harness, sent) == [MINUTE] * 5  # by the lifetime before it
    async with harness.running(harness.backfill, harness.deferred_authorization):
        await harness.advance(MINUTE)
        assert await dues(harness, sent) == [4 * MINUTE] * 5


async def test_a_room_that_was_left_is_not_read_back(harness: Harness, room: RoomID) -> None:
    say(harness, room, 9)
    async with harness.running(harness.sync):
        pass
    harness.homeserver.kick(room)
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    assert await harness.store.gaps.next_gap() is None
    assert await harness.timers() == {}


async def test_a_page_that_comes_late_belongs_to_no_other_room(
    harness: Harness, room: RoomID
) -> None:
    other = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(other, MINUTE)
    async with harness.running(harness.sync):
        pass
    say(harness, room, 9)
    harness.homeserver.hold("page_back", answer=True)
    async with harness.running(harness.sync, harness.backfill):
        await harness.store.forget(room, 0)
        sent = say(harness, other, 9)
        await harness.rest()
        harness.homeserver.release("page_back")
        await harness.rest()
        assert await dues(harness, sent) == [MINUTE] * 9
        assert set(await harness.timers()) == set(sent)


async def test_a_rejected_token_ends_backfill(harness: Harness, room: RoomID) -> None:
    say(harness, room, 9)
    async with harness.running(harness.sync):
        pass
    harness.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="page_back")
    with pytest.raises(TokenRejectedError):
        await harness.backfill.run()
