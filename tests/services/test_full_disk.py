"""A disk that is full, read-only or held: the bot waits for it and loses nothing."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from bot.app import FAILED, _status
from bot.build import Service
from bot.core.outcomes import DiskError
from bot.core.types import EventID
from bot.services.supervisor import Disk
from bot.store import StoreError, damage
from tests.support.encryption_engines import Bot, Peer, Writer
from tests.support.harness import MINUTE, SECOND, Harness, Opener

MANY = 90


class Insisted:
    """A service as the bot runs it."""

    def __init__(self, disk: Disk, service: Service) -> None:
        self._disk, self._service = disk, service

    async def run(self) -> None:
        await self._disk.insist(self._service.run)


def insisted(harness: Harness) -> list[Insisted]:
    disk = Disk(harness.clock, Random(1))
    return [Insisted(disk, service) for service in harness.everything]


async def pragma(harness: Harness, text: str) -> int:
    [[value]] = await harness.store._db._connection.execute_fetchall(f"PRAGMA {text}")
    return int(value)


@asynccontextmanager
async def full(harness: Harness) -> AsyncIterator[None]:
    """As on a full disk, the file cannot grow."""
    before = await pragma(harness, "max_page_count")
    await pragma(harness, f"max_page_count = {await pragma(harness, 'page_count')}")
    yield
    await pragma(harness, f"max_page_count = {before}")


@asynccontextmanager
async def read_only(harness: Harness) -> AsyncIterator[None]:
    await harness.store._db._connection.execute_fetchall("PRAGMA query_only = ON")
    yield
    await harness.store._db._connection.execute_fetchall("PRAGMA query_only = OFF")


@asynccontextmanager
async def held(harness: Harness) -> AsyncIterator[None]:
    """Somebody else is writing, and does not end."""
    await pragma(harness, "busy_timeout = 0")
    other = sqlite3.connect(harness.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.execute("COMMIT")
    other.close()


Trouble = Callable[[Harness], AbstractAsyncContextManager[None]]
every_trouble = pytest.mark.parametrize("trouble", [full, read_only, held])


@every_trouble
async def test_what_cannot_be_stored_is_not_acknowledged_and_goes_in_time(
    harness: Harness, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, 10 * MINUTE)
    sent: list[EventID] = []
    async with harness.running(*insisted(harness)):
        token, _ = await harness.store.position()
        async with trouble(harness):
            sent += [harness.homeserver.send(room, "x" * 50) for _ in range(MANY)]
            for _ in range(10):
                await harness.advance(30 * SECOND)
            asked = len(harness.homeserver.times("sync"))
        assert asked < 20
        await harness.advance(MINUTE)
        assert (await harness.store.position())[0] != token
        assert not any(harness.homeserver.is_redacted(room, one) for one in sent)
        for _ in range(6):
            await harness.advance(MINUTE)
        assert all(harness.homeserver.is_redacted(room, one) for one in sent)
    said = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert 1 <= len(said) <= 6
    assert "nothing can be stored" in said[0].getMessage()


@every_trouble
async def test_what_is_due_meanwhile_is_not_asked_for_without_end(
    harness: Harness, trouble: Trouble
) -> None:
    room = harness.homeserver.make_room()
    sent = [harness.homeserver.send(room, "x") for _ in range(MANY)]
    await harness.remember(room, *sent, due=harness.clock.now() + MINUTE)
    async with harness.running(*insisted(harness)):
        async with trouble(harness):
            for _ in range(60):
                await harness.advance(10 * SECOND)
            assert len(harness.homeserver.times("redact")) < 150
        for _ in range(3):
            await harness.advance(MINUTE)
        assert all(harness.homeserver.is_redacted(room, one) for one in sent)
        assert await harness.pending(room) == 0


async def test_a_service_that_fails_otherwise_is_not_begun_anew(harness: Harness) -> None:
    began: list[int] = []

    async def broken() -> None:
        began.append(1)
        raise StoreError("damaged")

    with pytest.raises(StoreError):
        await Disk(harness.clock, Random(1)).insist(broken)
    assert began == [1]


async def test_a_service_that_fails_in_a_group_is_begun_anew(harness: Harness) -> None:
    failures = [DiskError("full"), DiskError("full")]

    async def task() -> None:
        if failures:
            raise failures.pop()

    async def service() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(task())

    class Group:
        run = staticmethod(service)

    async with harness.running(Insisted(Disk(harness.clock, Random(1)), Group())):
        for _ in range(4):
            await harness.advance(SECOND)
    assert failures == []


async def test_damage_found_in_the_middle_of_work_is_no_passing_trouble(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "timers.db"
    store = await open_store(path)
    await store.wipe()  # the file itself is read from now on, not its journal
    await store._db._connection.execute_fetchall("PRAGMA cache_size = 0")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 60_000)
    with pytest.raises(StoreError, match=r"timers\.db"):
        await store.rooms()


async def test_it_stops_in_order_though_nothing_can_be_wiped(
    open_store: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_store(tmp_path / "timers.db")
    await store._db._connection.execute_fetchall("PRAGMA query_only = ON")
    with pytest.raises(DiskError, match="readonly"):
        await store.wipe()
    await store.close()
    assert "could not be wiped" in caplog.text


# The channel that the key came through moves on in memory: without its place on the disk, the same
# event could not be opened when it comes again.
async def test_a_room_key_that_was_not_stored_is_opened_when_repeated(
    tmp_path: Path,
) -> None:
    alice, bot = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot")
    alice.meet(bot)
    bot.meet(alice)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.dummy", {}))
    event = alice.tell(bot, "m.room_key", writer.room_key())
    bot.client.store.database.execute_sql("PRAGMA query_only = ON")
    with pytest.raises(DiskError, match="the crypto store"):
        bot.feed(event)
    bot.meet(alice)
    bot.feed(event)
    assert await bot.reads(writer.write("a secret")) == "a secret"
    bot.restart()
    bot.meet(alice)
    assert await bot.reads(writer.write("another")) == "another"


async def test_keys_that_cannot_be_moved_on_are_waited_for(tmp_path: Path) -> None:
    alice, bot = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot")
    alice.meet(bot)
    bot.meet(alice)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    bot.client.store.database.execute_sql("PRAGMA query_only = ON")
    with pytest.raises(DiskError, match="readonly"):
        await bot.crypto.ratchet([(writer.session.id, 0)])
    with pytest.raises(DiskError, match="readonly"):
        await bot.crypto.forget([writer.session.id])
    with pytest.raises(DiskError, match="readonly"):
        await bot.crypto.scrub()


def test_damage_that_a_service_meets_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [StoreError("timers.db: malformed")])])
    assert _status(group, stopped=False) == FAILED
    assert [record.getMessage() for record in caplog.records] == ["timers.db: malformed"]


def confuse(path: Path) -> None:
    """Have two tables share one page."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA writable_schema = ON")
    [(page,)] = other.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'gaps'")
    other.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = 'pending_relations'", (page,))
    other.close()


async def test_a_large_file_is_looked_through_beside_the_work(
    open_store: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "timers.db"
    monkeypatch.setattr(damage, "SOON_READ", 0)
    store = await open_store(path)
    await store.look_through()
    await store.close()
    confuse(path)
    store = await open_store(path)
    with pytest.raises(StoreError, match="database disk image is malformed; it was moved to"):
        await store.look_through()
    await store.look_through()  # once is enough
    assert not path.exists()
    await open_store(path)


async def test_damage_that_only_a_look_through_finds_is_moved_aside(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "timers.db"
    await (await open_store(path)).close()
    confuse(path)
    with pytest.raises(StoreError, match="database disk image is malformed; it was moved to"):
        await open_store(path)
    [aside] = tmp_path.glob("timers.db.damaged-*")
    assert not path.exists()
    await open_store(path)
    assert aside.stat().st_size > 4096


async def test_damage_that_cannot_be_moved_aside_is_said(
    open_store: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path, __: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "timers.db"
    path.write_bytes(b"no database" * 1_000)
    monkeypatch.setattr(Path, "rename", refused)
    why = r"; move it out of the way: that failed \(Permission denied\)"
    with pytest.raises(StoreError, match=why):
        await open_store(path)
    assert path.read_bytes() == b"no database" * 1_000
