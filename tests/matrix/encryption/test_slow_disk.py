"""While the crypto store is written the event loop goes on, and what depends on it waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bot.core.outcomes import DiskError, Done, Outcome
from bot.core.types import RoomID
from bot.matrix.client import Matrix
from bot.matrix.encryption import crypto_database
from tests.support.big_room import Crowd
from tests.support.encryption_engines import Bot, Peer, Writer

ROOM = RoomID("!room:example.org")


class Disk:
    """Lets nothing be committed while it is `held`, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.full = False
        self.threads: set[int] = set()
        run = crypto_database._run

        def slowly(connection: Any, statement: str) -> Exception | None:
            self.threads.add(threading.get_ident())
            self.begun.set()
            self.free.wait(60)
            return run(connection, "COMMIT nothing" if self.full else statement)

        monkeypatch.setattr(crypto_database, "_run", slowly)

    def hold(self) -> None:
        self.begun.clear()
        self.free.clear()

    async def until_begun(self) -> None:
        """Return when something is being committed; meanwhile the event loop goes on."""
        async with asyncio.timeout(60):
            while not self.begun.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0)

    def free_soon(self) -> None:
        """Let it be committed once somebody holds the event loop up for it, or a little later."""
        threading.Timer(0.05, self.free.set).start()


@pytest.fixture
async def disk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.free.set()


@pytest.fixture
def bot(tmp_path: Path) -> Bot:
    return Bot(tmp_path / "bot")


@pytest.fixture
def alice(tmp_path: Path, bot: Bot) -> Peer:
    made = Peer("alice", tmp_path / "alice")
    made.meet(bot)
    bot.meet(made)
    return made


def crowd_of(bot: Bot, members: int) -> Crowd:
    crowd = Crowd(bot.client)
    crowd.fill(ROOM, members)
    return crowd


async def say(bot: Bot) -> Outcome:
    return await Matrix(bot.client).send(ROOM, "m.room.message", {}, "txn", encrypted=True)


async def take(bot: Bot, *events: Any) -> None:
    await bot.crypto.feed_by_slices({"to_device": {"events": list(events)}})


async def turns() -> None:
    """Let everybody in the event loop do what can be done."""
    for _ in range(50):
        await asyncio.sleep(0)


async def begin_again(bot: Bot, crowd: Crowd) -> asyncio.Task[Outcome]:
    """Let somebody leave, and write: the others are given a new key by channels that are there."""
    crowd.rooms[ROOM].discard(min(crowd.rooms[ROOM]))
    saying = asyncio.create_task(say(bot))
    await asyncio.sleep(0)
    return saying


async def test_no_key_is_sent_before_its_channels_are_on_the_disk(bot: Bot, disk: Disk) -> None:
    crowd = crowd_of(bot, 3)
    assert isinstance(await say(bot), Done)
    assert threading.get_ident() not in disk.threads
    given = crowd.given.total()
    disk.hold()
    saying = await begin_again(bot, crowd)
    await disk.until_begun()
    await turns()  # others go on
    assert (crowd.given.total(), len(crowd.events)) == (given, 1)
    disk.free.set()
    assert isinstance(await saying, Done)
    assert (crowd.given.total(), len(crowd.events)) == (given + 2, 2)


async def test_a_key_whose_channels_cannot_be_written_is_not_sent(bot: Bot, disk: Disk) -> None:
    crowd = crowd_of(bot, 3)
    assert isinstance(await say(bot), Done)
    given = crowd.given.total()
    disk.full = True
    assert not isinstance(await (await begin_again(bot, crowd)), Done)
    assert crowd.given.total() == given
    disk.full = False
    assert isinstance(await say(bot), Done)
    assert crowd.given.total() == given + 2


async def test_who_is_cut_off_while_the_disk_writes_has_sent_nothing(bot: Bot, disk: Disk) -> None:
    crowd = crowd_of(bot, 3)
    await say(bot)
    given = crowd.given.total()
    disk.hold()
    saying = await begin_again(bot, crowd)
    await disk.until_begun()
    saying.cancel()
    with suppress(asyncio.CancelledError):
        await saying
    again = asyncio.create_task(say(bot))
    await turns()
    assert crowd.given.total() == given
    disk.free.set()
    assert isinstance(await again, Done)
    assert crowd.given.total() == given + 2


async def test_a_store_loaded_again_has_what_was_being_written(bot: Bot, disk: Disk) -> None:
    """A channel that went back would use a key twice, which nobody who got it first would open."""
    crowd = crowd_of(bot, 4)
    await say(bot)
    disk.hold()
    saying = await begin_again(bot, crowd)
    await disk.until_begun()
    disk.free_soon()
    bot.client.load_again()
    assert isinstance(await saying, Done)
    assert isinstance(await (await begin_again(bot, crowd)), Done)
    readers = [one for user in crowd.rooms[ROOM] for one in crowd.devices[user].values()]
    assert [one.read(crowd.events[-1][1]) is None for one in readers] == [False, False]


async def test_who_waits_for_a_store_that_is_loaded_again_is_told(bot: Bot, disk: Disk) -> None:
    crowd = crowd_of(bot, 3)
    await say(bot)
    disk.hold()
    saying = await begin_again(bot, crowd)
    await disk.until_begun()
    ratcheting = asyncio.create_task(bot.crypto.ratchet([]))
    await turns()
    disk.free_soon()
    bot.client.load_again()
    with pytest.raises(DiskError, match="meanwhile"):
        await ratcheting
    assert isinstance(await saying, Done)


async def test_a_sync_is_over_when_its_keys_are_on_the_disk(
    bot: Bot, alice: Peer, disk: Disk
) -> None:
    writers = [Writer(alice) for _ in range(3)]
    disk.hold()
    taking = asyncio.create_task(
        take(bot, *(alice.tell(bot, "m.room_key", one.room_key()) for one in writers))
    )
    await disk.until_begun()
    await turns()
    assert not taking.done()
    disk.free.set()
    await taking
    bot.restart()
    assert set(bot.crypto.sessions) == {one.session.id for one in writers}


async def test_a_sync_whose_keys_cannot_be_written_comes_again(
    bot: Bot, alice: Peer, disk: Disk
) -> None:
    writer = Writer(alice)
    event = alice.tell(bot, "m.room_key", writer.room_key())
    bot.olm.save_account()  # with the one-time key of alice's channel
    disk.full = True
    with pytest.raises(DiskError):
        await take(bot, event)
    assert bot.crypto.sessions == {}
    disk.full = False
    await take(bot, event)
    assert set(bot.crypto.sessions) == {writer.session.id}


async def test_a_sync_cut_off_before_the_disk_failed_comes_again(
    bot: Bot, alice: Peer, disk: Disk
) -> None:
    writer = Writer(alice)
    event = alice.tell(bot, "m.room_key", writer.room_key())
    bot.olm.save_account()
    disk.full = True
    disk.hold()
    taking = asyncio.create_task(take(bot, event))
    await disk.until_begun()
    taking.cancel()
    with suppress(asyncio.CancelledError):
        await taking
    disk.free.set()
    await bot.client.store.database.turn()
    disk.full = False
    await take(bot, event)
    bot.restart()
    assert set(bot.crypto.sessions) == {writer.session.id}


async def test_a_key_is_taken_away_when_the_disk_says_so(bot: Bot, alice: Peer, disk: Disk) -> None:
    writer = Writer(alice)
    old = writer.write("said long ago")
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    disk.hold()
    ratcheting = asyncio.create_task(bot.crypto.ratchet([(writer.session.id, 0)]))
    await disk.until_begun()
    await turns()
    assert not ratcheting.done()
    disk.free.set()
    await ratcheting
    bot.restart()
    bot.meet(alice)
    assert await bot.reads(old) is None
    assert await bot.reads(writer.write("said today")) == "said today"
    disk.full = True
    with pytest.raises(DiskError):
        await bot.crypto.ratchet([(writer.session.id, 1)])
    disk.full = False
    await bot.crypto.ratchet([(writer.session.id, 1)])  # it is asked for again
    bot.restart()
    bot.meet(alice)
    assert await bot.reads(writer.write("and now")) == "and now"


async def test_all_who_write_at_once_have_their_turn(bot: Bot, alice: Peer, disk: Disk) -> None:
    crowd = crowd_of(bot, 3)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    disk.hold()
    more = [alice.tell(bot, "m.room_key", Writer(alice).room_key()) for _ in range(3)]
    everything = asyncio.gather(
        say(bot),
        take(bot, *more),
        bot.crypto.ratchet([(writer.session.id, 0)]),
        bot.crypto.scrub(),
        bot.crypto.forget(["unknown"]),
    )
    await disk.until_begun()
    await turns()
    disk.free.set()
    assert isinstance((await everything)[0], Done)
    bot.restart()
    assert len(bot.crypto.sessions) == 4
    assert len(crowd.events) == 1
