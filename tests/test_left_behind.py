"""A bot that was removed and is asked back: what was waiting goes on, as if it had been there."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from bot.model import EventID, RoomID
from bot.policy import Owed, Stamp
from bot.store.left_rooms import KEPT_FOR, LEFT_OF_ONE, PORTION
from bot.timeline import Attached, Stretch, Sweep
from bot.wayback import WayBack
from tests.fakes import ALICE, BOT
from tests.house import DAY, MINUTE, SECOND, House, due_of

HOUR = 60 * MINUTE


@pytest.fixture
async def room(house: House) -> RoomID:
    """A room that the bot knows."""
    room = house.homeserver.make_room()
    await house.enter(room, SECOND)
    return room


async def messages(house: House, room: RoomID, count: int, *, due: int) -> list[EventID]:
    """Send messages that are due so many milliseconds from now."""
    sent = [house.homeserver.send(room, f"message {number}") for number in range(count)]
    await house.remember(room, *sent, due=house.clock.now() + due)
    return sent


def gone(house: House, room: RoomID, sent: list[EventID]) -> int:
    return sum(house.homeserver.is_redacted(room, one) for one in sent)


async def kept(house: House) -> int:
    async with house.store._db.transaction() as db:
        [(found,)] = await db.rows(
            "SELECT count(*) FROM timers JOIN rooms r ON r.id = room WHERE r.left_at IS NOT NULL"
        )
    return int(found)


async def invite_again(house: House, room: RoomID) -> None:
    house.homeserver.set_member(room, BOT, "invite", sender=ALICE)
    await house.rest()
    assert house.homeserver.rooms[room].membership(BOT) == "join"


@pytest.mark.parametrize("how", ["leave", "ban"])
async def test_what_waited_when_the_bot_was_removed_goes_when_it_is_asked_back(
    house: House, room: RoomID, how: str
) -> None:
    async with house.running(*house.everything):
        early = await messages(house, room, 3, due=MINUTE)
        late = await messages(house, room, 2, due=10 * MINUTE)
        house.homeserver.set_member(room, BOT, how, sender=ALICE)
        await house.rest()
        assert await house.store.room(room) is None
        await house.advance(5 * MINUTE)
        assert gone(house, room, early + late) == 0
        await invite_again(house, room)
        await house.advance(SECOND)
        assert gone(house, room, early) == 3
        assert gone(house, room, late) == 0
        await house.advance(5 * MINUTE)
        assert gone(house, room, late) == 2
    assert await kept(house) == 0
    assert "What waited when I was removed still goes: 5 messages." in "".join(
        house.homeserver.heard(room)
    )


async def test_it_is_kept_over_restarts_and_a_second_removal(house: House, room: RoomID) -> None:
    sent = await messages(house, room, 3, due=2 * DAY)
    for _ in range(2):
        house.homeserver.kick(room)
        await house.restart()
        async with house.running(*house.everything):
            await house.advance(MINUTE)
            assert await kept(house) == 3
            await invite_again(house, room)
            assert await house.pending(room) == 3
    async with house.running(*house.everything):
        await house.advance(2 * DAY)
    assert gone(house, room, sent) == 3


async def test_it_costs_nothing_while_nobody_asks_the_bot_back(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        await messages(house, room, 3, due=MINUTE)
        house.homeserver.kick(room)
        await house.rest()
        house.homeserver.asked.clear()
        for _ in range(10):
            await house.advance(DAY)
    assert house.homeserver.asked == []


async def test_after_a_month_it_is_forgotten(house: House, room: RoomID) -> None:
    async with house.running(*house.everything):
        sent = await messages(house, room, 3, due=2 * KEPT_FOR)
        house.homeserver.kick(room)
        await house.rest()
        await house.advance(KEPT_FOR - SECOND)
        assert await kept(house) == 3
        await house.advance(2 * SECOND)
        assert await kept(house) == 0
        await invite_again(house, room)
        await house.advance(2 * KEPT_FOR)
    assert gone(house, room, sent) == 0
    assert "What waited" not in "".join(house.homeserver.heard(room))


async def test_a_room_that_was_deleted_is_forgotten_after_a_month_too(
    house: House, room: RoomID
) -> None:
    """It answers as one does that has banned the bot."""
    async with house.running(*house.everything):
        await messages(house, room, 3, due=MINUTE)
        del house.homeserver.rooms[room]
        await house.advance(MINUTE)
        await house.advance(MINUTE)
        assert await house.store.room(room) is None
        house.homeserver.asked.clear()
        await house.advance(KEPT_FOR + SECOND)
        assert house.homeserver.asked == []
    assert await kept(house) == 0


async def test_what_belongs_to_a_message_goes_before_it_after_the_return_too(
    house: House, room: RoomID
) -> None:
    async with house.running(*house.everything):
        [old] = await messages(house, room, 1, due=SECOND // 2)
        edit: dict[str, Any] = {"m.relates_to": {"rel_type": "m.replace", "event_id": old}}
        child = house.homeserver.send(room, "edited", **edit)
        await house.rest()
        house.homeserver.kick(room)
        await house.rest()
        await house.advance(MINUTE)
        await invite_again(house, room)
        await house.advance(MINUTE)
    targets = [event["redacts"] for event in house.homeserver.redactions(room)]
    assert targets.index(child) < targets.index(old)


# --- what stood behind a gap ---------------------------------------------------------------------


async def with_a_gap(house: House, room: RoomID) -> tuple[list[EventID], list[EventID]]:
    """Let the bot miss messages and see others, and remove it before it has read the gap."""
    house.homeserver.limit, house.homeserver.page = 5, 5
    async with house.running(house.intake):
        house.homeserver.set_lifetime(room, 10 * MINUTE)
        await house.rest()
    missed = [house.homeserver.send(room, f"missed {number}") for number in range(12)]
    async with house.running(house.intake):
        pass
    async with house.running(house.intake):
        seen = [await house.said_in(room, f"seen {number}") for number in range(3)]
    house.homeserver.kick(room)
    return missed, seen


async def test_a_gap_and_what_waits_behind_it_go_on_when_the_bot_is_asked_back(
    house: House, room: RoomID
) -> None:
    missed, seen = await with_a_gap(house, room)
    async with house.running(*house.everything):
        await house.rest()
        assert await house.store.room(room) is None
        assert await house.store.unread.next_gap() is None
        await house.advance(5 * MINUTE)
        assert await kept(house) == 0
        await invite_again(house, room)
        assert {*missed, *seen} <= set(await house.timers())
        assert gone(house, room, missed + seen) == 0
        await house.advance(5 * MINUTE)
        assert gone(house, room, missed + seen) == len(missed + seen)


async def test_a_gap_is_kept_over_a_restart_and_ends_after_a_month(
    house: House, room: RoomID
) -> None:
    await with_a_gap(house, room)
    async with house.running(*house.everything):
        await house.rest()
    await house.restart()
    async with house.running(*house.everything):
        await house.advance(KEPT_FOR - SECOND)
        async with house.store._db.transaction() as db:
            assert await db.one("SELECT 1 FROM gaps") is not None
        await house.advance(2 * SECOND)
        async with house.store._db.transaction() as db:
            for table in ("gaps", "unread", "rooms"):
                assert await db.one(f"SELECT 1 FROM {table}") is None


async def test_what_was_said_before_keeps_the_lifetime_of_then(house: House, room: RoomID) -> None:
    """The room has another one when the bot comes back, and its gap is read only now."""
    missed, seen = await with_a_gap(house, room)
    async with house.running(*house.everything):
        await house.rest()
        house.homeserver.set_lifetime(room, DAY)
        await invite_again(house, room)
        new = await house.said_in(room, "new")
        timers = await house.timers()
        now = house.clock.now()
        assert {timers[one] for one in missed + seen} == {now + 10 * MINUTE}
        assert timers[new] == now + DAY


async def test_a_room_without_a_lifetime_is_one_when_the_bot_comes_back(
    house: House, room: RoomID
) -> None:
    """A command that had not been written when the bot was removed does not hold any more."""
    async with house.running(*house.everything):
        await messages(house, room, 1, due=DAY)
        house.homeserver.kick(room)
        await house.rest()
        await invite_again(house, room)
        sent = await house.said_in(room, "stays")
        assert sent not in await house.timers()


# --- order and cost ------------------------------------------------------------------------------


async def test_each_timer_is_due_at_its_own_time_and_live_ones_go_first(
    house: House, room: RoomID
) -> None:
    async with house.running(*house.everything):
        house.homeserver.set_lifetime(room, 10 * SECOND)
        await messages(house, room, 40, due=MINUTE)
        later = await messages(house, room, 2, due=HOUR)
        house.homeserver.kick(room)
        await house.rest()
        await house.advance(5 * MINUTE)
        house.homeserver.hold("redact")
        await invite_again(house, room)
        live = await house.said_in(room, "live")
        await house.advance(10 * SECOND)
        house.homeserver.release("redact")
        await house.rest()
        order = [event["redacts"] for event in house.homeserver.redactions(room)]
        assert order.index(live) < 20
        assert len(order) >= 41
        assert (await house.timers())[later[0]] == house.clock.now() + HOUR - 5 * MINUTE - 10_000


async def test_leaving_and_coming_back_touch_no_timer(house: House, room: RoomID) -> None:
    """They cost the same with one timer or many: the rest is done a portion at a time."""
    many = [EventID(f"$many-{number}") for number in range(3 * PORTION)]
    await house.remember(room, *many, due=house.clock.now() + MINUTE)

    async def effort(what: Awaitable[Any]) -> int:
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection = house.store._db._connection
        await connection.set_progress_handler(step, 100)
        await what
        await connection.set_progress_handler(lambda: 0, 1_000_000)
        return 100 * steps

    assert await effort(house.store.forget(room, house.clock.now())) < 10 * len(many)
    house.clock.advance(HOUR)
    back = Stretch(room_id=room, items=[], entered=True)
    assert await effort(house.commit(back)) < 10 * len(many)
    portions = 0
    while await house.store.put_in_order():
        portions += 1
        live = await due_of(house.store, house.clock.now(), 10, backlog=False)
        assert not live or portions > len(many) // PORTION  # the room waits until it is in order
    assert portions == len(many) // PORTION + 1
    assert len(await due_of(house.store, house.clock.now(), 10, backlog=True)) == 10


async def test_what_is_kept_for_one_account_has_a_bound_and_shuts_out_nobody(
    house: House, room: RoomID
) -> None:
    async with house.store._db.transaction() as db:
        await db.rows("UPDATE rooms SET inviter = 'bob'")
    await messages(house, room, 1, due=DAY)
    await house.store.forget(room, house.clock.now())
    rooms = [RoomID(f"!{number}:example.org") for number in range(LEFT_OF_ONE + 3)]
    for number, one in enumerate(rooms):
        await house.remember(one, EventID(f"${number}"), due=house.clock.now() + DAY)
        async with house.store._db.transaction() as db:
            await db.rows("UPDATE rooms SET inviter = 'eve' WHERE room_id = ?", one)
        await house.store.forget(one, house.clock.now())
        house.clock.advance(1)
    while await house.store.end_left(house.clock.now()):
        pass
    assert await kept(house) == LEFT_OF_ONE + 1
    assert (await house.timers())[EventID(f"${LEFT_OF_ONE + 2}")]


async def test_a_room_may_be_left_again_while_an_earlier_time_is_deleted(
    house: House, room: RoomID
) -> None:
    for day in range(3):
        await house.remember(room, EventID(f"$day-{day}"), due=house.clock.now() + DAY)
        await house.store.forget(room, house.clock.now())
        house.clock.advance(KEPT_FOR + SECOND)
    while await house.store.end_left(house.clock.now()):
        pass
    assert await house.timers() == {}


async def test_what_comes_for_a_room_that_is_gone_meanwhile_changes_nothing(
    house: House, room: RoomID
) -> None:
    gone = RoomID("!gone:example.org")
    store, sweep = house.store, Sweep(room_id=gone, whole=True, since=0, until=9, token="t")
    stamp = Stamp(event_id=EventID("$x"), due=1)
    file = Attached(event_id=EventID("$x"), media_ids=["file"], owner="owner")

    async def everything() -> dict[str, list[Any]]:
        async with store._db.transaction() as db:
            names = await db.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {name: await db.rows(f"SELECT * FROM {name}") for (name,) in names}

    before = await everything()
    await store.sweeps.begin(sweep)
    way = WayBack(setting=MINUTE)
    read = store.sweeps.read_on(sweep, [stamp], [file], 5, token="t", way=way, events=1)
    assert await read == 0
    await store.sweeps.again(sweep, 7)
    await store.sweeps.later(sweep, 7)
    await store.sweeps.end(sweep)
    await store.sweeps.give_up(sweep)
    await store.reviewed(gone, suspended=True, owed=[Owed(key="k", kind="lost", args={})])
    await store.review_later(gone, 7)
    await store.ask_review(gone)
    await store.look_for_others(gone, 7)
    await store.default_told(gone, ())
    assert await everything() == before


async def test_what_is_due_when_the_bot_comes_back_is_backlog_and_what_follows_is_not(
    house: House, room: RoomID
) -> None:
    now = house.clock.now()
    for number, due in enumerate((-1, 0, 1)):
        await house.remember(room, EventID(f"${number}"), due=now + 1_000 + due)
    async with house.store._db.transaction() as db:
        await db.rows("UPDATE timers SET backlog = 0")
    await house.store.forget(room, now)
    back = Stretch(room_id=room, items=[], entered=True)
    await house.store.commit("s9", now + 1_000, [back])
    while await house.store.put_in_order():
        pass
    async with house.store._db.transaction() as db:
        found = await db.rows("SELECT event_id, backlog FROM timers ORDER BY event_id")
    assert found == [("$0", 1), ("$1", 1), ("$2", 0)]
