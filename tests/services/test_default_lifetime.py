"""The operator adds a default lifetime, changes it, takes it out: what was said before is safe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.default_lifetime import (
    DEFAULT_EVENT,
    MOST,
    Defaults,
    before_event,
    change,
    current,
    defaults_content,
    held_at,
    read_defaults,
)
from bot.core.outcomes import Refused
from bot.core.timeline import Sweep
from bot.core.types import EventID, Millis, RoomID
from tests.services.test_sweeps import HOUR, REMOTE, clear, hole, lose_disk, put_below
from tests.services.test_walk_back import JSON, gone, pass_by
from tests.support.fake_homeserver import ALICE, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness


async def configure(harness: Harness, default: Millis | None) -> None:
    """Stop the bot, let the operator write this into its settings, and start it again."""
    harness.limits = replace(harness.limits, default=default)
    harness.clock.advance(10 * SECOND)
    await harness.restart()
    await pass_by(harness, 1, SECOND)


async def talk(harness: Harness, room: RoomID, number: int = 7) -> list[EventID]:
    """Let people say something that the bot hears."""
    sent = [harness.homeserver.send(room, f"{one}") for one in range(number)]
    harness.clock.advance(1)
    await pass_by(harness, 1, SECOND)
    return sent


async def sweep(harness: Harness, room: RoomID) -> None:
    """Read a whole room back."""
    begun = Sweep(room_id=room, whole_room=True, since=0, until=harness.clock.now())
    await harness.store.sweeps.begin(begun)
    await pass_by(harness, 5, MINUTE)
    assert await harness.store.sweeps.left() == 0


async def forget(harness: Harness) -> None:
    """Lose the timers alone, as a database from a backup has lost some."""
    async with harness.store._db.transaction() as db:
        await db.rows("DELETE FROM timers")


def told(harness: Harness, room: RoomID) -> dict[str, Any] | None:
    event = harness.homeserver.rooms[room].state().get((DEFAULT_EVENT, ""))
    return None if event is None else dict(event["content"])


def alike(found: dict[EventID, Millis], expected: dict[EventID, Millis]) -> bool:
    """Whether messages are due at the times expected, but for how soon the bot saw them."""
    assert found.keys() == expected.keys()
    return all(abs(due - expected[one]) <= SECOND for one, due in found.items())


async def begin(harness: Harness, default: Millis | None = None) -> RoomID:
    """Return a room in which the bot has been, with that default, since it was made."""
    await pass_by(harness, 1, SECOND)
    await configure(harness, default)
    room = harness.homeserver.make_room()
    await pass_by(harness, 1, SECOND)
    return room


# --- it is added ---------------------------------------------------------------------------------


async def test_a_default_that_is_added_touches_nothing_said_before(harness: Harness) -> None:
    room = await begin(harness)
    stays = await talk(harness, room)
    harness.homeserver.send(room, "said while the operator writes it down")
    await configure(harness, MINUTE)
    goes = await talk(harness, room)
    await sweep(harness, room)
    await pass_by(harness, 2, MINUTE)
    assert (gone(harness, room, stays), gone(harness, room, goes)) == (0, 7)


async def test_what_is_said_while_the_operator_adds_a_default_stays(harness: Harness) -> None:
    room = await begin(harness)
    stays = [harness.homeserver.send(room, f"{one}") for one in range(3)]
    await configure(harness, MINUTE)
    await pass_by(harness, 2, MINUTE)
    await sweep(harness, room)
    assert gone(harness, room, stays) == 0


async def test_a_gap_from_before_the_default_is_spared(harness: Harness) -> None:
    harness.homeserver.limit = 3
    room = await begin(harness)
    stays = [harness.homeserver.send(room, f"{one}") for one in range(12)]
    await configure(harness, MINUTE)
    goes = [harness.homeserver.send(room, f"{one}") for one in range(12)]
    await pass_by(harness, 4, MINUTE)
    assert (gone(harness, room, stays), gone(harness, room, goes)) == (0, 12)


async def test_a_gap_that_is_still_unread_when_the_default_comes_is_spared(
    harness: Harness,
) -> None:
    harness.homeserver.limit = 3
    room = await begin(harness)
    stays = [harness.homeserver.send(room, f"{one}") for one in range(12)]
    async with harness.running(harness.sync):
        pass
    harness.limits = replace(harness.limits, default=MINUTE)
    harness.clock.advance(10 * SECOND)
    await harness.restart()
    async with harness.running(harness.sync):
        harness.clock.advance(SECOND)
        goes = [harness.homeserver.send(room, f"{one}") for one in range(2)]
        await harness.rest()
    await pass_by(harness, 4, MINUTE)
    assert (gone(harness, room, stays), gone(harness, room, goes)) == (0, 2)


async def test_a_lost_disk_with_a_new_default_touches_nothing_said_before(harness: Harness) -> None:
    room = await begin(harness)
    stays = await talk(harness, room)
    harness.limits = replace(harness.limits, default=MINUTE)
    await lose_disk(harness)
    await pass_by(harness, 3, HOUR)
    goes = await talk(harness, room)
    await pass_by(harness, 3, MINUTE)
    assert (gone(harness, room, stays), gone(harness, room, goes)) == (0, 7)


async def test_a_lost_disk_under_a_default_is_rebuilt_from_the_rooms_state(
    harness: Harness,
) -> None:
    room = await begin(harness)
    stays = await talk(harness, room)
    await configure(harness, MINUTE)
    goes = await talk(harness, room)
    await lose_disk(harness)
    await pass_by(harness, 3, MINUTE)
    assert (gone(harness, room, stays), gone(harness, room, goes)) == (0, 7)


@pytest.mark.parametrize("told_before", [True, False])
async def test_a_lost_disk_under_a_default_is_rebuilt_from_the_joining(
    harness: Harness, *, told_before: bool
) -> None:
    await pass_by(harness, 1, SECOND)
    await configure(harness, MINUTE)
    room = harness.homeserver.make_room(joined=False)
    before = harness.homeserver.send(room, "before the bot came", at=harness.clock.now() + DAY)
    await harness.homeserver.join(room)
    goes = [harness.homeserver.send(room, "since")] if told_before else []
    await pass_by(harness, 1, SECOND)
    goes += [harness.homeserver.send(room, "since")]
    await lose_disk(harness)
    await pass_by(harness, 3, MINUTE)
    assert gone(harness, room, goes) == len(goes)
    assert gone(harness, room, [before]) == 0


async def test_nothing_is_rebuilt_where_the_room_does_not_know(harness: Harness) -> None:
    """Without the bot's own state event, nobody knows since when: everything stays."""
    await pass_by(harness, 1, SECOND)
    await configure(harness, MINUTE)
    room = harness.homeserver.make_room(state_default=100, redact=50)
    stays = await talk(harness, room, 3)
    assert told(harness, room) is None
    await lose_disk(harness)
    await pass_by(harness, 3, MINUTE)
    assert gone(harness, room, stays) == 0
    goes = await talk(harness, room, 3)
    await pass_by(harness, 3, MINUTE)
    assert gone(harness, room, goes) == 3


async def test_a_forged_time_brings_no_message_under_a_later_default(
    harness: Harness,
) -> None:
    room = await begin(harness)
    lies = harness.homeserver.send(room, "from the future", at=harness.clock.now() + HOUR)
    await configure(harness, MINUTE)
    await forget(harness)
    await sweep(harness, room)
    assert not harness.homeserver.is_redacted(room, lies)


async def test_a_time_that_lies_spares_its_own_message_only_in_a_sweep(harness: Harness) -> None:
    room = await begin(harness)
    await configure(harness, MINUTE)
    lies = harness.homeserver.send(room, "from long ago", at=1)
    await pass_by(harness, 3, MINUTE)
    assert harness.homeserver.is_redacted(room, lies)


# --- it is changed -------------------------------------------------------------------------------


async def test_a_shorter_default_holds_for_what_is_said_since(harness: Harness) -> None:
    room = await begin(harness, DAY)
    old = await talk(harness, room)
    late = harness.homeserver.send(room, "while the operator writes it down")
    await configure(harness, HOUR)
    await talk(harness, room)
    expected = await harness.timers()
    assert expected[late] == expected[old[0]] + 1 + SECOND
    await forget(harness)
    await sweep(harness, room)
    assert alike(await harness.timers(), expected)
    await lose_disk(harness)
    await pass_by(harness, 1, SECOND)
    assert alike(await harness.timers(), expected)


async def test_what_was_said_before_the_default_was_taken_out_still_goes(harness: Harness) -> None:
    room = await begin(harness, HOUR)
    goes = await talk(harness, room)
    stays = [harness.homeserver.send(room, "while the operator takes it out")]
    await configure(harness, None)
    stays += await talk(harness, room)
    expected = await harness.timers()
    assert set(goes) <= set(expected)
    assert not set(stays) & set(expected)
    await forget(harness)
    await sweep(harness, room)
    assert alike(await harness.timers(), expected)
    await lose_disk(harness)
    await pass_by(harness, 3, HOUR)
    assert (gone(harness, room, goes), gone(harness, room, stays)) == (7, 0)


async def test_what_waits_unread_when_the_default_is_taken_out_stays(harness: Harness) -> None:
    harness.homeserver.limit = 3
    room = await begin(harness, HOUR)
    stays = [harness.homeserver.send(room, f"{one}") for one in range(12)]
    await configure(harness, None)
    await pass_by(harness, 3, HOUR)
    assert gone(harness, room, stays) == 0


async def test_a_default_that_goes_with_the_disk_is_not_carried_out(harness: Harness) -> None:
    room = await begin(harness, HOUR)
    stays = await talk(harness, room)
    harness.limits = replace(harness.limits, default=None)
    await lose_disk(harness)
    await pass_by(harness, 3, HOUR)
    assert gone(harness, room, stays) == 0


async def test_a_setting_of_the_room_wins_over_every_default(harness: Harness) -> None:
    room = await begin(harness, MINUTE)
    under_default = await talk(harness, room, 2)
    harness.homeserver.set_lifetime(room, DAY)
    under_setting = await talk(harness, room, 2)
    await lose_disk(harness)
    await pass_by(harness, 3, MINUTE)
    assert (gone(harness, room, under_default), gone(harness, room, under_setting)) == (2, 0)


# --- what another homeserver kept back -----------------------------------------------------------


async def shared(harness: Harness) -> RoomID:
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, REMOTE, "join")
    await pass_by(harness, 1, SECOND)
    await clear(harness)
    return room


async def test_late_messages_are_found_under_a_default_alone(harness: Harness) -> None:
    await pass_by(harness, 1, SECOND)
    await configure(harness, MINUTE)
    room = await shared(harness)
    await talk(harness, room, 2)
    late = put_below(harness, room, "late")
    await hole(harness, room)
    await pass_by(harness, 3, MINUTE)
    assert harness.homeserver.is_redacted(room, late)


async def test_late_messages_from_before_the_default_stay(harness: Harness) -> None:
    await pass_by(harness, 1, SECOND)
    room = await shared(harness)
    said = harness.clock.now()
    await configure(harness, MINUTE)
    await talk(harness, room, 2)
    late = put_below(harness, room, "late")
    harness.homeserver.rooms[room].find(late)["origin_server_ts"] = said  # type: ignore[index]
    await hole(harness, room)
    await pass_by(harness, 3, MINUTE)
    assert not harness.homeserver.is_redacted(room, late)


async def test_a_walk_ends_where_no_default_held_yet(harness: Harness) -> None:
    room = await begin(harness)
    await talk(harness, room, 60)
    await configure(harness, MINUTE)
    await talk(harness, room, 6)
    before = len(harness.homeserver.times("page_back"))
    begun = Sweep(room_id=room, whole_room=True, since=0, until=harness.clock.now())
    await harness.store.sweeps.begin(begun)
    async with harness.running(harness.sweeper):
        pass
    assert await harness.store.sweeps.left() == 0
    assert len(harness.homeserver.times("page_back")) - before <= 4


# --- the state event -----------------------------------------------------------------------------


async def test_it_is_written_once_where_nobody_has_set_a_lifetime(harness: Harness) -> None:
    room = await begin(harness)
    own = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(own, DAY)
    await pass_by(harness, 1, SECOND)
    assert (told(harness, room), told(harness, own)) == (None, None)
    await configure(harness, MINUTE)
    await configure(harness, MINUTE)
    assert len(harness.homeserver.times("set_defaults")) == 1
    assert told(harness, own) is None
    [[_, span]] = (told(harness, room) or {})["since"]
    assert span == MINUTE


async def test_it_is_written_when_the_bot_may(harness: Harness) -> None:
    await pass_by(harness, 1, SECOND)
    await configure(harness, MINUTE)
    room = harness.homeserver.make_room(power=0)
    await pass_by(harness, 3, MINUTE)
    assert told(harness, room) is None
    harness.homeserver.set_power(room, BOT, 50)
    await pass_by(harness, 3, MINUTE)
    assert told(harness, room) == {"since": [[0, MINUTE]]}


async def test_a_homeserver_that_refuses_it_holds_up_no_greeting(harness: Harness) -> None:
    await pass_by(harness, 1, SECOND)
    await configure(harness, MINUTE)
    harness.homeserver.fail_next(Refused(status=400, errcode="M_BAD_JSON"), on="set_defaults")
    room = harness.homeserver.make_room()
    await pass_by(harness, 1, SECOND)
    assert any("every new one goes after 1 minute" in one for one in harness.homeserver.heard(room))


async def test_it_is_believed_of_nobody_else(harness: Harness) -> None:
    room = await begin(harness)
    stays = await talk(harness, room)
    content = defaults_content(((0, MINUTE),))
    harness.homeserver.set_state(room, DEFAULT_EVENT, content, sender=ALICE)
    harness.limits = replace(harness.limits, default=MINUTE)
    await lose_disk(harness)
    await pass_by(harness, 3, MINUTE)
    assert gone(harness, room, stays) == 0


async def test_a_bot_that_is_asked_back_begins_anew(harness: Harness) -> None:
    room = await begin(harness, HOUR)
    harness.homeserver.kick(room)
    await pass_by(harness, 2, MINUTE)
    await configure(harness, None)
    harness.homeserver.set_member(room, BOT, "invite", sender=ALICE)
    await pass_by(harness, 2, MINUTE)
    stays = await talk(harness, room)
    assert told(harness, room) == {"since": [[0, None]]}
    harness.limits = replace(harness.limits, default=HOUR)
    await lose_disk(harness)
    await pass_by(harness, 3, HOUR)
    assert gone(harness, room, stays) == 0


async def test_a_clock_that_was_ahead_leaves_no_default_in_the_future(harness: Harness) -> None:
    room = await begin(harness)
    now = harness.clock.now()
    harness.clock.advance(DAY)
    harness.limits = replace(harness.limits, default=MINUTE)
    await harness.restart()
    await pass_by(harness, 1, SECOND)
    await harness.store.clock_set_back(DAY, now, after=0, upto=0)
    known = await harness.store.room(room)
    assert known is not None
    assert known.defaults == ((now, MINUTE),)


# --- pure ----------------------------------------------------------------------------------------

SPANS = st.none() | st.integers(1, 10**12)
MOMENTS = st.integers(0, 10**13)


@given(st.lists(st.tuples(MOMENTS, SPANS), max_size=MOST).map(lambda found: sorted(found, key=str)))
def test_what_is_written_is_read_again(found: list[tuple[int, int | None]]) -> None:
    defaults: Defaults = tuple(sorted(found, key=lambda one: one[0]))
    assert read_defaults(defaults_content(defaults)) == defaults


@given(JSON | st.fixed_dictionaries({"since": JSON | st.lists(st.lists(JSON))}))
def test_whatever_stands_there_is_read(content: object) -> None:
    for since, span in read_defaults(content):
        assert since >= 0
        assert span is None or span > 0


@given(st.lists(st.tuples(SPANS, MOMENTS, MOMENTS), min_size=1, max_size=5), MOMENTS)
def test_nothing_goes_sooner_than_under_what_may_have_held(
    changes: list[tuple[Millis | None, Millis, Millis]], at: Millis
) -> None:
    """In the time in which a change was made, the one holds that keeps longer."""
    defaults: Defaults = ()
    moment = 0
    spans: list[tuple[Millis, Millis, Millis | None]] = []
    for span, pause, absence in changes:
        ended = moment + pause
        moment = ended + absence
        if span != current(defaults):
            defaults = change(defaults, span, ended=ended, now=moment)
            spans.append((ended, moment, span))
    possible: list[Millis | None] = [None]
    for ended, now, span in spans:
        if at > now:
            possible = [span]
        elif at >= ended:
            possible.append(span)
    longest = None if None in possible else max(one for one in possible if one is not None)
    assert held_at(defaults, at) == longest


def test_before_its_event_the_newest_default_does_not_hold() -> None:
    assert before_event(((7, MINUTE),)) == ((7, None),)
    assert before_event(((7, DAY), (9, MINUTE))) == ((7, DAY), (9, DAY))
    assert before_event(((7, MINUTE), (9, DAY))) == ((7, MINUTE), (9, DAY))
    assert before_event(((7, MINUTE), (9, None))) == ((7, MINUTE), (9, None))
    assert before_event(((0, MINUTE),)) == ((0, MINUTE),)
    assert before_event(()) == ()


def test_only_so_many_changes_are_remembered() -> None:
    defaults: Defaults = ()
    for number in range(50):
        defaults = change(defaults, number + 1, ended=number, now=number)
    assert len(defaults) == MOST
    assert read_defaults(defaults_content(defaults)) == defaults
    assert held_at(defaults, 0) is None


@pytest.mark.parametrize(
    ("moment", "span", "fits"),
    [
        (0, 1, True),
        (2**53 - 1, 2**53 - 1, True),
        (2**53, 1, False),
        (1, 2**53, False),
        (1, 0, False),
        (-1, 1, False),
    ],
)
def test_a_moment_and_a_span_are_what_canonical_json_holds(
    moment: int, span: int, fits: bool
) -> None:
    expected = ((moment, span),) if fits else ()
    assert read_defaults({"since": [[moment, span]]}) == expected
