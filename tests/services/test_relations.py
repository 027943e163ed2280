"""What belongs to a message goes with it: edits, reactions, votes, and first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bot.core.outcomes import Failed, NotFound, Outcome, Refused, Unreachable
from bot.core.timeline import Message, RoomUpdate, belongs_to, descendants
from bot.core.types import Event, EventID, Millis, RoomID
from bot.services.sync import GATHER
from bot.store.relations import PORTION
from tests.services.test_redactor import see
from tests.support.fake_homeserver import ALICE
from tests.support.harness import MINUTE, SECOND, Harness

DAY = 86_400 * SECOND
PARENTED = ["m.replace", "m.annotation", "m.reference"]


def relate(harness: Harness, room: RoomID, kind: str, parent: EventID, **event: Any) -> EventID:
    content = {"m.relates_to": {"rel_type": kind, "event_id": parent}}
    return harness.homeserver.add(room, {"type": "m.custom", "content": content} | event)


async def live_in(harness: Harness, lifetime: int) -> RoomID:
    """Return a room with a lifetime that the bot has read up to now."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, lifetime)
    async with harness.running(harness.sync):
        pass
    return room


async def order_of_redactions(harness: Harness, room: RoomID) -> list[str]:
    return [event["redacts"] for event in harness.homeserver.redactions(room)]


@pytest.mark.parametrize("kind", PARENTED)
async def test_what_belongs_to_a_message_goes_when_it_goes_and_first(
    harness: Harness, kind: str
) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        await harness.advance(50 * SECOND)
        part = relate(harness, room, kind, whole)
        of_part = relate(harness, room, "m.annotation", part)
        await harness.rest()
        await harness.advance(10 * SECOND)
        assert await order_of_redactions(harness, room) == [of_part, part, whole]


async def test_replies_and_threads_live_their_own_lifetime(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        await harness.advance(50 * SECOND)
        threaded = relate(harness, room, "m.thread", whole)
        reply = harness.homeserver.add(
            room,
            {
                "type": "m.room.message",
                "content": {"m.relates_to": {"m.in_reply_to": {"event_id": whole}}},
            },
        )
        await harness.rest()
        await harness.advance(10 * SECOND)
        assert harness.homeserver.is_redacted(room, whole)
        assert not harness.homeserver.is_redacted(room, threaded)
        assert not harness.homeserver.is_redacted(room, reply)
        await harness.advance(50 * SECOND)
        assert harness.homeserver.is_redacted(room, threaded)
        assert harness.homeserver.is_redacted(room, reply)


async def test_an_edit_with_a_shorter_lifetime_than_its_message_keeps_it(harness: Harness) -> None:
    room = await live_in(harness, DAY)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        harness.homeserver.set_lifetime(room, MINUTE)
        edit = relate(harness, room, "m.replace", whole)
        await harness.rest()
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, edit)
        assert not harness.homeserver.is_redacted(room, whole)


async def test_an_edit_made_while_the_lifetime_is_off_goes_with_its_message(
    harness: Harness,
) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        harness.homeserver.set_lifetime(room, None)
        edit = relate(harness, room, "m.replace", whole)
        other = harness.homeserver.send(room, "this stays")
        await harness.rest()
        await harness.advance(MINUTE)
        assert await order_of_redactions(harness, room) == [edit, whole]
        assert not harness.homeserver.is_redacted(room, other)


async def test_an_id_with_a_zero_byte_is_kept_as_it_is(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    whole, edit = EventID("$a\0b"), EventID("$c\0d")
    items = [
        Message(event_id=whole, sent=harness.clock.now()),
        Message(event_id=edit, sent=harness.clock.now() + SECOND, parent=whole),
    ]
    await harness.commit(RoomUpdate(room_id=room, items=list(items)))
    due = harness.clock.now() + MINUTE
    assert await harness.timers() == {whole: due, edit: due}


@pytest.mark.parametrize("off", [False, True])
async def test_what_comes_when_its_message_is_gone_goes_at_once(
    harness: Harness, off: bool
) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, whole)
        assert await harness.timers() == {}
        if off:
            harness.homeserver.set_lifetime(room, None)
        edit = relate(harness, room, "m.replace", whole)
        await harness.advance(GATHER)
        assert harness.homeserver.is_redacted(room, edit)


async def test_what_belongs_to_a_staying_message_stays_or_has_its_lifetime(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    old = harness.homeserver.send(room, "from before")
    harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(*harness.everything):
        edit = relate(harness, room, "m.replace", old)
        await harness.rest()
        assert not harness.homeserver.is_redacted(room, edit)
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, edit)
        assert not harness.homeserver.is_redacted(room, old)


async def test_where_nobody_ever_set_a_lifetime_nothing_is_asked(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    old = harness.homeserver.send(room, "from before")
    async with harness.running(*harness.everything):
        relate(harness, room, "m.annotation", old)
        await harness.rest()
    assert harness.homeserver.times("event") == []


async def test_a_message_that_somebody_redacts_takes_what_belongs_to_it_along(
    harness: Harness,
) -> None:
    room = await live_in(harness, DAY)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        edit = relate(harness, room, "m.replace", whole)
        of_edit = relate(harness, room, "m.annotation", edit)
        await harness.rest()
        harness.homeserver.redact_as(room, whole, ALICE)
        await harness.rest()
        assert harness.homeserver.is_redacted(room, edit)
        assert harness.homeserver.is_redacted(room, of_edit)


async def test_a_child_that_comes_before_its_parent_goes_with_it(harness: Harness) -> None:
    room = await live_in(harness, DAY)
    async with harness.running(*harness.everything):
        edit = relate(harness, room, "m.replace", EventID("$later"))
        await harness.rest()
        harness.homeserver.set_lifetime(room, MINUTE)
        harness.homeserver.add(room, {"type": "m.room.message", "event_id": "$later"})
        await harness.rest()
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, edit)


async def test_a_vote_on_an_edit_before_its_message_goes_with_them(
    harness: Harness,
) -> None:
    room = await live_in(harness, DAY)
    async with harness.running(*harness.everything):
        edit = relate(harness, room, "m.replace", EventID("$later"))
        vote = relate(harness, room, "m.reference", edit)
        await harness.rest()
        harness.homeserver.set_lifetime(room, MINUTE)
        harness.homeserver.add(room, {"type": "m.room.message", "event_id": "$later"})
        await harness.rest()
        timers = await harness.timers()
        assert timers[EventID("$later")] == harness.clock.now() + MINUTE
        assert timers[vote] == timers[edit] == timers[EventID("$later")]


async def test_relations_without_timers_are_looked_up_before_the_message_goes(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    whole = harness.homeserver.send(room, "hello")
    unknown = relate(harness, room, "m.replace", whole)
    of_unknown = relate(harness, room, "m.annotation", unknown)
    threaded = relate(harness, room, "m.thread", whole)
    of_threaded = relate(harness, room, "m.replace", threaded)
    await harness.remember(room, whole, due=harness.clock.now())
    await harness.store.not_all_seen()
    async with harness.running(harness.redactor):
        pass
    assert set((await order_of_redactions(harness, room))[:2]) == {unknown, of_unknown}
    assert (await order_of_redactions(harness, room))[2:] == [whole]
    assert not harness.homeserver.is_redacted(room, of_threaded)


async def test_a_child_that_cannot_be_redacted_does_not_keep_its_message(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(harness.redactor):
        whole = harness.homeserver.send(room, "hello")
        edit = relate(harness, room, "m.replace", whole)
        await see(harness)
        harness.homeserver.fail_next(Failed(status=500), on="redact")
        await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, whole)
        await harness.advance(10 * SECOND)
        assert harness.homeserver.is_redacted(room, edit)


async def test_a_homeserver_that_cannot_tell_relations_keeps_no_message(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        harness.homeserver.fail_next(*[Failed(status=500)] * 50, on="relations")
        for _ in range(10):
            await harness.advance(MINUTE)
        assert harness.homeserver.is_redacted(room, whole)


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
    harness: Harness, answer: Outcome, within: Millis
) -> None:
    room = harness.homeserver.make_room()
    whole = harness.homeserver.send(room, "hello")
    await harness.remember(room, whole, due=harness.clock.now())
    harness.homeserver.fail_next(*[answer] * 50, on="relations")
    async with harness.running(harness.redactor):
        for _ in range(within // SECOND):
            await harness.advance(SECOND)
        assert harness.homeserver.is_redacted(room, whole)


async def test_relations_are_found_though_the_homeserver_fails_for_a_minute(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    whole = harness.homeserver.send(room, "hello")
    unknown = relate(harness, room, "m.replace", whole)
    await harness.remember(room, whole, due=harness.clock.now())
    await harness.store.not_all_seen()
    harness.homeserver.fail_next(*[Failed(status=500)] * 6, on="relations")
    async with harness.running(harness.redactor):
        for _ in range(12):
            await harness.advance(20 * SECOND)
    assert await order_of_redactions(harness, room) == [unknown, whole]


def one_each(harness: Harness, every: int) -> Callable[[], int]:
    """Return a limit that lets one redaction through in `every` milliseconds."""
    last = [0]

    def limit() -> int:
        now = harness.clock.now()
        if now - last[0] < every:
            return every - (now - last[0])
        last[0] = now
        return 0

    return limit


@pytest.mark.parametrize("away", [0, 60 * MINUTE])
async def test_what_belongs_to_a_message_goes_first_however_late(
    harness: Harness, away: int
) -> None:
    room = await live_in(harness, MINUTE)
    pairs = []
    async with harness.running(*harness.everything):
        for _ in range(5):
            whole = await harness.said_in(room, "hello")
            await harness.advance(10)
            pairs.append((whole, relate(harness, room, "m.replace", whole)))
            await harness.rest()
    harness.clock.advance(away)
    harness.homeserver.limit_redactions(one_each(harness, 5 * SECOND))
    async with harness.running(*harness.everything):
        for _ in range(200):
            await harness.advance(SECOND)
    order = await order_of_redactions(harness, room)
    assert len(order) == 10
    assert all(order.index(edit) < order.index(whole) for whole, edit in pairs)


async def test_an_unknown_edit_goes_before_its_message_however_late(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        for number in range(40):
            await harness.said_in(room, f"{number}")
    edit = relate(harness, room, "m.replace", whole)  # the bot is away
    harness.clock.advance(60 * MINUTE)
    harness.homeserver.limit_redactions(one_each(harness, 5 * SECOND))
    async with harness.running(*harness.everything):
        for _ in range(300):
            await harness.advance(SECOND)
    order = await order_of_redactions(harness, room)
    assert order.index(edit) < order.index(whole)


@pytest.mark.parametrize(("before", "every"), [(1, 5), (30, 60)])
async def test_whoever_reacts_for_ever_keeps_no_message_that_is_late(
    harness: Harness, before: int, every: int
) -> None:
    room = await live_in(harness, MINUTE)
    harness.homeserver.limit_redactions(one_each(harness, 5 * SECOND))
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        for _ in range(before):
            relate(harness, room, "m.annotation", whole)
        await harness.advance(MINUTE)
        for second in range(50):
            if second % every == 0:
                relate(harness, room, "m.annotation", whole)
            await harness.advance(SECOND)
        assert harness.homeserver.is_redacted(room, whole)


async def test_an_outage_while_looking_is_waited_for(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        await harness.store.not_all_seen()
        harness.homeserver.fail_next(Unreachable(reason="x"), on="relations")
        await harness.advance(MINUTE)
        assert not harness.homeserver.is_redacted(room, whole)
        await harness.advance(10 * SECOND)
        assert harness.homeserver.is_redacted(room, whole)


async def test_a_parent_that_cannot_be_asked_about_is_asked_about_again(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        await harness.advance(MINUTE)
        harness.homeserver.fail_next(Unreachable(reason="x"), on="event")
        edit = relate(harness, room, "m.replace", whole)
        await harness.advance(GATHER)
        assert not harness.homeserver.is_redacted(room, edit)
        await harness.advance(10 * SECOND)
        assert harness.homeserver.is_redacted(room, edit)


async def test_children_that_name_each_other_wait_for_nobody(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    async with harness.running(*harness.everything):
        one = relate(harness, room, "m.replace", EventID("$two"))
        relate(harness, room, "m.replace", one, event_id="$two")
        relate(harness, room, "m.replace", EventID("$self"), event_id="$self")
        await harness.rest()
        await harness.advance(MINUTE)
        for each in (one, EventID("$two"), EventID("$self")):
            assert harness.homeserver.is_redacted(room, each)


async def test_what_belongs_together_is_kept_together_behind_a_gap(harness: Harness) -> None:
    harness.homeserver.limit = 2
    room = await live_in(harness, MINUTE)
    whole = harness.homeserver.send(room, "hello")
    harness.clock.advance(50 * SECOND)
    edit = relate(harness, room, "m.replace", whole)
    for number in range(10):
        harness.homeserver.send(room, f"{number}")
    async with harness.running(*harness.everything):
        await harness.advance(10 * SECOND)
        assert await order_of_redactions(harness, room) == [edit, whole]


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


async def test_all_reactions_go_with_their_message_however_many(
    harness: Harness,
) -> None:
    room, many = await live_in(harness, DAY), 3 * PORTION + 1
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        parts = [relate(harness, room, "m.annotation", whole) for _ in range(many)]
        await harness.rest()
        harness.homeserver.redact_as(room, whole, ALICE)
        await harness.rest()
        assert all(harness.homeserver.is_redacted(room, part) for part in parts)
        async with harness.store._db.transaction() as db:
            assert await db.rows("SELECT * FROM gone_parents") == []


async def test_of_very_many_reactions_a_portion_at_a_time_is_made_due(harness: Harness) -> None:
    room, many = await live_in(harness, DAY), 3 * PORTION + 1
    away = {harness.redactor, harness.database_maintenance}
    async with harness.running(*(one for one in harness.everything if one not in away)):
        whole = await harness.said_in(room, "hello")
        for _ in range(many):
            relate(harness, room, "m.annotation", whole)
        await harness.rest()
        harness.homeserver.redact_as(room, whole, ALICE)
        await harness.rest()
    due = [await harness.store.overdue(harness.clock.now())]
    while await harness.store.relations.make_due():
        due.append(await harness.store.overdue(harness.clock.now()))
    assert due == [PORTION, 2 * PORTION, 3 * PORTION, many]
