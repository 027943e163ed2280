"""The store over real SQLite files: a sync is remembered as a whole, and outlives the process."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import bot.store
from bot.core.commands import Command, SetLifetime
from bot.core.invitations import Invite
from bot.core.outbox import AnswerHelp, Outgoing, Suspended
from bot.core.outcomes import DiskError
from bot.core.timeline import Change, Gap, Item, Message, Redaction, RoomUpdate
from bot.core.types import EventID, Millis, RoomID, UserID
from bot.services.timeline_writer import FORGET_EVERY
from bot.store import StoreError
from bot.store.database import Database
from bot.store.handled_commands import HANDLED_FOR
from bot.store.schema import MIGRATIONS
from tests.support.harness import Opener, whatever_is_due
from tests.support.store import Store

ALICE = UserID("@alice:example.org")
BOT = UserID("@bot:example.org")
ROOM = RoomID("!room:example.org")
OTHER = RoomID("!other:example.org")
MINUTE = 60_000
NOW = 1_800_000_000_000


@pytest.fixture
async def store(open_store: Opener, tmp_path: Path) -> Store:
    return await open_store(tmp_path / "timers.db")


def message(name: str, *, due: Millis = NOW) -> Message:
    """Return a message that will be due then, under a lifetime of a minute."""
    return Message(event_id=EventID(f"${name}"), sent=due - MINUTE)


def change(setting: int | None = MINUTE, digest: str = "policy") -> Change:
    return Change(setting=setting, sender=ALICE, digest=digest, unannounced=True)


def said(digest: str, setting: int | None = None) -> Command:
    effect = AnswerHelp() if setting is None else SetLifetime(setting=setting)
    return Command(digest=digest, sender=ALICE, effect=effect)


def update(*items: Item, room: RoomID = ROOM, **more: Any) -> RoomUpdate:
    return RoomUpdate(room_id=room, items=list(items), **more)


def gap(room: RoomID = ROOM) -> Gap:
    return Gap(room_id=room, token="t1", stop_digest="", stop_at=0, since=0, until=NOW)


async def rows(store: Store, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    async with store._db.transaction() as db:
        return await db.rows(sql, *args)


async def due(store: Store, now: Millis = NOW, share: int = 100) -> list[str]:
    return [timer.event_id for timer in await whatever_is_due(store, now, share)]


# --- one transaction -----------------------------------------------------------------------------


async def test_token_timers_gap_and_invitations_are_committed_together(store: Store) -> None:
    third = RoomID("!third:example.org")
    invite = Invite(room_id=third, inviter=ALICE)
    with_gap = update(gap=gap(OTHER), room=OTHER)
    await store.commit("s1", NOW, [update(change(), message("one")), with_gap], [invite])
    assert await store.position() == ("s1", NOW)
    assert await due(store) == ["$one"]
    assert await store.gaps.has_gap(OTHER)
    waiting = await store.invitations.undecided()
    assert waiting is not None
    assert (waiting.room_id, waiting.inviter, waiting.retry_at) == (third, ALICE, 0)


@pytest.mark.parametrize(
    "table", ["timers", "gaps", "gap_items", "outbox", "handled_commands", "meta"]
)
async def test_a_failure_anywhere_leaves_nothing_of_a_sync(store: Store, table: str) -> None:
    await store.commit("s1", NOW, [update(change(), message("one"))])
    before = [await rows(store, f"SELECT * FROM {name}") for name in await tables(store)]
    await rows(
        store,
        f"CREATE TEMP TRIGGER fail AFTER INSERT ON {table}"
        " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    )
    batch = [
        update(message("two"), said("c1", 5 * MINUTE), message("three")),
        update(change(digest="else"), message("four"), room=OTHER, gap=gap(OTHER)),
    ]
    if table == "meta":
        await rows(store, "DROP TRIGGER fail")
        await rows(
            store,
            "CREATE TEMP TRIGGER fail AFTER UPDATE ON meta"
            " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
        )
    with pytest.raises(sqlite3.Error, match="the disk is full"):
        await store.commit("s2", NOW + 1, batch, [Invite(room_id=OTHER, inviter=None)])
    after = [await rows(store, f"SELECT * FROM {name}") for name in await tables(store)]
    assert after == before
    await rows(store, "DROP TRIGGER fail")
    await store.commit("s2", NOW + 1, batch)
    assert await store.position() == ("s2", NOW + 1)


async def tables(store: Store) -> list[str]:
    found = await rows(store, "SELECT name FROM sqlite_master WHERE type = 'table'")
    return [str(name) for (name,) in found]


async def test_an_item_that_cannot_be_stored_takes_its_sync_with_it(store: Store) -> None:
    broken = Message(event_id=EventID("$x"), sent=2**70)
    with pytest.raises(OverflowError):
        await store.commit("s1", NOW, [update(change(), message("one"), broken)])
    assert await store.position() == (None, 0)
    assert await store.rooms() == []


async def test_a_cancelled_commit_is_done_wholly_or_not_at_all(store: Store) -> None:
    seen: set[tuple[str | None, int]] = set()
    for turns in range(6):
        many = [message(f"{turns}-{number}") for number in range(500)]
        before = (await store.position())[0], (await store.pending(ROOM))[0]
        commit = asyncio.ensure_future(store.commit(f"s{turns}", NOW, [update(change(), *many)]))
        for _ in range(turns):
            await asyncio.sleep(0)  # a turn for the commit
        commit.cancel()
        with suppress(asyncio.CancelledError):  # a quick machine has done it by now
            await commit
        after = (await store.position())[0], (await store.pending(ROOM))[0]
        assert after in {before, (f"s{turns}", before[1] + 500)}
        seen.add(after)
    assert seen >= {(None, 0)}


async def test_a_sync_of_a_thousand_rooms_is_one_transaction(store: Store) -> None:
    begun: list[str] = []
    await store._db._connection.set_trace_callback(begun.append)
    rooms = [RoomUpdate(room_id=RoomID(f"!{n}"), items=[message(f"{n}")]) for n in range(1_000)]
    await store.commit("s1", NOW, rooms)
    assert [sql for sql in begun if sql in {"BEGIN IMMEDIATE", "COMMIT"}] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]


async def test_a_transaction_waits_for_nothing_but_the_database(store: Store) -> None:
    async def waits(_: Database) -> None:
        await asyncio.sleep(0)

    with pytest.raises(AssertionError):
        await store._db.whole(waits)
    await store.commit("s1", NOW, [update(message("one"))])
    assert await store.position() == ("s1", NOW)


# --- opening -------------------------------------------------------------------------------------


async def test_everything_is_there_after_reopening(open_store: Opener, tmp_path: Path) -> None:
    path = tmp_path / "timers.db"
    store = await open_store(path)
    items: list[Item] = [change(), message("one"), said("c1", 5 * MINUTE), message("two")]
    await store.commit("s1", NOW, [update(*items, encrypted=True, last_event_digest="last")])
    [one, _] = await whatever_is_due(store, NOW + 5 * MINUTE, 10)
    await store.sent(one, NOW, NOW + 7)
    digest = store.digest("x")
    content = [await rows(store, f"SELECT * FROM {name}") for name in await tables(store)]
    await store.close()
    assert {file.name for file in tmp_path.iterdir()} == {"timers.db"}

    store = await open_store(path)
    assert [await rows(store, f"SELECT * FROM {name}") for name in await tables(store)] == content
    assert store.digest("x") == digest
    [one] = await whatever_is_due(store, NOW + 7, 10)
    assert one.redaction_sent_at == NOW


async def test_a_killed_process_loses_nothing_that_was_committed(
    open_store: Opener, store: Store, tmp_path: Path
) -> None:
    await store.commit("s1", NOW, [update(change(), message("one"))])
    for file in list(tmp_path.iterdir()):  # as the disk would be found
        (tmp_path / f"copy-{file.name}").write_bytes(file.read_bytes())
    copy = await open_store(tmp_path / "copy-timers.db")
    assert await copy.position() == ("s1", NOW)
    assert await due(copy) == ["$one"]


async def test_a_database_of_a_newer_version_is_refused_untouched(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "timers.db"
    await (await open_store(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer version of the bot"):
        await open_store(path)
    with sqlite3.connect(path) as connection:
        [version] = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    assert version == len(MIGRATIONS) + 1


async def test_a_file_that_is_no_database_is_moved_aside_untouched(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "timers.db"
    path.write_bytes(b"a shopping list\n" * 500)
    with pytest.raises(StoreError, match=r"timers\.db.*not a database"):
        await open_store(path)
    [aside] = tmp_path.glob("timers.db*")
    assert aside.name.startswith("timers.db.damaged-")
    assert aside.read_bytes() == b"a shopping list\n" * 500


async def test_a_path_that_cannot_be_opened_is_refused(open_store: Opener, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="unable to open"):
        await open_store(tmp_path / "nowhere" / "timers.db")


def cut_in_half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def scratch(whole: bytes) -> bytes:
    return whole[:4096] + b"\xff" * (len(whole) - 4096)


@pytest.mark.parametrize("damage", [cut_in_half, scratch])
async def test_a_damaged_database_is_moved_aside_and_the_next_start_begins_anew(
    open_store: Opener, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "timers.db"
    first = await open_store(path)
    await first.commit("s1", NOW, [])
    await first.close()
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"malformed; it was moved to timers\.db\.damaged-"):
        await open_store(path)
    [aside] = tmp_path.glob("timers.db*")
    assert aside.read_bytes() == damaged
    assert await (await open_store(path)).position() == (None, 0)


async def test_two_databases_know_one_id_by_different_digests(
    open_store: Opener, store: Store, tmp_path: Path
) -> None:
    other = await open_store(tmp_path / "other.db")
    assert store.digest("$x") != other.digest("$x")
    assert store.digest("$x") == store.digest("$x") != store.digest("$y")


# --- items ---------------------------------------------------------------------------------------


async def test_a_message_that_is_seen_twice_keeps_its_first_timer(store: Store) -> None:
    await store.commit("s1", NOW, [update(change(), message("one"), message("one", due=NOW + 9))])
    await store.commit("s2", NOW, [update(message("one", due=NOW - 9))])
    [timer] = await whatever_is_due(store, NOW + 99, 10)
    assert timer.due == NOW


async def test_one_event_id_in_two_rooms_is_two_messages(store: Store) -> None:
    both = [update(change(), message("one"), room=room) for room in (ROOM, OTHER)]
    await store.commit("s1", NOW, both)
    assert await due(store) == ["$one", "$one"]
    redaction = Redaction(target=EventID("$one"), target_digest="", sender=ALICE, digest="r")
    await store.commit("s2", NOW, [update(redaction)])
    [left] = await whatever_is_due(store, NOW, 10)
    assert left.room_id == OTHER


async def test_no_two_timers_can_exist_for_one_message(store: Store) -> None:
    await store.commit("s1", NOW, [update(change(), message("one"))])
    with pytest.raises(sqlite3.IntegrityError):
        await rows(
            store, "INSERT INTO timers (room, event_id, due, retry_at) VALUES (1, '$one', 1, 1)"
        )


async def test_a_command_counts_once_within_a_commit_after_it_and_after_reopening(
    open_store: Opener,
    tmp_path: Path,
) -> None:
    path = tmp_path / "timers.db"
    store = await open_store(path)
    twice = [said("c1"), said("c1")]
    await store.commit("s1", NOW, [update(*twice)])
    entry = await store.next_to_deliver()
    assert entry is not None
    await store.delivered(entry)
    await store.commit("s2", NOW, [update(said("c1"))])
    await store.close()
    store = await open_store(path)
    await store.commit("s3", NOW, [update(said("c1"), said("c1", MINUTE))])
    assert await store.next_to_deliver() is None
    room = await store.room(ROOM)
    assert room is not None
    assert room.setting is None


async def test_a_command_repeated_behind_a_later_one_does_not_undo_it(store: Store) -> None:
    await store.commit("s1", NOW, [update(said("c1", 1), said("c2", 2), said("c1", 1))])
    room = await store.room(ROOM)
    assert room is not None
    assert room.setting == 2


async def test_counted_commands_are_forgotten_after_a_long_while(store: Store) -> None:
    await store.commit("s1", NOW, [update(said("c1"))])
    await store.commit("s2", NOW + HANDLED_FOR, [])
    assert await rows(store, "SELECT count(*) FROM handled_commands") == [(1,)]
    await store.commit("s3", NOW + HANDLED_FOR + FORGET_EVERY, [])
    assert await rows(store, "SELECT count(*) FROM handled_commands") == [(0,)]


async def test_a_later_lifetime_takes_the_place_of_one_that_is_still_owed(store: Store) -> None:
    await store.commit("s1", NOW, [update(said("c1", MINUTE), said("c2"))])
    await store.commit("s2", NOW, [update(said("c3", 2 * MINUTE))])
    outgoing = await rows(store, "SELECT key, kind FROM outbox ORDER BY id")
    assert outgoing == [("c2", "help"), ("c3", "set")]


async def test_what_is_owed_is_owed_once(store: Store) -> None:
    await store.commit("s1", NOW, [update(change())])
    once = [Outgoing(key="k", content=Suspended(need=1, have=0))]
    await store.reviewed(ROOM, suspended=True, outgoing=once)
    await store.reviewed(ROOM, suspended=True, outgoing=once)
    assert await rows(store, "SELECT count(*) FROM outbox") == [(1,)]


def test_no_statement_numbers_its_parameters() -> None:
    # Python 3.12.0 to 3.12.3 take `?1` for a name, and want no sequence for it.
    for module in pkgutil.iter_modules(bot.store.__path__, "bot.store."):
        for name, value in vars(importlib.import_module(module.name)).items():
            statements = value if isinstance(value, tuple) else (value,)
            numbered = [one for one in statements if re.search(r"\?\d", str(one))]
            assert not numbered or name.startswith("__"), f"{module.name}.{name}"
