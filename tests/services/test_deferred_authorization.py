"""A command that cannot be decided now waits by itself, and counts from its own place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from bot.core.lifetimes import OFF, POLICY_EVENT
from bot.core.outcomes import (
    Failed,
    Outcome,
    OutcomeError,
    RateLimited,
    TokenRejectedError,
    Unreachable,
)
from bot.core.power_levels import Power
from bot.core.types import RoomID, UserID
from bot.services import event_reader
from bot.services.deferred_authorization import WAIT_FOR
from bot.store import commands
from tests.on_synapse.test_lifecycle import settle_in
from tests.services.test_outbox import setting
from tests.services.test_relations import relate
from tests.support.fake_homeserver import ALICE, BOB
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import DAY, MINUTE, SECOND, Harness

if TYPE_CHECKING:
    from bot.demo.homeserver import Homeserver as Synapse
    from tests.support.bot_process import Bots
    from tests.support.people import People

A = "“alice” (@alice:example.org)"
B = "“bob” (@bob:example.org)"
HOUR = 60 * MINUTE
OVERTAKEN = "“{0}” (@{0}:example.org), the lifetime was changed meanwhile; yours does not hold."
UNJUDGED = "I could not look up who may do this here."
SET = f"{A} set disappearing messages to 5 minutes."
AWAY = Unreachable(reason="status 504")


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room with a lifetime of an hour, which the bot knows."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    harness.homeserver.set_lifetime(room, HOUR)
    async with harness.running(harness.sync):
        pass
    return room


@pytest.fixture
def silence(harness: Harness, room: RoomID) -> Callable[[Outcome | None], None]:
    """Have the homeserver answer so whenever it is asked for that room's power levels."""
    answer = harness.homeserver.power
    trouble: list[Outcome] = []

    async def power(room_id: RoomID) -> Power:
        if room_id == room and trouble:
            raise OutcomeError(trouble[0])
        return await answer(room_id)

    harness.homeserver.power = power  # type: ignore[method-assign]

    def silent(outcome: Outcome | None) -> None:
        trouble[:] = [] if outcome is None else [outcome]

    return silent


Silence = Callable[[Outcome | None], None]


def answers(harness: Harness, room: RoomID) -> list[str]:
    return harness.homeserver.heard(room)


async def waiting(harness: Harness) -> int:
    async with harness.store._db.transaction() as db:
        found = await db.one("SELECT count(*) FROM pending_commands")
    return int(found[0]) if found else 0


# --- nobody else is held up ----------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [AWAY, Failed(status=500), RateLimited(retry_after=9_000)])
async def test_one_rooms_power_levels_hold_up_no_timer_of_any_room(
    harness: Harness, room: RoomID, silence: Silence, trouble: Outcome
) -> None:
    other = harness.homeserver.make_room()
    silence(trouble)
    async with harness.running(*harness.everything):
        harness.homeserver.hold("sync")
        mine = [harness.homeserver.send(room, text) for text in ("one", "!expire 5m", "two")]
        harness.homeserver.send(other, "!expire 2m")
        harness.homeserver.release("sync")
        theirs = await harness.said_in(other, "hello")
        timers = await harness.timers()
        now = harness.clock.now()
        assert [timers[one] for one in mine] == [now + HOUR] * 3
        assert timers[theirs] == now + 2 * MINUTE
        position, _ = await harness.store.position()
        assert position is not None
        assert int(position[1:]) >= harness.homeserver.place - 4
        assert answers(harness, room) == []
        silence(None)
        await harness.advance(30 * SECOND)
        timers = await harness.timers()
        # From its own place on, its own message included; what was said before it is not touched.
        assert [timers[one] - now for one in mine] == [HOUR, 5 * MINUTE, 5 * MINUTE]
    assert answers(harness, room) == [SET]
    assert await waiting(harness) == 0


async def test_a_homeserver_that_never_answers_costs_the_sync_a_moment_once(
    harness: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.services.sync.ASK_WITHIN", 0.0)
    monkeypatch.setattr(event_reader, "ASK_WITHIN", 0.0)
    harness.homeserver.hold("power")
    async with harness.running(harness.sync):
        for _ in range(3):
            harness.homeserver.send(room, "!expire 5m")
            said = await harness.said_in(room, "hello")
            assert said in await harness.timers()
        assert len(harness.homeserver.times("power")) == 1
        assert await waiting(harness) == 3
    harness.homeserver.release("power")
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    assert await setting(harness, room) == 5 * MINUTE


async def test_one_silent_room_does_not_hold_up_the_commands_of_another(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    other = harness.homeserver.make_room()
    silence(AWAY)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m")
        harness.homeserver.fail_next(AWAY, on="power")
        await harness.said_in(other, "!expire 2m")
        await harness.advance(5 * SECOND)
        assert await setting(harness, other) == 2 * MINUTE
        assert await setting(harness, room) == HOUR


# --- what becomes of it --------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_commands_that_wait_are_decided_in_their_order(
    harness: Harness, room: RoomID, silence: Silence, *, restarts: bool
) -> None:
    silence(AWAY)
    async with harness.running(*harness.everything):
        texts = ("!expire 1m", "a", "!expire off", "b", "!expire 5m", "c")
        said = [await harness.said_in(room, text) for text in texts]
    if restarts:
        await harness.restart()
    silence(None)
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE - SECOND)
        timers = await harness.timers()
    began = harness.clock.now() - MINUTE + SECOND
    found = [timers.get(one, began) - began for one in said]
    assert found == [MINUTE, MINUTE, 0, 0, 5 * MINUTE, 5 * MINUTE]
    assert await setting(harness, room) == 5 * MINUTE
    assert answers(harness, room) == [SET]


async def test_what_is_said_meanwhile_counts_after_it(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire off")
        silence(None)
        harness.reader.authorizer._silent.clear()
        await harness.said_in(room, "!expire 5m")
        await harness.advance(MINUTE)
    assert await setting(harness, room) == 5 * MINUTE
    assert sorted(answers(harness, room)) == sorted([SET, OVERTAKEN.format("alice")])
    assert await waiting(harness) == 0


async def test_what_another_client_changed_meanwhile_holds(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire off")
        harness.homeserver.set_lifetime(room, DAY, sender=BOB)
        await harness.rest()
        silence(None)
        await harness.advance(MINUTE)
    assert await setting(harness, room) == DAY
    assert answers(harness, room).count(OVERTAKEN.format("alice")) == 1


async def test_off_takes_back_what_was_said_since(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with harness.running(*harness.everything):
        goes = await harness.said_in(room, "goes")
        await harness.said_in(room, "!expire off")
        stays = await harness.said_in(room, "stays")
        edit = relate(harness, room, "m.replace", stays)
        await harness.advance(2 * SECOND)
        silence(None)
        await harness.advance(MINUTE)
        timers = await harness.timers()
        assert goes in timers
        assert not {stays, edit} & set(timers)
    assert await setting(harness, room) == OFF


async def test_a_command_that_goes_before_it_is_decided_counts_all_the_same(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5s")
        silence(AWAY)
        command = await harness.said_in(room, "!expire off")
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, command)
        silence(None)
        await harness.advance(2 * MINUTE)
    assert await setting(harness, room) == OFF
    assert answers(harness, room)[-1].startswith(f"{A} turned disappearing messages off")


async def test_whoever_may_not_is_told_so_as_ever(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire off", sender=BOB)
        silence(None)
        await harness.advance(MINUTE)
    assert answers(harness, room) == [
        f"{B}, changing this needs power level 50 here, and you have 0."
    ]
    assert await setting(harness, room) == HOUR


@pytest.mark.parametrize("restarts", [False, True])
async def test_who_waited_too_long_is_told_once(
    harness: Harness, room: RoomID, silence: Silence, *, restarts: bool
) -> None:
    silence(AWAY)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m")
        await harness.advance(WAIT_FOR - MINUTE)
        assert not any(UNJUDGED in text for text in answers(harness, room))
    if restarts:
        await harness.restart()
    async with harness.running(*harness.everything):
        for _ in range(4):
            await harness.advance(MINUTE)
    assert [text for text in answers(harness, room) if UNJUDGED in text] == [
        f"{A}, {UNJUDGED} Nothing was changed; please say it again."
    ]
    assert await waiting(harness) == 0
    silence(None)
    async with harness.running(*harness.everything):
        await harness.advance(HOUR)
    assert await setting(harness, room) == HOUR


async def test_who_says_more_than_may_wait_is_told(
    harness: Harness, room: RoomID, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MOST_OF_ONE", 2)
    monkeypatch.setattr(commands, "MOST_WAITING", 3)
    silence(AWAY)
    async with harness.running(*harness.everything):
        for number in range(3):
            await harness.said_in(room, f"!expire {1 + number}m")
        assert await waiting(harness) == 2
        for _ in range(2):
            await harness.said_in(room, "!expire 1d", sender=BOB)
        assert await waiting(harness) == 3
        silence(None)
        await harness.advance(2 * MINUTE)
    told = [text for text in answers(harness, room) if UNJUDGED in text]
    assert [text.split(",")[0] for text in told] == [
        "“alice” (@alice:example.org)",
        "“bob” (@bob:example.org)",
    ]
    assert await setting(harness, room) == 2 * MINUTE


async def test_a_room_that_the_bot_was_removed_from_waits_for_nothing(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m")
        silence(None)
        harness.homeserver.kick(room)
        await harness.advance(MINUTE)
    assert await waiting(harness) == 0


async def test_a_command_in_clear_waits_through_the_encryption_that_follows(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 1m")
        await harness.said_in(room, "!expire 5m")
        harness.homeserver.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1"})
        await harness.said_in(room, "!expire 2m")  # in clear: it does not count
        after = harness.homeserver.send_encrypted(room, "after")
        await harness.rest()
        silence(None)
        began = harness.clock.now()
        await harness.advance(MINUTE - SECOND)
        assert (await harness.timers())[after] == began + 5 * MINUTE
    assert await setting(harness, room) == 5 * MINUTE
    assert await waiting(harness) == 0


async def test_who_must_have_a_signed_device_waits_to_be_looked_up(
    harness: Harness, room: RoomID
) -> None:
    harness.reader.authorizer._signed_only = True
    harness.homeserver.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1"})
    failing: list[Outcome] = [AWAY, Failed(status=500)]

    async def is_signed(user_id: UserID, device_id: str, device_key: str) -> bool:
        if failing:
            raise OutcomeError(failing.pop())
        return (user_id, device_id) == (ALICE, "DEVICE")

    harness.homeserver.is_signed = is_signed  # type: ignore[method-assign]
    async with harness.running(*harness.everything):
        harness.homeserver.send_encrypted(room, "!expire 5m")
        await harness.rest()
        assert await setting(harness, room) == HOUR
        await harness.advance(MINUTE)
    assert await setting(harness, room) == 5 * MINUTE


async def test_the_same_batch_read_again_asks_for_one_answer(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    since, synced_at = await harness.store.position()
    harness.homeserver.send(room, "!expire 5m")
    batch = await harness.homeserver.sync(since, 0)
    for _ in range(2):
        await harness.sync.take(batch, live=True, first=False, synced_at=synced_at)
    assert await waiting(harness) == 1
    silence(None)
    harness.reader.authorizer._silent.clear()
    await harness.sync.take(batch, live=True, first=False, synced_at=synced_at)
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    assert answers(harness, room) == [SET]


async def test_a_command_in_a_gap_waits_and_the_gap_does_not(
    harness: Harness, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    harness.homeserver.limit = 4
    before = [harness.homeserver.send(room, f"before {number}") for number in range(6)]
    harness.homeserver.send(room, "!expire off")
    after = [harness.homeserver.send(room, f"after {number}") for number in range(12)]
    async with harness.running(*harness.everything):
        await harness.rest()
        assert {*before, *after} <= set(await harness.timers())
        silence(None)
        await harness.advance(MINUTE)
        timers = await harness.timers()
    assert set(before) <= set(timers)
    assert not set(after) & set(timers)


@pytest.mark.synapse
async def test_one_room_without_power_levels_holds_up_no_other(
    homeserver: Synapse, people: People, bots: Bots
) -> None:
    async with FaultProxy(homeserver.url) as proxy:
        alice, bot = await people("alice"), await bots(homeserver=proxy.url)
        room, other = [await settle_in(alice, bot) for _ in range(2)]
        await alice.send(room, "!expire 3s")
        await alice.until_notice(
            room,
            bot.user_id,
            "set disappearing messages to 3 seconds.",
        )
        unsaid = re.escape(room.lstrip("!"))
        proxy.answer(f"{unsaid}/state/m.room.power_levels", status=504)
        first = await alice.send(room, "goes")
        await alice.send(room, "!expire 1h")
        await alice.send(other, "!expire 2s")
        await alice.until_notice(
            other,
            bot.user_id,
            "set disappearing messages to 2 seconds.",
        )
        there = await alice.send(other, "hello")
        for where, event_id in ((other, there), (room, first)):
            await alice.until_redacted(where, event_id)
        await bot.kill()
        proxy.mend()
        await bot.start()
        await alice.until_notice(room, bot.user_id, "set disappearing messages to 1 hour.")
        assert (await alice.get_state(room, POLICY_EVENT))["timer"] == HOUR


async def test_what_fails_in_an_odd_way_is_given_up_and_said(
    harness: Harness,
    room: RoomID,
    silence: Callable[[Outcome | None], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(*_: object) -> None:
        raise ValueError("somebody's text")

    silence(AWAY)
    async with harness.running(harness.sync):
        await harness.said_in(room, "!expire 5m")
    silence(None)
    monkeypatch.setattr(harness.deferred_authorization._authorizer, "decide", fails)
    async with harness.running(harness.deferred_authorization, harness.outbox):
        for _ in range(9):
            await harness.advance(MINUTE)
        assert harness.homeserver.heard(room) == []
        for _ in range(60):
            await harness.advance(MINUTE)
    assert any(UNJUDGED in one for one in harness.homeserver.heard(room))
    assert await setting(harness, room) == HOUR
    assert await harness.store.next_pending_command() is None
    assert "somebody's text" not in caplog.text


async def test_a_token_that_has_ended_gives_no_command_up(
    harness: Harness, room: RoomID, silence: Callable[[Outcome | None], None]
) -> None:
    silence(AWAY)
    async with harness.running(harness.sync):
        await harness.said_in(room, "!expire 5m")
    silence(None)
    harness.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="power")
    with pytest.raises(ExceptionGroup):
        async with harness.running(harness.deferred_authorization):
            await harness.advance(MINUTE)
    assert await harness.store.next_pending_command() is not None
