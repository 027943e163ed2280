"""With `verify`, a tenth of what was redacted is read back: what is not gone is redacted anew."""

from __future__ import annotations

import logging

import pytest

from bot.core.outcomes import Unreachable
from bot.core.timeline import Redaction, RoomUpdate
from bot.core.types import EventID, RoomID
from bot.store.relations import sampled
from tests.support.fake_homeserver import BOT
from tests.support.harness import MINUTE, SECOND, Harness

SAMPLED = next(EventID(f"$s{n}") for n in range(99) if sampled(EventID(f"$s{n}")))
OTHER = next(EventID(f"$o{n}") for n in range(99) if not sampled(EventID(f"$o{n}")))


async def seen_but_not_gone(harness: Harness, event_id: EventID) -> RoomID:
    """Return a room where a redaction of a message is seen that the homeserver did not do."""
    room = harness.homeserver.make_room()
    harness.homeserver.add(room, {"type": "m.room.message", "event_id": event_id})
    async with harness.running(harness.sync):
        await harness.remember(room, event_id, due=harness.clock.now() + MINUTE)
        harness.homeserver.add(room, {"type": "m.room.redaction", "redacts": event_id})
        await harness.rest()
    return room


async def test_a_redaction_that_was_seen_and_did_not_happen_is_done_anew(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.store.verify = True
    room = await seen_but_not_gone(harness, SAMPLED)
    async with harness.running(harness.redactor, harness.sync):
        await harness.advance(MINUTE)  # when its time has come, and not before
        assert harness.homeserver.is_redacted(room, SAMPLED)
        await harness.advance(SECOND)
        assert await harness.timers() == {}
    assert "a redaction was accepted and did not happen: done anew" in caplog.messages


async def test_a_message_that_never_seems_gone_is_not_redacted_again_and_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.store.verify = True

    async def never(_room: RoomID, _event: EventID) -> bool:
        return False

    monkeypatch.setattr(harness.homeserver, "is_gone", never)
    room = await seen_but_not_gone(harness, SAMPLED)
    async with harness.running(harness.redactor, harness.sync):
        for _ in range(60):
            await harness.advance(MINUTE)
    assert 3 < len(harness.homeserver.redactions(room, SAMPLED)) < 20


async def test_only_a_sample_is_read_back(harness: Harness) -> None:
    harness.store.verify = True
    room = await seen_but_not_gone(harness, OTHER)
    async with harness.running(harness.redactor):
        await harness.advance(SECOND)
    assert not harness.homeserver.is_redacted(room, OTHER)
    assert harness.homeserver.times("is_gone") == []


async def test_without_it_nothing_is_read_back(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await seen_but_not_gone(harness, SAMPLED)
    async with harness.running(harness.redactor):
        await harness.advance(SECOND)
    assert harness.homeserver.times("is_gone") == []
    assert await harness.timers() == {}


async def test_what_is_gone_is_done_with_and_an_outage_is_waited_for(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.store.verify = True
    caplog.set_level(logging.INFO)
    room = harness.homeserver.make_room()
    harness.homeserver.add(room, {"type": "m.room.message", "event_id": SAMPLED})
    async with harness.running(harness.sync, harness.redactor):
        await harness.remember(room, SAMPLED, due=harness.clock.now())
        harness.homeserver.fail_next(Unreachable(reason="x"), on="is_gone")
        harness.wake()
        await harness.rest()
        assert harness.homeserver.is_redacted(room, SAMPLED)
        assert SAMPLED in await harness.timers()
        for _ in range(3):
            await harness.advance(MINUTE)
        assert await harness.timers() == {}
    assert len(harness.homeserver.redactions(room, SAMPLED)) == 1


def test_the_sample_is_about_a_tenth() -> None:
    found = sum(sampled(EventID(f"$event-{number}")) for number in range(10_000))
    assert 800 < found < 1_200


async def test_a_redaction_that_did_not_happen_makes_no_message_go_early(
    harness: Harness,
) -> None:
    harness.store.verify = True
    room = await seen_but_not_gone(harness, SAMPLED)
    async with harness.running(harness.redactor):
        await harness.advance(SECOND)
        assert harness.homeserver.times("is_gone") != []
        assert not harness.homeserver.is_redacted(room, SAMPLED)
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, SAMPLED)


@pytest.mark.parametrize(
    ("event_id", "is_one"), [("d", True), ("e", False), ("n", True), ("m", False)]
)
def test_the_sample_is_the_same_in_every_process(event_id: str, is_one: bool) -> None:
    assert sampled(EventID(event_id)) is is_one


async def test_what_is_read_back_is_the_one_message_and_no_other(harness: Harness) -> None:
    harness.store.verify = True
    room = harness.homeserver.make_room()
    await harness.remember(room, SAMPLED, EventID("$other"), due=harness.clock.now() + MINUTE)
    gone = Redaction(target=SAMPLED, target_digest="", sender=BOT, digest="redaction")
    await harness.commit(RoomUpdate(room_id=room, items=[gone]))
    async with harness.store._db.transaction() as db:
        found: dict[str, int] = dict(
            await db.rows("SELECT event_id, sent_at IS NOT NULL FROM timers")
        )
    assert found == {SAMPLED: 1, "$other": 0}
