"""Whoever is at work on a row that is gone meanwhile settles nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.core.commands import Command, SetLifetime
from bot.core.lifetimes import LifetimeLimits
from bot.core.outbox import Outgoing, SetPolicy, WriteRefused
from bot.core.timeline import Item, Message, Redaction, RoomUpdate
from bot.core.types import EventID, RoomID, UserID
from tests.support.harness import whatever_is_due
from tests.support.store import Store

ROOM = RoomID("!room")
ALICE = UserID("@alice:example.org")
LIMITS = LifetimeLimits(minimum=1_000, maximum=10**12, default=1_000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(tmp_path / "timers.db", limits=LIMITS, own_id=UserID("@bot:x"))
    yield made
    await made.close()


async def read(store: Store, *items: Item) -> None:
    await store.commit("token", 0, [RoomUpdate(room_id=ROOM, items=list(items))])


async def test_a_settled_timer_never_settles_the_one_that_came_after_it(store: Store) -> None:
    await read(store, Message(event_id=EventID("$one"), sent=0))
    (at_work,) = await whatever_is_due(store, 10_000, 8)
    gone = Redaction(target=EventID("$one"), target_digest="", sender=ALICE, digest="")
    await read(store, gone)
    await read(store, Message(event_id=EventID("$two"), sent=0))
    await store.drop(at_work)
    await store.sent(at_work, 0, 99_999)
    assert [timer.event_id for timer in await whatever_is_due(store, 10_000, 8)] == ["$two"]


async def test_a_delivered_entry_never_ends_the_one_that_took_its_place(store: Store) -> None:
    await read(store, Command(digest="one", sender=ALICE, effect=SetLifetime(setting=5_000)))
    at_work = await store.next_to_deliver()
    assert at_work is not None
    await read(store, Command(digest="two", sender=ALICE, effect=SetLifetime(setting=6_000)))
    await store.delivered(at_work)
    left = await store.next_to_deliver()
    assert left is not None
    assert isinstance(left.content, SetPolicy)
    assert left.content.setting == 6_000


async def test_a_refused_lifetime_does_not_take_back_a_later_one(store: Store) -> None:
    await read(store, Command(digest="one", sender=ALICE, effect=SetLifetime(setting=5_000)))
    refused = await store.next_to_deliver()
    assert refused is not None
    await read(store, Command(digest="two", sender=ALICE, effect=SetLifetime(setting=6_000)))
    await store.take_back(refused, Outgoing(key="no", content=WriteRefused()))
    room = await store.room(ROOM)
    assert room is not None
    assert room.setting == 6_000
    left = await store.next_to_deliver()
    assert left is not None
    assert isinstance(left.content, SetPolicy)
    await store.take_back(left, Outgoing(key="no", content=WriteRefused()))
    room = await store.room(ROOM)
    assert room is not None
    assert room.setting is None
