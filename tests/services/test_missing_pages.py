"""A page that never comes: smaller ones are tried, then live messages go on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
from bot.core.topics import Topic
from bot.core.types import Event, EventID, RoomID
from bot.operator.rebuild import _Rebuild
from bot.services.backfill import TRIES, WITHIN
from bot.store import gaps
from tests.support.harness import MINUTE, SECOND, Harness

HOUR = 60 * MINUTE
SILENT = Unreachable(reason="status 504")
MISSED = "could not read everything"


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    harness.homeserver.limit = 3
    return await known_room(harness)


async def known_room(harness: Harness) -> RoomID:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    harness.homeserver.send(room, "the last that was read")
    async with harness.running(harness.sync):
        pass
    return room


def say(harness: Harness, room: RoomID, count: int) -> list[EventID]:
    return [harness.homeserver.send(room, f"message {number}") for number in range(count)]


async def with_timers(harness: Harness, sent: list[EventID]) -> int:
    return len(set(await harness.timers()) & set(sent))


def told(harness: Harness, room: RoomID) -> int:
    return sum(MISSED in text for text in harness.homeserver.heard(room))


class Pages:
    """Answers for the pages of one room as `verdict` says, by their size; notes the sizes."""

    def __init__(
        self, harness: Harness, room: RoomID, verdict: Callable[[int], Outcome | None]
    ) -> None:
        self.sizes: list[int] = []
        self.verdict = verdict
        truly = harness.homeserver.page_back

        async def page_back(
            room_id: RoomID, token: str, size: int | None = None
        ) -> tuple[list[Event], str | None]:
            if room_id == room:
                self.sizes.append(size or 0)
                outcome = self.verdict(size or 0)
                if outcome is not None:
                    raise OutcomeError(outcome)
            return await truly(room_id, token, size)

        harness.homeserver.page_back = page_back  # type: ignore[method-assign]


# --- other rooms ---------------------------------------------------------------------------------


async def test_a_page_that_hangs_holds_up_no_other_rooms_gap(
    harness: Harness, room: RoomID
) -> None:
    others = [await known_room(harness) for _ in range(5)]
    say(harness, room, 9)
    harness.homeserver.hang("page_back", room)
    async with harness.running(harness.sync, harness.backfill):
        for other in others:
            sent = say(harness, other, 9)
            await harness.rest()
            assert await with_timers(harness, sent) == 9
        harness.homeserver.release("page_back")


async def test_a_page_without_end_is_cut_off_and_asked_for_again(
    harness: Harness, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    sent = say(harness, room, 9)
    harness.homeserver.hang("page_back", room)
    async with harness.running(harness.sync, harness.backfill):
        await harness.advance(WITHIN)
        assert "pages of gaps: put off, while others go on: no end within 180 s (1)" in caplog.text
        harness.homeserver.release("page_back")
        await harness.advance(MINUTE)
        assert await with_timers(harness, sent) == 9


async def test_a_long_gap_that_was_read_holds_up_no_short_one(
    harness: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaps, "CHUNK", 4)
    other = await known_room(harness)
    long, short = say(harness, room, 90), say(harness, other, 9)
    async with harness.running(harness.sync):
        pass
    while (found := await harness.store.gaps.next_gap()) is not None:
        await harness.backfill.read(found[0])
    for _ in range(8):
        await harness.store.take_over(harness.clock.now())
    assert await with_timers(harness, short) == 9
    assert await with_timers(harness, long) < 40


# --- smaller pages -------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [SILENT, Failed(status=500), Unreachable(reason="reset")])
async def test_smaller_pages_are_asked_for_where_a_large_one_does_not_come(
    harness: Harness, room: RoomID, failure: Outcome
) -> None:
    sent = say(harness, room, 30)
    pages = Pages(harness, room, lambda size: failure if size > 10 else None)
    async with harness.running(harness.sync, harness.backfill):
        await harness.advance(MINUTE)
        assert await with_timers(harness, sent) == 0 or pages.sizes[-1] == 10
        for _ in range(5):
            await harness.advance(MINUTE)
        assert await with_timers(harness, sent) == 30
    assert pages.sizes[:5] == [1000, 1000, 100, 100, 10]
    assert set(pages.sizes[5:]) == {10}


async def test_the_size_of_the_next_page_outlives_a_restart(harness: Harness, room: RoomID) -> None:
    say(harness, room, 30)
    pages = Pages(harness, room, lambda size: SILENT if size > 10 else None)
    async with harness.running(harness.sync, harness.backfill):
        for _ in range(2):
            await harness.advance(2 * SECOND)
    assert pages.sizes[-1] == 100
    harness.clock.advance(MINUTE)
    await harness.restart()
    pages.sizes.clear()
    async with harness.running(harness.backfill):
        pass
    assert pages.sizes[0] == 100


async def test_a_single_failure_makes_no_page_smaller(harness: Harness, room: RoomID) -> None:
    sent = say(harness, room, 30)
    pages = Pages(harness, room, lambda _: SILENT if len(pages.sizes) % 2 else None)
    async with harness.running(harness.sync, harness.backfill):
        for _ in range(30):
            await harness.advance(2 * SECOND)
        assert await with_timers(harness, sent) == 30
    assert set(pages.sizes) == {1000}


# --- giving up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [SILENT, Failed(status=500), Refused(status=400), Forbidden(), NotFound()]
)
async def test_live_messages_go_on_without_a_page_that_never_comes(
    harness: Harness, room: RoomID, failure: Outcome
) -> None:
    lost = say(harness, room, 9)
    Pages(harness, room, lambda _: failure)
    async with harness.running(*harness.everything):
        live = await harness.said_in(room, "live")
        for _ in range(80):
            await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, live)
        assert not harness.homeserver.is_redacted(room, lost[0])
        live = await harness.said_in(room, "live again")
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, live)
    assert told(harness, room) == 1


async def test_what_was_in_the_gap_goes_when_the_room_heals(harness: Harness, room: RoomID) -> None:
    lost = say(harness, room, 9)
    pages = Pages(harness, room, lambda _: SILENT)
    async with harness.running(*harness.everything):
        for _ in range(90):
            await harness.advance(MINUTE)
        assert not harness.homeserver.is_redacted(room, lost[0])
        pages.verdict = lambda _: None
        for _ in range(30):
            await harness.advance(MINUTE)
        assert all(harness.homeserver.is_redacted(room, one) for one in lost)


async def test_a_rooms_many_gaps_are_told_once_and_waited_for_briefly(
    harness: Harness, room: RoomID
) -> None:
    Pages(harness, room, lambda _: SILENT)
    async with harness.running(*harness.everything):
        say(harness, room, 9)
        for _ in range(90):
            await harness.advance(MINUTE)
        for _ in range(3):
            sent = say(harness, room, 9)
            for _ in range(10):
                await harness.advance(MINUTE)
            assert harness.homeserver.is_redacted(room, sent[-1])
    assert told(harness, room) == 1


async def test_people_are_told_again_of_gaps_after_the_room_had_healed(
    harness: Harness, room: RoomID
) -> None:
    pages = Pages(harness, room, lambda _: SILENT)
    async with harness.running(*harness.everything):
        for _ in range(2):
            pages.verdict = lambda _: SILENT
            say(harness, room, 9)
            for _ in range(90):
                await harness.advance(MINUTE)
            pages.verdict = lambda _: None
            for _ in range(120):
                await harness.advance(MINUTE)
    assert told(harness, room) == 2


@pytest.mark.parametrize("failure", [SILENT, Failed(status=500)])
async def test_an_outage_of_hours_ends_no_gap_and_makes_no_page_smaller(
    harness: Harness, room: RoomID, failure: Outcome
) -> None:
    """Nothing that the homeserver is asked is answered: no page is to blame."""
    sent = say(harness, room, 9)
    async with harness.running(harness.sync):
        pass
    away = True

    async def answers() -> bool:
        return not away

    harness.homeserver.answers = answers  # type: ignore[method-assign]
    pages = Pages(harness, room, lambda _: failure if away else None)
    async with harness.running(harness.backfill, harness.outbox, harness.sweeper):
        for _ in range(5 * 60):
            await harness.advance(MINUTE)
        assert len(pages.sizes) > TRIES
        away = False
        await harness.advance(MINUTE)
        assert await with_timers(harness, sent) == 9
    assert set(pages.sizes) == {1000}
    assert told(harness, room) == 0


async def test_an_outage_does_not_count_beside_a_page_that_does_not_come(
    harness: Harness, room: RoomID
) -> None:
    say(harness, room, 9)
    async with harness.running(harness.sync):
        pass
    there = False

    async def answers() -> bool:
        return there

    harness.homeserver.answers = answers  # type: ignore[method-assign]
    Pages(harness, room, lambda _: SILENT)
    async with harness.running(harness.backfill):
        for minute in range(3 * 40):
            there = 40 <= minute < 46
            await harness.advance(MINUTE)
        assert await harness.store.gaps.next_gap() is not None
        there = True
        for _ in range(40):
            await harness.advance(MINUTE)
        assert await harness.store.gaps.next_gap() is None


async def test_a_limit_on_requests_ends_no_gap(harness: Harness, room: RoomID) -> None:
    sent = say(harness, room, 9)
    limited = RateLimited(retry_after=MINUTE)
    answers: list[Outcome | None] = [*[limited] * 2 * TRIES, SILENT]
    Pages(harness, room, lambda _: answers.pop(0) if answers else None)
    async with harness.running(harness.sync, harness.backfill):
        for _ in range(2 * TRIES + 5):
            await harness.advance(MINUTE)
        assert await with_timers(harness, sent) == 9
    assert told(harness, room) == 0


async def test_a_homeserver_that_is_away_is_not_asked_for_every_rooms_page(
    harness: Harness, room: RoomID
) -> None:
    rooms = [room] + [await known_room(harness) for _ in range(30)]
    for one in rooms:
        say(harness, one, 9)
    async with harness.running(harness.sync):
        pass

    async def answers() -> bool:
        return False

    harness.homeserver.answers = answers  # type: ignore[method-assign]
    harness.homeserver.fail_next(*[SILENT] * 9_999, on="page_back")
    async with harness.running(harness.backfill):
        for _ in range(60):
            await harness.advance(MINUTE)
    assert len(harness.homeserver.times("page_back")) < 10 * 60


async def test_a_clock_that_is_set_back_makes_no_page_wait(harness: Harness, room: RoomID) -> None:
    sent = say(harness, room, 9)
    async with harness.running(harness.sync):
        pass
    away = True

    async def answers() -> bool:
        return not away

    harness.homeserver.answers = answers  # type: ignore[method-assign]
    Pages(harness, room, lambda _: SILENT if away else None)
    async with harness.running(harness.backfill, harness.clock_watch):
        for _ in range(5):
            await harness.advance(MINUTE)
        away = False
        harness.clock.jump(-5 * HOUR)
        harness.wake()
        await harness.advance(MINUTE)
        await harness.advance(MINUTE)
        assert await with_timers(harness, sent) == 9


# --- sweeps --------------------------------------------------------------------------------------


async def swept(harness: Harness, room: RoomID) -> None:
    sweep = Sweep(room_id=room, whole_room=True, since=0, until=harness.clock.now())
    await harness.store.sweeps.begin(sweep)
    harness.store.publish(Topic.SWEEPS)


async def test_a_page_that_hangs_holds_up_no_other_rooms_sweep(
    harness: Harness, room: RoomID
) -> None:
    others = [await known_room(harness) for _ in range(4)]
    harness.homeserver.hang("page_back", room)
    async with harness.running(harness.sweeper):
        for one in (room, *others):
            await swept(harness, one)
        await harness.rest()
        assert await harness.store.sweeps.left() == 1
        harness.homeserver.release("page_back")
        await harness.rest()
        assert await harness.store.sweeps.left() == 0


async def test_a_sweep_asks_for_smaller_pages_and_goes_on_with_them(
    harness: Harness, room: RoomID
) -> None:
    sent = say(harness, room, 30)
    async with harness.running(harness.sync):
        pass
    pages = Pages(harness, room, lambda size: SILENT if size > 10 else None)
    await swept(harness, room)
    while (found := await harness.store.gaps.next_gap()) is not None:
        await harness.store.gaps.give_up(found[0], harness.clock.now())
    await harness.store.take_over(harness.clock.now())
    async with harness.running(harness.sweeper):
        for _ in range(5):
            await harness.advance(MINUTE)
        await harness.restart()
    async with harness.running(harness.sweeper):
        assert await with_timers(harness, sent) == 30
    assert pages.sizes[:5] == [1000, 1000, 100, 100, 10]
    assert set(pages.sizes[5:]) == {10}


async def test_an_outage_makes_no_page_of_a_sweep_smaller(harness: Harness, room: RoomID) -> None:
    away = True

    async def answers() -> bool:
        return not away

    harness.homeserver.answers = answers  # type: ignore[method-assign]
    pages = Pages(harness, room, lambda _: SILENT if away else None)
    await swept(harness, room)
    async with harness.running(harness.sweeper):
        for _ in range(60):
            await harness.advance(MINUTE)
        away = False
        for _ in range(2):
            await harness.advance(MINUTE)
        assert await harness.store.sweeps.left() == 0
    assert set(pages.sizes) == {1000}
    assert len(pages.sizes) > 30


async def test_a_rebuild_leaves_a_room_that_never_answers_to_the_bot(
    harness: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.operator.rebuild.SystemClock", lambda: harness.clock)
    other = await known_room(harness)
    sent = [harness.homeserver.send(one, "hello") for one in (room, other)]
    await harness.commit()
    Pages(harness, room, lambda _: SILENT)
    rebuild = _Rebuild(harness.settings, cast("Any", harness.homeserver), harness.store)
    said: list[str] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rebuild.run(said.append))
        for _ in range(30):
            await harness.rest()
            harness.clock.advance(MINUTE)
    assert task.result().endswith("1 room will follow when the bot runs.")
    assert said == ["Reading back in 2 rooms."]
    assert set(await harness.timers()) & set(sent) == {sent[1]}
