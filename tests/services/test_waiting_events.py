"""What waits, for a key or for a gap, is judged by how things stand when it is its turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.core.commands import Command, SetLifetime
from bot.core.lifetimes import LifetimeLimits
from bot.core.outcomes import Outcome, Unreachable
from bot.core.timeline import Gap, Message, RoomUpdate, Undecryptable
from bot.core.types import EventID, RoomID, UserID
from tests.services.test_redactor import gone, messages
from tests.support.harness import MINUTE, Harness
from tests.support.store import Store

ROOM = RoomID("!room")
ALICE = UserID("@alice:example.org")
LIMITS = LifetimeLimits(minimum=1_000, maximum=10**12)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(tmp_path / "timers.db", limits=LIMITS, own_id=UserID("@bot:x"))
    yield made
    await made.close()


async def test_a_lack_of_power_is_looked_at_again(store: Store) -> None:
    said = Command(digest="one", sender=ALICE, effect=SetLifetime(setting=5_000), suspends=True)
    await store.commit("token", 0, [RoomUpdate(room_id=ROOM, items=[said])])
    room = await store.room(ROOM)
    assert room is not None
    assert room.suspended
    assert await store.to_review() == [ROOM]


async def test_a_late_command_waits_for_the_gap_after_it(store: Store) -> None:
    undecryptable = Undecryptable(
        event_id=EventID("$late"), sender=ALICE, session_id="s", read_at=0
    )
    await store.commit("t1", 0, [RoomUpdate(room_id=ROOM, items=[undecryptable])])
    assert len(await store.keys.waiting()) == 1
    gap = Gap(room_id=ROOM, token="t2", stop_digest="x", stop_at=0, since=0, until=9)
    await store.commit("t2", 9, [RoomUpdate(room_id=ROOM, items=[], gap=gap)])
    assert await store.keys.waiting() == []
    said = Command(digest="one", sender=ALICE, effect=SetLifetime(setting=5_000))
    await store.read_late(ROOM, undecryptable, [said], 9)
    assert await store.next_to_deliver() is None
    found = await store.gaps.next_gap()
    assert found is not None
    message = Message(event_id=EventID("$between"), sent=5)
    await store.gaps.read_on(found[0], [message], "t1", 0, done=True)
    await store.take_over(9)
    assert len(await store.keys.waiting()) == 1
    await store.read_late(ROOM, undecryptable, [said], 9)
    assert await store.keys.waiting() == []
    assert await store.gaps.has_gap(ROOM), "what followed the command is read once more"


async def test_a_message_that_is_never_answered_does_not_hold_up_its_room(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    sent = await messages(harness, room, 4)
    answer = harness.homeserver.redact

    async def redact(room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        if event_id == sent[0]:
            return Unreachable(reason="status 504")
        return await answer(room_id, event_id, txn)

    harness.homeserver.redact = redact  # type: ignore[method-assign]
    harness.redactor._pace.width = 1
    async with harness.running(harness.redactor):
        for _ in range(10):
            await harness.advance(MINUTE)
    assert gone(harness, room, sent) == 3
