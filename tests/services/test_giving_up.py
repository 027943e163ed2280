"""What never comes right is given up, and what comes right late is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.core.outbox import KeyNeverCame
from bot.core.outcome_text import describe
from bot.core.outcomes import Failed, Forbidden, OutcomeError, TokenRejectedError, Unreachable
from bot.core.timeline import Message, RoomUpdate
from bot.core.types import Event, EventID, RoomID
from bot.services.late_keys import LateKeys
from tests.services.test_key_expiry import Homeserver, looked_at, read, reader_over
from tests.support.encryption_engines import Peer, Writer
from tests.support.fake_homeserver import FakeClock
from tests.support.harness import MINUTE, SECOND, Harness, Opener

HOUR = 60 * MINUTE


async def test_relations_that_say_more_for_ever_keep_no_message(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = harness.homeserver.make_room()
    message = harness.homeserver.send(room, "hello")

    async def more(room_id: RoomID, event_id: EventID) -> tuple[list[EventID], bool]:
        return [EventID("$of another server")], False

    monkeypatch.setattr(harness.homeserver, "relations", more)
    await harness.remember(room, message, due=harness.clock.now())
    await harness.store.not_all_seen()
    async with harness.running(harness.redactor):
        for _ in range(3):
            assert not harness.homeserver.is_redacted(room, message)
            await harness.advance(5 * SECOND)
        for _ in range(10):
            await harness.advance(SECOND)
        assert harness.homeserver.is_redacted(room, message)


async def test_a_homeserver_that_is_away_for_hours_ends_no_gap(harness: Harness) -> None:
    harness.homeserver.limit = 3
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, 24 * HOUR)
    async with harness.running(harness.sync):
        pass
    sent = [harness.homeserver.send(room, f"{number}") for number in range(9)]
    services = (harness.sync, harness.backfill, harness.outbox)
    away = [Unreachable(reason="away")] * 9_999
    harness.homeserver.fail_next(*away, on="page_back")
    harness.homeserver.fail_next(*away, on="answers")
    async with harness.running(*services):
        for _ in range(36):
            await harness.advance(5 * MINUTE)
        assert await harness.store.gaps.has_gap(room)
        harness.homeserver.recover()
        for _ in range(6):
            await harness.advance(5 * MINUTE)
        assert not await harness.store.gaps.has_gap(room)
        assert set(sent) <= set(await harness.timers())
    assert not any("could not read everything" in one for one in harness.homeserver.heard(room))


@pytest.mark.parametrize("failure", [Failed(status=500), Forbidden()])
async def test_a_parent_that_is_never_told_keeps_no_child(
    harness: Harness, failure: Failed
) -> None:
    room = harness.homeserver.make_room()
    await harness.enter(room, HOUR)
    child = harness.homeserver.send(room, "belongs to something")
    item = Message(event_id=child, sent=harness.clock.now(), parent=EventID("$somewhere"))
    await harness.commit(RoomUpdate(room_id=room, items=[item]))
    harness.homeserver.fail_next(*[failure] * 999, on="event")
    async with harness.running(harness.relations):
        for _ in range(3):
            await harness.advance(SECOND)
        assert await harness.store.relations.next_pending() is not None
        for _ in range(60):
            await harness.advance(MINUTE)
        assert await harness.store.relations.next_pending() is None
    assert len(harness.homeserver.times("event")) <= 7
    assert child in await harness.timers()


async def test_a_parent_is_asked_about_for_as_long_as_nobody_answers(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await harness.enter(room, HOUR)
    parent = harness.homeserver.send(room, "gone")
    harness.homeserver.redact_as(room, parent)
    child = harness.homeserver.send(room, "belongs to it")
    item = Message(event_id=child, sent=harness.clock.now(), parent=parent)
    await harness.commit(RoomUpdate(room_id=room, items=[item]))
    harness.homeserver.fail_next(*[Unreachable(reason="away")] * 999, on="event")
    async with harness.running(harness.relations, harness.redactor):
        for _ in range(30):
            await harness.advance(MINUTE)
        harness.homeserver.recover()
        await harness.advance(10 * MINUTE)
        assert harness.homeserver.is_redacted(room, child)


async def test_a_key_is_asked_for_twice_and_then_no_more(
    open_store: Opener, tmp_path: Path
) -> None:
    store = await open_store(tmp_path / "timers.db")
    homeserver, clock = Homeserver(), FakeClock()
    reader = reader_over(homeserver, store)
    event = Writer(Peer("alice", tmp_path / "alice")).write("!expire 5s")
    homeserver.events = {event["event_id"]: event}
    await read(reader, store, [event], clock.now())
    late = LateKeys(homeserver, store, store.timeline, reader, clock)
    asked = []
    for second in range(59):
        before = len(homeserver.asked)
        await looked_at(late)
        asked += [second] * (len(homeserver.asked) - before)
        clock.advance(SECOND)
    assert asked == [5, 12]
    assert await store.next_to_deliver() is None
    clock.advance(SECOND)
    await looked_at(late)
    entry = await store.next_to_deliver()
    assert entry is not None
    assert isinstance(entry.content, KeyNeverCame)


class Unready(Homeserver):
    """Has the key, and answers what is laid down instead of the event."""

    def __init__(self, answer: Exception) -> None:
        super().__init__()
        self.answer: Exception | None = answer

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return True

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        if self.answer is not None:
            self.asked.append(event_id)
            raise self.answer
        return await super().event(room_id, event_id)


@pytest.mark.parametrize(
    ("answer", "waits_for"),
    [
        (OutcomeError(Failed(status=500)), HOUR),
        (OutcomeError(Unreachable(reason="away")), HOUR),
        (OutcomeError(Forbidden()), 0),
        (ValueError("somebody's text"), 0),
    ],
)
async def test_a_late_unreadable_message_is_tried_for_an_hour_if_that_helps(
    open_store: Opener,
    tmp_path: Path,
    answer: Exception,
    waits_for: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = await open_store(tmp_path / "timers.db")
    locked, homeserver, clock = Homeserver(), Unready(answer), FakeClock()
    event = Writer(Peer("alice", tmp_path / "alice")).write("!expire 5s")
    await read(reader_over(locked, store), store, [event], clock.now())
    start = clock.now()
    reader = reader_over(homeserver, store)
    late = LateKeys(homeserver, store, store.timeline, reader, clock)
    turn = await late.next_turn()
    assert turn is not None
    reason = await late.go_through(turn)
    told = answer.outcome if isinstance(answer, OutcomeError) and waits_for else None
    assert reason == (describe(told) if told else None)
    while await store.keys.waiting():
        assert clock.now() - start <= waits_for, "it would wait for ever"
        assert await store.next_to_deliver() is None
        assert await looked_at(late) == clock.now() + 5 * SECOND
        clock.advance(5 * SECOND)
        await looked_at(late)
    assert clock.now() - start == waits_for
    entry = await store.next_to_deliver()
    assert entry is not None
    assert isinstance(entry.content, KeyNeverCame)
    assert len(homeserver.asked) == 1 + waits_for // (5 * SECOND)
    given_up = "a late message is given up (ValueError)"
    assert (given_up in caplog.messages) == isinstance(answer, ValueError)
    assert "somebody's text" not in caplog.text


async def test_an_ended_token_is_no_reason_to_give_up_a_message(
    open_store: Opener, tmp_path: Path
) -> None:
    store, clock = await open_store(tmp_path / "timers.db"), FakeClock()
    homeserver = Unready(TokenRejectedError("M_UNKNOWN_TOKEN"))
    event = Writer(Peer("alice", tmp_path / "alice")).write("!expire 5s")
    await read(reader_over(Homeserver(), store), store, [event], clock.now())
    late = LateKeys(homeserver, store, store.timeline, reader_over(homeserver, store), clock)
    with pytest.raises(TokenRejectedError):
        await looked_at(late)
    assert len(await store.keys.waiting()) == 1
