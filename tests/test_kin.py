"""What belongs to a message goes with it: edits, reactions, votes, and first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bot.model import (
    Event,
    EventID,
    Failed,
    Millis,
    NotFound,
    Outcome,
    Refused,
    RoomID,
    Unreachable,
)
from bot.store.kin import PORTION
from bot.timeline import belongs_to, descendants
from tests.fakes import ALICE
from tests.house import MINUTE, SECOND, House
from tests.test_redactor import see

DAY = 86_400 * SECOND
PARENTED = ["m.replace", "m.annotation", "m.reference"]


def relate(house: House, room: RoomID, kind: str, parent: EventID, **event: Any) -> EventID:
    content = {"m.relates_to": {"rel_type": kind, "event_id": parent}}
    return house.homeserver.add(room, {"type": "m.custom", "content": content} | event)


async def live_in(house: House, lifetime: int) -> RoomID:
    """Return a room with a lifetime that the bot has read up to now."""
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, lifetime)
    async with house.running(house.intake):
        pass
    return room


async def order_of_redactions(house: House, room: RoomID) -> list[str]:
    return [event["redacts"] for event in house.homeserver.redactions(room)]


@pytest.mark.parametrize("kind", PARENTED)
async def test_what_belongs_to_a_message_goes_when_it_goes_and_first(
    house: House, kind: str
) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        await house.advance(50 * SECOND)
        part = relate(house, room, kind, whole)
        of_part = relate(house, room, "m.annotation", part)
        await house.rest()
        await house.advance(10 * SECOND)
        assert await order_of_redactions(house, room) == [of_part, part, whole]


async def test_replies_and_threads_live_their_own_lifetime(house: House) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        await house.advance(50 * SECOND)
        threaded = relate(house, room, "m.thread", whole)
        reply = house.homeserver.add(
            room,
            {
                "type": "m.room.message",
                "content": {"m.relates_to": {"m.in_reply_to": {"event_id": whole}}},
            },
        )
        await house.rest()
        await house.advance(10 * SECOND)
        assert house.homeserver.is_redacted(room, whole)
        assert not house.homeserver.is_redacted(room, threaded)
        assert not house.homeserver.is_redacted(room, reply)
        await house.advance(50 * SECOND)
        assert house.homeserver.is_redacted(room, threaded)
        assert house.homeserver.is_redacted(room, reply)


async def test_an_edit_with_a_shorter_lifetime_than_its_message_keeps_it(house: House) -> None:
    room = await live_in(house, DAY)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        house.homeserver.set_lifetime(room, MINUTE)
        edit = relate(house, room, "m.replace", whole)
        await house.rest()
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, edit)
        assert not house.homeserver.is_redacted(room, whole)


async def test_an_edit_made_while_the_lifetime_is_off_goes_with_its_message(house: House) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        house.homeserver.set_lifetime(room, None)
        edit = relate(house, room, "m.replace", whole)
        other = house.homeserver.send(room, "this stays")
        await house.rest()
        await house.advance(MINUTE)
        assert await order_of_redactions(house, room) == [edit, whole]
        assert not house.homeserver.is_redacted(room, other)


@pytest.mark.parametrize("off", [False, True])
async def test_what_comes_when_its_message_is_gone_goes_at_once(house: House, off: bool) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, whole)
        assert await house.timers() == {}
        if off:
            house.homeserver.set_lifetime(room, None)
        edit = relate(house, room, "m.replace", whole)
        await house.rest()
        assert house.homeserver.is_redacted(room, edit)


async def test_what_belongs_to_a_message_that_stays_stays_or_lives_its_own_lifetime(
    house: House,
) -> None:
    room = house.homeserver.make_room()
    old = house.homeserver.send(room, "from before")
    house.homeserver.set_lifetime(room, MINUTE)
    async with house.running(*house.everything):
        edit = relate(house, room, "m.replace", old)
        await house.rest()
        assert not house.homeserver.is_redacted(room, edit)
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, edit)
        assert not house.homeserver.is_redacted(room, old)


async def test_where_nobody_ever_set_a_lifetime_nothing_is_asked(house: House) -> None:
    room = house.homeserver.make_room()
    old = house.homeserver.send(room, "from before")
    async with house.running(*house.everything):
        relate(house, room, "m.annotation", old)
        await house.rest()
    assert house.homeserver.times("event") == []


async def test_a_message_that_somebody_redacts_takes_what_belongs_to_it_along(
    house: House,
) -> None:
    room = await live_in(house, DAY)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        edit = relate(house, room, "m.replace", whole)
        of_edit = relate(house, room, "m.annotation", edit)
        await house.rest()
        house.homeserver.redact_as(room, whole, ALICE)
        await house.rest()
        assert house.homeserver.is_redacted(room, edit)
        assert house.homeserver.is_redacted(room, of_edit)


async def test_a_child_that_comes_before_its_parent_goes_with_it(house: House) -> None:
    room = await live_in(house, DAY)
    async with house.running(*house.everything):
        edit = relate(house, room, "m.replace", EventID("$later"))
        await house.rest()
        house.homeserver.set_lifetime(room, MINUTE)
        house.homeserver.add(room, {"type": "m.room.message", "event_id": "$later"})
        await house.rest()
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, edit)


async def test_a_vote_on_an_edit_that_came_before_its_message_goes_with_them(
    house: House,
) -> None:
    room = await live_in(house, DAY)
    async with house.running(*house.everything):
        edit = relate(house, room, "m.replace", EventID("$later"))
        vote = relate(house, room, "m.reference", edit)
        await house.rest()
        house.homeserver.set_lifetime(room, MINUTE)
        house.homeserver.add(room, {"type": "m.room.message", "event_id": "$later"})
        await house.rest()
        timers = await house.timers()
        assert timers[EventID("$later")] == house.clock.now() + MINUTE
        assert timers[vote] == timers[edit] == timers[EventID("$later")]


async def test_what_the_timers_do_not_know_is_looked_up_before_the_message_goes(
    house: House,
) -> None:
    room = house.homeserver.make_room()
    whole = house.homeserver.send(room, "hello")
    unknown = relate(house, room, "m.replace", whole)
    of_unknown = relate(house, room, "m.annotation", unknown)
    threaded = relate(house, room, "m.thread", whole)
    of_threaded = relate(house, room, "m.replace", threaded)
    await house.remember(room, whole, due=house.clock.now())
    async with house.running(house.redactor):
        pass
    assert set((await order_of_redactions(house, room))[:2]) == {unknown, of_unknown}
    assert (await order_of_redactions(house, room))[2:] == [whole]
    assert not house.homeserver.is_redacted(room, of_threaded)


async def test_a_child_that_cannot_be_redacted_does_not_keep_its_message(house: House) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(house.redactor):
        whole = house.homeserver.send(room, "hello")
        edit = relate(house, room, "m.replace", whole)
        await see(house)
        house.homeserver.fail_next(Failed(status=500), on="redact")
        await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, whole)
        await house.advance(10 * SECOND)
        assert house.homeserver.is_redacted(room, edit)


async def test_a_homeserver_that_cannot_tell_relations_keeps_no_message(house: House) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        house.homeserver.fail_next(*[Failed(status=500)] * 50, on="relations")
        for _ in range(10):
            await house.advance(MINUTE)
        assert house.homeserver.is_redacted(room, whole)


@pytest.mark.parametrize(
    ("answer", "within"),
    [
        (NotFound(), SECOND),
        (Refused(status=404, errcode="M_UNRECOGNIZED"), SECOND),
        (Refused(status=405, errcode="M_UNRECOGNIZED"), SECOND),
        (Failed(status=404, errcode="M_UNKNOWN"), SECOND),
        (Failed(status=404), 5 * SECOND),
        (Unreachable(reason="a web page, status 404", page=404), 5 * SECOND),
        (Unreachable(reason="a web page, status 405", page=405), 5 * SECOND),
    ],
)
async def test_who_does_not_know_relations_is_not_asked_again_and_again(
    house: House, answer: Outcome, within: Millis
) -> None:
    room = house.homeserver.make_room()
    whole = house.homeserver.send(room, "hello")
    await house.remember(room, whole, due=house.clock.now())
    house.homeserver.fail_next(*[answer] * 50, on="relations")
    async with house.running(house.redactor):
        for _ in range(within // SECOND):
            await house.advance(SECOND)
        assert house.homeserver.is_redacted(room, whole)


async def test_what_belongs_to_it_is_found_though_the_homeserver_fails_for_a_minute(
    house: House,
) -> None:
    room = house.homeserver.make_room()
    whole = house.homeserver.send(room, "hello")
    unknown = relate(house, room, "m.replace", whole)
    await house.remember(room, whole, due=house.clock.now())
    house.homeserver.fail_next(*[Failed(status=500)] * 6, on="relations")
    async with house.running(house.redactor):
        for _ in range(12):
            await house.advance(20 * SECOND)
    assert await order_of_redactions(house, room) == [unknown, whole]


def one_each(house: House, every: int) -> Callable[[], int]:
    """Return a limit that lets one redaction through in `every` milliseconds."""
    last = [0]

    def limit() -> int:
        now = house.clock.now()
        if now - last[0] < every:
            return every - (now - last[0])
        last[0] = now
        return 0

    return limit


@pytest.mark.parametrize("away", [0, 60 * MINUTE])
async def test_what_belongs_to_a_message_goes_first_however_late(house: House, away: int) -> None:
    room = await live_in(house, MINUTE)
    pairs = []
    async with house.running(*house.everything):
        for _ in range(5):
            whole = await house.said_in(room, "hello")
            await house.advance(10)
            pairs.append((whole, relate(house, room, "m.replace", whole)))
            await house.rest()
    house.clock.advance(away)
    house.homeserver.limit_redactions(one_each(house, 5 * SECOND))
    async with house.running(*house.everything):
        for _ in range(200):
            await house.advance(SECOND)
    order = await order_of_redactions(house, room)
    assert len(order) == 10
    assert all(order.index(edit) < order.index(whole) for whole, edit in pairs)


async def test_an_unknown_edit_goes_before_its_message_however_late(house: House) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        for number in range(40):
            await house.said_in(room, f"{number}")
    edit = relate(house, room, "m.replace", whole)  # the bot is away
    house.clock.advance(60 * MINUTE)
    house.homeserver.limit_redactions(one_each(house, 5 * SECOND))
    async with house.running(*house.everything):
        for _ in range(300):
            await house.advance(SECOND)
    order = await order_of_redactions(house, room)
    assert order.index(edit) < order.index(whole)


@pytest.mark.parametrize(("before", "every"), [(1, 5), (30, 60)])
async def test_whoever_reacts_for_ever_keeps_no_message_that_is_late(
    house: House, before: int, every: int
) -> None:
    room = await live_in(house, MINUTE)
    house.homeserver.limit_redactions(one_each(house, 5 * SECOND))
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        for _ in range(before):
            relate(house, room, "m.annotation", whole)
        await house.advance(MINUTE)
        for second in range(50):
            if second % every == 0:
                relate(house, room, "m.annotation", whole)
            await house.advance(SECOND)
        assert house.homeserver.is_redacted(room, whole)


async def test_an_outage_while_looking_is_waited_for(house: House) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        house.homeserver.fail_next(Unreachable(reason="x"), on="relations")
        await house.advance(MINUTE)
        assert not house.homeserver.is_redacted(room, whole)
        await house.advance(10 * SECOND)
        assert house.homeserver.is_redacted(room, whole)


async def test_a_parent_that_cannot_be_asked_about_is_asked_about_again(house: House) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        await house.advance(MINUTE)
        house.homeserver.fail_next(Unreachable(reason="x"), on="event")
        edit = relate(house, room, "m.replace", whole)
        await house.rest()
        assert not house.homeserver.is_redacted(room, edit)
        await house.advance(10 * SECOND)
        assert house.homeserver.is_redacted(room, edit)


async def test_children_that_name_each_other_wait_for_nobody(house: House) -> None:
    room = await live_in(house, MINUTE)
    async with house.running(*house.everything):
        one = relate(house, room, "m.replace", EventID("$two"))
        relate(house, room, "m.replace", one, event_id="$two")
        relate(house, room, "m.replace", EventID("$self"), event_id="$self")
        await house.rest()
        await house.advance(MINUTE)
        for each in (one, EventID("$two"), EventID("$self")):
            assert house.homeserver.is_redacted(room, each)


async def test_what_belongs_together_is_kept_together_behind_a_gap(house: House) -> None:
    house.homeserver.limit = 2
    room = await live_in(house, MINUTE)
    whole = house.homeserver.send(room, "hello")
    house.clock.advance(50 * SECOND)
    edit = relate(house, room, "m.replace", whole)
    for number in range(10):
        house.homeserver.send(room, f"{number}")
    async with house.running(*house.everything):
        await house.advance(10 * SECOND)
        assert await order_of_redactions(house, room) == [edit, whole]


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {"m.relates_to": "x"},
        {"m.relates_to": {"rel_type": ["m.replace"], "event_id": "$x"}},
        {"m.relates_to": {"rel_type": "m.replace", "event_id": 7}},
        {"m.relates_to": {"rel_type": "m.replace", "event_id": ""}},
        {"m.relates_to": {"rel_type": "m.replace", "event_id": "$me"}},
        {"m.relates_to": {"rel_type": "m.thread", "event_id": "$x"}},
        {"m.relates_to": {"m.in_reply_to": {"event_id": "$x"}}},
    ],
)
def test_whatever_else_stands_there_belongs_to_nobody(content: Any) -> None:
    event: Event = {"event_id": "$me", "content": content}
    assert belongs_to(event) is None


def test_descendants_are_those_that_hang_together_with_the_root() -> None:
    parents = {"b": "a", "c": "b", "x": "y", "a": "c"}
    tree = {EventID(child): EventID(parent) for child, parent in parents.items()}
    assert descendants(EventID("a"), tree) == ["b", "c"]


async def test_of_a_message_with_very_many_reactions_all_go_when_it_is_gone(house: House) -> None:
    room, many = await live_in(house, DAY), 3 * PORTION + 1
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        parts = [relate(house, room, "m.annotation", whole) for _ in range(many)]
        await house.rest()
        house.homeserver.redact_as(room, whole, ALICE)
        await house.rest()
        assert all(house.homeserver.is_redacted(room, part) for part in parts)
        async with house.store._db.transaction() as db:
            assert await db.rows("SELECT * FROM bereft") == []


async def test_of_very_many_reactions_a_portion_at_a_time_is_made_due(house: House) -> None:
    room, many = await live_in(house, DAY), 3 * PORTION + 1
    away = {house.redactor, house.housekeeping}
    async with house.running(*(one for one in house.everything if one not in away)):
        whole = await house.said_in(room, "hello")
        for _ in range(many):
            relate(house, room, "m.annotation", whole)
        await house.rest()
        house.homeserver.redact_as(room, whole, ALICE)
        await house.rest()
    due = [await house.store.overdue(house.clock.now())]
    while await house.store.kin.bereft():
        due.append(await house.store.overdue(house.clock.now()))
    assert due == [PORTION, 2 * PORTION, 3 * PORTION, many]
