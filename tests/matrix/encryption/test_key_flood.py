"""A flood of room keys delays no timer, drives out nobody else's key, and loses none to a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bot.core.outcomes import DiskError
from bot.matrix.client import Matrix
from bot.matrix.encryption import engine, to_device, to_device_queue
from bot.matrix.encryption.bounds import SenderBounds
from bot.matrix.encryption.crypto import Crypto
from bot.matrix.encryption.time_slices import TimeSlices
from bot.matrix.encryption.to_device import AT_ONCE
from tests.support.big_room import Answer
from tests.support.encryption_engines import ROOM, Bot, Peer, Writer, commits_of

FLOOD = AT_ONCE + 30


class House:
    """The bot's engine, and people who send it keys, at a time that only the tests move."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bot = Bot(folder / "bot")
        self.now, self.step, self.rests = 0.0, 0.0, 0
        self.between: Callable[[], None] = lambda: None
        self.begin()

    def begin(self) -> None:
        turns = TimeSlices(self._elapsed, self._rest, self._elapsed, most=10)
        self.bot.crypto = self.crypto = Crypto(self.bot.client, self.bot._request, turns)

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
        await self.crypto.feed_by_turns({"to_device": {"events": list(events)}})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the engine take what waits, until all is taken."""
        done = asyncio.Event()
        self.crypto.tell_news = lambda: done.set() if not self.waits else None
        task = asyncio.create_task(self.crypto.run())
        yield
        if self.waits:
            await done.wait()
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
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_what_comes_at_once_is_bounded_and_ends_with_the_sync(house: House) -> None:
    flood = house.flood(house.peer("mallory"))
    commits = commits_of(house.bot)
    await house.sync(*flood)
    assert len(house.keys) == AT_ONCE
    assert house.waits == FLOOD - AT_ONCE
    assert house.rests >= AT_ONCE / 10
    assert commits() <= AT_ONCE / 10 + 3  # a piece each, and one for what waits
    async with house.running():
        pass
    assert len(house.keys) == FLOOD
    assert house.waits == 0


async def test_a_key_among_a_flood_opens_its_message_at_once(house: House) -> None:
    flood, alice = house.flood(house.peer("mallory")), house.peer("alice")
    house.bot.meet(alice)
    writer = Writer(alice)
    await house.sync(*flood, alice.tell(house.bot, "m.room_key", writer.room_key()))
    assert await house.bot.reads(writer.write("!expire 5s")) == "!expire 5s"


async def test_a_key_is_not_behind_what_waited_of_others(house: House) -> None:
    await house.sync(*house.flood(house.peer("mallory")))
    name, event = house.key(house.peer("alice"))
    await house.sync(event)
    assert name in house.keys


async def test_time_ends_what_is_taken_at_once_too(house: House) -> None:
    flood = house.flood(house.peer("mallory"), 30)
    house.step = to_device.AT_ONCE_WITHIN / 10
    await house.sync(*flood)
    assert 0 < len(house.keys) < 10
    assert house.waits == 30 - len(house.keys)
    house.step = 0.0


async def test_what_waits_is_not_lost_in_a_crash(house: House) -> None:
    flood = house.flood(house.peer("mallory"))
    await house.sync(*flood)
    house.restart()
    assert house.waits == FLOOD - AT_ONCE
    async with house.running():
        pass
    assert len(house.keys) == FLOOD
    house.restart()
    assert (len(house.keys), house.waits) == (FLOOD, 0)


async def test_a_crash_while_what_waits_is_taken_loses_nothing(house: House) -> None:
    await house.sync(*house.flood(house.peer("mallory")))
    house.crypto._to_device._piece(7)
    house.restart()
    assert len(house.keys) == AT_ONCE + 7
    assert house.waits == FLOOD - AT_ONCE - 7


@pytest.mark.parametrize("crash", [True, False])
async def test_an_answer_that_comes_again_counts_once(house: House, *, crash: bool) -> None:
    flood = house.flood(house.peer("mallory"))
    await house.sync(*flood)
    if crash:
        house.restart()
    await house.sync(*flood)
    async with house.running():
        pass
    assert (len(house.keys), house.waits) == (FLOOD, 0)
    assert house.bot.olm.wedged_devices == []


async def test_whoever_has_most_waiting_loses_what_is_too_much(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(to_device_queue, "MOST_WAITING", 20)
    monkeypatch.setattr(to_device, "AT_ONCE", 0)
    alice = [house.key(house.peer(f"alice{number}")) for number in range(4)]
    await house.sync(*house.flood(house.peer("mallory"), 30))
    await house.sync(*(event for _, event in alice))
    assert house.waits == 20
    assert "more keys came than can wait: 10 were dropped" in caplog.text
    assert "example.org" not in caplog.text
    async with house.running():
        pass
    assert {name for name, _ in alice} <= house.keys
    house.restart()
    assert house.waits == 0


async def test_of_very_many_with_one_key_each_the_last_are_dropped(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device_queue, "MOST_WAITING", 3)
    monkeypatch.setattr(to_device, "AT_ONCE", 0)
    found = [house.key(house.peer(f"peer{number}")) for number in range(5)]
    await house.sync(*(event for _, event in found))
    async with house.running():
        pass
    assert house.keys == {name for name, _ in found[:3]}


async def test_one_accounts_keys_stay_in_their_order(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "AT_ONCE", 0)
    house.crypto.gate = SenderBounds(10**6)
    flood = house.flood(house.peer("mallory"), 60)  # an Olm channel keeps 40 that were passed over
    opened: list[Any] = []
    monkeypatch.setattr(to_device.ToDevice, "_open", lambda _, event: opened.append(event))
    await house.sync(*flood[:30])
    await house.sync(*flood[30:])
    async with house.running():
        pass
    assert opened == flood


async def test_whoever_waits_for_keys_is_told_when_they_came_late(house: House) -> None:
    told: list[int] = []
    await house.sync(*house.flood(house.peer("mallory"), AT_ONCE + 5))
    async with house.running():
        ready = house.crypto.tell_news

        def tell() -> None:
            told.append(house.waits)
            ready()

        house.crypto.tell_news = tell
    assert told == [0]


async def test_a_disk_that_fails_leaves_all_of_an_answer_to_come_again(house: House) -> None:
    flood = house.flood(house.peer("mallory"), 30)
    house.between = lambda: house.bot.client.store.database.execute_sql("PRAGMA query_only = ON")
    with pytest.raises(DiskError):
        await house.sync(*flood)
    house.between = lambda: None
    await house.sync(*flood)
    house.restart()
    assert len(house.keys) == 30


async def test_a_store_loaded_again_meanwhile_has_the_answer_come_again(house: House) -> None:
    flood = house.flood(house.peer("mallory"), 30)
    house.between = house.bot.client.load_again
    with pytest.raises(DiskError):
        await house.sync(*flood)
    house.between = lambda: None
    await house.sync(*flood)
    assert len(house.keys) == 30


async def test_an_event_that_is_too_long_is_passed_over(house: House) -> None:
    name, event = house.key(house.peer("alice"))
    await house.sync(event | {"more": "x" * to_device_queue.LONGEST_EVENT}, event)
    assert house.keys == {name}


async def test_the_device_that_gave_most_keys_loses_its_oldest(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST_KEYS", 10)
    name, event = house.key(house.peer("alice"))
    mallory = house.peer("mallory")
    found = [house.key(mallory) for _ in range(15)]
    await house.sync(event, *(one for _, one in found))
    assert house.keys == {name, *(one for one, _ in found[-9:])}
    house.restart()
    assert len(house.keys) == 10
    await house.sync(house.key(house.peer("bob"))[1])
    assert name in house.keys
    assert len(house.keys) == 10


async def test_the_rest_of_a_sync_is_read_before_the_flood_that_came_with_it(
    house: House,
) -> None:
    flood = house.flood(house.peer("mallory"))
    message = {"type": "m.room.message", "event_id": "$one"}
    body = {
        "next_batch": "s2",
        "to_device": {"events": flood},
        "rooms": {"join": {ROOM: {"timeline": {"events": [message]}}}},
    }

    async def send(*_: Any, **__: Any) -> Answer:
        return Answer(200, body)

    house.bot.client.send = send  # type: ignore[method-assign]
    matrix = Matrix(house.bot.client)
    matrix.crypto = house.crypto
    batch = await matrix.sync("s1", 0)
    assert batch.joined[0].timeline == [message]
    assert batch.keys
    assert house.waits == FLOOD - AT_ONCE
    house.restart()
    assert house.waits == FLOOD - AT_ONCE
