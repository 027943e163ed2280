"""What the bot says of changes by others and when asked: once, and beside its work."""

from __future__ import annotations

import pytest

from bot.core.outcomes import Failed, Forbidden, TokenRejectedError, Unreachable
from bot.core.types import EventID, RoomID, UserID
from bot.services.outbox import TRIES
from tests.support.fake_homeserver import ALICE, BOB
from tests.support.harness import MINUTE, Harness

SET = "“alice” (@alice:example.org) set disappearing messages to 5 minutes."
AWAY = Unreachable(reason="reset")


@pytest.fixture
async def room(house: Harness) -> RoomID:
    """A room that the bot has known for a while, with no lifetime."""
    room = house.homeserver.make_room()
    house.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with house.running(house.intake):
        pass
    return room


async def command(house: Harness, room: RoomID, text: str, *, sender: UserID = ALICE) -> EventID:
    """Let the bot read a command, and not react yet."""
    async with house.running(house.intake):
        return await house.said_in(room, text, sender=sender)


async def test_a_change_by_somebody_else_is_announced_once(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        house.homeserver.set_lifetime(room, 5 * MINUTE)
        await house.rest()
        house.homeserver.set_lifetime(room, 5 * MINUTE)
        await house.rest()
    await house.restart()
    async with house.running(*house.everything):
        pass
    assert house.homeserver.heard(room) == [SET]


async def test_a_change_that_is_redacted_is_announced_a_second_time(
    house: Harness, room: RoomID
) -> None:
    """Under one key the second announcement would be taken for a repetition."""
    async with house.running(*house.everything):
        policy = house.homeserver.set_lifetime(room, 5 * MINUTE)
        await house.rest()
        house.homeserver.redact_as(room, policy, BOB)
        await house.rest()
    first, second = house.homeserver.heard(room)
    assert first == SET
    assert second.startswith(
        "“bob” (@bob:example.org) turned disappearing messages off: new messages stay."
    )


async def test_a_bot_that_may_not_speak_works_in_silence(house: Harness) -> None:
    room = house.homeserver.make_room(events={"m.room.message": 60})
    async with house.running(*house.everything):
        house.homeserver.set_lifetime(room, MINUTE)
        sent = await house.said_in(room, "hello")
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, sent)
    assert house.homeserver.heard(room) == []
    assert await house.store.next_debt() is None


async def test_a_notice_that_the_homeserver_fails_on_is_given_up_for_the_next(
    house: Harness, room: RoomID
) -> None:
    await command(house, room, "!expire help")
    await command(house, room, "!expire status")
    house.homeserver.fail_next(*[Failed(status=500)] * (TRIES + 1), on="say")
    async with house.running(house.speaker):
        for _ in range(2 * TRIES):
            await house.advance(MINUTE)
    assert house.homeserver.heard(room) == ["Messages stay: no lifetime is set."]


async def test_a_room_that_cannot_be_spoken_in_does_not_hold_up_another(
    house: Harness, room: RoomID
) -> None:
    other = house.homeserver.make_room()
    await house.enter(other)
    await command(house, room, "!expire help")
    await command(house, other, "!expire status")
    house.homeserver.fail_next(AWAY, on="say")
    async with house.running(house.speaker):
        assert house.homeserver.heard(other) == ["Messages stay: no lifetime is set."]


async def test_the_status_says_what_waits(house: Harness, room: RoomID) -> None:
    async with house.running(house.intake, house.speaker):
        await house.said_in(room, "!expire 5m")
        await house.said_in(room, "hello")
        await house.advance(MINUTE)
        await house.said_in(room, "!expire status")
    status = house.homeserver.heard(room)[-1]
    assert status.startswith("Messages disappear after 5 minutes.")
    assert "the next goes in 4 minutes." in status


async def test_what_is_owed_to_a_room_goes_with_it(house: Harness, room: RoomID) -> None:
    await command(house, room, "!expire help")
    await house.store.forget(room, 0)
    assert await house.store.next_debt() is None


async def test_a_notice_that_is_forbidden_is_given_up(house: Harness, room: RoomID) -> None:
    await command(house, room, "!expire help")
    house.homeserver.fail_next(Forbidden(), on="say")
    async with house.running(house.speaker):
        pass
    assert await house.store.next_debt() is None


async def test_a_rejected_token_ends_the_speaker(house: Harness, room: RoomID) -> None:
    await command(house, room, "!expire help")
    house.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="say")
    with pytest.raises(TokenRejectedError):
        await house.speaker.run()
