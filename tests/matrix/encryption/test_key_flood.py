"""A flood of room keys delays no timer, drives out nobody else's key, and loses none to a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bot.core.outcomes import DiskError
from bot.core.topics import Topic
from bot.matrix.client import Matrix
from bot.matrix.encryption import engine, to_device, to_device_queue
from bot.matrix.encryption.bounds import SenderBounds
from bot.matrix.encryption.crypto import Crypto
from bot.matrix.encryption.time_slices import TimeSlices
from bot.matrix.encryption.to_device import AT_ONCE
from tests.support.big_room import Answer
from tests.support.encryption_engines import ROOM, Bot, Peer, Writer, commits_of

FLOOD = AT_ONCE + 30


class Harness:
    """The bot's engine, and people who send it keys, at a time that only the tests move."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bot = Bot(folder / "bot")
        self.topics = self.bot.topics
        self.now, self.step, self.rests = 0.0, 0.0, 0
        self.between: Callable[[], None] = lambda: None
        self.begin()

    def begin(self) -> None:
        slices = TimeSlices(self._elapsed, self._rest, self._elapsed, most=10)
        self.bot.crypto = self.crypto = Crypto(
            self.bot.client, self.bot._request, slices, self.topics
        )

    def restart(self) -> None:
        self.bot.restart()
        self.begin()

    def _elapsed(self) -> float:
        self.now += self.step
        return self.now

    async def _rest(self, _: float) -> None:
        self.rests += 1
        self.between()
        await asyncio.sleep(0)

    def peer(self, name: str) -> Peer:
        made = Peer(name, self.folder / name)
        made.meet(self.bot)
        self.bot.olm.save_account()
        made.store.save_session = lambda *_: None  # nobody looks for it, and it takes its time
        return made

    def key(self, peer: Peer) -> tuple[str, dict[str, Any]]:
        """Return a new session's id, and the event that brings its key."""
        writer = Writer(peer)
        return writer.session.id, peer.tell(self.bot, "m.room_key", writer.room_key())

    def flood(self, peer: Peer, number: int = FLOOD) -> list[dict[str, Any]]:
        return [self.key(peer)[1] for _ in range(number)]

    async def sync(self, *events: Any) -> None:
        await self.crypto.feed_by_slices({"to_device": {"events": list(events)}})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the engine take what waits, until all is taken."""
        task = asyncio.create_task(self.crypto.run())
        yield
        while self.waits:  # noqa: ASYNC110 - nobody is told of what brings no key
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    @property
    def waits(self) -> int:
        return len(self.crypto._to_device._inbox)

    @property
    def keys(self) -> set[str]:
        return set(self.crypto.sessions)


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


async def test_what_comes_at_once_is_bounded_and_ends_with_the_sync(harness: Harness) -> None:
    flood = harness.flood(harness.peer("mallory"))
    commits = commits_of(harness.bot)
    await harness.sync(*flood)
    assert len(harness.keys) == AT_ONCE
    assert harness.waits == FLOOD - AT_ONCE
    assert harness.rests >= AT_ONCE / 10
    assert commits() <= AT_ONCE / 10 + 3  # a piece each, and one for what waits
    async with harness.running():
        pass
    assert len(harness.keys) == FLOOD
    assert harness.waits == 0


async def test_a_key_among_a_flood_opens_its_message_at_once(harness: Harness) -> None:
    flood, alice = harness.flood(harness.peer("mallory")), harness.peer("alice")
    harness.bot.meet(alice)
    writer = Writer(alice)
    await harness.sync(*flood, alice.tell(harness.bot, "m.room_key", writer.room_key()))
    assert await harness.bot.reads(writer.write("!expire 5s")) == "!expire 5s"


async def test_a_key_is_not_behind_what_waited_of_others(harness: Harness) -> None:
    await harness.sync(*harness.flood(harness.peer("mallory")))
    name, event = harness.key(harness.peer("alice"))
    await harness.sync(event)
    assert name in harness.keys


async def test_time_ends_what_is_taken_at_once_too(harness: Harness) -> None:
    flood = harness.flood(harness.peer("mallory"), 30)
    harness.step = to_device.AT_ONCE_WITHIN / 10
    await harness.sync(*flood)
    assert 0 < len(harness.keys) < 10
    assert harness.waits == 30 - len(harness.keys)
    harness.step = 0.0


async def test_what_waits_is_not_lost_in_a_crash(harness: Harness) -> None:
    flood = harness.flood(harness.peer("mallory"))
    await harness.sync(*flood)
    harness.restart()
    assert harness.waits == FLOOD - AT_ONCE
    async with harness.running():
        pass
    assert len(harness.keys) == FLOOD
    harness.restart()
    assert (len(harness.keys), harness.waits) == (FLOOD, 0)


async def test_a_crash_while_what_waits_is_taken_loses_nothing(harness: Harness) -> None:
    await harness.sync(*harness.flood(harness.peer("mallory")))
    await harness.crypto._to_device._piece(7)
    harness.restart()
    assert len(harness.keys) == AT_ONCE + 7
    assert harness.waits == FLOOD - AT_ONCE - 7


@pytest.mark.parametrize("crash", [True, False])
async def test_an_answer_that_comes_again_counts_once(harness: Harness, *, crash: bool) -> None:
    flood = harness.flood(harness.peer("mallory"))
    await harness.sync(*flood)
    if crash:
        harness.restart()
    await harness.sync(*flood)
    async with harness.running():
        pass
    assert (len(harness.keys), harness.waits) == (FLOOD, 0)
    assert harness.bot.olm.wedged_devices == []


async def test_whoever_has_most_waiting_loses_what_is_too_much(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(to_device_queue, "MOST_WAITING", 20)
    monkeypatch.setattr(to_device, "AT_ONCE", 0)
    alice = [harness.key(harness.peer(f"alice{number}")) for number in range(4)]
    await harness.sync(*harness.flood(harness.peer("mallory"), 30))
    await harness.sync(*(event for _, event in alice))
    assert harness.waits == 20
    assert "more keys came than can wait: 10 were dropped" in caplog.text
    assert "example.org" not in caplog.text
    async with harness.running():
        pass
    assert {name for name, _ in alice} <= harness.keys
    harness.restart()
    assert harness.waits == 0


async def test_of_very_many_with_one_key_each_the_last_are_dropped(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device_queue, "MOST_WAITING", 3)
    monkeypatch.setattr(to_device, "AT_ONCE", 0)
    found = [harness.key(harness.peer(f"peer{number}")) for number in range(5)]
    await harness.sync(*(event for _, event in found))
    async with harness.running():
        pass
    assert harness.keys == {name for name, _ in found[:3]}


async def test_one_accounts_keys_stay_in_their_order(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "AT_ONCE", 0)
    harness.crypto.sender_bounds = SenderBounds(10**6)
    flood = harness.flood(
        harness.peer("mallory"), 60
    )  # an Olm channel keeps 40 that were passed over
    opened: list[Any] = []
    monkeypatch.setattr(to_device.ToDevice, "_open", lambda _, event: opened.append(event))
    await harness.sync(*flood[:30])
    await harness.sync(*flood[30:])
    async with harness.running():
        pass
    assert opened == flood


async def test_whoever_waits_for_keys_is_told_when_they_came_late(harness: Harness) -> None:
    await harness.sync(*harness.flood(harness.peer("mallory"), AT_ONCE + 5))
    told = harness.topics.listen(Topic.ROOM_KEYS)
    async with harness.running(), asyncio.timeout(60):
        assert not told.is_set()
        await told.wait()


async def test_a_disk_that_fails_leaves_all_of_an_answer_to_come_again(harness: Harness) -> None:
    flood = harness.flood(harness.peer("mallory"), 30)
    harness.between = lambda: harness.bot.client.store.database.execute_sql(
        "PRAGMA query_only = ON"
    )
    with pytest.raises(DiskError):
        await harness.sync(*flood)
    harness.between = lambda: None
    await harness.sync(*flood)
    harness.restart()
    assert len(harness.keys) == 30


async def test_a_store_loaded_again_meanwhile_has_the_answer_come_again(harness: Harness) -> None:
    flood = harness.flood(harness.peer("mallory"), 30)
    harness.between = harness.bot.client.load_again
    with pytest.raises(DiskError):
        await harness.sync(*flood)
    harness.between = lambda: None
    await harness.sync(*flood)
    assert len(harness.keys) == 30


async def test_an_event_that_is_too_long_is_passed_over(harness: Harness) -> None:
    name, event = harness.key(harness.peer("alice"))
    await harness.sync(event | {"more": "x" * to_device_queue.LONGEST_EVENT}, event)
    assert harness.keys == {name}


async def test_the_device_that_gave_most_keys_loses_its_oldest(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST_KEYS", 10)
    name, event = harness.key(harness.peer("alice"))
    mallory = harness.peer("mallory")
    found = [harness.key(mallory) for _ in range(15)]
    await harness.sync(event, *(one for _, one in found))
    assert harness.keys == {name, *(one for one, _ in found[-9:])}
    harness.restart()
    assert len(harness.keys) == 10
    await harness.sync(harness.key(harness.peer("bob"))[1])
    assert name in harness.keys
    assert len(harness.keys) == 10


async def test_the_rest_of_a_sync_is_read_before_its_flood(
    harness: Harness,
) -> None:
    flood = harness.flood(harness.peer("mallory"))
    message = {"type": "m.room.message", "event_id": "$one"}
    body = {
        "next_batch": "s2",
        "to_device": {"events": flood},
        "rooms": {"join": {ROOM: {"timeline": {"events": [message]}}}},
    }

    async def send(*_: Any, **__: Any) -> Answer:
        return Answer(200, body)

    harness.bot.client.send = send  # type: ignore[method-assign]
    matrix = Matrix(harness.bot.client)
    matrix.crypto = harness.crypto
    told = harness.topics.listen(Topic.ROOM_KEYS)
    batch = await matrix.sync("s1", 0)
    assert batch.joined[0].timeline == [message]
    assert told.is_set()
    assert harness.waits == FLOOD - AT_ONCE
    harness.restart()
    assert harness.waits == FLOOD - AT_ONCE
