"""How much and for how long is kept, in numbers that stand here, and over more than one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bot.core.commands import Command, SetLifetime
from bot.core.invitations import Invite
from bot.core.outbox import AnswerHelp, Outgoing, SetPolicy, Suspended
from bot.core.timeline import Change, Item, Message, RoomUpdate, Undecryptable
from bot.core.types import EventID, RoomID, UserID
from bot.store.handled_commands import remember_handled
from tests.matrix.encryption.test_hostile_devices import alice, bot
from tests.services.test_sweeps import REMOTE, clear, hole, put_below
from tests.support.encryption_engines import Bot, Peer, Writer
from tests.support.fake_homeserver import ALICE
from tests.support.harness import DAY, MINUTE, Harness, Opener
from tests.support.store import Store

__all__ = ["alice", "bot"]  # fixtures

ROOM, OTHER = RoomID("!room:example.org"), RoomID("!other:example.org")
NOW = 1_800_000_000_000
HOUR = 60 * MINUTE


@pytest.fixture
async def store(open_store: Opener, tmp_path: Path) -> Store:
    made = await open_store(tmp_path / "timers.db")
    await commit(made, Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True))
    return made


async def commit(
    store: Store, *items: Item, room: RoomID = ROOM, at: int = NOW, **more: Any
) -> None:
    await store.commit("s1", at, [RoomUpdate(room_id=room, items=list(items), **more)])


async def count(store: Store, what: str) -> int:
    async with store._db.transaction() as db:
        [(found,)] = await db.rows(f"SELECT count(*) FROM {what}")
    return int(found)


def helps(numbers: range) -> list[Item]:
    return [
        Command(digest=f"help {number}", sender=ALICE, effect=AnswerHelp()) for number in numbers
    ]


def undecryptable(sender: str, numbers: range) -> list[Item]:
    return [
        Undecryptable(
            event_id=EventID(f"${sender} {number}"),
            sender=UserID(sender),
            session_id="s",
            read_at=NOW,
        )
        for number in numbers
    ]


# --- how long ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("away", "kept"), [(30 * DAY, 1), (30 * DAY + 1, 0)])
async def test_what_waits_in_a_left_room_is_kept_for_30_days(
    store: Store, away: int, kept: int
) -> None:
    await commit(store, Message(event_id=EventID("$waits"), sent=NOW + 99 * DAY))
    await store.forget(ROOM, NOW)
    await commit(store, entered=True, at=NOW + away)
    assert (await store.pending(ROOM))[0] == kept


async def test_it_is_kept_though_syncs_come_all_the_time(store: Store) -> None:
    await commit(store, Message(event_id=EventID("$waits"), sent=NOW + 99 * DAY))
    await store.forget(ROOM, NOW)
    for day in range(0, 31, 5):
        await commit(store, room=OTHER, at=NOW + day * DAY)
        assert not await store.delete_expired_room(NOW + day * DAY)
    assert await count(store, "rooms WHERE left_at >= 0") == 1
    await commit(store, room=OTHER, at=NOW + 30 * DAY + HOUR)
    while await store.delete_expired_room(NOW + 30 * DAY + HOUR):
        pass
    assert await count(store, "timers") == 0


async def test_a_command_counts_once_in_90_days(store: Store) -> None:
    await commit(store, *helps(range(1)))
    for day in range(0, 91, 10):
        await commit(store, *helps(range(1)), at=NOW + day * DAY)
    assert await count(store, "outbox") == 1
    await commit(store, at=NOW + 90 * DAY + HOUR)
    assert await count(store, "handled_commands") == 0


async def test_a_command_over_the_limit_is_remembered_for_a_day(store: Store) -> None:
    surplus = Command(digest="surplus", sender=ALICE, effect=None)
    await commit(store, surplus)
    await commit(store, at=NOW + DAY)
    assert await count(store, "handled_commands") == 1
    await commit(store, at=NOW + DAY + HOUR)
    assert await count(store, "handled_commands") == 0


async def test_of_commands_the_newest_are_remembered(store: Store) -> None:
    async with store._db.transaction() as db:
        for day, name in enumerate("abc"):
            many = [f"{name}{number}" for number in range(40_000)]
            await remember_handled(db, [], many, NOW + day)
    assert await count(store, "handled_commands") == 100_000
    assert await count(store, "handled_commands WHERE digest LIKE 'c%'") == 40_000
    assert await count(store, "handled_commands WHERE digest LIKE 'a%'") == 20_000


# --- how much ------------------------------------------------------------------------------------


async def test_a_room_is_owed_100_answers_however_they_were_asked_for(store: Store) -> None:
    for first in range(0, 150, 50):
        await commit(store, *helps(range(first, first + 50)))
    assert await count(store, "outbox") == 100
    await commit(store, *helps(range(200, 201)))
    await store.reviewed(
        ROOM, suspended=True, outgoing=[Outgoing(key="k", content=Suspended(need=1, have=0))]
    )
    assert await count(store, "outbox") == 101
    entry = await store.next_to_deliver()
    assert entry is not None
    await store.delivered(entry)
    await commit(store, *helps(range(300, 303)))
    assert await count(store, "outbox WHERE kind = 'help'") == 99
    entry = await store.next_to_deliver()
    assert entry is not None
    await store.delivered(entry)
    await commit(store, *helps(range(400, 403)))
    assert await count(store, "outbox") == 100


async def test_50_messages_of_a_sender_and_500_of_a_room_await_keys(store: Store) -> None:
    for first in (0, 30):
        await commit(store, *undecryptable("@mallory:x", range(first, first + 30)))
    assert await count(store, "undecryptable") == 50
    for number in range(10):
        await commit(store, *undecryptable(f"@{number}:x", range(49)))
    assert await count(store, "undecryptable") == 500
    await commit(store, *undecryptable("@late:x", range(1)), room=OTHER)
    assert await count(store, "undecryptable") == 501


async def test_2000_messages_of_a_room_ask_for_their_parents(store: Store) -> None:
    for first in (0, 1_500):
        await commit(store, *orphans(range(first, first + 1_500)))
    assert await count(store, "pending_relations") == 2_000
    assert await count(store, "timers") == 3_000


def orphans(numbers: range) -> list[Item]:
    return [
        Message(event_id=EventID(f"${number}"), sent=NOW, parent=EventID(f"$of {number}"))
        for number in numbers
    ]


async def test_1000_invitations_wait(store: Store) -> None:
    async def invite(numbers: range) -> None:
        invites = [Invite(room_id=RoomID(f"!{n}"), inviter=UserID(f"@a:{n}")) for n in numbers]
        await store.commit("s1", NOW, [], invites)

    await invite(range(700))
    await invite(range(700, 1_400))
    assert await count(store, "invitations") == 1_000


async def test_20_commands_that_were_not_written_are_remembered(store: Store) -> None:
    for number in range(25):
        said = Command(
            digest=f"set {number}",
            sender=ALICE,
            effect=SetLifetime(setting=MINUTE + number),
            event_id=EventID(f"${number}"),
        )
        await commit(store, said)
    entry = await store.next_to_deliver()
    assert entry is not None
    assert isinstance(entry.content, SetPolicy)
    places = [mark[0] for mark in entry.content.marks]
    assert places == [f"${number}" for number in range(5, 25)]


async def test_so_many_claim_one_session(tmp_path: Path, alice: Peer, bot: Bot) -> None:
    writer = Writer(alice)
    for number in range(6):
        mallory = Peer(f"mallory{number}", tmp_path / f"mallory{number}")
        bot.meet(mallory)
        mallory.meet(bot)
        bot.feed(mallory.tell(bot, "m.room_key", writer.room_key()))
    [room] = {one.room_id for one in bot.olm.sessions_of(*_of(bot))}
    assert room
    assert len(bot.olm.sessions_of(*_of(bot))) == 4


def _of(bot: Bot) -> tuple[RoomID, str]:
    [(session, room)] = bot.crypto.sessions.items()
    return room, session


# --- how far -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "found"), [(29, True), (32, False)])
async def test_two_homeservers_may_have_been_apart_for_30_days(
    harness: Harness, *, days: int, found: bool
) -> None:
    harness.homeserver.page = 1
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, REMOTE, "join")
    harness.homeserver.set_lifetime(room, 300 * DAY)
    async with harness.running(harness.sync):
        await harness.rest()
        missed = harness.homeserver.send(room, "missed", sender=REMOTE)
        for _ in range(days):
            harness.homeserver.send(room, "day by day")
            await harness.advance(DAY)
    await clear(harness)
    async with harness.store._db.transaction() as db:
        await db.rows("DELETE FROM timers WHERE event_id = ?", missed)
    put_below(harness, room, "late")
    await hole(harness, room)
    async with harness.running(harness.backfill, harness.sweeper):
        assert (missed in await harness.timers()) is found


@pytest.mark.parametrize(("number", "kept"), [(20, 20), (21, 20)])
async def test_20_invitations_of_one_account_wait(store: Store, number: int, kept: int) -> None:
    invites = [Invite(room_id=RoomID(f"!{n}"), inviter=UserID("@a:b")) for n in range(number)]
    await store.commit("s1", NOW, [], invites)
    assert await count(store, "invitations") == kept


@pytest.mark.parametrize(("number", "kept"), [(100, 100), (101, 100)])
async def test_100_invitations_of_one_server_wait(store: Store, number: int, kept: int) -> None:
    invites = [Invite(room_id=RoomID(f"!{n}"), inviter=UserID(f"@{n}:b")) for n in range(number)]
    await store.commit("s1", NOW, [], invites)
    assert await count(store, "invitations") == kept


async def test_an_account_displaces_only_one_that_has_more(store: Store) -> None:
    async def invite(account: int, *numbers: int) -> None:
        inviter = UserID(f"@{account}:b")
        invites = [Invite(room_id=RoomID(f"!{account}-{n}"), inviter=inviter) for n in numbers]
        await store.commit("s1", NOW, [], invites)

    async def of(account: int) -> int:
        return await count(store, f"invitations WHERE inviter = '@{account}:b'")

    for account in range(10):
        await invite(account, *range(10))
    await invite(3, 10)
    assert [await of(account) for account in range(11)] == [10] * 10 + [0]
    await invite(10, *range(12))
    assert [await of(account) for account in range(11)] == [9] * 10 + [10]
    assert await count(store, "invitations") == 100
