"""Commands in a timeline: whose count, which count, and that each counts once."""

from __future__ import annotations

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
async def room(house: Harness) -> RoomID:
    """A room that the bot has known for a while, with no lifetime; bob has no power."""
    room = house.homeserver.make_room()
    house.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with house.running(house.intake):
        pass
    return room


async def due(house: Harness, sent: EventID) -> Millis | None:
    at = (await house.timers()).get(sent)
    return None if at is None else at - house.clock.now()


async def heard(house: Harness, room: RoomID, *, sender: UserID = ALICE, **event: Any) -> list[str]:
    """Let the bot read one event; return what it says of it."""
    async with house.running(house.intake, house.speaker):
        before = len(house.homeserver.heard(room))
        house.homeserver.add(room, {"type": "m.room.message", "sender": sender} | event)
        await house.rest()
        return house.homeserver.heard(room)[before:]


# --- what a command does -------------------------------------------------------------------------


async def test_a_command_counts_from_its_own_place_and_covers_itself(
    house: Harness, room: RoomID
) -> None:
    async with house.running(house.intake):
        before = house.homeserver.send(room, "before")
        command = house.homeserver.send(room, "!expire 5m")
        after = house.homeserver.send(room, "after")
        off = house.homeserver.send(room, "!expire off")
        later = house.homeserver.send(room, "later")
        await house.rest()
        found = [await due(house, one) for one in (before, command, after, off, later)]
    assert found == [None, 5 * MINUTE, 5 * MINUTE, None, None]


async def test_a_command_is_written_into_the_room_and_announced(
    house: Harness, room: RoomID
) -> None:
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m")
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert house.homeserver.heard(room) == [
        "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
    ]


async def test_a_command_counts_once_however_often_it_is_read(house: Harness, room: RoomID) -> None:
    since, synced_at = await house.store.position()
    house.homeserver.send(room, "!expire 5m")
    batch = await house.homeserver.sync(since, 0)
    await house.intake.take(batch, live=True, first=False, synced_at=synced_at)
    async with house.running(house.speaker):
        house.homeserver.set_lifetime(room, DAY)
    await house.intake.take(batch, live=True, first=False, synced_at=synced_at)
    async with house.running(house.intake, house.speaker):
        pass
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": DAY}
    assert len(house.homeserver.heard(room)) == 2


# --- whose command counts ------------------------------------------------------------------------


async def test_somebody_without_the_right_is_refused(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        sent = await house.said_in(room, "!expire 5m", sender=BOB)
        assert await due(house, sent) is None
    assert house.homeserver.lifetime_of(room) is None
    assert house.homeserver.heard(room) == [
        "“bob” (@bob:example.org), changing this needs power level 50 here, and you have 0."
    ]


async def test_the_right_is_the_one_to_set_this_very_state_event(house: Harness) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    room = house.homeserver.make_room(events={POLICY_EVENT: 0})
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m", sender=BOB)
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}


async def test_somebody_who_was_demoted_while_the_bot_was_away_is_refused(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.set_power(room, BOB, 50)
    house.homeserver.send(room, "!expire 5m", sender=BOB)
    house.homeserver.set_power(room, BOB, 0)
    async with house.running(*house.everything):
        pass
    assert house.homeserver.lifetime_of(room) is None


async def test_somebody_who_has_left_and_has_no_power_is_refused(
    house: Harness, room: RoomID
) -> None:
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m", sender=MALLORY)
    assert house.homeserver.lifetime_of(room) is None


async def test_anybody_may_ask_for_help_and_status(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        await house.said_in(room, "!expire help", sender=BOB)
        await house.said_in(room, "!expire status", sender=BOB)
    help_text, status = house.homeserver.heard(room)
    assert "this list" in help_text
    assert status == "Messages stay: no lifetime is set."


async def test_a_bot_that_may_not_change_the_room_says_so_and_changes_nothing(
    house: Harness,
) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    room = house.homeserver.make_room(power=0)
    async with house.running(*house.everything):
        sent = await house.said_in(room, "!expire 5m")
        assert await due(house, sent) is None
    assert house.homeserver.heard(room)[-1].startswith("I may not change this room's settings")


async def test_a_bot_that_may_not_redact_says_so_and_pauses(house: Harness) -> None:
    await house.store.commit("s0", house.clock.now(), [])
    room = house.homeserver.make_room(redact=60)
    async with house.running(*house.everything):
        sent = await house.said_in(room, "!expire 5m")
        assert await due(house, sent) == 5 * MINUTE
        house.homeserver.asked.clear()
        await house.advance(5 * MINUTE)
        assert house.homeserver.times("redact") == []
        house.homeserver.set_power(room, BOT, 60)
        await house.rest()
        assert house.homeserver.is_redacted(room, sent)
    assert "I begin as soon as I have it." in house.homeserver.heard(room)[1]
    assert house.homeserver.heard(room)[2].startswith("I can remove messages again.")


async def test_a_lifetime_outside_the_bounds_is_refused(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 10y")
    assert house.homeserver.lifetime_of(room) is None
    assert "between 1 second and 1 year" in house.homeserver.heard(room)[0]


# --- what is no command --------------------------------------------------------------------------

TEXT = {"msgtype": "m.text", "body": "!expire status"}


async def test_a_text_message_is_a_command(house: Harness, room: RoomID) -> None:
    assert len(await heard(house, room, content=TEXT)) == 1


async def test_a_message_in_a_thread_is_a_command(house: Harness, room: RoomID) -> None:
    thread = {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$last"},
    }
    assert len(await heard(house, room, content=TEXT | {"m.relates_to": thread})) == 1


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
    house: Harness, room: RoomID, event: dict[str, Any]
) -> None:
    assert await heard(house, room, **event) == []


# --- encrypted rooms -----------------------------------------------------------------------------


@pytest.fixture
async def secret_room(house: Harness) -> RoomID:
    room = house.homeserver.make_room(encrypted=True)
    async with house.running(house.intake):
        pass
    return room


async def test_an_encrypted_command_gets_an_encrypted_answer(
    house: Harness, secret_room: RoomID
) -> None:
    async with house.running(*house.everything):
        sent = house.homeserver.send_encrypted(secret_room, "!expire 5m")
        await house.rest()
        assert await due(house, sent) == 5 * MINUTE
    assert house.homeserver.heard(secret_room) == [
        "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
    ]
    assert house.homeserver.rooms[secret_room].events[-1]["type"] == "m.room.encrypted"


async def test_a_command_in_clear_does_not_count_in_an_encrypted_room(
    house: Harness, secret_room: RoomID
) -> None:
    async with house.running(*house.everything):
        sent = await house.said_in(secret_room, "!expire 5m")
        assert await due(house, sent) is None
    assert house.homeserver.heard(secret_room) == []


async def test_a_room_once_encrypted_is_taken_for_encrypted_for_ever(
    house: Harness, secret_room: RoomID
) -> None:
    house.homeserver.set_state(secret_room, "m.room.encryption", {})
    async with house.running(*house.everything):
        await house.said_in(secret_room, "!expire status")
    await house.restart()
    async with house.running(*house.everything):
        await house.said_in(secret_room, "!expire status")
    assert house.homeserver.heard(secret_room) == []


async def test_a_command_repeated_from_its_ciphertext_counts_once(
    house: Harness, secret_room: RoomID
) -> None:
    async with house.running(*house.everything):
        event = house.homeserver.encrypt({"msgtype": "m.text", "body": "!expire 5m"}, ALICE)
        house.homeserver.add(secret_room, dict(event))
        await house.rest()
        house.homeserver.set_lifetime(secret_room, DAY)
        await house.rest()
        house.homeserver.add(secret_room, dict(event))
        await house.rest()
    assert house.homeserver.lifetime_of(secret_room) == {"type": "after_send", "timer": DAY}


async def test_encryption_turned_on_counts_from_its_own_place(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        house.homeserver.send(room, "!expire status")
        house.homeserver.set_state(room, "m.room.encryption", {"algorithm": "m.megolm"})
        house.homeserver.send(room, "!expire help")
        await house.rest()
    assert len(house.homeserver.heard(room)) == 1


async def test_an_empty_stretch_changes_nothing(house: Harness, room: RoomID) -> None:
    before = await house.store.room(room)
    await house.commit(RoomUpdate(room_id=room, items=[]))
    assert await house.store.room(room) == before
