"""Timers in the store: what is due, to whom the turn belongs, and that nothing of them stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bot.core.lifetimes import LifetimeLimits
from bot.core.timeline import Change, Gap, Item, Message, Redaction, RoomUpdate
from bot.core.timers import Timer
from bot.core.types import EventID, Millis, RoomID, UserID
from bot.services.database_maintenance import keep_wiping
from bot.store import wiping
from bot.store.commands import NEXT as NEXT_COMMAND
from bot.store.database import Row
from bot.store.gaps import NEXT_GAP, READY, TAKE
from bot.store.invitations import NEXT as INVITATION
from bot.store.left_rooms import COUNT, GAP_ITEMS_OF, KEPT_FOR, TIMERS_OF
from bot.store.left_rooms import OVERDUE as OVERDUE_LEFT
from bot.store.media import NEXT_MEDIA
from bot.store.outbox import NEXT_SETTING, NEXT_WORDS
from bot.store.permissions import NEXT_ALONE, NEXT_POLICY_CHECK, NEXT_REVIEW, REFUSALS
from bot.store.relations import NEXT_PENDING
from bot.store.successors import NEXT as SUCCESSOR
from bot.store.sweeps import NEXT as NEXT_SWEEP
from bot.store.timers import CHILDREN, DUE, FIRST, NEXT, PENDING, ROOMS_DUE
from tests.support.harness import Harness, whatever_is_due
from tests.support.store import Store

ALICE = UserID("@alice:example.org")
ROOM, OTHER = RoomID("!room:example.org"), RoomID("!other:example.org")
MINUTE = 60_000
NOW = 1_800_000_000_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    limits = LifetimeLimits(minimum=1_000, maximum=365 * 86_400_000)
    made = await Store.open(tmp_path / "timers.db", limits=limits, own_id=UserID("@bot:x"))
    yield made
    await made.close()


async def remember(store: Store, room: RoomID, **dues: Millis) -> None:
    """Give messages with these names timers that are due so long from `NOW`."""
    items: list[Item] = [Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True)]
    items += [
        Message(event_id=EventID(f"${name}"), sent=NOW + due - MINUTE) for name, due in dues.items()
    ]
    await store.commit("s1", NOW, [RoomUpdate(room_id=room, items=items)])


async def due(store: Store, now: Millis = NOW, share: int = 100) -> list[str]:
    return [timer.event_id for timer in await whatever_is_due(store, now, share)]


async def one(store: Store, now: Millis = NOW) -> Timer:
    [timer] = await whatever_is_due(store, now, 100)
    return timer


async def rows(store: Store, sql: str, *args: Any, **named: Any) -> list[Row]:
    async with store._db.transaction() as db:
        return await db.rows(sql, *args, **named)


# --- due -----------------------------------------------------------------------------------------


async def test_what_is_due_is_given_oldest_first_and_nothing_before_its_time(store: Store) -> None:
    await remember(store, ROOM, now=0, later=1, long_ago=-(10**12), before=-1)
    assert await due(store) == ["$long_ago", "$before", "$now"]
    assert await store.next_due(NOW) == NOW + 1


async def test_each_room_gets_its_share_however_much_is_due_in_another(store: Store) -> None:
    await remember(store, ROOM, **{f"sweep{number}": -number for number in range(1, 500)})
    await remember(store, OTHER, quick=0)
    found = await due(store, share=3)
    assert found == ["$sweep499", "$sweep498", "$sweep497", "$quick"]


async def test_a_suspended_room_is_passed_over_until_it_is_resumed(store: Store) -> None:
    await remember(store, ROOM, waiting=-5, waiting_longer=7)
    await store.reviewed(ROOM, suspended=True, outgoing=[])
    await remember(store, OTHER, other=3)
    assert await due(store) == []
    assert await store.next_due(NOW) == NOW + 3
    assert await store.next_due(NOW + 3) is None
    await store.reviewed(ROOM, suspended=False, outgoing=[])
    assert await due(store) == ["$waiting"]
    assert await store.next_due(NOW + 3) == NOW + 7


async def test_the_next_due_time_is_the_earliest_after_the_one_given(store: Store) -> None:
    assert await store.next_due(NOW) is None
    await remember(store, ROOM, one=5, two=9)
    await remember(store, OTHER, three=7)
    times = [NOW]
    while (after := await store.next_due(times[-1], [1, 2])) is not None:
        times.append(after)
    assert times == [NOW, NOW + 5, NOW + 7, NOW + 9]


async def test_a_room_with_something_due_is_waited_for_only_when_asked(
    store: Store,
) -> None:
    await remember(store, ROOM, now=5, later=9)
    assert await store.next_due(NOW + 5) is None
    assert await store.next_due(NOW + 5, [1]) == NOW + 9
    assert await store.next_due(NOW + 5, [2]) is None


async def test_a_postponed_timer_waits_alone_and_counts_its_attempts(store: Store) -> None:
    await remember(store, ROOM, refusal_notified=-1, fine=0)
    [stuck, _] = await whatever_is_due(store, NOW, 9)
    await store.postpone(stuck, NOW + 50)
    assert await due(store) == ["$fine"]
    assert await due(store, NOW + 49) == ["$fine"]
    assert await store.next_due(NOW, [1]) == NOW + 50
    [stuck, _] = await whatever_is_due(store, NOW + 50, 9)
    assert (stuck.attempts, stuck.due, stuck.redaction_sent_at) == (1, NOW - 1, None)


async def test_a_sent_timer_waits_for_its_confirmation(store: Store) -> None:
    await remember(store, ROOM, one=0)
    await store.postpone(await one(store), NOW + 1)
    await store.sent(await one(store, NOW + 1), NOW + 1, NOW + 30)
    assert await due(store, NOW + 29) == []
    timer = await one(store, NOW + 30)
    assert (timer.redaction_sent_at, timer.attempts, timer.redaction_round) == (NOW + 1, 0, 0)
    await store.unsent(timer, NOW + 31)
    timer = await one(store, NOW + 31)
    assert (timer.redaction_sent_at, timer.redaction_round) == (None, 1)
    await store.drop(timer)
    assert await store.pending(ROOM) == (0, None)
    assert not await store.any_timer()


async def test_a_redaction_in_the_timeline_drops_the_timer_sent_or_not(store: Store) -> None:
    await remember(store, ROOM, sent=0, unsent=0, stays=0)
    timers = {timer.event_id: timer for timer in await whatever_is_due(store, NOW, 9)}
    await store.sent(timers[EventID("$sent")], NOW, NOW + 30)
    redactions: list[Item] = [
        Redaction(target=EventID(target), target_digest="", sender=ALICE, digest=target)
        for target in ("$sent", "$unsent", "$never_seen")
    ]
    await store.commit("s2", NOW, [RoomUpdate(room_id=ROOM, items=redactions)])
    assert await due(store, NOW + 99) == ["$stays"]
    await store.sent(timers[EventID("$sent")], NOW, NOW + 30)  # its answer came after all that
    assert await store.pending(ROOM) == (1, NOW)


async def test_a_forgotten_room_leaves_nothing(store: Store) -> None:
    await remember(store, ROOM, one=0, two=5)
    await remember(store, OTHER, other=0)
    gap = Gap(room_id=ROOM, token="t", stop_digest="", stop_at=0, since=0, until=NOW)
    waiting = Message(event_id=EventID("$waiting"), sent=NOW)
    await store.commit(
        "s2", NOW, [RoomUpdate(room_id=ROOM, items=[waiting], gap=gap, entered=True)]
    )
    assert await store.forget(ROOM, NOW) == 2
    assert [room.room_id for room in await store.rooms()] == [OTHER]
    assert await store.forget(ROOM, NOW) == 0
    assert await due(store, NOW + 99) == ["$other"]
    assert await store.gaps.next_gap() is None
    assert await store.next_to_deliver() is None
    assert not await store.delete_expired_room(NOW + KEPT_FOR)
    while await store.delete_expired_room(NOW + KEPT_FOR + 1):
        pass
    for table in ("timers", "gaps", "gap_items", "outbox"):
        found = await rows(store, f"SELECT count(*) FROM {table}")
        assert found == [(1 if table == "timers" else 0,)]


# --- how it is found -----------------------------------------------------------------------------


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize(
    ("sql", "args", "table"),
    [
        (ROOMS_DUE, {"backlog": 0, "now": NOW, "last": 0, "most": 8}, "timers"),
        (DUE, {"backlog": 0, "now": NOW, "of": "[1]", "share": 8, "synced": 1}, "timers"),
        (CHILDREN, {"now": NOW, "of": "[1]", "share": 8, "synced": 1}, "timers"),
        (NEXT, {"after": NOW, "rooms": "[1]"}, "timers"),
        (TAKE, (1, 500), "gap_items"),
        (READY, (0,), "gap_items"),
    ],
)
async def test_what_is_due_is_found_through_an_index(
    store: Store, sql: str, args: tuple[Any, ...] | dict[str, Any], table: str, analysed: bool
) -> None:
    await remember(store, ROOM, **{f"e{number}": number for number in range(300)})
    if analysed:
        await rows(store, "ANALYZE")
    aliases = {"timers": ("timers", "t", "c", "k", "p"), "gap_items": ("gap_items",)}[table]
    plan = f"EXPLAIN QUERY PLAN {sql}"
    given = rows(store, plan, **args) if isinstance(args, dict) else rows(store, plan, *args)
    for *_, step in await given:
        for name in aliases:
            assert not step.startswith(f"SCAN {name} ") or "COVERING INDEX" in step, step
            assert step != f"SCAN {name}"


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize(
    "sql",
    [
        *(NEXT_SETTING, NEXT_WORDS, NEXT_PENDING, NEXT_GAP, NEXT_SWEEP, NEXT_MEDIA, SUCCESSOR),
        *(NEXT_REVIEW, NEXT_ALONE, NEXT_POLICY_CHECK, NEXT_COMMAND),
    ],
)
async def test_the_next_of_a_queue_is_found_by_an_index(
    store: Store, sql: str, analysed: bool
) -> None:
    await remember(store, ROOM, **{f"e{number}": number for number in range(300)})
    if analysed:
        await rows(store, "ANALYZE")
    plan = [step for *_, step in await rows(store, f"EXPLAIN QUERY PLAN {sql}", "[]")]
    assert any("USING INDEX" in step or "USING COVERING INDEX" in step for step in plan[:1]), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize(
    ("sql", "args"),
    [
        (PENDING, (ROOM, 9)),
        (FIRST, (ROOM, 0, 9)),
        (REFUSALS, (ROOM, 9)),
        (COUNT, (1, 9)),
        (OVERDUE_LEFT, (1, NOW, 9)),
        (TIMERS_OF, (1, 9)),
        (GAP_ITEMS_OF, (1, 9)),
        (INVITATION, (1, "[]", "[]", 1, "[]", 1)),
    ],
)
async def test_a_portion_costs_no_more_than_its_rows(
    store: Store, sql: str, args: tuple[Any, ...], analysed: bool
) -> None:
    """Neither the whole table is gone through, nor is it put in order first."""
    await remember(store, ROOM, **{f"e{number}": number for number in range(300)})
    if analysed:
        await rows(store, "ANALYZE")
    for *_, step in await rows(store, f"EXPLAIN QUERY PLAN {sql}", *args):
        assert not any(step.startswith(f"SCAN {name}") for name in ("timers", "gap_items")), step
        assert "TEMP B-TREE FOR ORDER BY" not in step


async def test_a_redaction_finds_its_timer_through_an_index(store: Store) -> None:
    plan = await rows(
        store, "EXPLAIN QUERY PLAN DELETE FROM timers WHERE room = 1 AND event_id = 2"
    )
    assert all("SCAN timers" not in step for *_, step in plan)


# --- what is left on the disk --------------------------------------------------------------------


async def on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


@pytest.mark.parametrize("small", [2_000, 0])
@pytest.mark.parametrize("way", ["drop", "redaction", "forget"])
async def test_no_id_of_a_gone_message_can_be_read_from_disk(
    store: Store, tmp_path: Path, way: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiping, "SMALL", small)  # a large file is wiped in portions
    rooms = [RoomID(f"!room-{number}:example.org") for number in range(3)]
    random = Random(7)
    for turn in range(90):
        stays = turn % 3 == 0
        # Where rows of many lengths are moved about, SQLite leaves copies of them behind.
        names = [f"{random.getrandbits(4 * random.randrange(2, 120)):x}" for _ in range(50)]
        word = "keeps" if stays else "NEEDLE"
        room = RoomID("!stays:x") if stays else random.choice(rooms)
        await remember(store, room, **{f"{name}-{word}": 0 for name in names})
    timers = [
        timer for timer in await whatever_is_due(store, NOW, 9_999) if "NEEDLE" in timer.event_id
    ]
    assert len(timers) > 2_900
    random.shuffle(timers)
    await store.wipe()  # what is deleted after the last time has to be noticed by itself
    if way == "drop":
        for timer in timers:
            await store.drop(timer)
    elif way == "forget":
        for room in rooms:
            await store.forget(room, NOW)
        while await store.delete_expired_room(NOW + KEPT_FOR + 1):
            pass  # nobody has asked the bot back
    else:
        for room in rooms:
            redactions: list[Item] = [
                Redaction(target=timer.event_id, target_digest="", sender=ALICE, digest="r")
                for timer in timers
                if timer.room_id == room
            ]
            await store.commit("s2", NOW, [RoomUpdate(room_id=room, items=redactions)])
    assert b"NEEDLE" in await on_disk(tmp_path)
    await store.wipe()
    assert b"NEEDLE" not in await on_disk(tmp_path)
    assert b"-keeps" in await on_disk(tmp_path)


async def test_what_waited_behind_a_gap_cannot_be_read_from_disk_either(
    store: Store, tmp_path: Path
) -> None:
    gap = Gap(room_id=ROOM, token="NEEDLE", stop_digest="", stop_at=0, since=0, until=NOW)
    items: list[Item] = [Message(event_id=EventID(f"$NEEDLE{n}"), sent=NOW) for n in range(2_000)]
    await store.commit("s1", NOW, [RoomUpdate(room_id=ROOM, items=items, gap=gap)])
    found = await store.gaps.next_gap()
    assert found is not None
    await store.gaps.read_on(found[0], [], "t", 0, done=True)
    await store.wipe()
    while await store.take_over(NOW):
        pass
    await store.wipe()
    assert b"NEEDLE" not in await on_disk(tmp_path)


async def test_a_process_that_was_killed_before_tidying_tidies_when_it_is_back(
    store: Store, tmp_path: Path
) -> None:
    await remember(store, ROOM, NEEDLE=0)
    await store.drop(await one(store))
    for file in list(tmp_path.iterdir()):  # as the disk would be found
        target = tmp_path / "later" / file.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    limits = LifetimeLimits(minimum=1, maximum=2)
    later = await Store.open(target.parent / "timers.db", limits=limits, own_id=UserID("@bot:x"))
    await later.wipe()
    assert b"NEEDLE" not in await on_disk(target.parent)
    await later.close()


async def test_what_is_deleted_is_wiped_soon_or_every_five_minutes_while_busy(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiped: list[Millis] = []
    clean = harness.store._db._wipe_file

    async def wipe() -> None:
        wiped.append(harness.clock.now() - start)
        await clean()

    async def delete(table: str) -> None:
        async with harness.store._db.transaction() as db:
            await db.rows(f"DELETE FROM {table}")

    class Keeper:
        async def run(self) -> None:
            await keep_wiping(harness.store, harness.clock)

    monkeypatch.setattr(harness.store._db, "_wipe_file", wipe)
    room, start = harness.homeserver.make_room(), harness.clock.now()
    async with harness.running(Keeper()):
        for _ in range(6):
            await harness.advance(10_000)
        assert wiped == [10_000], "what another process may have left"
        assert harness.clock.waits == [start + 10_000], "nothing was deleted since"
        await harness.remember(room, EventID("$one"), due=start + 9_000_000)
        for _ in range(125):
            await delete("handled_commands")
            await harness.advance(10_000)
        assert wiped[1:] == [310_000, 610_000, 910_000, 1_210_000]
        await delete("timers")
        await harness.advance(9_999)
        assert len(wiped) == 5
        await harness.advance(1)
        assert len(wiped) == 6
