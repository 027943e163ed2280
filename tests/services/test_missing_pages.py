"""A page that never comes: smaller ones are tried, then live messages go on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot.core.outcomes import (
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    OutcomeError,
    RateLimited,
    Refused,
    Unreachable,
)
from bot.core.timeline import Sweep
from bot.core.types import Event, EventID, RoomID
from bot.operator.rebuild import _Rebuild
from bot.services.backfill import TRIES, WITHIN
from bot.store import gaps
from tests.support.harness import MINUTE, SECOND, Harness

HOUR = 60 * MINUTE
SILENT = Unreachable(reason="status 504")
MISSED = "could not read everything"


@pytest.fixture
async def room(house: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    house.homeserver.limit = 3
    return await known_room(house)


async def known_room(house: Harness) -> RoomID:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    house.homeserver.send(room, "the last that was read")
    async with house.running(house.intake):
        pass
    return room


def say(house: Harness, room: RoomID, count: int) -> list[EventID]:
    return [house.homeserver.send(room, f"message {number}") for number in range(count)]


async def with_timers(house: Harness, sent: list[EventID]) -> int:
    return len(set(await house.timers()) & set(sent))


def told(house: Harness, room: RoomID) -> int:
    return sum(MISSED in text for text in house.homeserver.heard(room))


class Pages:
    """Answers for the pages of one room as `verdict` says, by their size; notes the sizes."""

    def __init__(
        self, house: Harness, room: RoomID, verdict: Callable[[int], Outcome | None]
    ) -> None:
        self.sizes: list[int] = []
        self.verdict = verdict
        truly = house.homeserver.page_back

        async def page_back(
            room_id: RoomID, token: str, size: int | None = None
        ) -> tuple[list[Event], str | None]:
            if room_id == room:
                self.sizes.append(size or 0)
                outcome = self.verdict(size or 0)
                if outcome is not None:
                    raise OutcomeError(outcome)
            return await truly(room_id, token, size)

        house.homeserver.page_back = page_back  # type: ignore[method-assign]


# --- other rooms ---------------------------------------------------------------------------------


async def test_a_page_that_hangs_holds_up_no_other_rooms_gap(house: Harness, room: RoomID) -> None:
    others = [await known_room(house) for _ in range(5)]
    say(house, room, 9)
    house.homeserver.hang("page_back", room)
    async with house.running(house.intake, house.backfill):
        for other in others:
            sent = say(house, other, 9)
            await house.rest()
            assert await with_timers(house, sent) == 9
        house.homeserver.release("page_back")


async def test_a_page_without_end_is_cut_off_and_asked_for_again(
    house: Harness, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    sent = say(house, room, 9)
    house.homeserver.hang("page_back", room)
    async with house.running(house.intake, house.backfill):
        await house.advance(WITHIN)
        assert "pages of gaps: put off, while others go on: no end within 180 s (1)" in caplog.text
        house.homeserver.release("page_back")
        await house.advance(MINUTE)
        assert await with_timers(house, sent) == 9


async def test_a_long_gap_that_was_read_holds_up_no_short_one(
    house: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaps, "CHUNK", 4)
    other = await known_room(house)
    long, short = say(house, room, 90), say(house, other, 9)
    async with house.running(house.intake):
        pass
    while (found := await house.store.unread.next_gap()) is not None:
        await house.backfill.read(found[0])
    for _ in range(8):
        await house.store.unread.take_over(house.clock.now())
    assert await with_timers(house, short) == 9
    assert await with_timers(house, long) < 40


# --- smaller pages -------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [SILENT, Failed(status=500), Unreachable(reason="reset")])
async def test_smaller_pages_are_asked_for_where_a_large_one_does_not_come(
    house: Harness, room: RoomID, failure: Outcome
) -> None:
    sent = say(house, room, 30)
    pages = Pages(house, room, lambda size: failure if size > 10 else None)
    async with house.running(house.intake, house.backfill):
        await house.advance(MINUTE)
        assert await with_timers(house, sent) == 0 or pages.sizes[-1] == 10
        for _ in range(5):
            await house.advance(MINUTE)
        assert await with_timers(house, sent) == 30
    assert pages.sizes[:5] == [1000, 1000, 100, 100, 10]
    assert set(pages.sizes[5:]) == {10}


async def test_the_size_of_the_next_page_outlives_a_restart(house: Harness, room: RoomID) -> None:
    say(house, room, 30)
    pages = Pages(house, room, lambda size: SILENT if size > 10 else None)
    async with house.running(house.intake, house.backfill):
        for _ in range(2):
            await house.advance(2 * SECOND)
    assert pages.sizes[-1] == 100
    house.clock.advance(MINUTE)
    await house.restart()
    pages.sizes.clear()
    async with house.running(house.backfill):
        pass
    assert pages.sizes[0] == 100


async def test_a_single_failure_makes_no_page_smaller(house: Harness, room: RoomID) -> None:
    sent = say(house, room, 30)
    pages = Pages(house, room, lambda _: SILENT if len(pages.sizes) % 2 else None)
    async with house.running(house.intake, house.backfill):
        for _ in range(30):
            await house.advance(2 * SECOND)
        assert await with_timers(house, sent) == 30
    assert set(pages.sizes) == {1000}


# --- giving up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [SILENT, Failed(status=500), Refused(status=400), Forbidden(), NotFound()]
)
async def test_live_messages_go_on_without_a_page_that_never_comes(
    house: Harness, room: RoomID, failure: Outcome
) -> None:
    lost = say(house, room, 9)
    Pages(house, room, lambda _: failure)
    async with house.running(*house.everything):
        live = await house.said_in(room, "live")
        for _ in range(80):
            await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, live)
        assert not house.homeserver.is_redacted(room, lost[0])
        live = await house.said_in(room, "live again")
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, live)
    assert told(house, room) == 1


async def test_what_was_in_the_gap_goes_when_the_room_heals(house: Harness, room: RoomID) -> None:
    lost = say(house, room, 9)
    pages = Pages(house, room, lambda _: SILENT)
    async with house.running(*house.everything):
        for _ in range(90):
            await house.advance(MINUTE)
        assert not house.homeserver.is_redacted(room, lost[0])
        pages.verdict = lambda _: None
        for _ in range(30):
            await house.advance(MINUTE)
        assert all(house.homeserver.is_redacted(room, one) for one in lost)


async def test_gap_after_gap_of_one_room_is_told_once_and_waited_for_briefly(
    house: Harness, room: RoomID
) -> None:
    Pages(house, room, lambda _: SILENT)
    async with house.running(*house.everything):
        say(house, room, 9)
        for _ in range(90):
            await house.advance(MINUTE)
        for _ in range(3):
            sent = say(house, room, 9)
            for _ in range(10):
                await house.advance(MINUTE)
            assert house.homeserver.is_redacted(room, sent[-1])
    assert told(house, room) == 1


async def test_people_are_told_again_of_what_is_missed_after_the_room_had_healed(
    house: Harness, room: RoomID
) -> None:
    pages = Pages(house, room, lambda _: SILENT)
    async with house.running(*house.everything):
        for _ in range(2):
            pages.verdict = lambda _: SILENT
            say(house, room, 9)
            for _ in range(90):
                await house.advance(MINUTE)
            pages.verdict = lambda _: None
            for _ in range(120):
                await house.advance(MINUTE)
    assert told(house, room) == 2


@pytest.mark.parametrize("failure", [SILENT, Failed(status=500)])
async def test_an_outage_of_hours_ends_no_gap_and_makes_no_page_smaller(
    house: Harness, room: RoomID, failure: Outcome
) -> None:
    """Nothing that the homeserver is asked is answered: no page is to blame."""
    sent = say(house, room, 9)
    async with house.running(house.intake):
        pass
    away = True

    async def answers() -> bool:
        return not away

    house.homeserver.answers = answers  # type: ignore[method-assign]
    pages = Pages(house, room, lambda _: failure if away else None)
    async with house.running(house.backfill, house.speaker, house.sweeper):
        for _ in range(5 * 60):
            await house.advance(MINUTE)
        assert len(pages.sizes) > TRIES
        away = False
        await house.advance(MINUTE)
        assert await with_timers(house, sent) == 9
    assert set(pages.sizes) == {1000}
    assert told(house, room) == 0


async def test_an_outage_does_not_count_beside_a_page_that_does_not_come(
    house: Harness, room: RoomID
) -> None:
    say(house, room, 9)
    async with house.running(house.intake):
        pass
    there = False

    async def answers() -> bool:
        return there

    house.homeserver.answers = answers  # type: ignore[method-assign]
    Pages(house, room, lambda _: SILENT)
    async with house.running(house.backfill):
        for minute in range(3 * 40):
            there = 40 <= minute < 46
            await house.advance(MINUTE)
        assert await house.store.unread.next_gap() is not None
        there = True
        for _ in range(40):
            await house.advance(MINUTE)
        assert await house.store.unread.next_gap() is None


async def test_a_limit_on_requests_ends_no_gap(house: Harness, room: RoomID) -> None:
    sent = say(house, room, 9)
    limited = RateLimited(retry_after=MINUTE)
    answers: list[Outcome | None] = [*[limited] * 2 * TRIES, SILENT]
    Pages(house, room, lambda _: answers.pop(0) if answers else None)
    async with house.running(house.intake, house.backfill):
        for _ in range(2 * TRIES + 5):
            await house.advance(MINUTE)
        assert await with_timers(house, sent) == 9
    assert told(house, room) == 0


async def test_a_homeserver_that_is_away_is_not_asked_for_every_rooms_page(
    house: Harness, room: RoomID
) -> None:
    rooms = [room] + [await known_room(house) for _ in range(30)]
    for one in rooms:
        say(house, one, 9)
    async with house.running(house.intake):
        pass

    async def answers() -> bool:
        return False

    house.homeserver.answers = answers  # type: ignore[method-assign]
    house.homeserver.fail_next(*[SILENT] * 9_999, on="page_back")
    async with house.running(house.backfill):
        for _ in range(60):
            await house.advance(MINUTE)
    assert len(house.homeserver.times("page_back")) < 10 * 60


async def test_a_clock_that_is_set_back_makes_no_page_wait(house: Harness, room: RoomID) -> None:
    sent = say(house, room, 9)
    async with house.running(house.intake):
        pass
    away = True

    async def answers() -> bool:
        return not away

    house.homeserver.answers = answers  # type: ignore[method-assign]
    Pages(house, room, lambda _: SILENT if away else None)
    async with house.running(house.backfill, house.timekeeper):
        for _ in range(5):
            await house.advance(MINUTE)
        away = False
        house.clock.jump(-5 * HOUR)
        house.wake()
        await house.advance(MINUTE)
        await house.advance(MINUTE)
        assert await with_timers(house, sent) == 9


# --- sweeps --------------------------------------------------------------------------------------


async def swept(house: Harness, room: RoomID) -> None:
    sweep = Sweep(room_id=room, whole=True, since=0, until=house.clock.now())
    await house.store.sweeps.begin(sweep)
    house.sweeper.wake.set()


async def test_a_page_that_hangs_holds_up_no_other_rooms_sweep(
    house: Harness, room: RoomID
) -> None:
    others = [await known_room(house) for _ in range(4)]
    house.homeserver.hang("page_back", room)
    async with house.running(house.sweeper):
        for one in (room, *others):
            await swept(house, one)
        await house.rest()
        assert await house.store.sweeps.left() == 1
        house.homeserver.release("page_back")
        await house.rest()
        assert await house.store.sweeps.left() == 0


async def test_a_sweep_asks_for_smaller_pages_and_goes_on_with_them(
    house: Harness, room: RoomID
) -> None:
    sent = say(house, room, 30)
    async with house.running(house.intake):
        pass
    pages = Pages(house, room, lambda size: SILENT if size > 10 else None)
    await swept(house, room)
    while (found := await house.store.unread.next_gap()) is not None:
        await house.store.unread.give_up(found[0], house.clock.now())
    await house.store.unread.take_over(house.clock.now())
    async with house.running(house.sweeper):
        for _ in range(5):
            await house.advance(MINUTE)
        await house.restart()
    async with house.running(house.sweeper):
        assert await with_timers(house, sent) == 30
    assert pages.sizes[:5] == [1000, 1000, 100, 100, 10]
    assert set(pages.sizes[5:]) == {10}


async def test_an_outage_makes_no_page_of_a_sweep_smaller(house: Harness, room: RoomID) -> None:
    away = True

    async def answers() -> bool:
        return not away

    house.homeserver.answers = answers  # type: ignore[method-assign]
    pages = Pages(house, room, lambda _: SILENT if away else None)
    await swept(house, room)
    async with house.running(house.sweeper):
        for _ in range(60):
            await house.advance(MINUTE)
        away = False
        for _ in range(2):
            await house.advance(MINUTE)
        assert await house.store.sweeps.left() == 0
    assert set(pages.sizes) == {1000}
    assert len(pages.sizes) > 30


async def test_a_rebuild_leaves_a_room_that_never_answers_to_the_bot(
    house: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.operator.rebuild.SystemClock", lambda: house.clock)
    other = await known_room(house)
    sent = [house.homeserver.send(one, "hello") for one in (room, other)]
    await house.commit()
    Pages(house, room, lambda _: SILENT)
    settings = SimpleNamespace(
        command_prefix="!expire",
        bounds=house.bounds,
        media=SimpleNamespace(delete=False),
        commands=SimpleNamespace(per_minute=30),
    )
    rebuild = _Rebuild(cast("Any", settings), cast("Any", house.homeserver), house.store)
    said: list[str] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rebuild.run(said.append))
        for _ in range(30):
            await house.rest()
            house.clock.advance(MINUTE)
    assert task.result().endswith("1 room will follow when the bot runs.")
    assert said == ["Reading back in 2 rooms."]
    assert set(await house.timers()) & set(sent) == {sent[1]}
