"""A command that is understood late comes to the same as one that is understood at once."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bot.core.commands import Command, Right, SetLifetime, UndecidedCommand
from bot.core.timeline import Change, Item, Message, RoomUpdate, Undecryptable
from bot.core.types import EventID, Millis, RoomID, UserID
from tests.support.harness import Opener
from tests.support.store import Store

ALICE, BOT = UserID("@alice:example.org"), UserID("@bot:example.org")
ROOM, OTHER = RoomID("!room:example.org"), RoomID("!other:example.org")
MINUTE = 60_000
NOW = 1_800_000_000_000
LATE = "late"

Lifetimes = st.sampled_from([0, 1, 5, 60])
Timeline = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.just(0)),
        st.tuples(st.just("part"), st.integers(0, 9)),
        st.tuples(st.just("command"), Lifetimes),
        st.tuples(st.just("change"), Lifetimes),
    ),
    max_size=12,
)


def items_of(timeline: list[tuple[str, int]], start: int) -> list[Item]:
    """Return what a timeline comes to.

    A part belongs to a message before it, or to one that comes later in the same timeline.
    """
    found: list[Item] = []
    for number, (kind, value) in enumerate(timeline, start=start):
        name, sent = EventID(f"${number}"), NOW + number
        match kind:
            case "command":
                said = Command(
                    digest=name, sender=ALICE, effect=SetLifetime(setting=value * MINUTE)
                )
                found += [said, Message(event_id=name, sent=sent)]
            case "change":
                found.append(Change(setting=value * MINUTE, sender=ALICE, digest=name))
            case "part":
                there = value < number or number < value < start + len(timeline)
                parent = EventID(f"${value}") if there else None
                found.append(Message(event_id=name, sent=sent, parent=parent))
            case _:
                found.append(Message(event_id=name, sent=sent))
    return found


async def commit(store: Store, items: list[Item]) -> None:
    await store.commit("s1", NOW, [RoomUpdate(room_id=ROOM, items=items)])


async def stamped(store: Store) -> dict[str, Millis]:
    async with store._db.transaction() as db:
        return dict(await db.rows("SELECT event_id, due - ? FROM timers", NOW))


async def read_again(store: Store, items: list[Item]) -> None:
    """Read what followed the command once more, a few at a time from the end."""
    while (found := await store.gaps.next_gap()) is not None:
        page, items = items[-3:], items[:-3]
        await store.gaps.read_on(found[0], page, "t", 0, done=not items)
    while await store.take_over(NOW) is not None:
        pass


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(  # a reaction to an edit comes before the edit
    before=[("command", 1)],
    after=[*[("message", 0)] * 5, ("part", 8), ("part", 0)],
    setting=0,
    encrypted=False,
)
@example(  # the same, and the edit itself turns out to stay
    before=[("change", 1)],
    after=[*[("message", 0)] * 5, ("part", 8), ("part", 0)],
    setting=0,
    encrypted=False,
)
@given(before=Timeline, after=Timeline, setting=Lifetimes, encrypted=st.booleans())
async def test_a_late_command_gives_the_timers_of_one_that_was_not_late(
    open_store: Opener,
    tmp_path: Path,
    *,
    before: list[tuple[str, int]],
    after: list[tuple[str, int]],
    setting: int,
    encrypted: bool,
) -> None:
    first, then = items_of(before, 0), items_of(after, len(before) + 1)
    # Whoever has changed the lifetime since is obeyed: that is another test.
    then = [one for one in then if isinstance(one, Message)]
    where, sent = EventID(f"${len(before)}"), NOW + len(before)
    own = Message(event_id=where, sent=sent)
    said = Command(
        digest=LATE, sender=ALICE, effect=SetLifetime(setting=setting * MINUTE), event_id=where
    )
    waits: Item = Undecryptable(
        event_id=where, sender=ALICE, session_id="s", read_at=NOW, sent=sent
    )
    if not encrypted:
        waits = UndecidedCommand(
            digest=LATE,
            event_id=where,
            sender=ALICE,
            right=Right.CHANGE_LIFETIME,
            request=SetLifetime(setting=setting * MINUTE),
            sent=sent,
            read_at=NOW,
        )
    timely, late = [await fresh(open_store, tmp_path / name) for name in ("timely.db", "late.db")]
    try:
        await commit(timely, [*first, said, own, *then])
        await commit(late, [*first, waits, own, *then])
        if isinstance(waits, Undecryptable):
            await late.read_late(ROOM, waits, [said], NOW)
        else:
            pending = await late.next_pending_command()
            assert pending is not None
            await late.command_decided(pending, said, NOW)
        await read_again(late, then)
        assert await stamped(late) == await stamped(timely)
        assert await state(late) == await state(timely)
    finally:
        await timely.close()
        await late.close()


async def state(store: Store) -> list[tuple[object, ...]]:
    async with store._db.transaction() as db:
        rooms = await db.rows(
            "SELECT setting, state_setting, set_by_command, awaited_digest, revision FROM rooms"
        )
        outgoing = await db.rows("SELECT key, kind, args FROM outbox ORDER BY key")
    return [*rooms, *outgoing]


async def fresh(open_store: Opener, path: Path) -> Store:
    path.unlink(missing_ok=True)
    return await open_store(path)
