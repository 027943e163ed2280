"""Commands whose keys come late: each counts at its own place, or is told why it does not."""

from __future__ import annotations

from typing import Any

import pytest

from bot.late import ASK_AFTER, GIVE_UP_AFTER, Late
from bot.model import (
    Event,
    EventID,
    Locked,
    Millis,
    OutcomeError,
    RoomID,
    Unreachable,
    UserID,
)
from bot.power import Power
from bot.timeline import OFF
from tests.fakes import ALICE, BOB, Clear
from tests.house import DAY, MINUTE, SECOND, House
from tests.test_kin import relate
from tests.test_speaker import setting

A = "“alice” (@alice:example.org)"
B = "“bob” (@bob:example.org)"
HOUR = 60 * MINUTE
OVERTAKEN = f"{A}, the lifetime was changed meanwhile; yours does not hold."
UNREAD = f"I could not read a message of {A}"


class Keys:
    """An encrypted room, and who has the keys of what is said there."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.room = house.homeserver.make_room(encrypted=True)
        house.homeserver.set_member(self.room, BOB, "join", displayname="bob")
        self.missing: set[str] = set()
        self._decrypt = house.homeserver.decrypt
        house.homeserver.decrypt = self.decrypt  # type: ignore[method-assign, assignment]
        self.late = self.look_after()

    def look_after(self) -> Late:
        """Make the service anew, as a restart does."""
        house = self.house
        self.late = Late(self, house.store, house.reader, house.clock, wake_others=self.wake)
        return self.late

    def wake(self) -> None:
        self.house.wake()
        self.late.wake.set()

    async def decrypt(self, room_id: RoomID, event: Event, *, meet: bool) -> Clear | Locked | None:
        session_id = str(event["content"].get("ciphertext"))
        if session_id in self.missing:
            return Locked(session_id=session_id)
        return await self._decrypt(room_id, event, meet=meet)

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        return await self.house.homeserver.event(room_id, event_id)

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return session_id not in self.missing

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool) -> None:
        """Nobody answers."""

    async def say(self, text: str, *, locked: bool = False, sender: UserID = ALICE) -> EventID:
        event_id = self.house.homeserver.send_encrypted(self.room, text, sender=sender)
        if locked:
            self.missing.add(self.session_of(event_id))
        await self.house.rest()
        self.wake()
        await self.house.rest()
        return event_id

    def session_of(self, event_id: EventID) -> str:
        event = self.house.homeserver.rooms[self.room].find(event_id)
        assert event is not None
        return str(event["content"]["ciphertext"])

    async def hand_over(self, *event_ids: EventID) -> None:
        """Let the bot have the keys of these messages."""
        self.missing -= {self.session_of(one) for one in event_ids}
        for _ in range(2):  # again when what followed was read once more
            self.wake()
            await self.house.rest()

    def answers(self) -> list[str]:
        return self.house.homeserver.heard(self.room)

    @property
    def everything(self) -> tuple[Any, ...]:
        return (*self.house.everything, self.late)


@pytest.fixture
async def keys(house: House) -> Keys:
    made = Keys(house)
    async with house.running(house.intake):
        pass
    return made


# --- several that are late -----------------------------------------------------------------------


@pytest.mark.parametrize("order", ["first", "second", "together"])
async def test_of_two_late_commands_the_later_one_holds(keys: Keys, order: str) -> None:
    async with keys.house.running(*keys.everything):
        first = await keys.say("!expire 1h", locked=True)
        between = await keys.say("between")
        second = await keys.say("!expire 5m", locked=True)
        after = await keys.say("after")
        if order == "together":
            await keys.hand_over(first, second)
        else:
            for one in (first, second) if order == "first" else (second, first):
                await keys.hand_over(one)
        timers = await keys.house.timers()
    now = keys.house.clock.now()
    assert await setting(keys.house, keys.room) == 5 * MINUTE
    assert timers[after] == now + 5 * MINUTE
    if order == "second":
        assert between not in timers
        assert OVERTAKEN in keys.answers()
    else:
        assert timers[between] == now + HOUR
    assert await keys.house.store.keys.waiting() == []
    assert f"{A} set disappearing messages to 5 minutes." in keys.answers()
    assert len(keys.answers()) == (1 if order == "together" else 2)


async def test_the_bots_own_state_event_in_between_is_no_change(keys: Keys) -> None:
    keys.house.homeserver.hold("set_policy")
    async with keys.house.running(*keys.everything):
        await keys.say("!expire 1h")
        late = await keys.say("!expire 5m", locked=True)
        after = await keys.say("after")
        keys.house.homeserver.release("set_policy")
        await keys.house.rest()
        await keys.hand_over(late)
        assert (await keys.house.timers())[after] == keys.house.clock.now() + 5 * MINUTE
    assert await setting(keys.house, keys.room) == 5 * MINUTE
    assert keys.answers()[-1] == f"{A} set disappearing messages to 5 minutes."


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("change", ["state", "command", "the same"])
async def test_what_was_changed_after_a_late_command_holds_and_it_is_told(
    keys: Keys, change: str, restarts: bool
) -> None:
    house = keys.house
    async with house.running(*keys.everything):
        await keys.say("!expire 1h")
        late = await keys.say("!expire off", locked=True)
        if change == "command":
            await keys.say("!expire 1d")
        else:
            house.homeserver.set_lifetime(keys.room, DAY if change == "state" else HOUR)
        await house.rest()
    if restarts:
        await house.restart()
        keys.look_after()
    async with house.running(*keys.everything):
        await keys.hand_over(late)
        await house.advance(SECOND)
    assert await setting(house, keys.room) == (HOUR if change == "the same" else DAY)
    assert keys.answers().count(OVERTAKEN) == 1
    assert await house.store.keys.waiting() == []


async def test_a_command_read_late_that_is_refused_gets_its_answer(keys: Keys) -> None:
    async with keys.house.running(*keys.everything):
        late = await keys.say("!expire off", locked=True, sender=BOB)
        keys.house.homeserver.set_lifetime(keys.room, DAY)
        await keys.hand_over(late)
    assert any(f"{B}, changing this needs power level" in text for text in keys.answers())


async def test_a_command_that_went_before_its_key_came_is_asked_for_again(keys: Keys) -> None:
    async with keys.house.running(*keys.everything):
        await keys.say("!expire 5s")
        late = await keys.say("!expire off", locked=True)
        await keys.house.advance(6 * SECOND)
        assert keys.house.homeserver.is_redacted(keys.room, late)
        keys.missing.clear()
        keys.wake()
        await keys.house.rest()
        assert sum(text.startswith(UNREAD) for text in keys.answers()) == 1
        await keys.house.advance(GIVE_UP_AFTER)
    assert sum(text.startswith(UNREAD) for text in keys.answers()) == 1


async def test_who_takes_a_late_command_back_is_not_asked_for_it(keys: Keys) -> None:
    async with keys.house.running(*keys.everything):
        late = await keys.say("!expire 5m", locked=True)
        keys.house.homeserver.redact_as(keys.room, late, ALICE)
        keys.missing.clear()
        keys.wake()
        await keys.house.advance(ASK_AFTER)
    assert keys.answers() == []
    assert await keys.house.store.keys.waiting() == []


# --- what was said where no lifetime held, or a longer one ---------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_was_said_after_a_late_off_stays(keys: Keys, restarts: bool) -> None:
    house = keys.house
    async with house.running(*keys.everything):
        await keys.say("!expire 1h")
        goes = await keys.say("goes")
        off = await keys.say("!expire off", locked=True)
        after = await keys.say("stays")
        parts = [relate(house, keys.room, kind, after) for kind in ("m.replace", "m.annotation")]
        of_old = relate(house, keys.room, "m.annotation", goes)
        await house.advance(SECOND)
        assert {off, after, *parts} <= set(await house.timers())
    if restarts:
        await house.restart()
        keys.look_after()
    async with house.running(*keys.everything):
        await keys.hand_over(off)
        timers = await house.timers()
        assert not {off, after, *parts} & set(timers)
        assert timers[of_old] == timers[goes]
        await house.advance(2 * HOUR)
        await house.advance(MINUTE)
    gone = {one for one in (goes, of_old, off, after, *parts) if is_gone(keys, one)}
    assert gone == {goes, of_old}
    assert await setting(house, keys.room) == OFF


def is_gone(keys: Keys, event_id: EventID) -> bool:
    return keys.house.homeserver.is_redacted(keys.room, event_id)


@pytest.mark.parametrize(("before", "after"), [(MINUTE, HOUR), (HOUR, MINUTE)])
async def test_edits_and_reactions_follow_their_message_both_ways(
    keys: Keys, before: Millis, after: Millis
) -> None:
    house = keys.house
    async with house.running(*keys.everything):
        await keys.say(f"!expire {before // SECOND}s")
        earlier = await keys.say("earlier")
        late = await keys.say(f"!expire {after // SECOND}s", locked=True)
        said = await keys.say("hello")
        edit = relate(house, keys.room, "m.replace", said)
        of_edit = relate(house, keys.room, "m.annotation", edit)
        of_earlier = relate(house, keys.room, "m.annotation", earlier)
        await house.advance(SECOND)
        await keys.hand_over(late)
        timers = await house.timers()
    began = house.clock.now() - SECOND
    assert {timers[one] for one in (late, said, edit, of_edit)} == {began + after}
    assert timers[earlier] == began + before
    assert timers[of_earlier] == began + min(before, after)


async def test_what_belongs_to_a_message_that_is_gone_goes_however_long_the_lifetime(
    keys: Keys,
) -> None:
    house = keys.house
    async with house.running(*keys.everything):
        await keys.say("!expire 1m")
        old = await keys.say("old")
        await house.advance(55 * SECOND)
        late = await keys.say("!expire off", locked=True)
        reaction = relate(house, keys.room, "m.annotation", old)
        await house.rest()
        house.homeserver.hold("redact")
        await house.advance(5 * SECOND)
        house.homeserver.redact_as(keys.room, old)
        await keys.hand_over(late)
        house.homeserver.release("redact")
        await house.advance(MINUTE)
    assert is_gone(keys, reaction)


async def test_the_file_of_a_message_that_stays_stays(house: House) -> None:
    house.media_server = "example.org"
    house.keep_anew()
    keys = Keys(house)
    async with house.running(*keys.everything):
        await keys.say("!expire 1h")
        off = await keys.say("!expire off", locked=True)
        picture = {"msgtype": "m.image", "body": "x", "url": "mxc://example.org/picture-of-alice"}
        house.homeserver.add(keys.room, house.homeserver.encrypt(picture, ALICE))
        await house.rest()
        await keys.hand_over(off)
    async with house.store._db.transaction() as db:
        assert await db.rows("SELECT * FROM files") == []


async def test_a_late_command_that_cannot_be_judged_yet_counts_once_it_can(keys: Keys) -> None:
    house, away = keys.house, True
    power = house.homeserver.power

    async def silent(room_id: RoomID) -> Power:
        if away:
            raise OutcomeError(Unreachable(reason="status 504"))
        return await power(room_id)

    async with house.running(*keys.everything):
        command = await keys.say("!expire 5m", locked=True)
        after = await keys.say("after")
        house.homeserver.power = silent  # type: ignore[method-assign]
        await keys.hand_over(command)
        await house.advance(10 * SECOND)
        assert await house.store.keys.waiting() == []
        assert await setting(house, keys.room) is None
        away = False
        for _ in range(3):
            await house.advance(10 * SECOND)
        assert await setting(house, keys.room) == 5 * MINUTE
        start = house.clock.now() - 40 * SECOND
        dues = await house.timers()
        assert dues[command] == dues[after] == start + 5 * MINUTE
