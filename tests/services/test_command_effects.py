"""What a command has set holds, and ends with whatever ends the matter; it gets one answer."""

from __future__ import annotations

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Failed, Forbidden, Outcome, Refused
from bot.core.timeline import Command, RoomUpdate, Sweep
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
async def room(house: Harness) -> RoomID:
    """A room that the bot has known for a while, with no lifetime."""
    room = house.homeserver.make_room()
    house.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with house.running(house.intake):
        pass
    return room


async def marked(house: Harness) -> bool:
    """Whether some room waits for the state event of a command."""
    async with house.store._db.transaction() as db:
        found = await db.one("SELECT sum(commanded) FROM rooms")
        unwritten = await db.one("SELECT count(*) FROM owed WHERE kind = 'set'")
    return (found, unwritten) != ((0,), (0,))


async def can_be_swept(house: Harness, room: RoomID) -> bool:
    """Whether a walk back through the room begins and ends."""
    await house.store.sweeps.begin(Sweep(room_id=room, whole=True, since=0, until=1))
    async with house.running(*house.everything):
        for _ in range(4):
            await house.advance(HOUR)
    return await house.store.sweeps.left() == 0


def answers(house: Harness, room: RoomID) -> list[str]:
    return house.homeserver.heard(room)


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
    house: Harness, room: RoomID, said: list[str], at_once: bool
) -> None:
    async with house.running(*house.everything):
        for text in said:
            house.homeserver.send(room, text)
            if not at_once:
                await house.rest()
    assert not await marked(house)
    assert len(answers(house, room)) == 1 if at_once else len(said)
    assert await can_be_swept(house, room)


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
    house: Harness, room: RoomID, where: str, trouble: list[Outcome]
) -> None:
    house.homeserver.set_lifetime(room, DAY)
    await command(house, room, "!expire 5m")
    house.homeserver.fail_next(*trouble, on=where)
    async with house.running(*house.everything):
        for _ in range(40):
            await house.advance(MINUTE)
        house.homeserver.recover()
        await house.advance(MINUTE)
    assert not await marked(house)
    there = house.homeserver.lifetime_of(room)
    assert there == {"type": "after_send", "timer": await setting(house, room)}
    if where != "say":
        assert await setting(house, room) == DAY
        assert [text for text in answers(house, room) if "it does not hold" in text]
    assert await can_be_swept(house, room)


async def test_a_change_by_somebody_else_ends_the_matter(house: Harness, room: RoomID) -> None:
    await command(house, room, "!expire 5m")
    house.homeserver.set_lifetime(room, DAY, sender=BOB)
    async with house.running(*house.everything):
        await house.rest()
    assert not await marked(house)
    assert await can_be_swept(house, room)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("echoed", [False, True])
async def test_a_restart_in_the_middle_ends_it_as_well(
    house: Harness, room: RoomID, written: bool, echoed: bool
) -> None:
    await command(house, room, "!expire 5m")
    if written:
        await house.homeserver.set_policy(room, {"type": "after_send", "timer": 5 * MINUTE})
    if echoed:
        async with house.running(house.intake):
            pass
    await house.restart()
    async with house.running(*house.everything):
        await house.rest()
    assert not await marked(house)
    assert answers(house, room) == [f"{A} set disappearing messages to 5 minutes."]
    assert await can_be_swept(house, room)


async def test_a_bot_that_was_kicked_comes_back_without_the_mark(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.hold("set_policy")
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m")
        house.homeserver.kick(room)
        await house.rest()
        house.homeserver.release("set_policy")
        await house.advance(MINUTE)
        house.homeserver.set_member(room, BOT, "invite", sender=ALICE)
        await house.advance(MINUTE)
    assert not await marked(house)
    assert await setting(house, room) is None


async def test_the_mark_stays_until_the_state_event_has_come(house: Harness, room: RoomID) -> None:
    """Until then nobody who walks back could know since when the lifetime holds."""
    before = [house.homeserver.send(room, f"before {number}") for number in range(3)]
    await command(house, room, "!expire 1m")
    async with house.running(house.speaker):
        pass  # written, and nobody reads
    assert await marked(house)
    # The same again, before the event of the first has come: nothing is written for it.
    said = Command(digest="again", sender=ALICE, kind="set", setting=MINUTE)
    token, _ = await house.store.position()
    stretch = RoomUpdate(room_id=room, items=[said])
    await house.store.commit(str(token), house.clock.now(), [stretch])
    async with house.running(house.speaker):
        pass
    assert await marked(house)
    assert sum(e["type"] == POLICY_EVENT for e in house.homeserver.rooms[room].events) == 1
    assert await can_be_swept(house, room)
    assert not await marked(house)
    assert not any(house.homeserver.is_redacted(room, one) for one in before)


async def test_the_event_of_an_earlier_command_does_not_end_a_later_one(
    house: Harness, room: RoomID
) -> None:
    await command(house, room, "!expire 1m")
    async with house.running(house.speaker):
        pass
    house.homeserver.hold("set_policy")
    async with house.running(*house.everything):
        house.homeserver.send(room, "!expire off")
        stays = house.homeserver.send(room, "stays")
        await house.said_in(room, "!expire 1m")
        await house.store.sweeps.begin(Sweep(room_id=room, whole=True, since=0, until=1))
        for _ in range(3):
            await house.advance(HOUR)
        assert await house.store.sweeps.left() == 1
        house.homeserver.release("set_policy")
        await house.advance(HOUR)
        assert await house.store.sweeps.left() == 0
    assert not house.homeserver.is_redacted(room, stays)


# --- only the command's own consequence is taken back --------------------------------------------


@pytest.mark.parametrize("before", [None, HOUR])
async def test_what_somebody_set_while_a_command_failed_holds(
    house: Harness, room: RoomID, before: int | None
) -> None:
    if before:
        house.homeserver.set_lifetime(room, before)
    await command(house, room, "!expire 5m")
    house.homeserver.hold("policy_event", answer=True)
    async with house.running(*house.everything):
        house.homeserver.set_lifetime(room, DAY, sender=BOB)
        house.homeserver.set_power(room, BOT, 0)
        after = await house.said_in(room, "after")
        house.homeserver.release("policy_event")
        await house.rest()
        timers = await house.timers()
    assert await setting(house, room) == DAY
    assert timers[after] == house.clock.now() + DAY
    assert not await marked(house)


@pytest.mark.parametrize("before", [None, 0, HOUR])
async def test_a_command_that_cannot_be_written_leaves_what_was_there(
    house: Harness, room: RoomID, before: int | None
) -> None:
    if before is not None:
        house.homeserver.set_lifetime(room, before or None)
    await command(house, room, "!expire 5m")
    house.homeserver.fail_next(REFUSED, on="set_policy")
    async with house.running(*house.everything):
        await house.rest()
    assert await setting(house, room) == before


async def test_a_second_command_that_fails_leaves_the_first(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 1h")
        house.homeserver.fail_next(REFUSED, on="set_policy")
        await house.said_in(room, "!expire 5m")
    assert await setting(house, room) == HOUR


async def test_a_homeserver_that_tells_no_senders_keeps_what_it_has(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.set_lifetime(room, DAY)
    look = house.homeserver.policy_event

    async def content_only(room_id: RoomID) -> dict[str, object] | None:
        event = await look(room_id)
        return event and {"type": event["type"], "content": event["content"]}

    house.homeserver.policy_event = content_only  # type: ignore[method-assign]
    await command(house, room, "!expire 5m")
    house.homeserver.fail_next(REFUSED, on="set_policy")
    async with house.running(*house.everything):
        await house.rest()
        await house.said_in(room, "!expire 1d")
    assert await setting(house, room) == DAY
    assert answers(house, room)[-1] == "Messages disappear after 1 day already."
    assert not await marked(house)


# --- every command gets its answer ---------------------------------------------------------------


@pytest.mark.parametrize("seen", [False, True])
async def test_who_is_overtaken_by_another_client_is_told(
    house: Harness, room: RoomID, seen: bool
) -> None:
    house.homeserver.hold("policy_event")
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m")
        if not seen:
            house.homeserver.hold("sync")
            house.homeserver.send(room, "the sync that is waited for")
        house.homeserver.set_lifetime(room, DAY, sender=BOB)
        await house.rest()
        house.homeserver.release("policy_event")
        await house.rest()
        house.homeserver.release("sync")
        await house.advance(MINUTE)
        await house.advance(MINUTE)
    assert await setting(house, room) == DAY
    assert answers(house, room).count(OVERTAKEN.format("alice")) == 1
    assert len(answers(house, room)) == 2


async def test_who_is_overtaken_by_the_removal_of_the_setting_is_told(
    house: Harness, room: RoomID
) -> None:
    policy = house.homeserver.set_lifetime(room, DAY)
    await command(house, room, "!expire 5m")
    house.homeserver.redact_as(room, policy, BOB)
    async with house.running(*house.everything):
        await house.rest()
    assert await setting(house, room) == 0
    assert answers(house, room).count(OVERTAKEN.format("alice")) == 1


async def test_who_is_overtaken_by_another_persons_command_is_told(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.set_power(room, BOB, 50)
    house.homeserver.hold("sync")
    async with house.running(*house.everything):
        for sender, text in ((ALICE, "1h"), (BOB, "2h"), (BOB, "3h"), (ALICE, "4h")):
            house.homeserver.send(room, f"!expire {text}", sender=UserID(sender))
        house.homeserver.release("sync")
        await house.rest()
    assert answers(house, room) == [
        OVERTAKEN.format("alice"),
        OVERTAKEN.format("bob"),
        f"{A} set disappearing messages to 4 hours.",
    ]


async def test_who_is_overtaken_before_the_writing_is_told(house: Harness, room: RoomID) -> None:
    house.homeserver.set_power(room, BOB, 50)
    await command(house, room, "!expire 1h")
    await command(house, room, "!expire 2h", sender=BOB)
    async with house.running(*house.everything):
        await house.rest()
    assert answers(house, room) == [
        OVERTAKEN.format("alice"),
        f"{B} set disappearing messages to 2 hours.",
    ]
