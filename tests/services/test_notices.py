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


async def test_a_change_by_somebody_else_is_announced_once(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        harness.homeserver.set_lifetime(room, 5 * MINUTE)
        await harness.rest()
        harness.homeserver.set_lifetime(room, 5 * MINUTE)
        await harness.rest()
    await harness.restart()
    async with harness.running(*harness.everything):
        pass
    assert harness.homeserver.heard(room) == [SET]


async def test_a_change_that_is_redacted_is_announced_a_second_time(
    harness: Harness, room: RoomID
) -> None:
    """Under one key the second announcement would be taken for a repetition."""
    async with harness.running(*harness.everything):
        policy = harness.homeserver.set_lifetime(room, 5 * MINUTE)
        await harness.rest()
        harness.homeserver.redact_as(room, policy, BOB)
        await harness.rest()
    first, second = harness.homeserver.heard(room)
    assert first == SET
    assert second.startswith(
        "“bob” (@bob:example.org) turned disappearing messages off: new messages stay."
    )


async def test_a_bot_that_may_not_speak_works_in_silence(harness: Harness) -> None:
    room = harness.homeserver.make_room(events={"m.room.message": 60})
    async with harness.running(*harness.everything):
        harness.homeserver.set_lifetime(room, MINUTE)
        sent = await harness.said_in(room, "hello")
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, sent)
    assert harness.homeserver.heard(room) == []
    assert await harness.store.next_to_deliver() is None


async def test_a_notice_the_homeserver_fails_on_gives_way_to_the_next(
    harness: Harness, room: RoomID
) -> None:
    await command(harness, room, "!expire help")
    await command(harness, room, "!expire status")
    harness.homeserver.fail_next(*[Failed(status=500)] * (TRIES + 1), on="say")
    async with harness.running(harness.outbox):
        for _ in range(2 * TRIES):
            await harness.advance(MINUTE)
    assert harness.homeserver.heard(room) == ["Messages stay: no lifetime is set."]


async def test_a_room_that_cannot_be_spoken_in_does_not_hold_up_another(
    harness: Harness, room: RoomID
) -> None:
    other = harness.homeserver.make_room()
    await harness.enter(other)
    await command(harness, room, "!expire help")
    await command(harness, other, "!expire status")
    harness.homeserver.fail_next(AWAY, on="say")
    async with harness.running(harness.outbox):
        assert harness.homeserver.heard(other) == ["Messages stay: no lifetime is set."]


async def test_the_status_says_what_waits(harness: Harness, room: RoomID) -> None:
    async with harness.running(harness.sync, harness.outbox):
        await harness.said_in(room, "!expire 5m")
        await harness.said_in(room, "hello")
        await harness.advance(MINUTE)
        await harness.said_in(room, "!expire status")
    status = harness.homeserver.heard(room)[-1]
    assert status.startswith("Messages disappear after 5 minutes.")
    assert "the next goes in 4 minutes." in status


async def test_what_is_owed_to_a_room_goes_with_it(harness: Harness, room: RoomID) -> None:
    await command(harness, room, "!expire help")
    await harness.store.forget(room, 0)
    assert await harness.store.next_to_deliver() is None


async def test_a_notice_that_is_forbidden_is_given_up(harness: Harness, room: RoomID) -> None:
    await command(harness, room, "!expire help")
    harness.homeserver.fail_next(Forbidden(), on="say")
    async with harness.running(harness.outbox):
        pass
    assert await harness.store.next_to_deliver() is None


async def test_a_rejected_token_ends_the_delivery(harness: Harness, room: RoomID) -> None:
    await command(harness, room, "!expire help")
    harness.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="say")
    with pytest.raises(TokenRejectedError):
        await harness.outbox.run()
