"""Gaps that cannot be read, or not now, or not as far as they should: no room is lost to one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.core.lifetimes import LifetimeLimits
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
from bot.services.sync import OLDER
from tests.support.fake_homeserver import ALICE
from tests.support.harness import DAY, MINUTE, SECOND, Harness


@pytest.fixture
async def room(house: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    house.homeserver.limit = 3
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    house.homeserver.send(room, "the last that was read")
    async with house.running(house.intake):
        pass
    return room


async def dues(house: Harness, sent: list[EventID]) -> list[Millis | None]:
    """Return in how many milliseconds from now each message is due."""
    timers = await house.timers()
    return [timers[one] - house.clock.now() if one in timers else None for one in sent]


def say(house: Harness, room: RoomID, count: int) -> list[EventID]:
    return [house.homeserver.send(room, f"message {number}") for number in range(count)]


async def test_a_gap_ends_at_old_messages_where_the_known_one_is_gone(
    house: Harness, room: RoomID
) -> None:
    """What was decided to stay gets no timer when it is come by again."""
    house.homeserver.set_lifetime(room, None)
    stays = say(house, room, 8)
    house.homeserver.set_lifetime(room, MINUTE)
    last = house.homeserver.send(room, "the last that was read, and purged")
    async with house.running(house.intake, house.backfill):
        pass
    house.homeserver.purge(room, last)
    house.clock.advance(OLDER + MINUTE)
    await house.commit()
    sent = say(house, room, 9)
    async with house.running(house.intake, house.backfill):
        assert await dues(house, sent) == [MINUTE] * 9
        assert await dues(house, stays) == [None] * 8


async def test_old_times_that_others_wrote_end_no_gap(tmp_path: Path) -> None:
    """A bridge that imports history while the bot is away hides nothing that was said before."""
    house = await Harness.build(
        tmp_path / "default.db", LifetimeLimits(minimum=SECOND, maximum=DAY, default=MINUTE)
    )
    house.homeserver.limit = 3
    room = house.homeserver.make_room()
    async with house.running(house.intake):
        house.homeserver.send(room, "read")
        await house.rest()
    house.clock.advance(MINUTE)
    important = house.homeserver.send(room, "important")
    imported = [house.homeserver.send(room, f"old {number}", at=1) for number in range(12)]
    say(house, room, 4)
    async with house.running(house.intake, house.backfill):
        assert {important, *imported} <= set(await house.timers())
    await house.store.close()


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
    house: Harness, room: RoomID, trouble: Outcome
) -> None:
    sent = say(house, room, 9)
    house.homeserver.fail_next(trouble, trouble, trouble, on="page_back")
    async with house.running(house.intake, house.backfill, house.rooms):
        assert await dues(house, sent) == [None] * 9
        for _ in range(3):
            await house.advance(MINUTE)
        assert await dues(house, sent) == [MINUTE - 3 * MINUTE] * 9


async def test_a_gap_that_can_never_be_read_does_not_hold_up_its_room_for_ever(
    house: Harness, room: RoomID
) -> None:
    """What was said after the gap waits behind it, without a timer."""
    say(house, room, 9)
    house.homeserver.fail_next(*[Refused(status=400, errcode="M_UNKNOWN")] * 999, on="page_back")
    async with house.running(house.intake, house.backfill):
        live = await house.said_in(room, "live")
        for _ in range(120):
            await house.advance(10 * MINUTE)
        assert await dues(house, [live]) != [None]


async def test_what_a_homeserver_fails_on_for_half_a_day_is_found_when_it_heals(
    house: Harness, room: RoomID
) -> None:
    sent = say(house, room, 9)
    house.homeserver.fail_next(*[Failed(status=500)] * 72, on="page_back")
    services = (house.intake, house.backfill, house.sweeper, house.speaker)
    async with house.running(*services):
        for _ in range(6 * 11):  # every ten minutes it is asked again, by then
            await house.advance(10 * MINUTE)
        assert (await dues(house, sent))[:6] == [None] * 6
        for _ in range(6 * 2):
            await house.advance(10 * MINUTE)
        assert None not in await dues(house, sent)
    said = [one for one in house.homeserver.heard(room) if "could not read everything" in one]
    assert len(said) == 1


async def test_a_homeserver_that_leads_in_a_circle_is_not_followed(
    house: Harness, room: RoomID
) -> None:
    """A page with nothing in it and its own token again would be asked for for ever."""
    sent = say(house, room, 9)
    asked = 0

    async def page_back(
        room_id: RoomID, token: str, size: int | None = None
    ) -> tuple[list[Event], str | None]:
        nonlocal asked
        asked += 1
        assert asked < 99
        return [], token

    house.homeserver.page_back = page_back  # type: ignore[method-assign]
    async with house.running(house.intake, house.backfill):
        assert await dues(house, sent[-3:]) == [MINUTE] * 3


async def test_a_gap_of_one_room_does_not_hold_up_another(house: Harness, room: RoomID) -> None:
    other = house.homeserver.make_room()
    house.homeserver.set_lifetime(other, MINUTE)
    async with house.running(house.intake):
        pass
    say(house, room, 9)
    house.homeserver.fail_next(Failed(status=500), on="page_back")
    sent = say(house, other, 9)
    async with house.running(house.intake, house.backfill):
        assert await dues(house, sent) == [MINUTE] * 9


async def test_a_command_in_a_gap_that_cannot_be_judged_now_is_judged_later(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.send(room, "!expire 5m", sender=ALICE)
    sent = say(house, room, 5)
    async with house.running(house.intake):
        pass
    house.homeserver.fail_next(Unreachable(reason="reset"), on="power")
    async with house.running(house.backfill):
        assert await dues(house, sent) == [MINUTE] * 5  # by the lifetime before it
    async with house.running(house.backfill, house.deciding):
        await house.advance(MINUTE)
        assert await dues(house, sent) == [4 * MINUTE] * 5


async def test_a_room_that_was_left_is_not_read_back(house: Harness, room: RoomID) -> None:
    say(house, room, 9)
    async with house.running(house.intake):
        pass
    house.homeserver.kick(room)
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    assert await house.store.unread.next_gap() is None
    assert await house.timers() == {}


async def test_a_page_that_comes_late_belongs_to_no_other_room(
    house: Harness, room: RoomID
) -> None:
    other = house.homeserver.make_room()
    house.homeserver.set_lifetime(other, MINUTE)
    async with house.running(house.intake):
        pass
    say(house, room, 9)
    house.homeserver.hold("page_back", answer=True)
    async with house.running(house.intake, house.backfill):
        await house.store.forget(room, 0)
        sent = say(house, other, 9)
        await house.rest()
        house.homeserver.release("page_back")
        await house.rest()
        assert await dues(house, sent) == [MINUTE] * 9
        assert set(await house.timers()) == set(sent)


async def test_a_rejected_token_ends_backfill(house: Harness, room: RoomID) -> None:
    say(house, room, 9)
    async with house.running(house.intake):
        pass
    house.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="page_back")
    with pytest.raises(TokenRejectedError):
        await house.backfill.run()
