"""Faults that a second look found: each of these failed before it was mended."""

from __future__ import annotations

import pytest

from bot.core.commands import Command, SetLifetime
from bot.core.outcomes import Unreachable
from bot.core.timeline import Change, Message, RoomUpdate, Sweep, Undecryptable
from bot.core.types import EventID, RoomID, UserID
from tests.core.test_throughput import Bucket
from tests.support.fake_homeserver import ALICE
from tests.support.harness import DAY, MINUTE, SECOND, Harness

HOUR = 60 * MINUTE
REMOTE = UserID("@carol:elsewhere.org")


@pytest.fixture
def slow() -> Bucket:
    """Synapse's own limit."""
    return Bucket(5 * SECOND)


async def test_a_failure_at_a_sweeps_end_leads_not_before_the_bots_coming(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room(joined=False)
    harness.homeserver.set_member(room, REMOTE, "join")
    harness.homeserver.set_lifetime(room, MINUTE)
    before = [harness.homeserver.send(room, f"{number}") for number in range(8)]
    await harness.homeserver.join(room)
    since = harness.homeserver.send(room, "since")
    harness.clock.advance(HOUR)
    harness.homeserver.fail_next(*[Unreachable(reason="x")] * 2, on="is_shared")
    async with harness.running(*harness.everything):
        for _ in range(20):
            await harness.advance(MINUTE)
    assert harness.homeserver.is_redacted(room, since)
    assert not any(harness.homeserver.is_redacted(room, one) for one in before)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_command_still_being_written_does_not_count_for_earlier_messages(
    harness: Harness, whole: bool
) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, REMOTE, "join")
    harness.homeserver.set_lifetime(room, None)
    async with harness.running(harness.sync):
        pass
    while (sweep := await harness.store.sweeps.next()) is not None:
        await harness.store.sweeps.end(sweep)
    kept = [harness.homeserver.send(room, f"stays {number}") for number in range(5)]
    async with harness.running(harness.sync):
        pass
    harness.clock.advance(3 * HOUR)
    harness.homeserver.hold("set_policy")
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 1h")
        now = harness.clock.now()
        sweep = Sweep(room_id=room, whole_room=whole, since=0 if whole else now - HOUR, until=now)
        await harness.store.sweeps.begin(sweep)
        harness.wake()
        await harness.rest()
        assert not set(kept) & set(await harness.timers())
        harness.homeserver.release("set_policy")
        await harness.advance(MINUTE)
    assert not set(kept) & set(await harness.timers())
    assert not any(harness.homeserver.is_redacted(room, one) for one in kept)


async def test_who_adds_to_a_message_for_ever_does_not_keep_it(
    harness: Harness, slow: Bucket
) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    harness.homeserver.limit_redactions(lambda: slow.take(harness.clock.now()))
    async with harness.running(*harness.everything):
        whole = await harness.said_in(room, "hello")
        relation = {"rel_type": "m.annotation", "event_id": whole}
        for _ in range(40):
            event = {"type": "m.reaction", "content": {"m.relates_to": relation}}
            harness.homeserver.add(room, event)
            await harness.advance(3 * SECOND)
            if harness.homeserver.is_redacted(room, whole):
                break
        assert harness.homeserver.is_redacted(room, whole)


@pytest.mark.parametrize(("before", "after"), [(7 * DAY, MINUTE), (MINUTE, DAY)])
async def test_a_late_command_counts_for_what_followed_it(
    harness: Harness, before: int, after: int
) -> None:
    room, command, said_after = RoomID("!r:x"), EventID("$command"), EventID("$after")
    setting = Change(setting=before, sender=ALICE, digest="d0", unannounced=True)
    undecryptable = Undecryptable(event_id=command, sender=ALICE, session_id="S", read_at=1_000)
    messages = [Message(event_id=command, sent=1_000), Message(event_id=said_after, sent=2_000)]
    update = RoomUpdate(room_id=room, items=[setting, undecryptable, *messages])
    await harness.store.commit("s1", 2_000, [update])
    said = Command(digest="c1", sender=ALICE, effect=SetLifetime(setting=after))
    await harness.store.read_late(room, undecryptable, [said], 3_000)
    found = await harness.store.gaps.next_gap()
    assert found is not None
    await harness.store.gaps.read_on(found[0], [messages[1]], "t", 3_000, done=True)
    while await harness.store.take_over(3_000):
        pass
    assert await harness.timers() == {command: 1_000 + after, said_after: 2_000 + after}


async def test_a_busy_room_does_not_keep_the_backlog_of_others_for_ever(
    harness: Harness, slow: Bucket
) -> None:
    chat, other = harness.homeserver.make_room(), harness.homeserver.make_room()
    harness.homeserver.limit_redactions(lambda: slow.take(harness.clock.now()))
    overdue = harness.homeserver.send(other, "overdue when it is found")
    busy = [harness.homeserver.send(chat, f"{number}") for number in range(60)]
    now = harness.clock.now()
    await harness.enter(other, SECOND)
    message = Message(event_id=overdue, sent=now - HOUR)
    await harness.commit(RoomUpdate(room_id=other, items=[message]))
    await harness.enter(chat, SECOND)
    harness.clock.advance(-SECOND)
    live = [Message(event_id=one, sent=now - SECOND) for one in busy]
    await harness.commit(RoomUpdate(room_id=chat, items=list(live)))
    harness.clock.advance(SECOND)
    async with harness.running(harness.redactor):
        for _ in range(20):
            await harness.advance(5 * SECOND)
        assert harness.homeserver.is_redacted(other, overdue)
        assert not all(harness.homeserver.is_redacted(chat, one) for one in busy)


async def test_a_clock_set_back_moves_only_what_was_counted_by_it(harness: Harness) -> None:
    room, now = RoomID("!r:x"), harness.clock.now()
    await harness.enter(room, 7 * DAY)
    whole = EventID("$whole")
    await harness.commit(
        RoomUpdate(room_id=room, items=[Message(event_id=whole, sent=now, live=True)])
    )
    mark = harness.store.latest_timer
    ahead = now + DAY
    items = [
        Message(event_id=EventID("$edit"), sent=ahead, parent=whole, live=True),
        Message(event_id=EventID("$gap"), sent=now),
        Message(event_id=EventID("$live"), sent=ahead, live=True),
    ]
    await harness.store.commit("s9", ahead, [RoomUpdate(room_id=room, items=list(items))])
    upto = harness.store.latest_timer
    await harness.store.clock_set_back(DAY, now, after=mark, upto=upto)
    assert set((await harness.timers()).values()) == {now + 7 * DAY}


async def test_a_hole_does_not_begin_a_long_sweep_anew(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, DAY)
    for number in range(20):
        harness.homeserver.send(room, f"{number}")
    async with harness.running(harness.sync):
        pass
    sweep = await harness.store.sweeps.next()
    assert sweep is not None
    await harness.sweeper.step(sweep)
    before = await harness.store.sweeps.next()
    await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=False, since=5, until=9))
    after = await harness.store.sweeps.next()
    assert before is not None
    assert after is not None
    assert (after.token, after.whole_room) == (before.token, True)
