"""Files on their way into the database: behind gaps, behind late keys, with timers only."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from bot.core.lifetimes import OFF
from bot.core.policy import RoomState
from bot.core.policy_forward import decide
from bot.core.sync_batch import MissingRoomKey
from bot.core.timeline import Change, Gap, Item, MediaReference, Message, RoomUpdate, Undecryptable
from bot.core.topics import Topic
from bot.core.types import Event, EventID, RoomID, UserID
from bot.services.late_keys import ASK_AFTER, GIVE_UP_AFTER, LateKeys
from bot.services.outbox import OutboxDelivery
from bot.store.gaps import CHUNK
from tests.support.fake_homeserver import ALICE, BOT, Clear
from tests.support.harness import LIMITS, MINUTE, SECOND, Harness, Opener
from tests.support.store import Store

ROOM = RoomID("!room:example.org")
NOW = 1_800_000_000_000
STRANGER = UserID("@mallory:elsewhere.org")


@pytest.fixture
async def store(open_store: Opener, tmp_path: Path) -> Store:
    """A store that knows a room with a lifetime of a minute."""
    made = await open_store(tmp_path / "timers.db")
    await say(made, Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True))
    return made


def shown(name: str, *media_ids: str, owner: str = "alice") -> list[Item]:
    event_id = EventID(f"${name}")
    attached = MediaReference(event_id=event_id, media_ids=list(media_ids), owner_digest=owner)
    return [Message(event_id=event_id, sent=NOW), attached]


async def say(store: Store, *items: Item, gap: bool = False) -> None:
    before = Gap(room_id=ROOM, token="t1", stop_digest="d", stop_at=1, since=2, until=NOW)
    update = RoomUpdate(room_id=ROOM, items=list(items), gap=before if gap else None)
    await store.commit("s1", NOW, [update])


async def files(store: Store) -> list[Any]:
    async with store._db.transaction() as db:
        return await db.rows(
            "SELECT event_id, media_id, owner_digest FROM media LEFT JOIN timers t ON t.id = timer"
            " ORDER BY media.id"
        )


def test_files_are_stamped_as_they_are() -> None:
    items = shown("one", "file-one")
    result = decide(RoomState(setting=MINUTE), items, limits=LIMITS, own_id=BOT)
    assert result.files == [items[1]]


def test_neither_addresses_nor_files_show_in_a_log() -> None:
    assert "file-one" not in repr(shown("one", "file-one"))


async def test_a_file_is_kept_with_its_messages_timer(store: Store) -> None:
    await say(store, *shown("one", "file-one", "file-two"))
    await say(store, *shown("one", "file-one"))
    assert await files(store) == [("$one", "file-one", "alice"), ("$one", "file-two", "alice")]


async def test_a_file_of_a_message_that_stays_is_not_kept(store: Store) -> None:
    off = Change(setting=OFF, sender=ALICE, digest="off", unannounced=True)
    await say(store, *shown("one", "file-one"), off, *shown("two", "file-two"))
    assert await files(store) == [("$one", "file-one", "alice")]


async def test_files_behind_a_gap_wait_with_their_messages(store: Store) -> None:
    await say(store, *shown("tail", "file-tail"), gap=True)
    await say(store, *shown("live", "file-live"))
    found = await store.gaps.next_gap()
    assert found is not None
    await store.gaps.read_on(found[0], shown("page", "file-page"), "t2", 0, done=True)
    assert await files(store) == []
    while await store.take_over(NOW) is not None:
        pass
    names = ("page", "tail", "live")
    assert await files(store) == [(f"${name}", f"file-{name}", "alice") for name in names]


async def test_a_file_and_its_message_may_fall_into_two_chunks(store: Store) -> None:
    before = [Message(event_id=EventID(f"${number}"), sent=NOW) for number in range(CHUNK - 1)]
    await say(store, *before, *shown("edge", "file-edge"), gap=True)
    found = await store.gaps.next_gap()
    assert found is not None
    await store.gaps.read_on(found[0], [], "t2", 0, done=True)
    while await store.take_over(NOW) is not None:
        pass
    assert await files(store) == [("$edge", "file-edge", "alice")]


# --- keys that come late -------------------------------------------------------------------------


class Encrypted:
    """An encrypted room whose messages have keys when the test says so."""

    def __init__(self, harness: Harness) -> None:
        harness.media_server = "example.org"
        harness.keep_anew()
        self.harness, self.homeserver = harness, harness.homeserver
        self.keys: set[str] = set()
        self.asked: list[str] = []
        self.events: dict[EventID, Event] = {}
        self.room = self.homeserver.make_room(encrypted=True)
        self.homeserver.set_lifetime(self.room, 10 * MINUTE)
        self._decrypt = self.homeserver.decrypt
        self.homeserver.decrypt = self.decrypt  # type: ignore[method-assign,assignment]
        self.late = LateKeys(
            self, harness.store, harness.store.timeline, harness.reader, harness.clock
        )

    async def decrypt(
        self, room_id: RoomID, event: Event, *, meet: bool
    ) -> Clear | MissingRoomKey | None:
        session_id = str(event["content"].get("ciphertext"))
        if session_id in self.keys:
            return await self._decrypt(room_id, event, meet=meet)
        return MissingRoomKey(session_id=session_id)

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        return self.events[event_id]

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return session_id in self.keys

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool = False) -> None:
        self.asked.append(str(event["content"]["ciphertext"]))

    def send(self, sender: UserID = ALICE, session_id: str = "") -> str:
        """Send a long message that shows a file; return the id of its session."""
        url = "mxc://example.org/picture-of-alice"
        event = self.homeserver.encrypt({"msgtype": "m.image", "file": {"url": url}}, sender)
        clear = self.homeserver.clear.pop(event["content"]["ciphertext"])
        session_id = session_id or f"{len(self.events)}" + "x" * 2_000
        event["content"]["ciphertext"] = session_id
        self.homeserver.clear[session_id] = clear
        event_id = self.homeserver.add(self.room, event)
        found = self.homeserver.rooms[self.room].find(event_id)
        assert found is not None
        self.events[event_id] = found
        return session_id


@pytest.fixture
async def encrypted(harness: Harness) -> Encrypted:
    made = Encrypted(harness)
    async with harness.running(harness.sync):
        pass
    return made


async def test_a_file_is_known_once_the_late_key_is_there(encrypted: Encrypted) -> None:
    harness = encrypted.harness
    session_id = encrypted.send()
    async with harness.running(harness.sync, encrypted.late, harness.outbox):
        assert await files(harness.store) == []
        encrypted.harness.store.publish(Topic.ROOM_KEYS)
        await harness.rest()
        await harness.advance(ASK_AFTER)
        assert encrypted.asked == [session_id]
        encrypted.keys.add(session_id)
        encrypted.harness.store.publish(Topic.ROOM_KEYS)
        await harness.rest()
        ((event_id, media_id, owner),) = await files(harness.store)
    assert event_id in encrypted.events
    assert (media_id, owner) == ("picture-of-alice", harness.store.digest(ALICE))
    assert await harness.store.keys.waiting() == []


async def test_a_file_whose_key_never_comes_is_given_up_in_silence(encrypted: Encrypted) -> None:
    harness = encrypted.harness
    encrypted.send()
    async with harness.running(harness.sync, encrypted.late, harness.outbox):
        before = len(harness.homeserver.heard(encrypted.room))
        encrypted.harness.store.publish(Topic.ROOM_KEYS)
        await harness.rest()
        for _ in range(3):
            await harness.advance(GIVE_UP_AFTER)
        assert await harness.store.keys.waiting() == []
        assert len(harness.homeserver.heard(encrypted.room)) == before
    assert await files(harness.store) == []


async def test_a_key_is_asked_for_twice_however_many_messages_wait(
    encrypted: Encrypted,
) -> None:
    harness = encrypted.harness
    async with harness.running(harness.sync, encrypted.late):
        session_id = encrypted.send()
        for _ in range(5):
            await harness.rest()
            encrypted.harness.store.publish(Topic.ROOM_KEYS)
            await harness.rest()
            await harness.advance(ASK_AFTER)
            encrypted.send(session_id=session_id)
        assert encrypted.asked == [session_id] * 2  # once more, when the first brought nothing


@pytest.mark.parametrize(("server", "sender"), [(None, ALICE), ("example.org", STRANGER)])
async def test_nobody_waits_for_the_key_of_a_file_that_cannot_be_deleted(
    encrypted: Encrypted, server: str | None, sender: UserID
) -> None:
    harness = encrypted.harness
    harness.media_server = server
    harness.keep_anew()
    encrypted.send(sender)
    async with harness.running(harness.sync):
        pass
    assert await harness.store.keys.waiting() == []


async def test_a_strangers_command_waits_for_its_key_as_ever(encrypted: Encrypted) -> None:
    harness, homeserver = encrypted.harness, encrypted.homeserver
    homeserver.send_encrypted(encrypted.room, "!expire 5m", sender=STRANGER)
    async with harness.running(harness.sync):
        pass
    ((_, undecryptable, _),) = await harness.store.keys.waiting()
    assert not undecryptable.not_a_command


async def test_files_stand_after_their_message(encrypted: Encrypted) -> None:
    harness, homeserver = encrypted.harness, encrypted.homeserver
    event = homeserver.encrypt(
        {"msgtype": "m.image", "url": "mxc://example.org/picture-of-alice"}, ALICE
    )
    encrypted.keys.add(event["content"]["ciphertext"])
    homeserver.add(encrypted.room, event)
    found = homeserver.rooms[encrypted.room].events[-1:]
    items = await harness.reader.items(
        encrypted.room, found, encrypted=True, live=True, since=0, now=NOW
    )
    assert [type(item).__name__ for item in items] == ["KeyUse", "Message", "MediaReference"]


async def test_a_file_is_known_although_the_lifetime_changed_before_its_key_came(
    store: Store,
) -> None:
    message, attached = shown("late", "file-late")
    undecryptable = Undecryptable(
        event_id=EventID("$late"), sender=ALICE, session_id="s", read_at=NOW, not_a_command=True
    )
    await say(store, undecryptable, message)
    await say(store, Change(setting=OFF, sender=ALICE, digest="off", unannounced=True))
    ((room_id, waiting, _),) = await store.keys.waiting()
    assert waiting == undecryptable
    await store.read_late(room_id, waiting, [attached], NOW)
    assert await files(store) == [("$late", "file-late", "alice")]


# --- what the room is told -----------------------------------------------------------------------


class Deleter:
    """Whoever deletes files."""

    server = "example.org"
    trouble = ""


async def test_the_room_is_told_what_becomes_of_files(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, 30 * SECOND)
    deleter = Deleter()
    told = OutboxDelivery(
        harness.homeserver,
        harness.store,
        harness.clock,
        prefix="!expire",
        limits=harness.limits,
        random=Random(1),
        files=deleter,
    )
    harness.outbox = told
    async with harness.running(harness.sync, told):
        await harness.said_in(room, "!expire status")
        harness.store.publish(Topic.OUTBOX)
        await harness.rest()
        assert harness.homeserver.heard(room)[-1].endswith(
            "Their files on example.org are deleted too."
        )
        deleter.trouble = "the token is wrong"
        await harness.said_in(room, "!expire status")
        harness.store.publish(Topic.OUTBOX)
        await harness.rest()
        assert "Their files stay for now" in harness.homeserver.heard(room)[-1]
