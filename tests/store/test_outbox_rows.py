"""What is owed to a room survives its way into the database and back, or is dropped."""

from __future__ import annotations

import contextlib
import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.outbox import AnswerHelp, Content, Outgoing
from bot.core.timeline import Change
from bot.store.outbox import enqueue
from bot.store.outbox_rows import KINDS, UnreadableRowError, dump, load
from tests.support.harness import Harness
from tests.support.two_rooms import ALICE, MINUTE, ONE, commit, said

VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["setting", "sender", "need", "marks", "x"]), inner)
    ),
)


def whole(kind: type[Content]) -> st.SearchStrategy[Content]:
    """Return objects of a kind with anything in every field, defaults included."""
    return st.builds(kind, **{field.name: ... for field in fields(kind)})


@given(content=st.one_of([whole(kind) for kind in KINDS.values()]))
def test_every_kind_survives_its_way_into_a_row_and_back(content: Content) -> None:
    name, args = dump(content)
    assert load(name, json.loads(json.dumps(args))) == content


@given(name=st.sampled_from([*KINDS, "unknown"]), args=VALUES)
def test_any_row_is_read_or_refused_by_one_error(name: str, args: object) -> None:
    with contextlib.suppress(UnreadableRowError):
        load(name, args)


async def test_rows_that_cannot_be_read_are_counted_and_dropped(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    store = harness.store
    await commit(store, ONE, said(ONE, "first"), said(ONE, "second"))
    async with store._db.transaction() as db:
        await db.rows("UPDATE outbox SET kind = 'of tomorrow' WHERE key LIKE '%first'")
        row = await db.one("SELECT room FROM outbox LIMIT 1")
        assert row is not None
        await enqueue(db, row[0], [Outgoing(key="last", content=AnswerHelp(), thread="$root")])
    found = await store.next_to_deliver()
    assert found is not None
    assert found.key.endswith("second")
    assert "1 entries of the outbox could not be read, and are dropped" in caplog.text
    await store.delivered(found)
    last = await store.next_to_deliver()
    assert last is not None
    assert (last.content, last.thread) == (AnswerHelp(), "$root")


@pytest.mark.parametrize("damage", ["kind = 'of tomorrow'", "args = '{'", "args = '[]'"])
async def test_a_damaged_row_of_any_shape_is_dropped(harness: Harness, damage: str) -> None:
    store = harness.store
    await commit(store, ONE, said(ONE, "first"), said(ONE, "second"))
    async with store._db.transaction() as db:
        await db.rows(f"UPDATE outbox SET {damage} WHERE key LIKE '%first'")
    found = await store.next_to_deliver()
    assert found is not None
    assert found.key.endswith("second")


async def test_a_lifetime_that_cannot_be_read_is_taken_back(harness: Harness) -> None:
    store = harness.store
    lifetime = Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True)
    await commit(store, ONE, lifetime, said(ONE, "set", 5 * MINUTE))
    room = await store.room(ONE)
    assert room is not None
    assert (room.setting, room.set_by_command) == (5 * MINUTE, True)
    async with store._db.transaction() as db:
        await db.rows("UPDATE outbox SET args = '{' WHERE kind = 'set'")
    assert await store.next_to_deliver(setting=True) is None
    room = await store.room(ONE)
    assert room is not None
    assert (room.setting, room.set_by_command) == (MINUTE, False)
