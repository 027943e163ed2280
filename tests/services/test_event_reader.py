"""Commands in a timeline: whose count, which count, and that each counts once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.core.timeline import RoomUpdate
from bot.core.types import EventID, Millis, RoomID, UserID
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, Harness

MALLORY = UserID("@mallory:example.org")

SET = "“alice” (@alice:example.org) set disappearing messages to 5 minutes."


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with no lifetime; bob has no power."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with harness.running(harness.sync):
        pass
    return room


async def due(harness: Harness, sent: EventID) -> Millis | None:
    at = (await harness.timers()).get(sent)
    return None if at is None else at - harness.clock.now()


async def heard(
    harness: Harness, room: RoomID, *, sender: UserID = ALICE, **event: Any
) -> list[str]:
    """Let the bot read one event; return what it says of it."""
    async with harness.running(harness.sync, harness.outbox):
        before = len(harness.homeserver.heard(room))
        harness.homeserver.add(room, {"type": "m.room.message", "sender": sender} | event)
        await harness.rest()
        return harness.homeserver.heard(room)[before:]


# --- what a command does -------------------------------------------------------------------------


async def test_a_command_counts_from_its_own_place_and_covers_itself(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(harness.sync):
        before = harness.homeserver.send(room, "before")
        command = harness.homeserver.send(room, "!expire 5m")
        after = harness.homeserver.send(room, "after")
        off = harness.homeserver.send(room, "!expire off")
        later = harness.homeserver.send(room, "later")
        await harness.rest()
        found = [await due(harness, one) for one in (before, command, after, off, later)]
    assert found == [None, 5 * MINUTE, 5 * MINUTE, None, None]


async def test_a_command_is_written_into_the_room_and_announced(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m")
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert harness.homeserver.heard(room) == [
        "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
    ]


async def test_a_command_counts_once_however_often_it_is_read(
    harness: Harness, room: RoomID
) -> None:
    since, synced_at = await harness.store.position()
    harness.homeserver.send(room, "!expire 5m")
    batch = await harness.homeserver.sync(since, 0)
    await harness.sync.take(batch, live=True, first=False, synced_at=synced_at)
    async with harness.running(harness.outbox):
        harness.homeserver.set_lifetime(room, DAY)
    await harness.sync.take(batch, live=True, first=False, synced_at=synced_at)
    async with harness.running(harness.sync, harness.outbox):
        pass
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": DAY}
    assert len(harness.homeserver.heard(room)) == 2


# --- whose command counts ------------------------------------------------------------------------


async def test_somebody_without_the_right_is_refused(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "!expire 5m", sender=BOB)
        assert await due(harness, sent) is None
    assert harness.homeserver.lifetime_of(room) is None
    assert harness.homeserver.heard(room) == [
        "“bob” (@bob:example.org), changing this needs power level 50 here, and you have 0."
    ]


async def test_the_right_is_the_one_to_set_this_very_state_event(harness: Harness) -> None:
    await harness.store.commit("s0", harness.clock.now(), [])
    room = harness.homeserver.make_room(events={POLICY_EVENT: 0})
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m", sender=BOB)
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}


async def test_somebody_who_was_demoted_while_the_bot_was_away_is_refused(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.set_power(room, BOB, 50)
    harness.homeserver.send(room, "!expire 5m", sender=BOB)
    harness.homeserver.set_power(room, BOB, 0)
    async with harness.running(*harness.everything):
        pass
    assert harness.homeserver.lifetime_of(room) is None


async def test_somebody_who_has_left_and_has_no_power_is_refused(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m", sender=MALLORY)
    assert harness.homeserver.lifetime_of(room) is None


async def test_anybody_may_ask_for_help_and_status(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire help", sender=BOB)
        await harness.said_in(room, "!expire status", sender=BOB)
    help_text, status = harness.homeserver.heard(room)
    assert "this list" in help_text
    assert status == "Messages stay: no lifetime is set."


async def test_a_bot_without_the_right_says_so_and_changes_nothing(
    harness: Harness,
) -> None:
    await harness.store.commit("s0", harness.clock.now(), [])
    room = harness.homeserver.make_room(power=0)
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "!expire 5m")
        assert await due(harness, sent) is None
    assert harness.homeserver.heard(room)[-1].startswith("I may not change this room's settings")


async def test_a_bot_that_may_not_redact_says_so_and_pauses(harness: Harness) -> None:
    await harness.store.commit("s0", harness.clock.now(), [])
    room = harness.homeserver.make_room(redact=60)
    async with harness.running(*harness.everything):
        sent = await harness.said_in(room, "!expire 5m")
        assert await due(harness, sent) == 5 * MINUTE
        harness.homeserver.asked.clear()
        await harness.advance(5 * MINUTE)
        assert harness.homeserver.times("redact") == []
        harness.homeserver.set_power(room, BOT, 60)
        await harness.rest()
        assert harness.homeserver.is_redacted(room, sent)
    assert "I begin as soon as I have it." in harness.homeserver.heard(room)[1]
    assert harness.homeserver.heard(room)[2].startswith("I can remove messages again.")


async def test_a_lifetime_outside_the_bounds_is_refused(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 10y")
    assert harness.homeserver.lifetime_of(room) is None
    assert "between 1 second and 1 year" in harness.homeserver.heard(room)[0]


# --- what is no command --------------------------------------------------------------------------

TEXT = {"msgtype": "m.text", "body": "!expire status"}


async def test_a_text_message_is_a_command(harness: Harness, room: RoomID) -> None:
    assert len(await heard(harness, room, content=TEXT)) == 1


async def test_a_message_in_a_thread_is_a_command(harness: Harness, room: RoomID) -> None:
    thread = {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$last"},
    }
    assert len(await heard(harness, room, content=TEXT | {"m.relates_to": thread})) == 1


@pytest.mark.parametrize(
    "event",
    [
        {"content": TEXT | {"msgtype": "m.notice"}},
        {"content": TEXT | {"msgtype": "m.emote"}},
        {"content": TEXT | {"msgtype": "m.image"}},
        {"content": TEXT | {"m.new_content": TEXT}},
        {"content": TEXT | {"m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}}},
        {"content": TEXT | {"m.relates_to": {"m.in_reply_to": {"event_id": "$x"}}}},
        {"content": TEXT | {"m.relates_to": "no relation"}},
        {"content": TEXT | {"body": ["!expire status"]}},
        {"content": "!expire status"},
        {"content": TEXT, "type": "m.room.topic"},
        {"content": TEXT, "type": "m.room.name", "state_key": ""},
        {"content": TEXT, "sender": BOT},
        {"content": TEXT, "sender": None},
        {"content": TEXT, "unsigned": {"redacted_because": {"event_id": "$x"}}},
    ],
)
async def test_what_is_no_text_message_of_a_person_is_no_command(
    harness: Harness, room: RoomID, event: dict[str, Any]
) -> None:
    assert await heard(harness, room, **event) == []


# --- encrypted rooms -----------------------------------------------------------------------------


@pytest.fixture
async def secret_room(harness: Harness) -> RoomID:
    room = harness.homeserver.make_room(encrypted=True)
    async with harness.running(harness.sync):
        pass
    return room


async def test_an_encrypted_command_gets_an_encrypted_answer(
    harness: Harness, secret_room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        sent = harness.homeserver.send_encrypted(secret_room, "!expire 5m")
        await harness.rest()
        assert await due(harness, sent) == 5 * MINUTE
    assert harness.homeserver.heard(secret_room) == [
        "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
    ]
    assert harness.homeserver.rooms[secret_room].events[-1]["type"] == "m.room.encrypted"


async def test_a_command_in_clear_does_not_count_in_an_encrypted_room(
    harness: Harness, secret_room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        sent = await harness.said_in(secret_room, "!expire 5m")
        assert await due(harness, sent) is None
    assert harness.homeserver.heard(secret_room) == []


async def test_a_room_once_encrypted_is_taken_for_encrypted_for_ever(
    harness: Harness, secret_room: RoomID
) -> None:
    harness.homeserver.set_state(secret_room, "m.room.encryption", {})
    async with harness.running(*harness.everything):
        await harness.said_in(secret_room, "!expire status")
    await harness.restart()
    async with harness.running(*harness.everything):
        await harness.said_in(secret_room, "!expire status")
    assert harness.homeserver.heard(secret_room) == []


async def test_a_command_repeated_from_its_ciphertext_counts_once(
    harness: Harness, secret_room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        event = harness.homeserver.encrypt({"msgtype": "m.text", "body": "!expire 5m"}, ALICE)
        harness.homeserver.add(secret_room, dict(event))
        await harness.rest()
        harness.homeserver.set_lifetime(secret_room, DAY)
        await harness.rest()
        harness.homeserver.add(secret_room, dict(event))
        await harness.rest()
    assert harness.homeserver.lifetime_of(secret_room) == {"type": "after_send", "timer": DAY}


async def test_encryption_turned_on_counts_from_its_own_place(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        harness.homeserver.send(room, "!expire status")
        harness.homeserver.set_state(room, "m.room.encryption", {"algorithm": "m.megolm"})
        harness.homeserver.send(room, "!expire help")
        await harness.rest()
    assert len(harness.homeserver.heard(room)) == 1


async def test_an_empty_update_changes_nothing(harness: Harness, room: RoomID) -> None:
    before = await harness.store.room(room)
    await harness.commit(RoomUpdate(room_id=room, items=[]))
    assert await harness.store.room(room) == before


async def test_others_have_turns_while_many_rooms_with_few_events_are_read(
    harness: Harness, room: RoomID
) -> None:
    now, turns = harness.clock.now(), 0
    event = {"type": "m.room.message", "event_id": "$one", "sender": ALICE, "content": {}}

    async def read() -> None:
        for _ in range(1_000):
            await harness.reader.items(
                room, [event], encrypted=False, live=True, since=now, now=now, until=0
            )

    reading = asyncio.create_task(read())
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 4
