"""A bot that was removed and is asked back: what was waiting goes on, as if it had been there."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from bot.core.outbox import Outgoing, Resumed
from bot.core.policy import NewTimer
from bot.core.policy_backward import PolicyBackward
from bot.core.timeline import MediaReference, RoomUpdate, Sweep
from bot.core.types import EventID, RoomID
from bot.store.left_rooms import KEPT_FOR, LEFT_OF_ONE, PORTION
from tests.support.fake_homeserver import ALICE, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness, due_of

HOUR = 60 * MINUTE


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot knows."""
    room = harness.homeserver.make_room()
    await harness.enter(room, SECOND)
    return room


async def messages(harness: Harness, room: RoomID, count: int, *, due: int) -> list[EventID]:
    """Send messages that are due so many milliseconds from now."""
    sent = [harness.homeserver.send(room, f"message {number}") for number in range(count)]
    await harness.remember(room, *sent, due=harness.clock.now() + due)
    return sent


def gone(harness: Harness, room: RoomID, sent: list[EventID]) -> int:
    return sum(harness.homeserver.is_redacted(room, one) for one in sent)


async def kept(harness: Harness) -> int:
    async with harness.store._db.transaction() as db:
        [(found,)] = await db.rows(
            "SELECT count(*) FROM timers JOIN rooms r ON r.id = room WHERE r.left_at IS NOT NULL"
        )
    return int(found)


async def invite_again(harness: Harness, room: RoomID) -> None:
    harness.homeserver.set_member(room, BOT, "invite", sender=ALICE)
    await harness.rest()
    assert harness.homeserver.rooms[room].membership(BOT) == "join"


@pytest.mark.parametrize("how", ["leave", "ban"])
async def test_what_waited_when_the_bot_was_removed_goes_after_its_return(
    harness: Harness, room: RoomID, how: str
) -> None:
    async with harness.running(*harness.everything):
        early = await messages(harness, room, 3, due=MINUTE)
        late = await messages(harness, room, 2, due=10 * MINUTE)
        harness.homeserver.set_member(room, BOT, how, sender=ALICE)
        await harness.rest()
        assert await harness.store.room(room) is None
        await harness.advance(5 * MINUTE)
        assert gone(harness, room, early + late) == 0
        await invite_again(harness, room)
        await harness.advance(SECOND)
        assert gone(harness, room, early) == 3
        assert gone(harness, room, late) == 0
        await harness.advance(5 * MINUTE)
        assert gone(harness, room, late) == 2
    assert await kept(harness) == 0
    assert "What waited when I was removed still goes: 5 messages." in "".join(
        harness.homeserver.heard(room)
    )


async def test_it_is_kept_over_restarts_and_a_second_removal(
    harness: Harness, room: RoomID
) -> None:
    sent = await messages(harness, room, 3, due=2 * DAY)
    for _ in range(2):
        harness.homeserver.kick(room)
        await harness.restart()
        async with harness.running(*harness.everything):
            await harness.advance(MINUTE)
            assert await kept(harness) == 3
            await invite_again(harness, room)
            assert await harness.pending(room) == 3
    async with harness.running(*harness.everything):
        await harness.advance(2 * DAY)
    assert gone(harness, room, sent) == 3


async def test_it_costs_nothing_while_nobody_asks_the_bot_back(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        await messages(harness, room, 3, due=MINUTE)
        harness.homeserver.kick(room)
        await harness.rest()
        harness.homeserver.asked.clear()
        for _ in range(10):
            await harness.advance(DAY)
    assert harness.homeserver.asked == []


async def test_after_a_month_it_is_forgotten(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        sent = await messages(harness, room, 3, due=2 * KEPT_FOR)
        harness.homeserver.kick(room)
        await harness.rest()
        await harness.advance(KEPT_FOR - SECOND)
        assert await kept(harness) == 3
        await harness.advance(2 * SECOND)
        assert await kept(harness) == 0
        await invite_again(harness, room)
        await harness.advance(2 * KEPT_FOR)
    assert gone(harness, room, sent) == 0
    assert "What waited" not in "".join(harness.homeserver.heard(room))


async def test_a_room_that_was_deleted_is_forgotten_after_a_month_too(
    harness: Harness, room: RoomID
) -> None:
    """It answers as one does that has banned the bot."""
    async with harness.running(*harness.everything):
        await messages(harness, room, 3, due=MINUTE)
        del harness.homeserver.rooms[room]
        await harness.advance(MINUTE)
        await harness.advance(MINUTE)
        assert await harness.store.room(room) is None
        harness.homeserver.asked.clear()
        await harness.advance(KEPT_FOR + SECOND)
        assert harness.homeserver.asked == []
    assert await kept(harness) == 0


async def test_what_belongs_to_a_message_goes_before_it_after_the_return_too(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        [old] = await messages(harness, room, 1, due=SECOND // 2)
        edit: dict[str, Any] = {"m.relates_to": {"rel_type": "m.replace", "event_id": old}}
        child = harness.homeserver.send(room, "edited", **edit)
        await harness.rest()
        harness.homeserver.kick(room)
        await harness.rest()
        await harness.advance(MINUTE)
        await invite_again(harness, room)
        await harness.advance(MINUTE)
    targets = [event["redacts"] for event in harness.homeserver.redactions(room)]
    assert targets.index(child) < targets.index(old)


# --- what stood behind a gap ---------------------------------------------------------------------


async def with_a_gap(harness: Harness, room: RoomID) -> tuple[list[EventID], list[EventID]]:
    """Let the bot miss messages and see others, and remove it before it has read the gap."""
    harness.homeserver.limit, harness.homeserver.page = 5, 5
    async with harness.running(harness.sync):
        harness.homeserver.set_lifetime(room, 10 * MINUTE)
        await harness.rest()
    missed = [harness.homeserver.send(room, f"missed {number}") for number in range(12)]
    async with harness.running(harness.sync):
        pass
    async with harness.running(harness.sync):
        seen = [await harness.said_in(room, f"seen {number}") for number in range(3)]
    harness.homeserver.kick(room)
    return missed, seen


async def test_a_gap_and_what_waits_behind_it_go_on_after_a_return(
    harness: Harness, room: RoomID
) -> None:
    missed, seen = await with_a_gap(harness, room)
    async with harness.running(*harness.everything):
        await harness.rest()
        assert await harness.store.room(room) is None
        assert await harness.store.gaps.next_gap() is None
        await harness.advance(5 * MINUTE)
        assert await kept(harness) == 0
        await invite_again(harness, room)
        assert {*missed, *seen} <= set(await harness.timers())
        assert gone(harness, room, missed + seen) == 0
        await harness.advance(5 * MINUTE)
        assert gone(harness, room, missed + seen) == len(missed + seen)


async def test_a_gap_is_kept_over_a_restart_and_ends_after_a_month(
    harness: Harness, room: RoomID
) -> None:
    await with_a_gap(harness, room)
    async with harness.running(*harness.everything):
        await harness.rest()
    await harness.restart()
    async with harness.running(*harness.everything):
        await harness.advance(KEPT_FOR - SECOND)
        async with harness.store._db.transaction() as db:
            assert await db.one("SELECT 1 FROM gaps") is not None
        await harness.advance(2 * SECOND)
        async with harness.store._db.transaction() as db:
            for table in ("gaps", "gap_items", "rooms"):
                assert await db.one(f"SELECT 1 FROM {table}") is None


async def test_what_was_said_before_keeps_the_lifetime_of_then(
    harness: Harness, room: RoomID
) -> None:
    """The room has another one when the bot comes back, and its gap is read only now."""
    missed, seen = await with_a_gap(harness, room)
    async with harness.running(*harness.everything):
        await harness.rest()
        harness.homeserver.set_lifetime(room, DAY)
        await invite_again(harness, room)
        new = await harness.said_in(room, "new")
        timers = await harness.timers()
        now = harness.clock.now()
        assert {timers[one] for one in missed + seen} == {now + 10 * MINUTE}
        assert timers[new] == now + DAY


async def test_a_room_without_a_lifetime_is_one_when_the_bot_comes_back(
    harness: Harness, room: RoomID
) -> None:
    """A command that had not been written when the bot was removed does not hold any more."""
    async with harness.running(*harness.everything):
        await messages(harness, room, 1, due=DAY)
        harness.homeserver.kick(room)
        await harness.rest()
        await invite_again(harness, room)
        sent = await harness.said_in(room, "stays")
        assert sent not in await harness.timers()


# --- order and cost ------------------------------------------------------------------------------


async def test_each_timer_has_its_own_time_and_live_ones_go_first(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        harness.homeserver.set_lifetime(room, 10 * SECOND)
        await messages(harness, room, 40, due=MINUTE)
        later = await messages(harness, room, 2, due=HOUR)
        harness.homeserver.kick(room)
        await harness.rest()
        await harness.advance(5 * MINUTE)
        harness.homeserver.hold("redact")
        await invite_again(harness, room)
        live = await harness.said_in(room, "live")
        await harness.advance(10 * SECOND)
        harness.homeserver.release("redact")
        await harness.rest()
        order = [event["redacts"] for event in harness.homeserver.redactions(room)]
        assert order.index(live) < 20
        assert len(order) >= 41
        assert (await harness.timers())[
            later[0]
        ] == harness.clock.now() + HOUR - 5 * MINUTE - 10_000


async def test_leaving_and_coming_back_touch_no_timer(harness: Harness, room: RoomID) -> None:
    """They cost the same with one timer or many: the rest is done a portion at a time."""
    many = [EventID(f"$many-{number}") for number in range(3 * PORTION)]
    await harness.remember(room, *many, due=harness.clock.now() + MINUTE)

    async def effort(what: Awaitable[Any]) -> int:
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection = harness.store._db._connection
        await connection.set_progress_handler(step, 100)
        await what
        await connection.set_progress_handler(lambda: 0, 1_000_000)
        return 100 * steps

    assert await effort(harness.store.forget(room, harness.clock.now())) < 10 * len(many)
    harness.clock.advance(HOUR)
    back = RoomUpdate(room_id=room, items=[], entered=True)
    assert await effort(harness.commit(back)) < 10 * len(many)
    portions = 0
    while await harness.store.put_in_order():
        portions += 1
        live = await due_of(harness.store, harness.clock.now(), 10, backlog=False)
        assert not live or portions > len(many) // PORTION  # the room waits until it is in order
    assert portions == len(many) // PORTION + 1
    assert len(await due_of(harness.store, harness.clock.now(), 10, backlog=True)) == 10


async def test_what_is_kept_for_an_account_is_bounded_and_shuts_out_nobody(
    harness: Harness, room: RoomID
) -> None:
    async with harness.store._db.transaction() as db:
        await db.rows("UPDATE rooms SET inviter_digest = 'bob'")
    await messages(harness, room, 1, due=DAY)
    await harness.store.forget(room, harness.clock.now())
    rooms = [RoomID(f"!{number}:example.org") for number in range(LEFT_OF_ONE + 3)]
    for number, one in enumerate(rooms):
        await harness.remember(one, EventID(f"${number}"), due=harness.clock.now() + DAY)
        async with harness.store._db.transaction() as db:
            await db.rows("UPDATE rooms SET inviter_digest = 'eve' WHERE room_id = ?", one)
        await harness.store.forget(one, harness.clock.now())
        harness.clock.advance(1)
    while await harness.store.delete_expired_room(harness.clock.now()):
        pass
    assert await kept(harness) == LEFT_OF_ONE + 1
    assert (await harness.timers())[EventID(f"${LEFT_OF_ONE + 2}")]


async def test_a_room_may_be_left_again_while_an_earlier_time_is_deleted(
    harness: Harness, room: RoomID
) -> None:
    for day in range(3):
        await harness.remember(room, EventID(f"$day-{day}"), due=harness.clock.now() + DAY)
        await harness.store.forget(room, harness.clock.now())
        harness.clock.advance(KEPT_FOR + SECOND)
    while await harness.store.delete_expired_room(harness.clock.now()):
        pass
    assert await harness.timers() == {}


async def test_what_comes_for_a_room_that_is_gone_meanwhile_changes_nothing(
    harness: Harness, room: RoomID
) -> None:
    gone = RoomID("!gone:example.org")
    store, sweep = harness.store, Sweep(room_id=gone, whole_room=True, since=0, until=9, token="t")
    stamp = NewTimer(event_id=EventID("$x"), due=1)
    file = MediaReference(event_id=EventID("$x"), media_ids=["file"], owner_digest="owner")

    async def everything() -> dict[str, list[Any]]:
        async with store._db.transaction() as db:
            names = await db.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {name: await db.rows(f"SELECT * FROM {name}") for (name,) in names}

    before = await everything()
    await store.sweeps.begin(sweep)
    way = PolicyBackward(setting=MINUTE)
    read = store.sweeps.read_on(sweep, [stamp], [file], 5, token="t", way=way, events=1)
    assert await read == 0
    await store.sweeps.again(sweep, 7)
    await store.sweeps.later(sweep, 7)
    await store.sweeps.end(sweep)
    await store.sweeps.give_up(sweep)
    await store.reviewed(gone, suspended=True, outgoing=[Outgoing(key="k", content=Resumed())])
    await store.review_later(gone, 7)
    await store.ask_review(gone)
    await store.look_for_others(gone, 7)
    await store.defaults_published(gone, ())
    assert await everything() == before


async def test_only_what_is_due_when_the_bot_comes_back_is_backlog(
    harness: Harness, room: RoomID
) -> None:
    now = harness.clock.now()
    for number, due in enumerate((-1, 0, 1)):
        await harness.remember(room, EventID(f"${number}"), due=now + 1_000 + due)
    async with harness.store._db.transaction() as db:
        await db.rows("UPDATE timers SET backlog = 0")
    await harness.store.forget(room, now)
    back = RoomUpdate(room_id=room, items=[], entered=True)
    await harness.store.commit("s9", now + 1_000, [back])
    while await harness.store.put_in_order():
        pass
    async with harness.store._db.transaction() as db:
        found = await db.rows("SELECT event_id, backlog FROM timers ORDER BY event_id")
    assert found == [("$0", 1), ("$1", 1), ("$2", 0)]
