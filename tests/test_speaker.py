"""What is owed to people: written into the room and said, once, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest

from bot.model import (
    POLICY_EVENT,
    Bounds,
    EventID,
    Failed,
    Millis,
    Outcome,
    RateLimited,
    Refused,
    RoomID,
    TokenRejectedError,
    Unreachable,
    UserID,
)
from tests.fakes import ALICE, BOB, BOT
from tests.house import DAY, MINUTE, SECOND, House

SET = "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
OVERTAKEN = "“alice” (@alice:example.org), the lifetime was changed meanwhile; yours does not hold."
AWAY = Unreachable(reason="reset")


@pytest.fixture
async def room(house: House) -> RoomID:
    """A room that the bot has known for a while, with no lifetime."""
    room = house.homeserver.make_room()
    house.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with house.running(house.intake):
        pass
    return room


async def command(house: House, room: RoomID, text: str, *, sender: UserID = ALICE) -> EventID:
    """Let the bot read a command, and not react yet."""
    async with house.running(house.intake):
        return await house.said_in(room, text, sender=sender)


def policy_events(house: House, room: RoomID) -> int:
    return sum(event["type"] == POLICY_EVENT for event in house.homeserver.rooms[room].events)


async def setting(house: House, room: RoomID) -> Millis | None:
    known = await house.store.room(room)
    assert known is not None
    return known.setting


# --- commands ------------------------------------------------------------------------------------


async def test_a_command_is_written_into_the_room_and_said_once(house: House, room: RoomID) -> None:
    await command(house, room, "!expire 5m")
    async with house.running(house.speaker):
        pass
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert policy_events(house, room) == 1
    assert house.homeserver.heard(room) == [SET]


@pytest.mark.parametrize("step", ["written", "said"])
async def test_a_crash_in_the_middle_of_a_command_repeats_nothing(
    house: House, room: RoomID, step: str
) -> None:
    await command(house, room, "!expire 5m")
    debt = await house.store.next_debt()
    assert debt is not None
    if step == "written":
        await house.homeserver.set_policy(room, {"type": "after_send", "timer": 5 * MINUTE})
    async with house.store._db.transaction() as db:
        await db.rows("CREATE TABLE crash AS SELECT * FROM owed")
    async with house.running(house.speaker):
        pass
    async with house.store._db.transaction() as db:
        await db.rows("INSERT INTO owed SELECT * FROM crash")  # it was never marked as paid
    await house.restart()
    async with house.running(*house.everything):
        await house.rest()
    assert policy_events(house, room) == 1
    assert house.homeserver.heard(room) == [SET]


async def test_a_later_change_by_somebody_else_is_not_overwritten(
    house: House, room: RoomID
) -> None:
    await command(house, room, "!expire 5m")
    house.homeserver.set_lifetime(room, DAY, sender=BOB)
    async with house.running(*house.everything):
        await house.rest()
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": DAY}
    told = ["“bob” (@bob:example.org) set disappearing messages to 1 day.", OVERTAKEN]
    assert sorted(house.homeserver.heard(room)) == sorted(told)
    assert await setting(house, room) == DAY


async def test_a_change_by_somebody_else_before_the_command_is_overwritten(
    house: House, room: RoomID
) -> None:
    house.homeserver.set_lifetime(room, DAY, sender=BOB)
    await command(house, room, "!expire 5m")
    async with house.running(*house.everything):
        await house.rest()
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}


async def test_of_several_commands_the_last_is_written(house: House, room: RoomID) -> None:
    for text in ("!expire 1h", "!expire 2h", "!expire 5m"):
        await command(house, room, text)
    async with house.running(*house.everything):
        await house.rest()
    assert policy_events(house, room) == 1
    assert house.homeserver.heard(room) == [SET]
    assert await setting(house, room) == 5 * MINUTE


@pytest.mark.parametrize("where", ["policy_event", "set_policy", "say"])
@pytest.mark.parametrize("answer", [False, True])
async def test_a_command_said_while_another_is_being_written_is_written_as_well(
    house: House, room: RoomID, where: str, answer: bool
) -> None:
    house.homeserver.hold(where, answer=answer)
    async with house.running(house.intake, house.speaker):
        await house.said_in(room, "!expire 1h")
        await house.said_in(room, "!expire 5m")
        house.homeserver.release(where)
        await house.rest()
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert house.homeserver.heard(room)[-1] == SET
    assert await setting(house, room) == 5 * MINUTE


async def test_a_command_that_changes_nothing_writes_nothing(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m")
        await house.said_in(room, "!expire 5m")
        await house.said_in(room, "!expire off")
        await house.said_in(room, "!expire off")
    assert policy_events(house, room) == 2
    _, again, _, off = house.homeserver.heard(room)
    assert again == "Messages disappear after 5 minutes already."
    assert off == "Disappearing messages are off already."


async def test_off_overrides_a_default_lifetime(house: House, room: RoomID) -> None:
    house.bounds = Bounds(minimum=SECOND, maximum=DAY, default=DAY)
    await house.restart()
    async with house.running(*house.everything):
        before = await house.said_in(room, "covered by the default")
        await house.said_in(room, "!expire off")
        after = await house.said_in(room, "stays")
        timers = await house.timers()
    assert house.homeserver.lifetime_of(room) == {}
    assert before in timers
    assert after not in timers


async def test_a_lifetime_that_may_not_be_written_is_taken_back_and_said(
    house: House, room: RoomID
) -> None:
    await command(house, room, "!expire 5m")
    house.homeserver.set_power(room, BOT, 0)
    async with house.running(*house.everything):
        after = await house.said_in(room, "after")
        assert after not in await house.timers()
    assert house.homeserver.lifetime_of(room) is None
    assert await setting(house, room) is None
    told = [text for text in house.homeserver.heard(room) if "it does not hold" in text]
    assert len(told) == 1


async def test_a_lifetime_refused_for_good_is_taken_back(house: House, room: RoomID) -> None:
    await command(house, room, "!expire 5m")
    house.homeserver.fail_next(Refused(status=400, errcode="M_UNKNOWN"), on="set_policy")
    async with house.running(*house.everything):
        await house.rest()
    assert await setting(house, room) is None


async def test_a_long_outage_does_not_lose_a_command(house: House, room: RoomID) -> None:
    await command(house, room, "!expire 5m")
    house.homeserver.fail_next(*[AWAY] * 999, on="policy_event")
    async with house.running(house.speaker):
        for _ in range(60):
            await house.advance(MINUTE)
        house.homeserver.recover()
        await house.advance(MINUTE)
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}
    assert house.homeserver.heard(room) == [SET]


@pytest.mark.parametrize("trouble", [RateLimited(retry_after=9_000), AWAY, Failed(status=500)])
@pytest.mark.parametrize("where", ["policy_event", "set_policy", "power", "say"])
async def test_what_cannot_be_done_now_is_done_later(
    house: House, room: RoomID, trouble: Outcome, where: str
) -> None:
    await command(house, room, "!expire 5m")
    house.homeserver.fail_next(trouble, trouble, on=where)
    async with house.running(house.speaker):
        assert house.homeserver.heard(room) == []
        await house.advance(9_000)
        await house.advance(9_000)
    assert policy_events(house, room) == 1
    assert house.homeserver.heard(room) == [SET]


async def test_a_homeserver_that_tells_no_senders_of_state_gets_every_command_written(
    house: House, room: RoomID
) -> None:
    """Its answer must not be taken for somebody else's later change."""
    look = house.homeserver.policy_event

    async def content_only(room_id: RoomID) -> dict[str, object] | None:
        """Answer as `Matrix` does for a homeserver that does not know `format=event`."""
        event = await look(room_id)
        return event and event | {"sender": "", "event_id": ""}

    house.homeserver.policy_event = content_only  # type: ignore[method-assign]
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 1h")
        await house.said_in(room, "!expire 5m")
    assert house.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}


async def test_a_notice_that_was_said_is_not_told_as_a_failure(
    house: House, room: RoomID, caplog: pytest.LogCaptureFixture
) -> None:
    async with house.running(house.intake, house.speaker):
        await house.said_in(room, "!expire status")
    assert house.homeserver.heard(room)
    assert not [one for one in caplog.messages if "could not be sent" in one]


async def test_words_that_fail_in_an_odd_way_are_tried_again(
    house: House, room: RoomID, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[Millis] = []
    say = house.homeserver.say

    async def fails(*given: Any, **more: Any) -> Outcome:
        tried.append(house.clock.now())
        if len(tried) < 3:
            raise ValueError("somebody's text")
        return await say(*given, **more)

    monkeypatch.setattr(house.homeserver, "say", fails)
    await command(house, room, "!expire help")
    async with house.running(house.speaker):
        for _ in range(6):
            await house.advance(MINUTE)
    assert len(tried) == 3
    assert SECOND // 2 <= tried[1] - tried[0] <= 2 * MINUTE
    assert len(house.homeserver.heard(room)) == 1
    assert await house.store.next_debt() is None
    assert "somebody's text" not in caplog.text


async def test_a_token_that_has_ended_leaves_what_is_owed(house: House, room: RoomID) -> None:
    await command(house, room, "!expire help")
    house.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="say")
    with pytest.raises(ExceptionGroup):
        async with house.running(house.speaker):
            pass
    assert await house.store.next_debt() is not None
