"""The homeserver is asked what belongs to a message only where the bot may not have seen it."""

from __future__ import annotations

from bot.core.outcomes import Unreachable
from bot.core.timeline import Change, RoomUpdate, Sweep
from bot.core.types import RoomID
from tests.services.test_left_rooms import invite_again
from tests.services.test_redactor import messages, see
from tests.services.test_relations import live_in, order_of_redactions, relate
from tests.support.fake_homeserver import ALICE, BOT
from tests.support.harness import MINUTE, Harness


def asked(harness: Harness) -> int:
    return len(harness.homeserver.times("relations"))


async def swept(harness: Harness, room: RoomID) -> None:
    """End what the room was swept for when the bot met it."""
    await harness.store.sweeps.end(Sweep(room_id=room, whole_room=True, since=0, until=0))


async def limited(harness: Harness) -> None:
    """Read a sync that leaves out all but the last event."""
    before, harness.homeserver.limit = harness.homeserver.limit, 1
    await see(harness)
    harness.homeserver.limit = before


async def test_where_all_was_seen_nobody_is_asked(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    await swept(harness, room)
    whole = harness.homeserver.send(room, "hello")
    edit = relate(harness, room, "m.replace", whole)
    await see(harness)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
    assert await order_of_redactions(harness, room) == [edit, whole]
    assert asked(harness) == 0


async def test_messages_from_before_a_gap_are_asked_about(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    await swept(harness, room)
    whole = harness.homeserver.send(room, "hello")
    await see(harness)
    edit = relate(harness, room, "m.replace", whole)
    harness.homeserver.send(room, "more")
    await limited(harness)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
    assert edit in await order_of_redactions(harness, room)
    assert asked(harness) >= 1


async def test_after_a_gap_only_earlier_messages_are_asked_about(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    await swept(harness, room)
    harness.homeserver.send(room, "hello")
    await see(harness)
    harness.homeserver.send(room, "in the gap")
    harness.homeserver.send(room, "more")
    await limited(harness)
    async with harness.running(harness.backfill):
        pass
    harness.homeserver.send(room, "after it")
    await see(harness)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
    assert len(await order_of_redactions(harness, room)) == 4
    assert asked(harness) == 3


async def test_messages_of_a_room_that_is_swept_are_asked_about(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 2, due=MINUTE)
    await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=False, since=0, until=1))
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
    assert asked(harness) == 2


async def test_after_a_sweep_only_earlier_messages_are_asked_about(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 2, due=MINUTE)
    await harness.store.sweeps.begin(Sweep(room_id=room, whole_room=False, since=0, until=1))
    await swept(harness, room)
    await messages(harness, room, 3, due=MINUTE)
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
    assert asked(harness) == 2


async def test_until_a_sync_has_come_after_a_restart_somebody_is_asked(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    await swept(harness, room)
    await messages(harness, room, 2, due=MINUTE)
    await messages(harness, room, 3, due=2 * MINUTE)
    await harness.restart()
    harness.homeserver.hold("sync")
    async with harness.running(harness.sync, harness.redactor):
        await harness.advance(MINUTE)
        assert asked(harness) == 2
        harness.homeserver.release("sync")
        await harness.rest()
        await harness.advance(MINUTE)
        assert asked(harness) == 2


async def test_while_syncs_fail_somebody_is_asked(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    await swept(harness, room)
    async with harness.running(harness.sync, harness.redactor):
        await messages(harness, room, 2, due=MINUTE)
        await messages(harness, room, 3, due=2 * MINUTE)
        harness.homeserver.fail_next(*[Unreachable(reason="x")] * 50, on="sync")
        harness.homeserver.send(room, "ends the long poll")
        await harness.advance(MINUTE)
        assert asked(harness) == 2
        harness.homeserver.recover()
        await harness.advance(MINUTE // 2)
        await harness.advance(MINUTE // 2)
        assert asked(harness) == 2


async def test_after_a_sleep_of_the_machine_somebody_is_asked(harness: Harness) -> None:
    room = await live_in(harness, MINUTE)
    await swept(harness, room)
    await messages(harness, room, 2, due=MINUTE)
    async with harness.running(harness.sync):
        harness.clock.advance(MINUTE - 1)
        harness.homeserver.send(room, "ends the long poll")
        harness.homeserver.hold("sync")
        await harness.rest()
        async with harness.running(harness.redactor):
            await harness.advance(1)
        harness.homeserver.release("sync")
    assert asked(harness) == 2


async def test_who_reads_anew_asks_about_what_waited(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    await messages(harness, room, 2, due=MINUTE)
    change = Change(setting=None, sender=ALICE, digest="", unannounced=True)
    await harness.commit(RoomUpdate(room_id=room, items=[change]))
    batch = await harness.homeserver.sync(None, 0)
    await harness.sync.take(batch, live=False, first=True, synced_at=harness.clock.now())
    assert await harness.store.sweeps.left() == 0
    async with harness.running(harness.redactor):
        await harness.advance(MINUTE)
    assert asked(harness) == 2


async def test_who_was_away_from_the_room_asks_about_what_waited(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    async with harness.running(*harness.everything):
        await messages(harness, room, 2, due=2 * MINUTE)
        harness.homeserver.set_member(room, BOT, "leave", sender=ALICE)
        await harness.advance(MINUTE)
        await invite_again(harness, room)
        await harness.advance(MINUTE)
    assert asked(harness) == 2
