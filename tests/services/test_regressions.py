"""Faults that a second look found: each of these failed before it was mended."""

from __future__ import annotations

import pytest

from bot.core.outcomes import Unreachable
from bot.core.timeline import Change, Command, Message, RoomUpdate, Sweep, Undecryptable
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


async def test_a_failure_at_the_end_of_a_sweep_does_not_lead_behind_the_bots_coming(
    house: Harness,
) -> None:
    room = house.homeserver.make_room(joined=False)
    house.homeserver.set_member(room, REMOTE, "join")
    house.homeserver.set_lifetime(room, MINUTE)
    before = [house.homeserver.send(room, f"{number}") for number in range(8)]
    await house.homeserver.join(room)
    since = house.homeserver.send(room, "since")
    house.clock.advance(HOUR)
    house.homeserver.fail_next(*[Unreachable(reason="x")] * 2, on="is_shared")
    async with house.running(*house.everything):
        for _ in range(20):
            await house.advance(MINUTE)
    assert house.homeserver.is_redacted(room, since)
    assert not any(house.homeserver.is_redacted(room, one) for one in before)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_command_whose_state_event_is_on_its_way_does_not_count_for_what_was_before(
    house: Harness, whole: bool
) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_member(room, REMOTE, "join")
    house.homeserver.set_lifetime(room, None)
    async with house.running(house.intake):
        pass
    while (sweep := await house.store.sweeps.next()) is not None:
        await house.store.sweeps.end(sweep)
    kept = [house.homeserver.send(room, f"stays {number}") for number in range(5)]
    async with house.running(house.intake):
        pass
    house.clock.advance(3 * HOUR)
    house.homeserver.hold("set_policy")
    async with house.running(*house.everything):
        await house.said_in(room, "!expire 1h")
        now = house.clock.now()
        sweep = Sweep(room_id=room, whole=whole, since=0 if whole else now - HOUR, until=now)
        await house.store.sweeps.begin(sweep)
        house.wake()
        await house.rest()
        assert not set(kept) & set(await house.timers())
        house.homeserver.release("set_policy")
        await house.advance(MINUTE)
    assert not set(kept) & set(await house.timers())
    assert not any(house.homeserver.is_redacted(room, one) for one in kept)


async def test_who_adds_to_a_message_for_ever_does_not_keep_it(
    house: Harness, slow: Bucket
) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    house.homeserver.limit_redactions(lambda: slow.take(house.clock.now()))
    async with house.running(*house.everything):
        whole = await house.said_in(room, "hello")
        relation = {"rel_type": "m.annotation", "event_id": whole}
        for _ in range(40):
            event = {"type": "m.reaction", "content": {"m.relates_to": relation}}
            house.homeserver.add(room, event)
            await house.advance(3 * SECOND)
            if house.homeserver.is_redacted(room, whole):
                break
        assert house.homeserver.is_redacted(room, whole)


@pytest.mark.parametrize(("before", "after"), [(7 * DAY, MINUTE), (MINUTE, DAY)])
async def test_a_late_command_counts_for_what_followed_it(
    house: Harness, before: int, after: int
) -> None:
    room, command, said_after = RoomID("!r:x"), EventID("$command"), EventID("$after")
    setting = Change(setting=before, sender=ALICE, digest="d0", quiet=True)
    unheard = Undecryptable(event_id=command, sender=ALICE, session_id="S", at=1_000)
    messages = [Message(event_id=command, sent=1_000), Message(event_id=said_after, sent=2_000)]
    stretch = RoomUpdate(room_id=room, items=[setting, unheard, *messages])
    await house.store.commit("s1", 2_000, [stretch])
    said = Command(digest="c1", sender=ALICE, kind="set", setting=after)
    await house.store.heard(room, unheard, [said], 3_000)
    found = await house.store.unread.next_gap()
    assert found is not None
    await house.store.unread.read_on(found[0], [messages[1]], "t", 3_000, done=True)
    while await house.store.unread.take_over(3_000):
        pass
    assert await house.timers() == {command: 1_000 + after, said_after: 2_000 + after}


async def test_a_busy_room_does_not_keep_the_backlog_of_others_for_ever(
    house: Harness, slow: Bucket
) -> None:
    chat, other = house.homeserver.make_room(), house.homeserver.make_room()
    house.homeserver.limit_redactions(lambda: slow.take(house.clock.now()))
    overdue = house.homeserver.send(other, "overdue when it is found")
    busy = [house.homeserver.send(chat, f"{number}") for number in range(60)]
    now = house.clock.now()
    await house.enter(other, SECOND)
    message = Message(event_id=overdue, sent=now - HOUR)
    await house.commit(RoomUpdate(room_id=other, items=[message]))
    await house.enter(chat, SECOND)
    house.clock.advance(-SECOND)
    live = [Message(event_id=one, sent=now - SECOND) for one in busy]
    await house.commit(RoomUpdate(room_id=chat, items=list(live)))
    house.clock.advance(SECOND)
    async with house.running(house.redactor):
        for _ in range(20):
            await house.advance(5 * SECOND)
        assert house.homeserver.is_redacted(other, overdue)
        assert not all(house.homeserver.is_redacted(chat, one) for one in busy)


async def test_a_clock_set_back_moves_only_what_was_counted_by_it(house: Harness) -> None:
    room, now = RoomID("!r:x"), house.clock.now()
    await house.enter(room, 7 * DAY)
    whole = EventID("$whole")
    await house.commit(
        RoomUpdate(room_id=room, items=[Message(event_id=whole, sent=now, live=True)])
    )
    mark = await house.store.latest_timer()
    ahead = now + DAY
    items = [
        Message(event_id=EventID("$edit"), sent=ahead, parent=whole, live=True),
        Message(event_id=EventID("$gap"), sent=now),
        Message(event_id=EventID("$live"), sent=ahead, live=True),
    ]
    await house.store.commit("s9", ahead, [RoomUpdate(room_id=room, items=list(items))])
    upto = await house.store.latest_timer()
    await house.store.clock_set_back(DAY, now, after=mark, upto=upto)
    assert set((await house.timers()).values()) == {now + 7 * DAY}


async def test_a_hole_does_not_begin_a_long_sweep_anew(house: Harness) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, DAY)
    for number in range(20):
        house.homeserver.send(room, f"{number}")
    async with house.running(house.intake):
        pass
    sweep = await house.store.sweeps.next()
    assert sweep is not None
    await house.sweeper.step(sweep)
    before = await house.store.sweeps.next()
    await house.store.sweeps.begin(Sweep(room_id=room, whole=False, since=5, until=9))
    after = await house.store.sweeps.next()
    assert before is not None
    assert after is not None
    assert (after.token, after.whole) == (before.token, True)
