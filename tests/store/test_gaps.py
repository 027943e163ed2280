"""Gaps in the store: read backwards, kept across restarts, given timers in the timeline's order."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.core.commands import Command, SetLifetime
from bot.core.outbox import SetPolicy
from bot.core.timeline import Change, Gap, Item, Message, Redaction, RoomUpdate
from bot.core.types import EventID, Millis, RoomID, UserID
from bot.store.gaps import CHUNK
from bot.store.left_rooms import KEPT_FOR
from tests.support.harness import Opener
from tests.support.store import Store

ALICE = UserID("@alice:example.org")
BOT = UserID("@bot:example.org")
ROOM, OTHER = RoomID("!room:example.org"), RoomID("!other:example.org")
MINUTE = 60_000
NOW = 1_800_000_000_000


@pytest.fixture
async def store(open_store: Opener, tmp_path: Path) -> Store:
    """A store that knows a room with a lifetime of a minute."""
    made = await open_store(tmp_path / "timers.db")
    await say(made, Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True))
    return made


def messages(*names: object) -> list[Item]:
    return [Message(event_id=EventID(f"${name}"), sent=NOW) for name in names]


def command(setting: Millis, digest: str = "command") -> Command:
    return Command(digest=digest, sender=ALICE, effect=SetLifetime(setting=setting))


async def say(store: Store, *items: Item, gap: bool = False, room: RoomID = ROOM) -> None:
    """Commit what a sync brings of a room, perhaps behind a gap."""
    before = Gap(room_id=room, token="t1", stop_digest="d", stop_at=1, since=2, until=NOW)
    update = RoomUpdate(room_id=room, items=list(items), gap=before if gap else None)
    await store.commit("s1", NOW, [update])


async def read(store: Store, items: list[Item], *, done: bool = False, token: str = "t2") -> None:
    """Take the page of the next gap that has these items."""
    found = await store.gaps.next_gap()
    assert found is not None
    await store.gaps.read_on(found[0], items, token, 0, done=done)


async def take_over(store: Store) -> list[int]:
    taken = []
    while (chunk := await store.take_over(NOW)) is not None:
        taken.append(chunk[1])
    return taken


async def lifetimes(store: Store) -> dict[str, Millis]:
    """Return the lifetime that each message got."""
    async with store._db.transaction() as db:
        found = await db.rows("SELECT event_id, due FROM timers ORDER BY id")
    return {event_id[1:]: due - NOW for event_id, due in found}


async def rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    async with store._db.transaction() as db:
        return await db.rows(sql)


async def test_what_comes_behind_a_gap_waits_for_it(store: Store) -> None:
    await say(store, *messages("tail"), gap=True)
    await say(store, *messages("live"))
    await read(store, messages("page"))
    assert await take_over(store) == []
    assert await lifetimes(store) == {}
    await read(store, messages("first"), done=True)
    assert await take_over(store) == [4]
    assert list(await lifetimes(store)) == ["first", "page", "tail", "live"]
    await say(store, *messages("next"))
    assert "next" in await lifetimes(store)


async def test_a_command_in_a_gap_counts_for_all_that_follows_it(store: Store) -> None:
    await say(store, *messages("tail"), gap=True)
    await read(store, messages("late"))
    await read(store, [*messages("before"), command(5 * MINUTE), *messages("after")], done=True)
    await say(store, *messages("live"))
    await take_over(store)
    later = dict.fromkeys(("after", "late", "tail", "live"), 5 * MINUTE)
    assert await lifetimes(store) == {"before": MINUTE} | later
    entry = await store.next_to_deliver()
    assert entry is not None
    assert isinstance(entry.content, SetPolicy)
    assert (entry.content.setting, entry.content.was) == (5 * MINUTE, MINUTE)


async def test_gaps_of_one_room_keep_the_order_of_the_timeline(store: Store) -> None:
    await say(store, command(2 * MINUTE, "c2"), *messages("tail"), gap=True)
    await say(store, *messages("live"))
    await say(store, command(4 * MINUTE, "c4"), *messages("second tail"), gap=True)
    await say(store, *messages("second live"))
    await read(store, [command(1 * MINUTE, "c1"), *messages("gap")], done=True)
    assert await take_over(store) == []
    await read(store, [command(3 * MINUTE, "c3"), *messages("second gap")], done=True)
    await take_over(store)
    found = await lifetimes(store)
    assert list(found) == ["gap", "tail", "live", "second gap", "second tail", "second live"]
    assert [span // MINUTE for span in found.values()] == [1, 2, 2, 3, 4, 4]


async def test_the_second_gap_may_be_read_before_the_first(store: Store) -> None:
    await say(store, *messages("b"), gap=True)
    await say(store, *messages("d"), gap=True)
    first = await store.gaps.next_gap()
    assert first is not None
    await store.gaps.later(first[0], NOW)
    await read(store, messages("c"), done=True)
    await read(store, messages("a"), done=True)
    await take_over(store)
    assert list(await lifetimes(store)) == ["a", "b", "c", "d"]


async def test_a_long_gap_is_taken_over_in_chunks_and_in_order(store: Store) -> None:
    await say(store, *messages(*range(600, 1_300)), gap=True)
    await read(store, messages(*range(300, 600)))
    await read(store, messages(*range(300)), done=True)
    taken = await take_over(store)
    assert taken == [CHUNK, CHUNK, 1_300 - 2 * CHUNK]
    assert [int(name) for name in await lifetimes(store)] == list(range(1_300))


async def test_exactly_one_chunk_ends_the_gap(store: Store) -> None:
    await say(store, gap=True)
    await read(store, messages(*range(CHUNK)), done=True)
    assert sum(await take_over(store)) == CHUNK
    assert not await store.gaps.has_gap(ROOM)
    assert await rows(store, "SELECT count(*) FROM gap_items") == [(0,)]


async def test_what_comes_between_two_chunks_comes_last(store: Store) -> None:
    await say(store, *messages(*range(700)), gap=True)
    await read(store, [command(5 * MINUTE)], done=True)
    await store.take_over(NOW)
    await say(store, *messages("live"), gap=False)
    await take_over(store)
    assert list(await lifetimes(store))[-1] == "live"
    assert set((await lifetimes(store)).values()) == {5 * MINUTE}


async def test_a_new_gap_between_two_chunks_is_read_before_what_follows_it(store: Store) -> None:
    await say(store, *messages(*range(700)), gap=True)
    await read(store, [], done=True)
    await store.take_over(NOW)
    await say(store, *messages("tail"), gap=True)
    await read(store, messages("second gap"), done=True)
    await take_over(store)
    assert list(await lifetimes(store))[-2:] == ["second gap", "tail"]


async def test_a_restart_in_the_middle_resumes(open_store: Opener, tmp_path: Path) -> None:
    path = tmp_path / "timers.db"
    store = await open_store(path)
    await say(store, Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True))
    await say(store, *messages("tail"), gap=True)
    await read(store, [command(5 * MINUTE), *messages("late")], token="t7")
    before = await store.gaps.next_gap()
    await store.close()

    store = await open_store(path)
    after = await store.gaps.next_gap()
    assert after == before
    assert after is not None
    assert (after[0].token, after[0].until, after[0].stop_digest) == ("t7", NOW, "d")
    await read(store, messages("early"), done=True)
    await store.close()

    store = await open_store(path)
    await take_over(store)
    assert await lifetimes(store) == {"early": MINUTE, "late": 5 * MINUTE, "tail": 5 * MINUTE}
    await store.close()


async def test_a_page_that_is_read_twice_gives_one_timer_each(store: Store) -> None:
    await say(store, *messages("tail"), gap=True)
    page = [*messages("one", "two"), command(5 * MINUTE)]
    await read(store, page)
    await read(store, page, done=True)
    await take_over(store)
    assert list(await lifetimes(store)) == ["one", "two", "tail"]
    assert await rows(store, "SELECT count(*) FROM outbox") == [(1,)]


async def test_a_redaction_reaches_what_waits_behind_a_gap(store: Store) -> None:
    await say(store, *messages("tail", "stays"), gap=True)
    await read(store, messages("read"))
    redactions = [
        Redaction(target=EventID(f"${name}"), target_digest="", sender=ALICE, digest=name)
        for name in ("tail", "read")
    ]
    await say(store, *redactions)
    assert await rows(store, "SELECT event_id FROM gap_items WHERE event_id IS NOT NULL") == [
        ("$stays",)
    ]
    await read(store, [], done=True)
    await take_over(store)
    assert list(await lifetimes(store)) == ["stays"]


async def test_a_gap_that_cannot_be_read_waits_behind_the_others(store: Store) -> None:
    await say(store, gap=True)
    await say(store, gap=True, room=OTHER)
    found = await store.gaps.next_gap()
    assert found is not None
    await store.gaps.later(found[0], NOW + 5)
    other = await store.gaps.next_gap()
    assert other is not None
    assert other[0].room_id == OTHER
    await store.gaps.read_on(other[0], [], "t", 0, done=True)
    again = await store.gaps.next_gap()
    assert again is not None
    assert (again[0].attempts, again[1]) == (1, NOW + 5)


async def test_a_page_of_a_room_that_was_left_meanwhile_is_dropped(store: Store) -> None:
    await say(store, gap=True)
    found = await store.gaps.next_gap()
    assert found is not None
    await store.forget(ROOM, 0)
    while await store.delete_expired_room(KEPT_FOR + 1):
        pass
    await store.gaps.read_on(found[0], messages("late"), "t", 0, done=False)
    assert await rows(store, "SELECT count(*) FROM gap_items") == [(0,)]


async def test_a_chunk_is_taken_over_as_a_whole_or_not_at_all(store: Store) -> None:
    await say(store, *messages(*range(10)), gap=True)
    await read(store, [command(5 * MINUTE)], done=True)
    trigger = (
        "CREATE TEMP TRIGGER fail BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    await rows(store, trigger)
    with pytest.raises(sqlite3.Error, match="full"):
        await store.take_over(NOW)
    await rows(store, "DROP TRIGGER fail")
    assert await lifetimes(store) == {}
    assert await rows(store, "SELECT count(*) FROM gap_items") == [(11,)]
    await take_over(store)
    assert set((await lifetimes(store)).values()) == {5 * MINUTE}


ITEMS = st.lists(st.sampled_from([1, 2, 3]) | st.none(), max_size=6)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(segments=st.lists(st.tuples(ITEMS, ITEMS, ITEMS), min_size=1, max_size=3))
async def test_however_it_is_cut_the_timeline_gives_the_same_timers(
    open_store: Opener, tmp_path: Path, segments: list[tuple[list[int | None], ...]]
) -> None:
    """Each segment is two pages of a gap and the tail behind them; numbers are commands."""
    numbers = iter(range(10_000))
    parts = [[_item(kind, next(numbers)) for kind in part] for one in segments for part in one]
    whole, cut = [await _fresh(open_store, tmp_path / name) for name in ("whole.db", "cut.db")]
    await say(whole, *[item for part in parts for item in part])
    for index in range(0, len(parts), 3):
        await say(cut, *parts[index + 2], gap=True)
    for index in range(0, len(parts), 3):
        await read(cut, parts[index + 1], token="more")
        await read(cut, parts[index], done=True)
    await take_over(cut)
    assert await lifetimes(cut) == await lifetimes(whole)
    assert await rows(cut, "SELECT key FROM outbox") == await rows(whole, "SELECT key FROM outbox")
    await whole.close()
    await cut.close()


async def _fresh(open_store: Opener, path: Path) -> Store:
    path.unlink(missing_ok=True)
    return await open_store(path)


def _item(kind: int | None, number: int) -> Item:
    return messages(number)[0] if kind is None else command(kind * MINUTE, f"c{number}")


@pytest.mark.parametrize(("within", "before"), [("policy 5", MINUTE), ("another", 5 * MINUTE)])
async def test_what_was_set_within_a_gap_does_not_count_from_its_beginning(
    store: Store, within: str, before: int
) -> None:
    """A sync says what holds at its end, and not where in the gap that was set."""
    found = Change(setting=5 * MINUTE, sender=ALICE, digest="policy 5", unannounced=True)
    gap = Gap(room_id=ROOM, token="t", stop_digest="x", stop_at=0, since=0, until=NOW)
    update = RoomUpdate(room_id=ROOM, items=messages("tail"), gap=gap, found=[found])
    await store.commit("s2", NOW, [update])
    set_there = Change(setting=5 * MINUTE, sender=ALICE, digest=within, unannounced=True)
    await read(store, [*messages("before"), set_there, *messages("after")], done=True)
    await take_over(store)
    later = dict.fromkeys(("after", "tail"), 5 * MINUTE)
    assert await lifetimes(store) == {"before": before} | later


async def test_what_waits_behind_a_gap_belongs_to_what_it_belonged_to(store: Store) -> None:
    await say(store, *messages("tail"), gap=True)
    child = Message(event_id=EventID("$child"), sent=NOW, parent=EventID("$with a space"))
    await read(store, [*messages("page", "with a space"), child], done=True)
    await take_over(store)
    found = dict(await rows(store, "SELECT event_id, parent FROM timers"))
    alone = dict.fromkeys(("$page", "$with a space", "$tail"), None)
    assert found == alone | {"$child": "$with a space"}
    assert await rows(store, "SELECT * FROM pending_relations") == []
