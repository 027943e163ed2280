"""Keys are taken away once their message was read; messages without keys are asked for again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.core.lifetimes import LifetimeLimits
from bot.core.outbox import KeyNeverCame
from bot.core.power_levels import Power
from bot.core.sync_batch import MissingRoomKey
from bot.core.timeline import Item, KeyUse, RoomUpdate
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from bot.services.event_reader import AT_ONCE, DECRYPTED, REST, EventReader
from bot.services.key_expiry import UNUSED_FOR, KeyExpiry
from bot.services.late_keys import ASK_AFTER, ASK_AGAIN_AFTER, GIVE_UP_AFTER, LateKeys
from tests.support.encryption_engines import ROOM, Bot, Peer, Writer, commits_of
from tests.support.fake_clock import FakeClock
from tests.support.store import Store

GRACE = 30_000
LIMITS = LifetimeLimits(minimum=1_000, maximum=60_000)
OWN = UserID("@bot:example.org")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(tmp_path / "timers.db", limits=LIMITS, own_id=OWN)
    yield made
    await made.close()


class Homeserver:
    """Has one room, where alice may do everything and nobody's key has come."""

    def __init__(self, crypto: Any = None) -> None:
        self.own_id = OWN
        self.crypto = crypto
        self.events: dict[str, Event] = {}
        self.asked: list[str] = []

    async def power(self, room_id: RoomID) -> Power:
        create = {"sender": "@alice:example.org", "content": {"room_version": "12"}}
        levels = {"users": {OWN: 50}}
        return Power.read(create, levels)

    async def is_signed(self, user_id: UserID, device_id: str, device_key: str) -> bool:
        return False

    async def decrypt(self, room_id: RoomID, event: Event, *, meet: bool) -> Any:
        if self.crypto is None:
            return MissingRoomKey(session_id=event["content"]["session_id"])
        return await self.crypto.decrypt(room_id, event, meet=meet)

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        return self.events.get(event_id)

    async def name_of(self, room_id: RoomID, user_id: UserID) -> str:
        return ""

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return False

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool = False) -> None:
        self.asked.append(event["event_id"])


async def commit(store: Store, items: list[Item], now: int) -> None:
    await store.commit("token", now, [RoomUpdate(room_id=ROOM, items=items, encrypted=True)])


async def read(reader: EventReader, store: Store, events: list[Event], now: int) -> list[Item]:
    items = await reader.items(ROOM, events, encrypted=True, live=True, since=now, now=now)
    await commit(store, items, now)
    return items


async def test_a_key_is_taken_away_after_the_grace_and_not_before(
    tmp_path: Path, store: Store
) -> None:
    alice, bot, clock = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot"), FakeClock()
    bot.meet(alice)
    alice.meet(bot)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    event = writer.write("!expire 5s")
    assert await bot.reads(event) == "!expire 5s"
    await commit(
        store, [KeyUse(session_id=writer.session.id, message_index=0, read_at=clock.now())], 0
    )
    ratchet = KeyExpiry(bot.crypto, store, clock, grace=GRACE, limits=LIMITS)
    assert await ratchet.turn() == clock.now() + GRACE
    clock.advance(GRACE - 1)
    await ratchet.turn()
    assert await bot.reads(event) == "!expire 5s"
    clock.advance(1)
    await ratchet.turn()
    assert await bot.reads(event) is None
    assert await store.keys.first_key_use() is None


async def test_only_the_session_that_was_read_is_moved_on(tmp_path: Path, store: Store) -> None:
    alice, bot, clock = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot"), FakeClock()
    bot.meet(alice)
    alice.meet(bot)
    read_one, other = Writer(alice), Writer(alice)
    for writer in (read_one, other):
        bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    events = {writer: [writer.write(f"{n}") for n in range(4)] for writer in (read_one, other)}
    opened: list[Item] = [
        KeyUse(session_id=read_one.session.id, message_index=index, read_at=clock.now())
        for index in (0, 1)
    ]
    late = KeyUse(session_id=read_one.session.id, message_index=2, read_at=clock.now() + 1)
    await commit(store, [*opened, late], 0)
    ratchet = KeyExpiry(bot.crypto, store, clock, grace=GRACE, limits=LIMITS)
    clock.advance(GRACE)
    await ratchet.turn()
    assert [await bot.reads(event) for event in events[read_one]] == [None, None, "2", "3"]
    assert [await bot.reads(event) for event in events[other]] == ["0", "1", "2", "3"]
    assert await store.keys.first_key_use() == late.read_at
    clock.advance(1)
    await ratchet.turn()
    assert [await bot.reads(event) for event in events[read_one]] == [None, None, None, "3"]


async def test_the_last_message_read_of_each_session_is_noted(store: Store) -> None:
    uses: list[Item] = [
        KeyUse(session_id=name, message_index=index, read_at=1_000)
        for name, index in [("one", 3), ("other", 0), ("one", 7), ("one", 5)]
    ]
    await commit(store, uses, 0)
    again: list[Item] = [KeyUse(session_id="one", message_index=5, read_at=2_000)]
    await commit(store, again, 0)
    assert await store.keys.to_ratchet(1_000, 10) == [("one", 7), ("other", 0)]
    await store.keys.ratcheted([("one", 7), ("other", 0)])
    assert await store.keys.first_key_use() is None


async def test_reading_what_is_decrypted_gives_way_more_often(store: Store) -> None:
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    reader = EventReader(
        Homeserver(), prefix="!expire", limits=LIMITS, digest=store.digest, rest=rest
    )
    alice = {"sender": "@alice:example.org", "origin_server_ts": 1}
    clear = {"type": "m.room.message", "content": {"body": "", "msgtype": "m.text"}}
    sealed = {"type": "m.room.encrypted", "content": {"session_id": "name"}}

    async def read_many(event: Event) -> int:
        rests.clear()
        events = [{**alice, **event, "event_id": f"${n}"} for n in range(2 * AT_ONCE)]
        await reader.items(ROOM, events, encrypted=True, live=True, since=0, now=0)
        return len(rests)

    assert await read_many(clear) == 2
    assert await read_many(sealed) >= 2 * DECRYPTED - 1
    assert set(rests) == {REST}


async def test_keys_are_moved_on_and_deleted_with_one_commit(tmp_path: Path) -> None:
    alice, bot = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot")
    bot.meet(alice)
    alice.meet(bot)
    writers = [Writer(alice) for _ in range(5)]
    bot.feed(*(alice.tell(bot, "m.room_key", writer.room_key()) for writer in writers))
    commits = commits_of(bot)
    await bot.crypto.ratchet([(writer.session.id, 0) for writer in writers])
    assert commits() == 1
    await bot.crypto.forget([writer.session.id for writer in writers])
    assert commits() == 2
    assert bot.crypto.sessions == {}


async def test_keys_that_rest_too_long_are_deleted(tmp_path: Path, store: Store) -> None:
    alice, bot, clock = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot"), FakeClock()
    bot.meet(alice)
    alice.meet(bot)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    await commit(store, [], clock.now())
    ratchet = KeyExpiry(bot.crypto, store, clock, grace=GRACE, limits=LIMITS)
    await ratchet.turn()
    clock.advance(UNUSED_FOR)
    await ratchet.turn()
    assert list(bot.crypto.sessions) == [writer.session.id]
    clock.advance(3_600_001)
    await ratchet.turn()
    assert bot.crypto.sessions == {}


async def test_keys_of_a_room_without_the_bot_are_deleted_soon(
    tmp_path: Path, store: Store
) -> None:
    alice, bot, clock = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot"), FakeClock()
    bot.meet(alice)
    alice.meet(bot)
    here, nowhere = Writer(alice), Writer(alice)
    for writer, where in ((here, ROOM), (nowhere, "!nowhere:example.org")):
        bot.feed(alice.tell(bot, "m.room_key", writer.room_key(where)))
    ratchet = KeyExpiry(bot.crypto, store, clock, grace=GRACE, limits=LIMITS)
    await ratchet.turn()
    assert len(bot.crypto.sessions) == 2  # it may be about to join
    await commit(store, [], clock.now())
    clock.advance(3_600_000)
    await ratchet.turn()
    assert list(bot.crypto.sessions) == [here.session.id]


async def test_a_key_that_came_just_before_the_sweep_is_kept(tmp_path: Path, store: Store) -> None:
    """Half of the time between two sweeps is there for the bot to join."""
    alice, bot, clock = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot"), FakeClock()
    bot.meet(alice)
    alice.meet(bot)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key("!nowhere:example.org")))
    ratchet = KeyExpiry(bot.crypto, store, clock, grace=GRACE, limits=LIMITS)
    await store.keys.last_used([writer.session.id], clock.now())
    clock.advance(1_800_000)
    await ratchet.turn()
    assert len(bot.crypto.sessions) == 1
    clock.advance(3_600_000)
    await ratchet.turn()
    assert bot.crypto.sessions == {}


def reader_over(homeserver: Homeserver, store: Store) -> EventReader:
    return EventReader(homeserver, prefix="!expire", limits=LIMITS, digest=store.digest)


async def looked_at(late: LateKeys) -> Millis | None:
    """Let all be done that can be done now; return when there is more to do."""
    while (turn := await late.next_turn()) is not None and turn.retry_at <= late._clock.now():
        await late.go_through(turn)
    return None if turn is None else turn.retry_at


async def test_a_missing_key_is_asked_for_and_its_message_said_unreadable_once(
    tmp_path: Path, store: Store
) -> None:
    homeserver, clock = Homeserver(), FakeClock()
    reader = reader_over(homeserver, store)
    writer = Writer(Peer("alice", tmp_path / "alice"))
    events = [writer.write("!expire 5s"), writer.write("hello")]
    for event in events:
        event["content"]["m.relates_to"] = {"rel_type": "m.thread", "event_id": "$root"}
    homeserver.events = {event["event_id"]: event for event in events}
    await read(reader, store, events, clock.now())
    late = LateKeys(homeserver, store, store.timeline, reader, clock)
    start = clock.now()
    assert await looked_at(late) == start + ASK_AFTER
    assert homeserver.asked == []
    clock.advance(ASK_AFTER)
    assert await looked_at(late) == start + ASK_AGAIN_AFTER
    assert homeserver.asked == [events[0]["event_id"]]
    clock.advance(GIVE_UP_AFTER - ASK_AFTER)
    assert await looked_at(late) is None
    entry = await store.next_to_deliver()
    assert entry is not None
    assert entry.content == KeyNeverCame(sender=UserID("@alice:example.org"))
    assert entry.thread == "$root"
    await store.delivered(entry)
    await read(reader, store, [writer.write("and again")], clock.now())
    clock.advance(GIVE_UP_AFTER)
    await looked_at(late)
    assert await store.next_to_deliver() is None


async def test_a_message_too_long_for_a_command_waits_for_no_key(
    tmp_path: Path, store: Store
) -> None:
    homeserver = Homeserver()
    writer = Writer(Peer("alice", tmp_path / "alice"))
    await read(reader_over(homeserver, store), store, [writer.write("x" * 2_000)], 0)
    assert await store.keys.waiting() == []


async def test_a_replayed_command_does_not_count_not_even_after_a_restart(
    tmp_path: Path, store: Store
) -> None:
    alice, bot = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot")
    bot.meet(alice)
    alice.meet(bot)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    command = writer.write("!expire 5s")
    reader = reader_over(Homeserver(bot.crypto), store)
    await read(reader, store, [command], 0)
    first = await store.next_to_deliver()
    assert first is not None
    await store.delivered(first)
    bot.restart()
    bot.meet(alice)
    reader = reader_over(Homeserver(bot.crypto), store)
    items = await read(reader, store, [command | {"event_id": "$replayed"}], 0)
    assert len(items) == 3, "it was not even read"
    assert await store.next_to_deliver() is None


async def test_state_inside_an_encrypted_event_changes_nothing(
    tmp_path: Path, store: Store
) -> None:
    alice, bot = Peer("alice", tmp_path / "alice"), Bot(tmp_path / "bot")
    bot.meet(alice)
    alice.meet(bot)
    writer = Writer(alice)
    bot.feed(alice.tell(bot, "m.room_key", writer.room_key()))
    inner = {
        "type": "com.beeper.disappearing_timer",
        "state_key": "",
        "content": {"type": "after_send", "timer": 5_000},
    }
    event = writer.write_raw(inner)
    await read(reader_over(Homeserver(bot.crypto), store), store, [event], 0)
    room = await store.room(ROOM)
    assert room is not None
    assert room.setting is None
    assert await store.next_to_deliver() is None
