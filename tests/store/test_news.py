"""Whoever waits for something is woken by whatever brings it forward, and by nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from bot.build import Services, build
from bot.config import Settings
from bot.core.outbox import Announce
from bot.core.timeline import Change, KeyUse
from bot.core.topics import Topic, Topics
from tests.support.fake_homeserver import BOT, FakeClock, FakeHomeserver
from tests.support.harness import MINUTE, Harness, Opener
from tests.support.store import Store
from tests.support.store_actions import ACTS, joining
from tests.support.two_rooms import (
    ALICE,
    LESS,
    NOW,
    ONE,
    begin_gap,
    commit,
    end_gap,
    fill,
    furnish,
    gone,
    invite,
    message,
    said,
    sweep,
)

Find = Callable[[Store], Awaitable[Any]]


LIFETIME = Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True)


async def words(store: Store) -> Any:
    return await store.next_to_deliver(setting=False)


async def setting(store: Store) -> Any:
    return await store.next_to_deliver(setting=True)


async def leaving(store: Store) -> Any:
    async with store._db.transaction() as db:
        came_back = await db.rows("SELECT id FROM rooms WHERE returned_at")
    return came_back, await store.next_expiry()


async def bereft(store: Store) -> Any:
    async with store._db.transaction() as db:
        return await db.rows(
            "SELECT room, parent, last_child FROM gone_parents ORDER BY room, parent"
        )


FINDS: list[tuple[str, Find]] = [
    ("redactor", lambda s: s.first_due()),
    ("redactor", lambda s: s.next_due(NOW)),
    ("backfill", lambda s: s.gaps.next_gap()),
    ("backfill", lambda s: s.gaps.is_ready()),
    ("sweeps", lambda s: s.sweeps.next()),
    ("outbox", words),
    ("outbox", setting),
    ("deferred_authorization", lambda s: s.next_pending_command()),
    ("late_keys", lambda s: s.keys.waiting()),
    ("relations", lambda s: s.relations.next_pending()),
    ("permissions", lambda s: s.next_review()),
    ("policy_check", lambda s: s.next_policy_check()),
    ("empty_rooms", lambda s: s.next_alone()),
    ("invitations", lambda s: s.invitations.undecided()),
    ("invitations", lambda s: s.invitations.to_join()),
    ("invitations", lambda s: s.invitations.to_decline()),
    ("room_upgrades", lambda s: s.successors.next()),
    ("media_deletion", lambda s: s.next_media()),
    ("key_expiry", lambda s: s.keys.first_key_use()),
    ("database_maintenance", leaving),
    ("database_maintenance", bereft),
]
"""The services, and what they look for in the store."""


def services_over(store: Store) -> Services:
    clock = FakeClock()
    settings = Settings(homeserver="http://127.0.0.1", user_id=BOT, password=SecretStr("x"))
    known: Any = SimpleNamespace()
    homeserver = FakeHomeserver(clock)
    return build(settings, homeserver, store, clock, Random(1), crypto=known, media=known)


def woken(services: Services) -> set[str]:
    """Return who was woken since this was last asked."""
    found = {name for name, _ in FINDS if getattr(services, name)._wake.is_set()}
    for name, _ in FINDS:
        getattr(services, name)._wake.clear()
    return found


async def calm(store: Store) -> None:
    await furnish(store, ONE)
    await invite(store, ONE)


async def reading(store: Store) -> None:
    await furnish(store, ONE)
    await begin_gap(store, ONE)


async def ready(store: Store) -> None:
    await furnish(store, ONE)
    await end_gap(store, ONE)


async def full(store: Store) -> None:
    await calm(store)
    await joining(store, ONE)
    await fill(store, ONE)


async def bare(store: Store) -> None:
    await commit(store, ONE)


def what(found: Any) -> Any:
    """Return what was found and when its turn is, without what changes nothing of that."""
    one = found[0] if isinstance(found, tuple) and found else found
    name = getattr(one, "id", None) or getattr(one, "media_id", getattr(one, "room_id", one))
    when = found[1] if isinstance(found, tuple) and found else getattr(found, "retry_at", None)
    return name, when


async def answers(store: Store) -> list[Any]:
    return [what(await find(store)) for _, find in FINDS]


@pytest.mark.parametrize("state", [calm, reading, ready, full, bare])
async def test_whoever_would_find_something_else_is_woken(
    open_store: Opener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: Callable[[Store], Awaitable[None]],
) -> None:
    for bound, less in LESS.items():
        monkeypatch.setattr(bound, less)
    store = await open_store(tmp_path / "made.db")
    await state(store)
    await store.close()
    made = (tmp_path / "made.db").read_bytes()
    for name, acts in ACTS.items():
        for number, act in enumerate(acts):
            copy = tmp_path / "copy.db"
            copy.write_bytes(made)
            store = await open_store(copy)
            await answers(store)  # a sweep that has not begun begins when it is asked for
            before = await answers(store)
            services = services_over(store)
            await act(store, ONE)
            found = woken(services)
            after = await answers(store)
            changed = {who for (who, _), a, b in zip(FINDS, before, after, strict=True) if a != b}
            assert changed <= found, f"{name} {number}: nobody wakes {changed - found}"
            await store.close()


async def test_a_used_key_wakes_whoever_moves_it_on(store: Store) -> None:
    services = services_over(store)
    await commit(store, ONE, KeyUse(session_id="session", message_index=1, read_at=NOW))
    assert woken(services) == {"key_expiry"}


async def test_more_children_than_one_portion_wake_whoever_makes_them_due(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.store.relations.PORTION", 2)
    children = [message(f"child {number}", NOW, "parent") for number in range(3)]
    await commit(store, ONE, LIFETIME, message("parent"), *children)
    services = services_over(store)
    await commit(store, ONE, gone("parent"))
    assert woken(services) == {"redactor", "database_maintenance"}


async def test_a_lifetime_that_was_written_lets_the_sweep_begin(store: Store) -> None:
    await commit(store, ONE, LIFETIME, said(ONE, "set", MINUTE))
    await store.sweeps.begin(sweep(ONE))
    assert await store.sweeps.next() is None
    entry = await store.next_to_deliver(setting=True)
    assert entry is not None
    services = services_over(store)
    await store.written(entry, "policy", Announce(setting=MINUTE, sender=ALICE, was=None))
    assert "sweeps" in woken(services)
    assert await store.sweeps.next() is not None


@pytest.fixture
async def store(open_store: Opener, tmp_path: Path) -> Store:
    return await open_store(tmp_path / "timers.db")


async def test_a_transaction_that_is_undone_leaves_nobody_to_be_woken(store: Store) -> None:
    await commit(store, ONE, message("one"))
    heard = store.listen(*Topic)

    async def fails(db: Any) -> None:
        await db.rows("DELETE FROM timers")
        raise ValueError("undone")

    with pytest.raises(ValueError, match="undone"):
        await store._db.whole(fails)
    await commit(store, ONE)
    assert not heard.is_set()


async def test_a_sync_with_nothing_in_it_wakes_nobody(store: Store) -> None:
    await commit(store, ONE, LIFETIME, message("one"))
    heard = store.listen(*Topic)
    await commit(store, ONE, last_event_digest="further on")
    await store.commit("s2", NOW, [])
    assert not heard.is_set()
    await commit(store, ONE, gone("one"))
    assert heard.is_set()


def test_a_clock_that_was_set_wakes_everybody() -> None:
    topics = Topics()
    events = [topics.listen(topic) for topic in Topic]
    topics.publish(Topic.GAPS)
    assert [event.is_set() for event in events] == [topic is Topic.GAPS for topic in Topic]
    topics.publish(Topic.CLOCK)
    assert all(event.is_set() for event in events)


# --- what a sync costs ---------------------------------------------------------------------------


class Transactions:
    """Counts the transactions of a store."""

    def __init__(self, harness: Harness) -> None:
        self._connection = harness.store._db._connection
        self.count = 0

    async def begin(self) -> None:
        await self._connection.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        self.count += statement.startswith("BEGIN")


@pytest.mark.parametrize(("said", "most"), [(0, 1), (1, 3), (5, 3)])
async def test_a_sync_costs_few_transactions(harness: Harness, said: int, most: int) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, 10 * MINUTE)
    async with harness.running(*harness.everything[1:]):
        await harness.sync.once()
        await harness.rest()
        for number in range(said):
            harness.homeserver.send(room, f"message {number}")
        harness.sync._wait = 0
        transactions = Transactions(harness)
        await transactions.begin()
        await harness.sync.once()
        await harness.rest()
        assert 1 <= transactions.count <= most
        assert await harness.pending(room) >= said
