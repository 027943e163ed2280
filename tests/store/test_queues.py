"""What waits for its turn in several rooms: rooms that are at work are passed over, no others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest

from bot.core.commands import Command, SetLifetime
from bot.core.outbox import Announce, AnswerHelp, OutboxItem, SetPolicy
from bot.core.successors import Stage, Successor
from bot.core.timeline import Gap, Item, Message, RoomUpdate, Sweep
from bot.core.timers import PendingRelation, UnusedMedia
from bot.core.types import EventID, RoomID, UserID
from tests.support.harness import DAY, Harness
from tests.support.store import Store

ROOMS = [RoomID("!one"), RoomID("!two"), RoomID("!three")]
ALICE = UserID("@alice:example.org")

Find = Callable[[Store, Collection[RoomID]], Awaitable[Any]]


ANNOUNCE = Announce(setting=5_000, sender=ALICE)


async def words(store: Store, busy: Collection[RoomID]) -> OutboxItem | None:
    return await store.next_to_deliver(busy, setting=False)


async def setting(store: Store, busy: Collection[RoomID]) -> OutboxItem | None:
    return await store.next_to_deliver(busy, setting=True)


async def gap(store: Store, busy: Collection[RoomID]) -> Gap | None:
    found = await store.gaps.next_gap(busy)
    return found and found[0]


async def sweep(store: Store, busy: Collection[RoomID]) -> Sweep | None:
    return await store.sweeps.next(busy)


async def relation(store: Store, busy: Collection[RoomID]) -> PendingRelation | None:
    return await store.relations.next_pending(busy)


async def successor(store: Store, busy: Collection[RoomID]) -> Successor | None:
    return await store.successors.next(busy)


async def fill(harness: Harness, room: RoomID, find: Find) -> None:
    """Let something wait in a room."""
    await harness.enter(room, DAY)
    items: list[Item] = []
    update: dict[str, Any] = {}
    if find is words:
        items = [Command(digest=f"help in {room}", sender=ALICE, effect=AnswerHelp())]
    elif find is setting:
        items = [Command(digest=f"set in {room}", sender=ALICE, effect=SetLifetime(setting=5_000))]
    elif find is relation:
        items = [Message(event_id=EventID("$child"), sent=0, parent=EventID("$parent"))]
    elif find is gap:
        update["gap"] = Gap(room_id=room, token="t", stop_digest="x", stop_at=0, since=0, until=9)
    elif find is sweep:
        update["sweep"] = Sweep(room_id=room, whole_room=True, since=0, until=9)
    else:
        one = Successor(
            room_id=room, predecessor=RoomID("!old"), setting=None, via="x", stage=Stage.INSIDE
        )
        await harness.store.successors.claim(one, now=0)
    await harness.commit(RoomUpdate(room_id=room, items=items, **update))


@pytest.mark.parametrize("find", [words, setting, gap, sweep, relation, successor])
async def test_rooms_at_work_are_passed_over_and_no_others(harness: Harness, find: Find) -> None:
    for room in ROOMS:
        await fill(harness, room, find)
    busy: list[RoomID] = []
    while (found := await find(harness.store, busy)) is not None:
        assert found.room_id not in busy
        busy.append(found.room_id)
    assert sorted(busy) == sorted(ROOMS)
    first = await find(harness.store, ())
    assert first.room_id == busy[0]
    assert await find(harness.store, [RoomID("!unknown")]) == first


async def test_words_stand_behind_a_lifetime_that_is_not_set_yet(
    harness: Harness,
) -> None:
    await fill(harness, ROOMS[0], setting)
    await fill(harness, ROOMS[0], words)
    await fill(harness, ROOMS[1], words)
    found = await words(harness.store, ())
    assert found is not None
    assert found.room_id == ROOMS[1]
    entry = await setting(harness.store, ())
    assert entry is not None
    await harness.store.written(entry, "", ANNOUNCE)
    assert await setting(harness.store, ()) is None
    found = await words(harness.store, [ROOMS[1]])
    assert found is not None
    assert found.content == ANNOUNCE


async def test_a_lifetime_that_a_later_command_replaced_is_not_called_written(
    harness: Harness,
) -> None:
    await fill(harness, ROOMS[0], setting)
    at_work = await setting(harness.store, ())
    assert at_work is not None
    later = Command(digest="later", sender=ALICE, effect=SetLifetime(setting=6_000))
    await harness.commit(RoomUpdate(room_id=ROOMS[0], items=[later]))
    await harness.store.written(at_work, "", ANNOUNCE)
    left = await setting(harness.store, ())
    assert left is not None
    assert isinstance(left.content, SetPolicy)
    assert left.content.setting == 6_000


async def test_files_at_work_are_passed_over(harness: Harness) -> None:
    async with harness.store._db.transaction() as db:
        sql = "INSERT INTO media (media_id, owner_digest) VALUES (?, 'alice')"
        await db.many(sql, [("one",), ("two",)])
    first: UnusedMedia | None = await harness.store.next_media()
    assert first is not None
    second = await harness.store.next_media([first.media_id])
    assert second is not None
    assert {first.media_id, second.media_id} == {"one", "two"}
    assert await harness.store.next_media(["one", "two"]) is None
