"""A command that cannot be decided now waits by itself, and counts from its own place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from bot import reading
from bot.deciding import WAIT_FOR
from bot.model import (
    POLICY_EVENT,
    Failed,
    Outcome,
    OutcomeError,
    RateLimited,
    RoomID,
    TokenRejectedError,
    Unreachable,
    UserID,
)
from bot.power import Power
from bot.store import commands
from bot.timeline import OFF
from tests.fakes import ALICE, BOB
from tests.fault_proxy import FaultProxy
from tests.house import DAY, MINUTE, SECOND, House
from tests.test_kin import relate
from tests.test_lifecycle import settle_in
from tests.test_speaker import setting

if TYPE_CHECKING:
    from bot.demo.homeserver import Homeserver as Synapse
    from tests.peers import People
    from tests.process import Bots

A = "“alice” (@alice:example.org)"
B = "“bob” (@bob:example.org)"
HOUR = 60 * MINUTE
OVERTAKEN = "“{0}” (@{0}:example.org), the lifetime was changed meanwhile; yours does not hold."
UNJUDGED = "I could not look up who may do this here."
SET = f"{A} set disappearing messages to 5 minutes."
AWAY = Unreachable(reason="status 504")


@pytest.fixture
async def room(house: House) -> RoomID:
    """A room with a lifetime of an hour, which the bot knows."""
    room = house.homeserver.make_room()
    house.homeserver.set_member(room, BOB, "join", displayname="bob")
    house.homeserver.set_lifetime(room, HOUR)
    async with house.running(house.intake):
        pass
    return room


@pytest.fixture
def silence(house: House, room: RoomID) -> Callable[[Outcome | None], None]:
    """Have the homeserver answer so whenever it is asked for that room's power levels."""
    answer = house.homeserver.power
    trouble: list[Outcome] = []

    async def power(room_id: RoomID) -> Power:
        if room_id == room and trouble:
            raise OutcomeError(trouble[0])
        return await answer(room_id)

    house.homeserver.power = power  # type: ignore[method-assign]

    def silent(outcome: Outcome | None) -> None:
        trouble[:] = [] if outcome is None else [outcome]

    return silent


Silence = Callable[[Outcome | None], None]


def answers(house: House, room: RoomID) -> list[str]:
    return house.homeserver.heard(room)


async def waiting(house: House) -> int:
    async with house.store._db.transaction() as db:
        found = await db.one("SELECT count(*) FROM undecided")
    return int(found[0]) if found else 0


# --- nobody else is held up ----------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [AWAY, Failed(status=500), RateLimited(retry_after=9_000)])
async def test_one_rooms_power_levels_hold_up_no_timer_of_any_room(
    house: House, room: RoomID, silence: Silence, trouble: Outcome
) -> None:
    other = house.homeserver.make_room()
    silence(trouble)
    async with house.running(*house.everything):
        house.homeserver.hold("sync")
        mine = [house.homeserver.send(room, text) for text in ("one", "!expire 5m", "two")]
        house.homeserver.send(other, "!expire 2m")
        house.homeserver.release("sync")
        theirs = await house.said_in(other, "hello")
        timers = await house.timers()
        now = house.clock.now()
        assert [timers[one] for one in mine] == [now + HOUR] * 3
        assert timers[theirs] == now + 2 * MINUTE
        position, _ = await house.store.position()
        assert position is not None
        assert int(position[1:]) >= house.homeserver.place - 4
        assert answers(house, room) == []
        silence(None)
        await house.advance(30 * SECOND)
        timers = await house.timers()
        # From its own place on, its own message included; what was said before it is not touched.
        assert [timers[one] - now for one in mine] == [HOUR, 5 * MINUTE, 5 * MINUTE]
    assert answers(house, room) == [SET]
    assert await waiting(house) == 0


async def test_a_homeserver_that_never_answers_costs_the_sync_a_moment_once(
    house: House, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.intake.ASK_WITHIN", 0.0)
    monkeypatch.setattr(reading, "ASK_WITHIN", 0.0)
    house.homeserver.hold("power")
    async with house.running(house.intake):
        for _ in range(3):
            house.homeserver.send(room, "!expire 5m")
            said = await house.said_in(room, "hello")
            assert said in await house.timers()
        assert len(house.homeserver.times("power")) == 1
        assert await waiting(house) == 3
    house.homeserver.release("power")
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    assert await setting(house, room) == 5 * MINUTE


async def test_one_silent_room_does_not_hold_up_the_commands_of_another(
    house: House, room: RoomID, silence: Silence
) -> None:
    other = house.homeserver.make_room()
    silence(AWAY)
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m")
        house.homeserver.fail_next(AWAY, on="power")
        await house.said_in(other, "!expire 2m")
        await house.advance(5 * SECOND)
        assert await setting(house, other) == 2 * MINUTE
        assert await setting(house, room) == HOUR


# --- what becomes of it --------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_commands_that_wait_are_decided_in_their_order(
    house: House, room: RoomID, silence: Silence, *, restarts: bool
) -> None:
    silence(AWAY)
    async with house.running(*house.everything):
        texts = ("!expire 1m", "a", "!expire off", "b", "!expire 5m", "c")
        said = [await house.said_in(room, text) for text in texts]
    if restarts:
        await house.restart()
    silence(None)
    async with house.running(*house.everything):
        await house.advance(MINUTE - SECOND)
        timers = await house.timers()
    began = house.clock.now() - MINUTE + SECOND
    found = [timers.get(one, began) - began for one in said]
    assert found == [MINUTE, MINUTE, 0, 0, 5 * MINUTE, 5 * MINUTE]
    assert await setting(house, room) == 5 * MINUTE
    assert answers(house, room) == [SET]


async def test_what_is_said_meanwhile_counts_after_it(
    house: House, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with house.running(*house.everything):
        await house.said_in(room, "!expire off")
        silence(None)
        house.reader.judge._silent.clear()
        await house.said_in(room, "!expire 5m")
        await house.advance(MINUTE)
    assert await setting(house, room) == 5 * MINUTE
    assert sorted(answers(house, room)) == sorted([SET, OVERTAKEN.format("alice")])
    assert await waiting(house) == 0


async def test_what_another_client_changed_meanwhile_holds(
    house: House, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with house.running(*house.everything):
        await house.said_in(room, "!expire off")
        house.homeserver.set_lifetime(room, DAY, sender=BOB)
        await house.rest()
        silence(None)
        await house.advance(MINUTE)
    assert await setting(house, room) == DAY
    assert answers(house, room).count(OVERTAKEN.format("alice")) == 1


async def test_off_takes_back_what_was_said_since(
    house: House, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with house.running(*house.everything):
        goes = await house.said_in(room, "goes")
        await house.said_in(room, "!expire off")
        stays = await house.said_in(room, "stays")
        edit = relate(house, room, "m.replace", stays)
        await house.advance(2 * SECOND)
        silence(None)
        await house.advance(MINUTE)
        timers = await house.timers()
        assert goes in timers
        assert not {stays, edit} & set(timers)
    assert await setting(house, room) == OFF


async def test_a_command_that_goes_before_it_is_decided_counts_all_the_same(
    house: House, room: RoomID, silence: Silence
) -> None:
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5s")
        silence(AWAY)
        command = await house.said_in(room, "!expire off")
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, command)
        silence(None)
        await house.advance(2 * MINUTE)
    assert await setting(house, room) == OFF
    assert answers(house, room)[-1].startswith(f"{A} turned disappearing messages off")


async def test_whoever_may_not_is_told_so_as_ever(
    house: House, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with house.running(*house.everything):
        await house.said_in(room, "!expire off", sender=BOB)
        silence(None)
        await house.advance(MINUTE)
    assert answers(house, room) == [
        f"{B}, changing this needs power level 50 here, and you have 0."
    ]
    assert await setting(house, room) == HOUR


@pytest.mark.parametrize("restarts", [False, True])
async def test_who_waited_too_long_is_told_once(
    house: House, room: RoomID, silence: Silence, *, restarts: bool
) -> None:
    silence(AWAY)
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m")
        await house.advance(WAIT_FOR - MINUTE)
        assert not any(UNJUDGED in text for text in answers(house, room))
    if restarts:
        await house.restart()
    async with house.running(*house.everything):
        for _ in range(4):
            await house.advance(MINUTE)
    assert [text for text in answers(house, room) if UNJUDGED in text] == [
        f"{A}, {UNJUDGED} Nothing was changed; please say it again."
    ]
    assert await waiting(house) == 0
    silence(None)
    async with house.running(*house.everything):
        await house.advance(HOUR)
    assert await setting(house, room) == HOUR


async def test_who_says_more_than_may_wait_is_told(
    house: House, room: RoomID, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MOST_OF_ONE", 2)
    monkeypatch.setattr(commands, "MOST_WAITING", 3)
    silence(AWAY)
    async with house.running(*house.everything):
        for number in range(3):
            await house.said_in(room, f"!expire {1 + number}m")
        assert await waiting(house) == 2
        for _ in range(2):
            await house.said_in(room, "!expire 1d", sender=BOB)
        assert await waiting(house) == 3
        silence(None)
        await house.advance(2 * MINUTE)
    told = [text for text in answers(house, room) if UNJUDGED in text]
    assert [text.split(",")[0] for text in told] == [
        "“alice” (@alice:example.org)",
        "“bob” (@bob:example.org)",
    ]
    assert await setting(house, room) == 2 * MINUTE


async def test_a_room_that_the_bot_was_removed_from_waits_for_nothing(
    house: House, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 5m")
        silence(None)
        house.homeserver.kick(room)
        await house.advance(MINUTE)
    assert await waiting(house) == 0


async def test_a_command_in_clear_waits_through_the_encryption_that_follows(
    house: House, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 1m")
        await house.said_in(room, "!expire 5m")
        house.homeserver.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1"})
        await house.said_in(room, "!expire 2m")  # in clear: it does not count
        after = house.homeserver.send_encrypted(room, "after")
        await house.rest()
        silence(None)
        began = house.clock.now()
        await house.advance(MINUTE - SECOND)
        assert (await house.timers())[after] == began + 5 * MINUTE
    assert await setting(house, room) == 5 * MINUTE
    assert await waiting(house) == 0


async def test_who_must_have_a_signed_device_waits_to_be_looked_up(
    house: House, room: RoomID
) -> None:
    house.reader.judge._signed_only = True
    house.homeserver.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1"})
    failing: list[Outcome] = [AWAY, Failed(status=500)]

    async def is_signed(user_id: UserID, device_id: str, device_key: str) -> bool:
        if failing:
            raise OutcomeError(failing.pop())
        return (user_id, device_id) == (ALICE, "DEVICE")

    house.homeserver.is_signed = is_signed  # type: ignore[method-assign]
    async with house.running(*house.everything):
        house.homeserver.send_encrypted(room, "!expire 5m")
        await house.rest()
        assert await setting(house, room) == HOUR
        await house.advance(MINUTE)
    assert await setting(house, room) == 5 * MINUTE


async def test_the_same_batch_read_again_asks_for_one_answer(
    house: House, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    since, synced_at = await house.store.position()
    house.homeserver.send(room, "!expire 5m")
    batch = await house.homeserver.sync(since, 0)
    for _ in range(2):
        await house.intake.take(batch, live=True, first=False, synced_at=synced_at)
    assert await waiting(house) == 1
    silence(None)
    house.reader.judge._silent.clear()
    await house.intake.take(batch, live=True, first=False, synced_at=synced_at)
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    assert answers(house, room) == [SET]


async def test_a_command_in_a_gap_waits_and_the_gap_does_not(
    house: House, room: RoomID, silence: Silence
) -> None:
    silence(AWAY)
    house.homeserver.limit = 4
    before = [house.homeserver.send(room, f"before {number}") for number in range(6)]
    house.homeserver.send(room, "!expire off")
    after = [house.homeserver.send(room, f"after {number}") for number in range(12)]
    async with house.running(*house.everything):
        await house.rest()
        assert {*before, *after} <= set(await house.timers())
        silence(None)
        await house.advance(MINUTE)
        timers = await house.timers()
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
    house: House,
    room: RoomID,
    silence: Callable[[Outcome | None], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(*_: object) -> None:
        raise ValueError("somebody's text")

    silence(AWAY)
    async with house.running(house.intake):
        await house.said_in(room, "!expire 5m")
    silence(None)
    monkeypatch.setattr(house.deciding._judge, "decide", fails)
    async with house.running(house.deciding, house.speaker):
        for _ in range(9):
            await house.advance(MINUTE)
        assert house.homeserver.heard(room) == []
        for _ in range(60):
            await house.advance(MINUTE)
    assert any(UNJUDGED in one for one in house.homeserver.heard(room))
    assert await setting(house, room) == HOUR
    assert await house.store.next_undecided() is None
    assert "somebody's text" not in caplog.text


async def test_a_token_that_has_ended_gives_no_command_up(
    house: House, room: RoomID, silence: Callable[[Outcome | None], None]
) -> None:
    silence(AWAY)
    async with house.running(house.intake):
        await house.said_in(room, "!expire 5m")
    silence(None)
    house.homeserver.fail_next(TokenRejectedError("M_UNKNOWN_TOKEN"), on="power")
    with pytest.raises(ExceptionGroup):
        async with house.running(house.deciding):
            await house.advance(MINUTE)
    assert await house.store.next_undecided() is not None
