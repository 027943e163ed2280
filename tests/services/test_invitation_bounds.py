"""Bounds of what waits at the door, and of what one account can fill: it shuts out nobody."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bot.core.invitations import Invite, InviteStage
from bot.core.types import RoomID, UserID
from bot.services.invitations import SLOW
from bot.services.worker import WIDTH
from bot.store.invitations import (
    BUSY_OF_ONE,
    BUSY_OF_SERVER,
    MOST_INVITED,
    MOST_OF_ONE,
    MOST_OF_SERVER,
)
from tests.services.test_invitations import HOUR, is_in, synced, waiting
from tests.support.fake_homeserver import BOB, BOT
from tests.support.harness import SECOND, Harness

__all__ = ["synced"]


def many(inviter: str, count: int, start: int = 0) -> list[Invite]:
    return [
        Invite(room_id=RoomID(f"!{inviter}-{n}"), inviter=UserID(inviter))
        for n in range(start, start + count)
    ]


async def from_server(harness: Harness, server: str) -> int:
    async with harness.store._db.transaction() as db:
        [(found,)] = await db.rows("SELECT count(*) FROM invitations WHERE server = ?", server)
    return int(found)


async def test_one_account_has_only_so_many_invitations_wait(harness: Harness) -> None:
    await harness.store.commit("s1", 0, [], many("@eve:a.org", 100))
    assert await waiting(harness) == MOST_OF_ONE
    await harness.store.commit("s2", 0, [], many("@bob:a.org", 1))
    assert await waiting(harness) == MOST_OF_ONE + 1


async def test_only_so_many_of_an_account_or_server_are_answered_at_once(
    harness: Harness,
) -> None:
    for number in range(5):
        await harness.store.commit(f"s{number}", 0, [], many(f"@eve{number}:a.org", MOST_OF_ONE))
    await harness.store.commit("t", 0, [], many("@bob:b.org", 1))
    found, busy = harness.store.invitations, set[RoomID]()
    while (one := await found.undecided()) is not None:
        await found.move(one, InviteStage.DECLINING, 0)
    servers = Counter[str]()
    accounts = Counter[str]()
    while (one := await found.to_decline(busy)) is not None:
        busy.add(one.room_id)
        servers[str(one.inviter).partition(":")[2]] += 1
        accounts[str(one.inviter)] += 1
    assert servers == {"a.org": BUSY_OF_SERVER, "b.org": 1}
    assert max(accounts.values()) == BUSY_OF_ONE
    assert BUSY_OF_SERVER < WIDTH + SLOW


async def test_who_fills_the_bound_of_a_server_shuts_out_nobody_there(harness: Harness) -> None:
    for number in range(10):
        await harness.store.commit(f"s{number}", 0, [], many(f"@eve{number}:a.org", MOST_OF_ONE))
    assert await waiting(harness) == MOST_OF_SERVER
    await harness.store.commit("t", 0, [], many("@bob:a.org", 1))
    assert await waiting(harness) == MOST_OF_SERVER
    async with harness.store._db.transaction() as db:
        assert await db.one("SELECT 1 FROM invitations WHERE inviter = '@bob:a.org'")
    await harness.store.commit("u", 0, [], many("@bob:b.org", 1))
    assert await from_server(harness, "b.org") == 1


async def test_who_fills_the_bound_of_all_shuts_out_nobody(harness: Harness) -> None:
    for server in range(12):
        for number in range(5):
            invites = many(f"@eve{number}:s{server}.org", MOST_OF_ONE)
            await harness.store.commit(f"s{server}-{number}", 0, [], invites)
    assert await waiting(harness) == MOST_INVITED
    await harness.store.commit("t", 0, [], many("@bob:b.org", 1))
    assert await waiting(harness) == MOST_INVITED
    assert await from_server(harness, "b.org") == 1


async def test_one_account_holds_the_bot_in_only_so_many_rooms(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.invite_policy = replace(harness.invite_policy, rooms_per_inviter=2)
    harness.keep_anew()
    async with harness.running(*harness.everything):
        rooms = [harness.homeserver.make_room(joined=False) for _ in range(4)]
        await harness.rest()
        assert sorted(is_in(harness, room) for room in rooms) == ["join"] * 2 + ["leave"] * 2
        other = harness.homeserver.make_room(joined=False, invited=False)
        harness.homeserver.set_member(other, BOT, "invite", sender=BOB)
        await harness.rest()
        assert is_in(harness, other) == "join"
        await harness.advance(HOUR)
        harness.homeserver.kick(next(room for room in rooms if is_in(harness, room) == "join"))
        await harness.rest()
        again = harness.homeserver.make_room(joined=False)
        await harness.rest()
        assert is_in(harness, again) == "join"
    assert caplog.text.count("in 2 rooms for one account") == 1


async def test_a_chain_of_upgrades_counts_for_who_makes_it(harness: Harness) -> None:
    harness.invite_policy = replace(harness.invite_policy, rooms_per_inviter=3)
    harness.keep_anew()
    async with harness.running(*harness.everything):
        room = harness.homeserver.make_room(joined=False, public=True)
        await harness.rest()
        rooms = [room]
        for _ in range(5):
            rooms.append(harness.homeserver.upgrade(rooms[-1]))
            harness.clock.advance(SECOND)
            await harness.rest()
    assert [is_in(harness, one) for one in rooms] == ["join"] * 3 + ["leave"] * 3


@pytest.mark.parametrize(
    ("glob", "who", "may"),
    [
        ("*:[2001:db8::1]", "@alice:[2001:db8::1]", True),
        ("*:[2001:db8::1]:8448", "@alice:[2001:db8::1]:8448", True),
        ("*:[2001:db8::?]", "@alice:[2001:db8::7]", True),
        ("@alice:[*", "@alice:[2001:db8::1]:8448", True),
        ("*:[2001:db8::1]", "@alice:2", False),
        ("*:[!a]*", "@alice:[!a]", True),
        ("@[ab]:*", "@a:example.org", False),
        ("*:example.org", "@alice:example.org", True),
        ("*:example.org", "@alice:example.org.evil.org", False),
        ("*:example.org", "@alice:EXAMPLE.org", False),
    ],
)
async def test_only_stars_and_question_marks_have_a_meaning_in_a_pattern(
    harness: Harness, glob: str, who: str, may: bool
) -> None:
    harness.allow = [glob]
    await harness.restart()
    assert harness.invitations.may_invite(UserID(who)) is may
