"""Commands whose keys come late: each counts at its own place, or is told why it does not."""

from __future__ import annotations

from typing import Any

import pytest

from bot.core.lifetimes import OFF
from bot.core.outcomes import OutcomeError, Unreachable
from bot.core.power_levels import Power
from bot.core.sync_batch import MissingRoomKey
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from bot.services.late_keys import ASK_AFTER, GIVE_UP_AFTER, LateKeys
from tests.services.test_outbox import setting
from tests.services.test_relations import relate
from tests.support.fake_homeserver import ALICE, BOB, Clear
from tests.support.harness import DAY, MINUTE, SECOND, Harness

A = "“alice” (@alice:example.org)"
B = "“bob” (@bob:example.org)"
HOUR = 60 * MINUTE
OVERTAKEN = f"{A}, the lifetime was changed meanwhile; yours does not hold."
UNREAD = f"I could not read a message of {A}"


class Keys:
    """An encrypted room, and who has the keys of what is said there."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.room = harness.homeserver.make_room(encrypted=True)
        harness.homeserver.set_member(self.room, BOB, "join", displayname="bob")
        self.missing: set[str] = set()
        self._decrypt = harness.homeserver.decrypt
        harness.homeserver.decrypt = self.decrypt  # type: ignore[method-assign, assignment]
        self.late = self.look_after()

    def look_after(self) -> LateKeys:
        """Make the service anew, as a restart does."""
        harness = self.harness
        self.late = LateKeys(
            self, harness.store, harness.store.timeline, harness.reader, harness.clock
        )
        return self.late

    def wake(self) -> None:
        self.harness.wake()

    async def decrypt(
        self, room_id: RoomID, event: Event, *, meet: bool
    ) -> Clear | MissingRoomKey | None:
        session_id = str(event["content"].get("ciphertext"))
        if session_id in self.missing:
            return MissingRoomKey(session_id=session_id)
        return await self._decrypt(room_id, event, meet=meet)

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        return await self.harness.homeserver.event(room_id, event_id)

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return session_id not in self.missing

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool) -> None:
        """Nobody answers."""

    async def say(self, text: str, *, locked: bool = False, sender: UserID = ALICE) -> EventID:
        event_id = self.harness.homeserver.send_encrypted(self.room, text, sender=sender)
        if locked:
            self.missing.add(self.session_of(event_id))
        await self.harness.rest()
        self.wake()
        await self.harness.rest()
        return event_id

    def session_of(self, event_id: EventID) -> str:
        event = self.harness.homeserver.rooms[self.room].find(event_id)
        assert event is not None
        return str(event["content"]["ciphertext"])

    async def hand_over(self, *event_ids: EventID) -> None:
        """Let the bot have the keys of these messages."""
        self.missing -= {self.session_of(one) for one in event_ids}
        for _ in range(2):  # again when what followed was read once more
            self.wake()
            await self.harness.rest()

    def answers(self) -> list[str]:
        return self.harness.homeserver.heard(self.room)

    @property
    def everything(self) -> tuple[Any, ...]:
        return (*self.harness.everything, self.late)


@pytest.fixture
async def keys(harness: Harness) -> Keys:
    made = Keys(harness)
    async with harness.running(harness.sync):
        pass
    return made


# --- several that are late -----------------------------------------------------------------------


@pytest.mark.parametrize("order", ["first", "second", "together"])
async def test_of_two_late_commands_the_later_one_holds(keys: Keys, order: str) -> None:
    async with keys.harness.running(*keys.everything):
        first = await keys.say("!expire 1h", locked=True)
        between = await keys.say("between")
        second = await keys.say("!expire 5m", locked=True)
        after = await keys.say("after")
        if order == "together":
            await keys.hand_over(first, second)
        else:
            for one in (first, second) if order == "first" else (second, first):
                await keys.hand_over(one)
        timers = await keys.harness.timers()
    now = keys.harness.clock.now()
    assert await setting(keys.harness, keys.room) == 5 * MINUTE
    assert timers[after] == now + 5 * MINUTE
    if order == "second":
        assert between not in timers
        assert OVERTAKEN in keys.answers()
    else:
        assert timers[between] == now + HOUR
    assert await keys.harness.store.keys.waiting() == []
    assert f"{A} set disappearing messages to 5 minutes." in keys.answers()
    assert len(keys.answers()) == (1 if order == "together" else 2)


async def test_the_bots_own_state_event_in_between_is_no_change(keys: Keys) -> None:
    keys.harness.homeserver.hold("set_policy")
    async with keys.harness.running(*keys.everything):
        await keys.say("!expire 1h")
        late = await keys.say("!expire 5m", locked=True)
        after = await keys.say("after")
        keys.harness.homeserver.release("set_policy")
        await keys.harness.rest()
        await keys.hand_over(late)
        assert (await keys.harness.timers())[after] == keys.harness.clock.now() + 5 * MINUTE
    assert await setting(keys.harness, keys.room) == 5 * MINUTE
    assert keys.answers()[-1] == f"{A} set disappearing messages to 5 minutes."


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("change", ["state", "command", "the same"])
async def test_what_was_changed_after_a_late_command_holds_and_it_is_told(
    keys: Keys, change: str, restarts: bool
) -> None:
    harness = keys.harness
    async with harness.running(*keys.everything):
        await keys.say("!expire 1h")
        late = await keys.say("!expire off", locked=True)
        if change == "command":
            await keys.say("!expire 1d")
        else:
            harness.homeserver.set_lifetime(keys.room, DAY if change == "state" else HOUR)
        await harness.rest()
    if restarts:
        await harness.restart()
        keys.look_after()
    async with harness.running(*keys.everything):
        await keys.hand_over(late)
        await harness.advance(SECOND)
    assert await setting(harness, keys.room) == (HOUR if change == "the same" else DAY)
    assert keys.answers().count(OVERTAKEN) == 1
    assert await harness.store.keys.waiting() == []


async def test_a_command_read_late_that_is_refused_gets_its_answer(keys: Keys) -> None:
    async with keys.harness.running(*keys.everything):
        late = await keys.say("!expire off", locked=True, sender=BOB)
        keys.harness.homeserver.set_lifetime(keys.room, DAY)
        await keys.hand_over(late)
    assert any(f"{B}, changing this needs power level" in text for text in keys.answers())


async def test_a_command_that_went_before_its_key_came_is_asked_for_again(keys: Keys) -> None:
    async with keys.harness.running(*keys.everything):
        await keys.say("!expire 5s")
        late = await keys.say("!expire off", locked=True)
        await keys.harness.advance(6 * SECOND)
        assert keys.harness.homeserver.is_redacted(keys.room, late)
        keys.missing.clear()
        keys.wake()
        await keys.harness.rest()
        assert sum(text.startswith(UNREAD) for text in keys.answers()) == 1
        await keys.harness.advance(GIVE_UP_AFTER)
    assert sum(text.startswith(UNREAD) for text in keys.answers()) == 1


async def test_who_takes_a_late_command_back_is_not_asked_for_it(keys: Keys) -> None:
    async with keys.harness.running(*keys.everything):
        late = await keys.say("!expire 5m", locked=True)
        keys.harness.homeserver.redact_as(keys.room, late, ALICE)
        keys.missing.clear()
        keys.wake()
        await keys.harness.advance(ASK_AFTER)
    assert keys.answers() == []
    assert await keys.harness.store.keys.waiting() == []


# --- what was said where no lifetime held, or a longer one ---------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_was_said_after_a_late_off_stays(keys: Keys, restarts: bool) -> None:
    harness = keys.harness
    async with harness.running(*keys.everything):
        await keys.say("!expire 1h")
        goes = await keys.say("goes")
        off = await keys.say("!expire off", locked=True)
        after = await keys.say("stays")
        parts = [relate(harness, keys.room, kind, after) for kind in ("m.replace", "m.annotation")]
        of_old = relate(harness, keys.room, "m.annotation", goes)
        await harness.advance(SECOND)
        assert {off, after, *parts} <= set(await harness.timers())
    if restarts:
        await harness.restart()
        keys.look_after()
    async with harness.running(*keys.everything):
        await keys.hand_over(off)
        timers = await harness.timers()
        assert not {off, after, *parts} & set(timers)
        assert timers[of_old] == timers[goes]
        await harness.advance(2 * HOUR)
        await harness.advance(MINUTE)
    gone = {one for one in (goes, of_old, off, after, *parts) if is_gone(keys, one)}
    assert gone == {goes, of_old}
    assert await setting(harness, keys.room) == OFF


def is_gone(keys: Keys, event_id: EventID) -> bool:
    return keys.harness.homeserver.is_redacted(keys.room, event_id)


@pytest.mark.parametrize(("before", "after"), [(MINUTE, HOUR), (HOUR, MINUTE)])
async def test_edits_and_reactions_follow_their_message_both_ways(
    keys: Keys, before: Millis, after: Millis
) -> None:
    harness = keys.harness
    async with harness.running(*keys.everything):
        await keys.say(f"!expire {before // SECOND}s")
        earlier = await keys.say("earlier")
        late = await keys.say(f"!expire {after // SECOND}s", locked=True)
        said = await keys.say("hello")
        edit = relate(harness, keys.room, "m.replace", said)
        of_edit = relate(harness, keys.room, "m.annotation", edit)
        of_earlier = relate(harness, keys.room, "m.annotation", earlier)
        await harness.advance(SECOND)
        await keys.hand_over(late)
        timers = await harness.timers()
    began = harness.clock.now() - SECOND
    assert {timers[one] for one in (late, said, edit, of_edit)} == {began + after}
    assert timers[earlier] == began + before
    assert timers[of_earlier] == began + min(before, after)


async def test_what_belongs_to_a_gone_message_goes_however_long_the_lifetime(
    keys: Keys,
) -> None:
    harness = keys.harness
    async with harness.running(*keys.everything):
        await keys.say("!expire 1m")
        old = await keys.say("old")
        await harness.advance(55 * SECOND)
        late = await keys.say("!expire off", locked=True)
        reaction = relate(harness, keys.room, "m.annotation", old)
        await harness.rest()
        harness.homeserver.hold("redact")
        await harness.advance(5 * SECOND)
        harness.homeserver.redact_as(keys.room, old)
        await keys.hand_over(late)
        harness.homeserver.release("redact")
        await harness.advance(MINUTE)
    assert is_gone(keys, reaction)


async def test_the_file_of_a_message_that_stays_stays(harness: Harness) -> None:
    harness.media_server = "example.org"
    harness.keep_anew()
    keys = Keys(harness)
    async with harness.running(*keys.everything):
        await keys.say("!expire 1h")
        off = await keys.say("!expire off", locked=True)
        picture = {"msgtype": "m.image", "body": "x", "url": "mxc://example.org/picture-of-alice"}
        harness.homeserver.add(keys.room, harness.homeserver.encrypt(picture, ALICE))
        await harness.rest()
        await keys.hand_over(off)
    async with harness.store._db.transaction() as db:
        assert await db.rows("SELECT * FROM media") == []


async def test_a_late_command_that_cannot_be_judged_yet_counts_once_it_can(keys: Keys) -> None:
    harness, away = keys.harness, True
    power = harness.homeserver.power

    async def silent(room_id: RoomID) -> Power:
        if away:
            raise OutcomeError(Unreachable(reason="status 504"))
        return await power(room_id)

    async with harness.running(*keys.everything):
        command = await keys.say("!expire 5m", locked=True)
        after = await keys.say("after")
        harness.homeserver.power = silent  # type: ignore[method-assign]
        await keys.hand_over(command)
        await harness.advance(10 * SECOND)
        assert await harness.store.keys.waiting() == []
        assert await setting(harness, keys.room) is None
        away = False
        for _ in range(3):
            await harness.advance(10 * SECOND)
        assert await setting(harness, keys.room) == 5 * MINUTE
        start = harness.clock.now() - 40 * SECOND
        dues = await harness.timers()
        assert dues[command] == dues[after] == start + 5 * MINUTE
