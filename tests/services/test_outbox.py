"""What is owed to people: written into the room and said, once, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest

from bot.core.lifetimes import POLICY_EVENT, LifetimeLimits
from bot.core.outcomes import Failed, Outcome, RateLimited, Refused, TokenRejectedError, Unreachable
from bot.core.types import EventID, Millis, RoomID, UserID
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

SET = "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
OVERTAKEN = "“alice” (@alice:example.org), the lifetime was changed meanwhile; yours does not hold."
AWAY = Unreachable(reason="reset")


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with no lifetime."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with harness.running(harness.sync):
        pass
    return room


async def command(harness: Harness, room: RoomID, text: str, *, sender: UserID = ALICE) -> EventID:
    """Let the bot read a command, and not react yet."""
    async with harness.running(harness.sync):
        return await harness.said_in(room, text, sender=sender)


def policy_events(harness: Harness, room: RoomID) -> int:
    return sum(event["type"] == POLICY_EVENT for event in harness.homeserver.rooms[room].events)


async def setting(harness: Harness, room: RoomID) -> Millis | None:
    known = await harness.store.room(room)
    assert known is not None
    return known.setting


# --- commands ------------------------------------------------------------------------------------


async def test_a_command_is_written_into_the_room_and_said_once(
    harness: Harness, room: RoomID
) -> None:
    await command(harness, room, "!expire 5m")
    async with harness.running(harness.outbox):
        pass
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert policy_events(harness, room) == 1
    assert harness.homeserver.heard(room) == [SET]


@pytest.mark.parametrize("step", ["written", "said"])
async def test_a_crash_in_the_middle_of_a_command_repeats_nothing(
    harness: Harness, room: RoomID, step: str
) -> None:
    await command(harness, room, "!expire 5m")
    entry = await harness.store.next_to_deliver()
    assert entry is not None
    if step == "written":
        await harness.homeserver.set_policy(room, {"type": "after_send", "timer": 5 * MINUTE})
    async with harness.store._db.transaction() as db:
        await db.rows("CREATE TABLE crash AS SELECT * FROM outbox")
    async with harness.running(harness.outbox):
        pass
    async with harness.store._db.transaction() as db:
        await db.rows("INSERT INTO outbox SELECT * FROM crash")  # it was never marked as paid
    await harness.restart()
    async with harness.running(*harness.everything):
        await harness.rest()
    assert policy_events(harness, room) == 1
    assert harness.homeserver.heard(room) == [SET]


async def test_a_later_change_by_somebody_else_is_not_overwritten(
    harness: Harness, room: RoomID
) -> None:
    await command(harness, room, "!expire 5m")
    harness.homeserver.set_lifetime(room, DAY, sender=BOB)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": DAY}
    told = ["“bob” (@bob:example.org) set disappearing messages to 1 day.", OVERTAKEN]
    assert sorted(harness.homeserver.heard(room)) == sorted(told)
    assert await setting(harness, room) == DAY


async def test_a_change_by_somebody_else_before_the_command_is_overwritten(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.set_lifetime(room, DAY, sender=BOB)
    await command(harness, room, "!expire 5m")
    async with harness.running(*harness.everything):
        await harness.rest()
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}


async def test_of_several_commands_the_last_is_written(harness: Harness, room: RoomID) -> None:
    for text in ("!expire 1h", "!expire 2h", "!expire 5m"):
        await command(harness, room, text)
    async with harness.running(*harness.everything):
        await harness.rest()
    assert policy_events(harness, room) == 1
    assert harness.homeserver.heard(room) == [SET]
    assert await setting(harness, room) == 5 * MINUTE


@pytest.mark.parametrize("where", ["policy_event", "set_policy", "say"])
@pytest.mark.parametrize("answer", [False, True])
async def test_a_command_said_while_another_is_being_written_is_written_as_well(
    harness: Harness, room: RoomID, where: str, answer: bool
) -> None:
    harness.homeserver.hold(where, answer=answer)
    async with harness.running(harness.sync, harness.outbox):
        await harness.said_in(room, "!expire 1h")
        await harness.said_in(room, "!expire 5m")
        harness.homeserver.release(where)
        await harness.rest()
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert harness.homeserver.heard(room)[-1] == SET
    assert await setting(harness, room) == 5 * MINUTE


async def test_a_command_that_changes_nothing_writes_nothing(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m")
        await harness.said_in(room, "!expire 5m")
        await harness.said_in(room, "!expire off")
        await harness.said_in(room, "!expire off")
    assert policy_events(harness, room) == 2
    _, again, _, off = harness.homeserver.heard(room)
    assert again == "Messages disappear after 5 minutes already."
    assert off == "Disappearing messages are off already."


async def test_off_overrides_a_default_lifetime(harness: Harness, room: RoomID) -> None:
    harness.limits = LifetimeLimits(minimum=SECOND, maximum=DAY, default=DAY)
    await harness.restart()
    async with harness.running(*harness.everything):
        before = await harness.said_in(room, "covered by the default")
        await harness.said_in(room, "!expire off")
        after = await harness.said_in(room, "stays")
        timers = await harness.timers()
    assert harness.homeserver.lifetime_of(room) == {}
    assert before in timers
    assert after not in timers


async def test_a_lifetime_that_may_not_be_written_is_taken_back_and_said(
    harness: Harness, room: RoomID
) -> None:
    await command(harness, room, "!expire 5m")
    harness.homeserver.set_power(room, BOT, 0)
    async with harness.running(*harness.everything):
        after = await harness.said_in(room, "after")
        assert after not in await harness.timers()
    assert harness.homeserver.lifetime_of(room) is None
    assert await setting(harness, room) is None
    told = [text for text in harness.homeserver.heard(room) if "it does not hold" in text]
    assert len(told) == 1


async def test_a_lifetime_refused_for_good_is_taken_back(harness: Harness, room: RoomID) -> None:
    await command(harness, room, "!expire 5m")
    harness.homeserver.fail_next(Refused(status=400, errcode="M_UNKNOWN"), on="set_policy")
    async with harness.running(*harness.everything):
        await harness.rest()
    assert await setting(harness, room) is None


async def test_a_long_outage_does_not_lose_a_command(harness: Harness, room: RoomID) -> None:
    await command(harness, room, "!expire 5m")
    harness.homeserver.fail_next(*[AWAY] * 999, on="policy_event")
    async with harness.running(harness.outbox):
        for _ in range(60):
            await harness.advance(MINUTE)
        harness.homeserver.recover()
        await harness.advance(MINUTE)
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert harness.homeserver.heard(room) == [SET]


@pytest.mark.parametrize("trouble", [RateLimited(retry_after=9_000), AWAY, Failed(status=500)])
@pytest.mark.parametrize("where", ["policy_event", "set_policy", "power", "say"])
async def test_what_cannot_be_done_now_is_done_later(
    harness: Harness, room: RoomID, trouble: Outcome, where: str
) -> None:
    await command(harness, room, "!expire 5m")
    harness.homeserver.fail_next(trouble, trouble, on=where)
    async with harness.running(harness.outbox):
        assert harness.homeserver.heard(room) == []
        await harness.advance(9_000)
        await harness.advance(9_000)
    assert policy_events(harness, room) == 1
    assert harness.homeserver.heard(room) == [SET]


async def test_a_homeserver_that_tells_no_senders_of_state_gets_every_command_written(
    harness: Harness, room: RoomID
) -> None:
    """Its answer must not be taken for somebody else's later change."""
    look = harness.homeserver.policy_event

    async def content_only(room_id: RoomID) -> dict[str, object] | None:
        """Answer as `Matrix` does for a homeserver that does not know `format=event`."""
        event = await look(room_id)
        return event and event | {"sender": "", "event_id": ""}

    harness.homeserver.policy_event = content_only  # type: ignore[method-assign]
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 1h")
        await harness.said_in(room, "!expire 5m")
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}


async def test_a_notice_that_was_said_is_not_told_as_a_failure(
    harness: Harness, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    async with harness.running(harness.sync, harness.outbox):
        await harness.said_in(room, "!expire status")
    assert harness.homeserver.heard(room)
    assert not [one for one in caplog.messages if "could not be sent" in one]


async def test_words_that_fail_in_an_odd_way_are_tried_again(
    harness: Harness,
    room: RoomID,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[Millis] = []
    say = harness.homeserver.say

    async def fails(*given: Any, **more: Any) -> Outcome:
        tried.append(harness.clock.now())
        if len(tried) < 3:
            raise ValueError("somebody's text")
        return await say(*given, **more)

    monkeypatch.setattr(harness.homeserver, "say", fails)
    await command(harness, room, "!expire help")
    async with harness.running(harness.outbox):
        for _ in range(6):
            await harness.advance(MINUTE)
    assert len(tried) == 3
    assert SECOND // 2 <= tried[1] - tried[0] <= 2 * MINUTE
    assert len(harness.homeserver.heard(room)) == 1
    assert await harness.store.next_to_deliver() is None
    assert "somebody's text" not in caplog.text


async def test_a_token_that_has_ended_leaves_what_is_owed(harness: Harness, room: RoomID) -> None:
    await command(harness, room, "!expire help")
    harness.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="say")
    with pytest.raises(ExceptionGroup):
        async with harness.running(harness.outbox):
            pass
    assert await harness.store.next_to_deliver() is not None
