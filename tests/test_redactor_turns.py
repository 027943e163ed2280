"""The redactor's order and patience: what is looked up first, the backlog's turn, what is told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from bot.due import Candidate
from bot.model import EventID, Failed, Millis, Outcome, RateLimited, RoomID, Unreachable
from bot.model import Forbidden as No
from bot.pace import Lanes
from tests.house import MINUTE, SECOND, House
from tests.test_kin import order_of_redactions, relate
from tests.test_redactor import gone, messages


async def state_of_timers(house: House) -> list[Any]:
    async with house.store._db.transaction() as db:
        return await db.rows("SELECT attempts, next FROM timers ORDER BY id")


async def test_somebody_who_adds_for_ever_holds_a_message_up_for_ten_seconds(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = house.homeserver.make_room()
    [whole] = await messages(house, room, 1)
    looks: list[Millis] = []

    async def relations(_: RoomID, event_id: EventID) -> tuple[list[EventID], bool]:
        if event_id != whole:
            return [], True
        looks.append(house.clock.now())
        return [EventID(relate(house, room, "m.replace", whole))], False

    monkeypatch.setattr(house.homeserver, "relations", relations)
    start = house.clock.now()
    async with house.running(house.redactor):
        for _ in range(10):
            await house.advance(SECOND)
        assert gone(house, room, [whole]) == 0
        for _ in range(5):
            await house.advance(SECOND)
    assert 10 * SECOND < looks[-1] - start <= 15 * SECOND
    assert len(looks) <= 12
    assert gone(house, room, [whole]) == 1
    assert len(await order_of_redactions(house, room)) == len(looks) + 1
    assert house.redactor._looked_at == {}


async def test_a_message_to_which_nothing_more_is_found_goes_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = house.homeserver.make_room()
    sent = await messages(house, room, 1)

    async def relations(*_: object) -> tuple[list[EventID], bool]:
        return [], False

    monkeypatch.setattr(house.homeserver, "relations", relations)
    async with house.running(house.redactor):
        assert gone(house, room, sent) == 1
    assert len(house.homeserver.times("redact")) == 1


@pytest.mark.parametrize(
    ("outcome", "attempts"),
    [(RateLimited(retry_after=5_000), 0), (Unreachable(reason="x"), 1), (Failed(status=500), 1)],
)
async def test_a_question_that_fails_puts_off_its_message_unless_all_must_wait(
    house: House, outcome: Outcome, attempts: int
) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    house.homeserver.fail_next(outcome, on="relations")
    async with house.running(house.redactor):
        [(tries, at)] = await state_of_timers(house)
        assert tries == attempts
        assert (at > house.clock.now()) == bool(attempts)
        paused = house.redactor._pace.paused_until > house.clock.now()
        assert paused == (not isinstance(outcome, Failed))
        assert house.homeserver.times("redact") == []


@pytest.mark.parametrize("limited", [False, True])
def test_every_eighth_redaction_gives_the_backlog_one_turn(limited: bool) -> None:
    lanes = Lanes()
    usual = lanes.order(limited=limited)
    assert [(backlog, spare > 0) for backlog, _, spare in usual] == [
        (False, True),
        (True, not limited),
    ]
    for _ in range(2):
        for _ in range(8):
            assert lanes.order(limited=limited) == usual
            lanes.accepted()
        [turn, *others] = lanes.order(limited=limited)
        assert turn[:2] == (True, 1)
        assert others == usual


async def test_a_backlog_moves_on_however_much_is_live(house: House) -> None:
    room, live = house.homeserver.make_room(), house.homeserver.make_room()
    old = await messages(house, room, 20, due=-MINUTE)
    new = await messages(house, live, 90, due=10)
    house.clock.advance(10)
    house.homeserver.fail_next(Unreachable(reason="x"), on="redact")  # one at a time from now on
    async with house.running(house.redactor):
        await house.advance(2 * SECOND)
    assert gone(house, room, old) + gone(house, live, new) == 110


async def test_what_was_done_is_told_in_numbers_once_a_minute(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bot.redactor")
    room = house.homeserver.make_room()
    await messages(house, room, 4, due=-3 * SECOND)
    house.homeserver.fail_next(Failed(status=500), No(reason="M_FORBIDDEN"), on="redact")
    house.redactor._tally.since = house.clock.now()

    def told() -> list[str]:
        return [one for one in caplog.messages if one.startswith("redacted ")]

    async with house.running(house.redactor):
        await house.advance(2 * SECOND)
        await house.advance(57_999)
        house.redactor.wake.set()
        await house.rest()
        assert told() == []
        await house.advance(1)
        house.redactor.wake.set()
        await house.rest()
        assert told() == ["redacted 4, at worst 5.0 s late; 2 must wait, 0 did not happen"]
        await house.advance(5 * MINUTE)
        house.redactor.wake.set()
        await house.rest()
    assert len(told()) == 1


async def test_what_is_overdue_is_counted_every_ten_seconds_and_only_under_a_limit(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, counted, count = house.homeserver.make_room(), list[Millis](), house.store.overdue

    async def overdue(now: Millis) -> int:
        counted.append(now)
        return await count(now)

    monkeypatch.setattr(house.store, "overdue", overdue)
    await messages(house, room, 3)
    async with house.running(house.redactor):
        assert counted == []
        await messages(house, room, 40)
        house.homeserver.fail_next(RateLimited(retry_after=5_000), on="redact")
        house.wake()
        await house.rest()
        start = house.clock.now()
        assert counted == [start]
        assert house.redactor.behind is not None
        await house.advance(9_999)
        house.wake()
        await house.rest()
        assert counted == [start]
        await house.advance(1)
        house.wake()
        await house.rest()
        assert counted == [start, start + 10 * SECOND]


async def test_a_clock_that_is_set_back_does_not_stop_the_counting(house: House) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 40, due=-2 * 60 * MINUTE)
    house.homeserver.fail_next(RateLimited(retry_after=5_000), on="redact")
    async with house.running(house.redactor):
        assert house.redactor.behind is not None
        counted = house.redactor._counted_at
        house.clock.jump(-60 * MINUTE)
        house.redactor.clock_was_set()
        await house.rest()
        assert house.redactor._counted_at == counted - 60 * MINUTE


async def test_a_message_that_is_refused_is_told_of_once(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    house.homeserver.fail_next(*[No(reason="M_FORBIDDEN")] * 9, on="redact")
    told = "a message cannot be redacted (status 403 M_FORBIDDEN)"
    async with house.running(house.redactor):
        for tries in range(1, 9):
            await house.advance(10 * MINUTE if tries > 1 else 0)
            assert len(house.homeserver.times("redact")) == tries
            assert caplog.messages.count(told) == (tries >= 4)


async def test_a_message_that_is_too_old_is_no_news_for_the_operator(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    room = house.homeserver.make_room()
    await messages(house, room, 1)
    house.homeserver.fail_next(*[No(reason="M_FORBIDDEN", older_than=5)] * 9, on="redact")
    async with house.running(house.redactor):
        for _ in range(8):
            await house.advance(60 * MINUTE)
    assert len(house.homeserver.times("redact")) >= 7
    assert not any("cannot be redacted" in one for one in caplog.messages)


async def test_a_clock_that_is_set_back_does_not_stop_the_telling(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bot.redactor")
    room = house.homeserver.make_room()
    house.redactor._tally.since = house.clock.now()
    async with house.running(house.redactor):
        house.clock.jump(-60 * MINUTE)
        house.redactor.clock_was_set()
        await messages(house, room, 1)
        house.wake()
        await house.rest()
        await house.advance(MINUTE - 1)
        house.redactor.wake.set()
        await house.rest()
        assert not any(one.startswith("redacted 1,") for one in caplog.messages)
        await house.advance(1)
        house.redactor.wake.set()
        await house.rest()
    assert any(one.startswith("redacted 1,") for one in caplog.messages)


async def test_what_fails_while_the_next_are_looked_for_holds_them_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, due = house.homeserver.make_room(), house.store.due
    sent = await messages(house, room, 2)
    pause = house.clock.now() + 5 * SECOND

    async def failing(
        now: Millis, rooms: Sequence[int], share: int, *, backlog: bool
    ) -> list[Candidate]:
        found = await due(now, rooms, share, backlog=backlog)
        house.redactor._pace.paused(RateLimited(retry_after=1), pause, now, again=False)
        return found

    monkeypatch.setattr(house.store, "due", failing)
    async with house.running(house.redactor):
        assert house.homeserver.times("redact") == []
        monkeypatch.undo()
        house.wake()
        await house.advance(5 * SECOND - 1)
        assert house.homeserver.times("redact") == []
        await house.advance(1)
        assert gone(house, room, sent) >= 1
