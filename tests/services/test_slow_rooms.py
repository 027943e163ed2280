"""A room whose requests are never answered holds up no other."""

from __future__ import annotations

import asyncio
import logging

import pytest

from bot.core.outcomes import Outcome
from bot.core.timeline import Item, RoomUpdate, Undecryptable
from bot.core.topics import Topic
from bot.core.types import Event, EventID, RoomID
from bot.services.late_keys import ASK_AFTER, ASK_AGAIN_AFTER, GIVE_UP_AFTER, LateKeys
from bot.services.late_keys import WITHIN as LATE_WITHIN
from bot.services.outbox import SETTING_WITHIN, WORDS_WITHIN
from tests.services.test_media_deletion import Shelf
from tests.services.test_relations import relate
from tests.services.test_room_upgrades import old_room
from tests.support.fake_homeserver import ALICE, BOB
from tests.support.harness import DAY, MINUTE, SECOND, Harness


@pytest.fixture
async def rooms(harness: Harness) -> list[RoomID]:
    """Rooms with a lifetime of a minute, which the bot has known for a while."""
    found = [harness.homeserver.make_room() for _ in range(3)]
    async with harness.running(harness.sync):
        for room in found:
            harness.homeserver.set_lifetime(room, MINUTE)
            harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    return found


async def command(harness: Harness, room: RoomID, text: str) -> EventID:
    """Let the bot read a command, and not react yet."""
    async with harness.running(harness.sync):
        return await harness.said_in(room, text)


def lifetime(harness: Harness, room: RoomID) -> object:
    return (harness.homeserver.lifetime_of(room) or {}).get("timer")


@pytest.mark.parametrize("method", ["name_of", "power", "say", "policy_event", "set_policy"])
async def test_answers_and_lifetimes_of_other_rooms_go_on(
    harness: Harness, rooms: list[RoomID], method: str
) -> None:
    for room in rooms:
        await command(harness, room, "!expire 5m")
    harness.homeserver.hang(method, rooms[0])
    async with harness.running(harness.outbox):
        for room in rooms[1:]:
            assert lifetime(harness, room) == 5 * MINUTE
            said = "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
            assert harness.homeserver.heard(room)[-1] == said
        harness.homeserver.release(method)
        await harness.advance(MINUTE)
        assert lifetime(harness, rooms[0]) == 5 * MINUTE
        assert harness.homeserver.heard(rooms[0])[-1] == said


@pytest.mark.parametrize("answer", [False, True])
async def test_a_lifetime_waits_for_no_words(
    harness: Harness, rooms: list[RoomID], answer: bool
) -> None:
    """Not for those before it, which cannot be sent, and not for those that say it is set."""
    await command(harness, rooms[0], "!expire help")
    harness.homeserver.hold("say", answer=answer)
    async with harness.running(harness.sync, harness.outbox):
        await harness.said_in(rooms[0], "!expire 5m")
        assert lifetime(harness, rooms[0]) == 5 * MINUTE
        await harness.said_in(rooms[0], "!expire off")
        assert lifetime(harness, rooms[0]) is None
        harness.homeserver.release("say")
        await harness.rest()
    said = harness.homeserver.heard(rooms[0])[-2:]
    assert said[0] == "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
    assert said[1].startswith("“alice” (@alice:example.org) turned disappearing messages off")


async def test_a_lifetime_waits_for_no_words_that_hang_in_many_rooms(harness: Harness) -> None:
    many = [harness.homeserver.make_room() for _ in range(25)]
    harness.homeserver.hold("say")
    async with harness.running(harness.sync, harness.outbox):
        for room in many:
            await harness.said_in(room, "!expire 5m")
        assert [lifetime(harness, room) for room in many] == [5 * MINUTE] * 25


async def test_words_that_take_too_long_are_put_off_and_that_is_said(
    harness: Harness, rooms: list[RoomID], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    harness.homeserver.hang("say", rooms[0])
    async with harness.running(harness.sync, harness.outbox):
        await harness.said_in(rooms[0], "!expire help")
        await harness.advance(WORDS_WITHIN)
        assert [text for text in caplog.messages if text.startswith("notices: put off")] == [
            "notices: put off, while others go on: no end within 180 s (1)"
        ]
        assert not any(rooms[0] in text for text in caplog.messages)
        harness.homeserver.release("say")
        await harness.advance(MINUTE)
        assert len(harness.homeserver.heard(rooms[0])) == 2


async def test_a_lifetime_that_takes_too_long_to_write_is_tried_again(
    harness: Harness, rooms: list[RoomID], caplog: pytest.LogCaptureFixture
) -> None:
    harness.homeserver.hang("set_policy", rooms[0])
    async with harness.running(harness.sync, harness.outbox):
        await harness.said_in(rooms[0], "!expire 5m")
        await harness.advance(SETTING_WITHIN)
        assert "lifetimes to be set: put off" in caplog.text
        harness.homeserver.release("set_policy")
        await harness.advance(MINUTE)
        assert lifetime(harness, rooms[0]) == 5 * MINUTE


async def test_questions_about_parents_in_other_rooms_go_on(
    harness: Harness, rooms: list[RoomID]
) -> None:
    gone = {room: EventID(f"$gone-in-{room}") for room in rooms}
    edits = []
    for room in [rooms[0], *rooms]:
        edits.append(relate(harness, room, "m.replace", gone[room]))
        harness.homeserver.add(
            room,
            {
                "event_id": gone[room],
                "type": "m.room.message",
                "unsigned": {"redacted_because": {"type": "m.room.redaction"}},
            },
        )
    async with harness.running(harness.sync):
        pass
    harness.homeserver.hang("event", rooms[0])
    async with harness.running(harness.relations):
        timers = await harness.timers()
        now = harness.clock.now()
        assert [timers[edit] - now for edit in edits] == [MINUTE, MINUTE, 0, 0]
        harness.homeserver.release("event")
        await harness.advance(2 * MINUTE)
        timers = await harness.timers()
        assert all(timers[edit] <= now + 2 * MINUTE for edit in edits)


# --- other services ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["join", "set_policy"])
async def test_successors_of_other_rooms_are_followed(harness: Harness, method: str) -> None:
    old = [await old_room(harness, public=True) for _ in range(3)]
    harness.homeserver.hold(method)
    async with harness.running(*harness.everything):
        first = harness.homeserver.upgrade(old[0])
        await harness.rest()
        harness.homeserver.hang(method, first)
        harness.homeserver.give_way(method)
        others = [harness.homeserver.upgrade(room) for room in old[1:]]
        await harness.rest()
        assert [lifetime(harness, room) for room in others] == [DAY, DAY]
        assert lifetime(harness, first) is None
        harness.homeserver.release(method)
        await harness.rest()
        assert lifetime(harness, first) == DAY


class Keys:
    """A homeserver whose `event` hangs for one room; a key is there once it is named."""

    def __init__(self, harness: Harness, slow: RoomID) -> None:
        self._house, self._slow = harness, slow
        self.come: set[str] = set()
        self.asked_for: list[str] = []
        self.never = asyncio.Event()

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        self.asked_for.append(event_id)
        if room_id == self._slow:
            await self.never.wait()
        return await self._house.homeserver.event(room_id, event_id)

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return session_id in self.come

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool = False) -> None:
        """Nobody answers."""


@pytest.mark.parametrize("come", [True, False])
async def test_keys_that_come_late_in_other_rooms_are_used(
    harness: Harness, rooms: list[RoomID], come: bool
) -> None:
    now = harness.clock.now()
    for room in rooms:
        items: list[Item] = [
            Undecryptable(
                event_id=EventID(f"${n}-{room}"), sender=ALICE, session_id=f"{n}", read_at=now
            )
            for n in range(3)
        ]
        await harness.commit(RoomUpdate(room_id=room, items=items, encrypted=True))
    keys = Keys(harness, rooms[0])
    if come:
        keys.come = {"0", "1", "2"}
    late = LateKeys(keys, harness.store, harness.store.timeline, harness.reader, harness.clock)
    async with harness.running(late):
        await harness.advance(ASK_AFTER)
        await harness.advance(GIVE_UP_AFTER)
        assert {room for room, *_ in await harness.store.keys.waiting()} == {rooms[0]}
        keys.never.set()
        await harness.rest()
        await harness.advance(2 * GIVE_UP_AFTER)
        assert await harness.store.keys.waiting() == []


async def test_a_late_message_that_hangs_holds_up_its_room_briefly(
    harness: Harness, rooms: list[RoomID]
) -> None:
    now = harness.clock.now()
    items: list[Item] = [
        Undecryptable(event_id=EventID(f"${n}"), sender=ALICE, session_id=f"{n}", read_at=now + n)
        for n in range(3)
    ]
    await harness.commit(RoomUpdate(room_id=rooms[0], items=items, encrypted=True))
    keys = Keys(harness, rooms[0])
    keys.come = {"0"}
    late = LateKeys(keys, harness.store, harness.store.timeline, harness.reader, harness.clock)
    async with harness.running(late):
        await harness.advance(LATE_WITHIN)
        await harness.advance(LATE_WITHIN)
        assert [one.event_id for _, one, *_ in await harness.store.keys.waiting()] == ["$0"]


async def test_a_late_message_that_is_being_read_is_not_read_again(
    harness: Harness, rooms: list[RoomID]
) -> None:
    now = harness.clock.now()
    for room in rooms[:2]:
        items: list[Item] = [
            Undecryptable(
                event_id=EventID(f"$in-{room}"), sender=ALICE, session_id=room, read_at=now
            )
        ]
        await harness.commit(RoomUpdate(room_id=room, items=items, encrypted=True))
    keys = Keys(harness, rooms[0])
    keys.come = {rooms[0]}
    late = LateKeys(keys, harness.store, harness.store.timeline, harness.reader, harness.clock)
    async with harness.running(late):
        keys.come = set(rooms[:2])
        harness.store.publish(Topic.ROOM_KEYS)
        await harness.rest()
        keys.never.set()
        await harness.rest()
    assert keys.asked_for == [f"$in-{room}" for room in rooms[:2]]


async def test_more_keys_than_are_asked_for_twice_keep_nobody_busy(
    harness: Harness, rooms: list[RoomID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.services.late_keys.MOST_ASKED_TWICE", 2)
    now = harness.clock.now()
    items: list[Item] = [
        Undecryptable(event_id=EventID(f"${n}"), sender=ALICE, session_id=f"{n}", read_at=now)
        for n in range(5)
    ]
    await harness.commit(RoomUpdate(room_id=rooms[0], items=items, encrypted=True))
    keys = Keys(harness, rooms[1])
    late = LateKeys(keys, harness.store, harness.store.timeline, harness.reader, harness.clock)
    async with harness.running(late):
        await harness.advance(ASK_AFTER)
        await harness.advance(ASK_AGAIN_AFTER)
        assert len(keys.asked_for) == 5 + 2
        await harness.advance(GIVE_UP_AFTER)
        assert await harness.store.keys.waiting() == []


async def test_other_files_are_deleted_beside_one_that_hangs(harness: Harness) -> None:
    shelf = Shelf(harness)
    async with harness.running(harness.sync):
        pass
    never, names = asyncio.Event(), [f"picture-{n}" for n in range(4)]
    delete = shelf.media.delete

    async def hang(media_id: str) -> Outcome:
        if media_id == names[0]:
            await never.wait()
        return await delete(media_id)

    shelf.media.delete = hang  # type: ignore[method-assign]
    for name in names:
        shelf.media.upload(name, ALICE)
        shelf.show(name)
    async with harness.running(harness.sync, harness.redactor, shelf.service):
        await harness.advance(6 * SECOND)
        await harness.advance(MINUTE)
        assert list(shelf.media.files) == names[:1]
        never.set()
        await harness.rest()
        await harness.advance(MINUTE)
        assert shelf.media.files == {}
