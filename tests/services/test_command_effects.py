"""What a command has set holds, and ends with whatever ends the matter; it gets one answer."""

from __future__ import annotations

import pytest

from bot.core.commands import Command, SetLifetime
from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Failed, Forbidden, Outcome, Refused
from bot.core.timeline import RoomUpdate, Sweep
from bot.core.types import RoomID, UserID
from tests.services.test_outbox import command, setting
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, Harness

A = "“alice” (@alice:example.org)"
B = "“bob” (@bob:example.org)"
HOUR = 60 * MINUTE
OVERTAKEN = "“{0}” (@{0}:example.org), the lifetime was changed meanwhile; yours does not hold."
REFUSED = Refused(status=400, errcode="M_UNKNOWN")


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with no lifetime."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with harness.running(harness.sync):
        pass
    return room


async def marked(harness: Harness) -> bool:
    """Whether some room waits for the state event of a command."""
    async with harness.store._db.transaction() as db:
        found = await db.one("SELECT sum(set_by_command) FROM rooms")
        unwritten = await db.one("SELECT count(*) FROM outbox WHERE kind = 'set'")
    return (found, unwritten) != ((0,), (0,))


async def can_be_swept(harness: Harness, room: RoomID) -> bool:
    """Whether a walk back through the room begins and ends."""
    await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=True, since=0, until=1))
    async with harness.running(*harness.everything):
        for _ in range(4):
            await harness.advance(HOUR)
    return await harness.store.sweeps.left() == 0


def answers(harness: Harness, room: RoomID) -> list[str]:
    return harness.homeserver.heard(room)


# --- the mark goes with whatever ends the matter -------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        ["!expire 1d"],
        ["!expire 1d", "!expire 1d"],
        ["!expire off"],
        ["!expire off", "!expire off"],
        ["!expire 1d", "!expire 1h", "!expire 1d", "!expire 1d"],
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_room_can_be_swept_whatever_was_said_twice(
    harness: Harness, room: RoomID, said: list[str], at_once: bool
) -> None:
    async with harness.running(*harness.everything):
        for text in said:
            harness.homeserver.send(room, text)
            if not at_once:
                await harness.rest()
    assert not await marked(harness)
    assert len(answers(harness, room)) == 1 if at_once else len(said)
    assert await can_be_swept(harness, room)


@pytest.mark.parametrize(
    ("where", "trouble"),
    [
        ("set_policy", [REFUSED]),
        ("set_policy", [Forbidden()]),
        ("set_policy", [Failed(status=500)] * 30),
        ("policy_event", [REFUSED]),
        ("policy_event", [Forbidden()]),
        ("policy_event", [Failed(status=500)] * 30),
        ("say", [REFUSED]),
    ],
)
async def test_what_cannot_be_written_or_said_leaves_nothing_behind(
    harness: Harness, room: RoomID, where: str, trouble: list[Outcome]
) -> None:
    harness.homeserver.set_lifetime(room, DAY)
    await command(harness, room, "!expire 5m")
    harness.homeserver.fail_next(*trouble, on=where)
    async with harness.running(*harness.everything):
        for _ in range(40):
            await harness.advance(MINUTE)
        harness.homeserver.recover()
        await harness.advance(MINUTE)
    assert not await marked(harness)
    there = harness.homeserver.lifetime_of(room)
    assert there == {"type": "after_send", "timer": await setting(harness, room)}
    if where != "say":
        assert await setting(harness, room) == DAY
        assert [text for text in answers(harness, room) if "it does not hold" in text]
    assert await can_be_swept(harness, room)


async def test_a_change_by_somebody_else_ends_the_matter(harness: Harness, room: RoomID) -> None:
    await command(harness, room, "!expire 5m")
    harness.homeserver.set_lifetime(room, DAY, sender=BOB)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert not await marked(harness)
    assert await can_be_swept(harness, room)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("echoed", [False, True])
async def test_a_restart_in_the_middle_ends_it_as_well(
    harness: Harness, room: RoomID, written: bool, echoed: bool
) -> None:
    await command(harness, room, "!expire 5m")
    if written:
        await harness.homeserver.set_policy(room, {"type": "after_send", "timer": 5 * MINUTE})
    if echoed:
        async with harness.running(harness.sync):
            pass
    await harness.restart()
    async with harness.running(*harness.everything):
        await harness.rest()
    assert not await marked(harness)
    assert answers(harness, room) == [f"{A} set disappearing messages to 5 minutes."]
    assert await can_be_swept(harness, room)


async def test_a_bot_that_was_kicked_comes_back_without_the_mark(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.hold("set_policy")
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m")
        harness.homeserver.kick(room)
        await harness.rest()
        harness.homeserver.release("set_policy")
        await harness.advance(MINUTE)
        harness.homeserver.set_member(room, BOT, "invite", sender=ALICE)
        await harness.advance(MINUTE)
    assert not await marked(harness)
    assert await setting(harness, room) is None


async def test_the_mark_stays_until_the_state_event_has_come(
    harness: Harness, room: RoomID
) -> None:
    """Until then nobody who walks back could know since when the lifetime holds."""
    before = [harness.homeserver.send(room, f"before {number}") for number in range(3)]
    await command(harness, room, "!expire 1m")
    async with harness.running(harness.outbox):
        pass  # written, and nobody reads
    assert await marked(harness)
    # The same again, before the event of the first has come: nothing is written for it.
    said = Command(digest="again", sender=ALICE, effect=SetLifetime(setting=MINUTE))
    token, _ = await harness.store.position()
    update = RoomUpdate(room_id=room, items=[said])
    await harness.store.commit(str(token), harness.clock.now(), [update])
    async with harness.running(harness.outbox):
        pass
    assert await marked(harness)
    assert sum(e["type"] == POLICY_EVENT for e in harness.homeserver.rooms[room].events) == 1
    assert await can_be_swept(harness, room)
    assert not await marked(harness)
    assert not any(harness.homeserver.is_redacted(room, one) for one in before)


async def test_the_event_of_an_earlier_command_does_not_end_a_later_one(
    harness: Harness, room: RoomID
) -> None:
    await command(harness, room, "!expire 1m")
    async with harness.running(harness.outbox):
        pass
    harness.homeserver.hold("set_policy")
    async with harness.running(*harness.everything):
        harness.homeserver.send(room, "!expire off")
        stays = harness.homeserver.send(room, "stays")
        await harness.said_in(room, "!expire 1m")
        await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=True, since=0, until=1))
        for _ in range(3):
            await harness.advance(HOUR)
        assert await harness.store.sweeps.left() == 1
        harness.homeserver.release("set_policy")
        await harness.advance(HOUR)
        assert await harness.store.sweeps.left() == 0
    assert not harness.homeserver.is_redacted(room, stays)


# --- only the command's own consequence is taken back --------------------------------------------


@pytest.mark.parametrize("before", [None, HOUR])
async def test_what_somebody_set_while_a_command_failed_holds(
    harness: Harness, room: RoomID, before: int | None
) -> None:
    if before:
        harness.homeserver.set_lifetime(room, before)
    await command(harness, room, "!expire 5m")
    harness.homeserver.hold("policy_event", answer=True)
    async with harness.running(*harness.everything):
        harness.homeserver.set_lifetime(room, DAY, sender=BOB)
        harness.homeserver.set_power(room, BOT, 0)
        after = await harness.said_in(room, "after")
        harness.homeserver.release("policy_event")
        await harness.rest()
        timers = await harness.timers()
    assert await setting(harness, room) == DAY
    assert timers[after] == harness.clock.now() + DAY
    assert not await marked(harness)


@pytest.mark.parametrize("before", [None, 0, HOUR])
async def test_a_command_that_cannot_be_written_leaves_what_was_there(
    harness: Harness, room: RoomID, before: int | None
) -> None:
    if before is not None:
        harness.homeserver.set_lifetime(room, before or None)
    await command(harness, room, "!expire 5m")
    harness.homeserver.fail_next(REFUSED, on="set_policy")
    async with harness.running(*harness.everything):
        await harness.rest()
    assert await setting(harness, room) == before


async def test_a_second_command_that_fails_leaves_the_first(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 1h")
        harness.homeserver.fail_next(REFUSED, on="set_policy")
        await harness.said_in(room, "!expire 5m")
    assert await setting(harness, room) == HOUR


async def test_a_homeserver_that_tells_no_senders_keeps_what_it_has(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.set_lifetime(room, DAY)
    look = harness.homeserver.policy_event

    async def content_only(room_id: RoomID) -> dict[str, object] | None:
        event = await look(room_id)
        return event and {"type": event["type"], "content": event["content"]}

    harness.homeserver.policy_event = content_only  # type: ignore[method-assign]
    await command(harness, room, "!expire 5m")
    harness.homeserver.fail_next(REFUSED, on="set_policy")
    async with harness.running(*harness.everything):
        await harness.rest()
        await harness.said_in(room, "!expire 1d")
    assert await setting(harness, room) == DAY
    assert answers(harness, room)[-1] == "Messages disappear after 1 day already."
    assert not await marked(harness)


# --- every command gets its answer ---------------------------------------------------------------


@pytest.mark.parametrize("seen", [False, True])
async def test_who_is_overtaken_by_another_client_is_told(
    harness: Harness, room: RoomID, seen: bool
) -> None:
    harness.homeserver.hold("policy_event")
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m")
        if not seen:
            harness.homeserver.hold("sync")
            harness.homeserver.send(room, "the sync that is waited for")
        harness.homeserver.set_lifetime(room, DAY, sender=BOB)
        await harness.rest()
        harness.homeserver.release("policy_event")
        await harness.rest()
        harness.homeserver.release("sync")
        await harness.advance(MINUTE)
        await harness.advance(MINUTE)
    assert await setting(harness, room) == DAY
    assert answers(harness, room).count(OVERTAKEN.format("alice")) == 1
    assert len(answers(harness, room)) == 2


async def test_who_is_overtaken_by_the_removal_of_the_setting_is_told(
    harness: Harness, room: RoomID
) -> None:
    policy = harness.homeserver.set_lifetime(room, DAY)
    await command(harness, room, "!expire 5m")
    harness.homeserver.redact_as(room, policy, BOB)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert await setting(harness, room) == 0
    assert answers(harness, room).count(OVERTAKEN.format("alice")) == 1


async def test_who_is_overtaken_by_another_persons_command_is_told(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.set_power(room, BOB, 50)
    harness.homeserver.hold("sync")
    async with harness.running(*harness.everything):
        for sender, text in ((ALICE, "1h"), (BOB, "2h"), (BOB, "3h"), (ALICE, "4h")):
            harness.homeserver.send(room, f"!expire {text}", sender=UserID(sender))
        harness.homeserver.release("sync")
        await harness.rest()
    assert answers(harness, room) == [
        OVERTAKEN.format("alice"),
        OVERTAKEN.format("bob"),
        f"{A} set disappearing messages to 4 hours.",
    ]


async def test_who_is_overtaken_before_the_writing_is_told(harness: Harness, room: RoomID) -> None:
    harness.homeserver.set_power(room, BOB, 50)
    await command(harness, room, "!expire 1h")
    await command(harness, room, "!expire 2h", sender=BOB)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert answers(harness, room) == [
        OVERTAKEN.format("alice"),
        f"{B} set disappearing messages to 2 hours.",
    ]
