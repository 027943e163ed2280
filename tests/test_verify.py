"""With `verify`, a tenth of what was redacted is read back: what is not gone is redacted anew."""

from __future__ import annotations

import logging

import pytest

from bot.model import EventID, RoomID, Unreachable
from bot.store.kin import sampled
from bot.timeline import Redaction, Stretch
from tests.fakes import BOT
from tests.house import MINUTE, SECOND, House

SAMPLED = next(EventID(f"$s{n}") for n in range(99) if sampled(EventID(f"$s{n}")))
OTHER = next(EventID(f"$o{n}") for n in range(99) if not sampled(EventID(f"$o{n}")))


async def seen_but_not_gone(house: House, event_id: EventID) -> RoomID:
    """Return a room where a redaction of a message is seen that the homeserver did not do."""
    room = house.homeserver.make_room()
    house.homeserver.add(room, {"type": "m.room.message", "event_id": event_id})
    async with house.running(house.intake):
        await house.remember(room, event_id, due=house.clock.now() + MINUTE)
        house.homeserver.add(room, {"type": "m.room.redaction", "redacts": event_id})
        await house.rest()
    return room


async def test_a_redaction_that_was_seen_and_did_not_happen_is_done_anew(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.store.verify = True
    room = await seen_but_not_gone(house, SAMPLED)
    async with house.running(house.redactor, house.intake):
        await house.advance(MINUTE)  # when its time has come, and not before
        assert house.homeserver.is_redacted(room, SAMPLED)
        await house.advance(SECOND)
        assert await house.timers() == {}
    assert "a redaction was accepted and did not happen: done anew" in caplog.messages


async def test_a_message_that_never_seems_gone_is_not_redacted_again_and_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.store.verify = True

    async def never(_room: RoomID, _event: EventID) -> bool:
        return False

    monkeypatch.setattr(house.homeserver, "is_gone", never)
    room = await seen_but_not_gone(house, SAMPLED)
    async with house.running(house.redactor, house.intake):
        for _ in range(60):
            await house.advance(MINUTE)
    assert 3 < len(house.homeserver.redactions(room, SAMPLED)) < 20


async def test_only_a_sample_is_read_back(house: House) -> None:
    house.store.verify = True
    room = await seen_but_not_gone(house, OTHER)
    async with house.running(house.redactor):
        await house.advance(SECOND)
    assert not house.homeserver.is_redacted(room, OTHER)
    assert house.homeserver.times("is_gone") == []


async def test_without_it_nothing_is_read_back(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await seen_but_not_gone(house, SAMPLED)
    async with house.running(house.redactor):
        await house.advance(SECOND)
    assert house.homeserver.times("is_gone") == []
    assert await house.timers() == {}


async def test_what_is_gone_is_done_with_and_an_outage_is_waited_for(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.store.verify = True
    caplog.set_level(logging.INFO)
    room = house.homeserver.make_room()
    house.homeserver.add(room, {"type": "m.room.message", "event_id": SAMPLED})
    async with house.running(house.intake, house.redactor):
        await house.remember(room, SAMPLED, due=house.clock.now())
        house.homeserver.fail_next(Unreachable(reason="x"), on="is_gone")
        house.wake()
        await house.rest()
        assert house.homeserver.is_redacted(room, SAMPLED)
        assert SAMPLED in await house.timers()
        for _ in range(3):
            await house.advance(MINUTE)
        assert await house.timers() == {}
    assert len(house.homeserver.redactions(room, SAMPLED)) == 1


def test_the_sample_is_about_a_tenth() -> None:
    found = sum(sampled(EventID(f"$event-{number}")) for number in range(10_000))
    assert 800 < found < 1_200


async def test_a_redaction_that_did_not_happen_makes_no_message_go_before_its_time(
    house: House,
) -> None:
    house.store.verify = True
    room = await seen_but_not_gone(house, SAMPLED)
    async with house.running(house.redactor):
        await house.advance(SECOND)
        assert house.homeserver.times("is_gone") != []
        assert not house.homeserver.is_redacted(room, SAMPLED)
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, SAMPLED)


@pytest.mark.parametrize(
    ("event_id", "is_one"), [("d", True), ("e", False), ("n", True), ("m", False)]
)
def test_the_sample_is_the_same_in_every_process(event_id: str, is_one: bool) -> None:
    assert sampled(EventID(event_id)) is is_one


async def test_what_is_read_back_is_the_one_message_and_no_other(house: House) -> None:
    house.store.verify = True
    room = house.homeserver.make_room()
    await house.remember(room, SAMPLED, EventID("$other"), due=house.clock.now() + MINUTE)
    gone = Redaction(target=SAMPLED, target_digest="", sender=BOT, digest="redaction")
    await house.commit(Stretch(room_id=room, items=[gone]))
    async with house.store._db.transaction() as db:
        found: dict[str, int] = dict(
            await db.rows("SELECT event_id, sent_at IS NOT NULL FROM timers")
        )
    assert found == {SAMPLED: 1, "$other": 0}
