"""Bad neighbours: whoever floods the bot troubles himself, and not others."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bot.core import timeline
from bot.core.commands import Command, SetLifetime
from bot.core.invitations import Invite
from bot.core.outbox import MOST_IMPORTANT, MOST_WAITING, AnswerHelp, Outgoing, Resumed, Suspended
from bot.core.outcomes import RateLimited
from bot.core.rate_limits import HOUR, KEPT, RateLimit
from bot.core.timeline import Message, RoomUpdate, Undecryptable
from bot.core.types import Event, EventID, RoomID, UserID
from bot.services.event_reader import AT_ONCE
from bot.services.late_keys import ASKED_TO_REPEAT, GIVE_UP_AFTER, LateKeys
from bot.services.sync import GATHER
from bot.store import handled_commands, invitations, megolm_sessions, relations
from tests.services.test_key_expiry import looked_at
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

HASTY = "that was a lot of commands. I listen again in a minute."


async def count(harness: Harness, table: str) -> int:
    async with harness.store._db.transaction() as db:
        found = await db.one(f"SELECT count(*) FROM {table}")
    assert found is not None
    return int(found[0])


# --- how things are counted --------------------------------------------------------------------


def test_so_many_are_admitted_in_each_period_of_time() -> None:
    rate_limit = RateLimit(2, HOUR)
    assert [rate_limit.admits("alice", what, 0) for what in "abc"] == [True, True, False]
    assert rate_limit.admits("bob", "d", 0)
    assert rate_limit.admits("alice", "c", HOUR)


def test_the_same_thing_counts_once() -> None:
    rate_limit = RateLimit(2, HOUR)
    assert all(rate_limit.admits("alice", "a", 0) for _ in range(5))
    assert rate_limit.admits("alice", "b", 0)
    assert rate_limit.admits("alice", "a", 0)
    assert not rate_limit.admits("alice", "c", 0)


def test_an_episode_lasts_until_a_period_without_surplus() -> None:
    rate_limit = RateLimit(1, HOUR)
    assert rate_limit.begins("alice", "a", 0)
    assert not rate_limit.begins("alice", "b", HOUR)
    assert not rate_limit.begins("alice", "c", 2 * HOUR)
    assert rate_limit.begins("alice", "d", 4 * HOUR)
    assert rate_limit.begins("alice", "d", 4 * HOUR)  # it is read again


def test_what_is_counted_stays_small() -> None:
    rate_limit = RateLimit(1, HOUR)
    for number in range(KEPT + 50):
        rate_limit.admits(f"@{number}", "a", 0)
        rate_limit.begins(f"@{number}", "a", 0)
    assert len(rate_limit._admitted) == len(rate_limit._episodes) == KEPT


# --- invitations -------------------------------------------------------------------------------


async def invited(harness: Harness, *inviters: UserID) -> list[str]:
    """Let people invite the bot, one room each; return what became of it, sorted."""
    rooms = [harness.homeserver.make_room(joined=False, invited=False) for _ in inviters]
    for room, inviter in zip(rooms, inviters, strict=True):
        harness.homeserver.set_member(room, BOT, "invite", sender=inviter)
    await harness.rest()
    return sorted(harness.homeserver.rooms[room].membership(BOT) for room in rooms)


async def test_one_accounts_flood_of_invitations_is_declined_and_others_are_welcome(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.invite_policy = replace(harness.invite_policy, per_inviter=3)
    harness.keep_anew()
    await harness.store.commit("s0", harness.clock.now(), [])
    async with harness.running(*harness.everything):
        assert await invited(harness, *[ALICE] * 6) == ["join"] * 3 + ["leave"] * 3
        assert await invited(harness, BOB) == ["join"]
        await harness.advance(HOUR)
        assert await invited(harness, ALICE) == ["join"]
    assert caplog.text.count("too many invitations by one account") == 1


async def test_all_invitations_together_are_limited(harness: Harness) -> None:
    harness.invite_policy = replace(harness.invite_policy, per_hour=4)
    harness.keep_anew()
    await harness.store.commit("s0", harness.clock.now(), [])
    many = [UserID(f"@{number}:example.org") for number in range(6)]
    async with harness.running(*harness.everything):
        assert await invited(harness, *many) == ["join"] * 4 + ["leave"] * 2
        await harness.advance(HOUR)
        assert await invited(harness, *many[:1]) == ["join"]


async def test_a_full_bot_declines_until_it_has_left_a_room(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.invite_policy = replace(harness.invite_policy, max_rooms=2)
    harness.keep_anew()
    await harness.store.commit("s0", harness.clock.now(), [])
    async with harness.running(*harness.everything):
        assert await invited(harness, ALICE, ALICE, BOB, BOB) == ["join"] * 2 + ["leave"] * 2
        harness.homeserver.set_member(next(iter(harness.homeserver.rooms)), BOT, "leave")
        assert await invited(harness, BOB) == ["join"]
    assert caplog.text.count("in 2 rooms, as many as may be") == 1


async def test_an_invitation_over_the_limit_not_declined_now_is_never_accepted(
    harness: Harness,
) -> None:
    harness.invite_policy = replace(harness.invite_policy, per_inviter=1)
    harness.keep_anew()
    await harness.store.commit("s0", harness.clock.now(), [])
    async with harness.running(*harness.everything):
        harness.homeserver.fail_next(RateLimited(retry_after=10), on="leave")
        await invited(harness, ALICE, ALICE)
        await harness.advance(MINUTE)
        states = [room.membership(BOT) for room in harness.homeserver.rooms.values()]
        assert sorted(states) == ["join", "leave"]


async def test_an_invitation_that_is_tried_again_counts_once(harness: Harness) -> None:
    harness.invite_policy = replace(harness.invite_policy, per_inviter=2)
    harness.keep_anew()
    await harness.store.commit("s0", harness.clock.now(), [])
    async with harness.running(*harness.everything):
        harness.homeserver.fail_next(*[RateLimited(retry_after=10)] * 3, on="join")
        await invited(harness, ALICE)
        for _ in range(4):
            await harness.advance(10 * SECOND)
        assert await invited(harness, ALICE) == ["join"]


async def test_only_so_many_invitations_wait(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations, "MOST_OF_ONE", 5)
    many = [Invite(room_id=RoomID(f"!{number}:example.org"), inviter=ALICE) for number in range(9)]
    await harness.store.commit("s0", 0, [], many)
    assert await count(harness, "invitations") == 5
    await harness.store.commit("s1", 0, [], [replace(many[0], inviter=BOB)])
    found = await harness.store.invitations.undecided()
    assert found is not None
    assert (found.room_id, found.inviter) == (many[0].room_id, BOB)


async def test_reviews_go_on_among_invitations(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    await harness.store.commit("s0", harness.clock.now(), [])
    await harness.enter(room, MINUTE)
    invites = [Invite(room_id=RoomID(f"!{n}:example.org"), inviter=ALICE) for n in range(50)]
    async with harness.running(harness.permissions, harness.invitations):
        harness.homeserver.hold("join")
        await harness.store.commit("s1", harness.clock.now(), [], invites)
        harness.wake()
        await harness.rest()
        assert "power" not in [name for name, _ in harness.homeserver.asked]
        await harness.store.ask_review(room)
        harness.wake()
        await harness.rest()
        names = [name for name, _ in harness.homeserver.asked]
        assert "power" in names
        assert names.count("join") < 15
        harness.homeserver.release("join")


# --- commands ----------------------------------------------------------------------------------


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    harness.per_minute = 5
    harness.keep_anew()
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    async with harness.running(*harness.everything):
        await harness.advance(MINUTE)
    return room


async def setting(harness: Harness, room: RoomID) -> int | None:
    known = await harness.store.room(room)
    assert known is not None
    return known.setting


async def test_commands_over_the_limit_do_nothing_and_are_answered_once(
    harness: Harness, room: RoomID
) -> None:
    before = len(harness.homeserver.heard(room))
    async with harness.running(*harness.everything):
        for number in range(20):
            harness.homeserver.send(room, f"!expire {2 + number}m")
        await harness.rest()
        await harness.rest()
        assert await setting(harness, room) == 6 * MINUTE
        said = harness.homeserver.heard(room)[before:]
        assert [line for line in said if HASTY in line] == said[-1:]
        assert len(said) <= 5 + 1


async def test_another_person_is_still_heard(harness: Harness, room: RoomID) -> None:
    harness.homeserver.set_power(room, BOB, 100)
    async with harness.running(*harness.everything):
        for _ in range(20):
            harness.homeserver.send(room, "!expire help")
        harness.homeserver.send(room, "!expire 3h", sender=BOB)
        await harness.rest()
        assert await setting(harness, room) == 180 * MINUTE
        await harness.advance(MINUTE)
        await harness.said_in(room, "!expire 4h")
        await harness.advance(GATHER)
        assert await setting(harness, room) == 240 * MINUTE


async def test_an_ignored_command_is_not_carried_out_when_it_is_read_again(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        for _ in range(5):
            harness.homeserver.send(room, "!expire help")
        ignored = [harness.homeserver.send(room, "!expire 3h") for _ in range(3)]
        await harness.rest()
    await harness.restart()
    harness.clock.advance(DAY // 2)
    for event in harness.homeserver.rooms[room].events:
        if event["event_id"] in ignored:
            now = harness.clock.now()
            items = await harness.reader.items(
                room, [event], encrypted=False, live=False, since=now, now=now
            )
            assert any(isinstance(item, Command) and item.setting is not None for item in items)
            await harness.commit(RoomUpdate(room_id=room, items=items))
    assert await setting(harness, room) == MINUTE


async def test_a_batch_that_is_read_again_keeps_its_commands(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(*harness.everything):
        harness.homeserver.hold("sync")
        for number in range(4):
            harness.homeserver.send(room, f"!expire {2 + number}m")
        harness.homeserver.fail_next(*[RateLimited(retry_after=10)] * 6, on="power")
        harness.homeserver.release("sync")
        for _ in range(8):
            await harness.advance(10 * SECOND)
        assert await setting(harness, room) == 5 * MINUTE
    assert not any(HASTY in line for line in harness.homeserver.heard(room))


async def test_commands_of_a_long_absence_count_by_their_own_times(
    harness: Harness, room: RoomID
) -> None:
    for number in range(12):
        harness.clock.advance(MINUTE)
        harness.homeserver.send(room, f"!expire {2 + number}m")
    async with harness.running(*harness.everything):
        await harness.rest()
        assert await setting(harness, room) == 13 * MINUTE
    assert not any(HASTY in line for line in harness.homeserver.heard(room))


async def test_many_commands_at_once_have_their_right_looked_up_once(
    harness: Harness, room: RoomID
) -> None:
    async with harness.running(harness.sync):
        harness.homeserver.hold("sync")
        asked = len(harness.homeserver.times("power"))
        for _ in range(5):
            harness.homeserver.send(room, "!expire 2m")
        harness.homeserver.release("sync")
        await harness.rest()
        assert len(harness.homeserver.times("power")) == asked + 1


async def test_what_is_kept_of_ignored_commands_is_bounded(
    harness: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handled_commands, "MOST_SURPLUS", 10)
    for part in range(4):
        items = [Command(digest=f"{part}-{n}", sender=ALICE, effect=None) for n in range(10)]
        await harness.commit(RoomUpdate(room_id=room, items=list(items)))
    assert await count(harness, "handled_commands") == 10


# --- answers -----------------------------------------------------------------------------------


async def test_answers_waiting_for_a_room_are_bounded_and_its_lifetime_is_set(
    harness: Harness, room: RoomID
) -> None:
    helps = [
        Command(digest=f"help{n}", sender=ALICE, effect=AnswerHelp())
        for n in range(MOST_WAITING * 2)
    ]
    last = Command(digest="set", sender=ALICE, effect=SetLifetime(setting=2 * MINUTE))
    await harness.commit(RoomUpdate(room_id=room, items=[*helps, last]))
    assert await count(harness, "outbox") == MOST_WAITING + 1
    await harness.store.reviewed(
        room,
        suspended=True,
        outgoing=[Outgoing(key="s", content=Suspended(need=50, have=0))],
    )
    assert await count(harness, "outbox") == MOST_WAITING + 2
    for number in range(MOST_IMPORTANT):
        news = Suspended(need=50, have=0) if number % 2 else Resumed()
        outgoing = Outgoing(key=f"{number}", content=news)
        await harness.store.reviewed(room, suspended=bool(number % 2), outgoing=[outgoing])
    assert await count(harness, "outbox") == MOST_IMPORTANT
    again = Command(digest="again", sender=ALICE, effect=SetLifetime(setting=3 * MINUTE))
    await harness.commit(RoomUpdate(room_id=room, items=[again]))
    async with harness.store._db.transaction() as db:
        assert await db.one("SELECT 1 FROM outbox WHERE kind = 'set' AND key = 'again'")


async def test_rooms_take_turns_in_being_answered(harness: Harness, room: RoomID) -> None:
    other = harness.homeserver.make_room()
    await harness.enter(other)
    helps = [Command(digest=f"help{n}", sender=ALICE, effect=AnswerHelp()) for n in range(50)]
    await harness.commit(RoomUpdate(room_id=room, items=list(helps)))
    one = [Command(digest="other", sender=BOB, effect=AnswerHelp())]
    await harness.commit(RoomUpdate(room_id=other, items=list(one)))
    served = []
    for _ in range(3):
        entry = await harness.store.next_to_deliver()
        assert entry is not None
        served.append(entry.room_id)
        harness.clock.advance(10)
        await harness.store.delivered(entry, harness.clock.now())
    assert served == [room, other, room]


# --- what rooms make the bot keep --------------------------------------------------------------


async def test_messages_that_wait_for_keys_are_bounded_for_each_sender_and_room(
    harness: Harness, room: RoomID
) -> None:
    def flood(sender: UserID, many: int) -> list[Undecryptable]:
        return [
            Undecryptable(
                event_id=EventID(f"${sender}{n}"), sender=sender, session_id=f"s{n}", read_at=0
            )
            for n in range(many)
        ]

    await harness.commit(RoomUpdate(room_id=room, items=list(flood(ALICE, 200))))
    assert await count(harness, "undecryptable") == megolm_sessions.MOST_OF_ONE
    await harness.commit(RoomUpdate(room_id=room, items=list(flood(BOB, 1))))
    assert await count(harness, "undecryptable") == megolm_sessions.MOST_OF_ONE + 1
    for number in range(20):
        crowd = flood(UserID(f"@{number}:example.org"), megolm_sessions.MOST_OF_ONE)
        await harness.commit(RoomUpdate(room_id=room, items=list(crowd)))
    assert await count(harness, "undecryptable") == megolm_sessions.MOST_WAITING


async def test_a_sender_without_keys_makes_the_bot_ask_only_so_often(
    harness: Harness, room: RoomID
) -> None:
    flood = [
        Undecryptable(
            event_id=EventID(f"${n}"), sender=ALICE, session_id=f"s{n}", read_at=harness.clock.now()
        )
        for n in range(30)
    ]
    await harness.commit(RoomUpdate(room_id=room, items=list(flood)))
    harness.clock.advance(GIVE_UP_AFTER)
    keyless = Keyless()
    late = LateKeys(keyless, harness.store, harness.store.timeline, harness.reader, harness.clock)
    await looked_at(late)
    assert await count(harness, "undecryptable") == 0
    assert await count(harness, "outbox") == ASKED_TO_REPEAT


class Keyless:
    """A homeserver that no key comes from."""

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        return None

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return False

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool = False) -> None:
        raise AssertionError


async def test_successors_count_as_invitations(harness: Harness) -> None:
    harness.invite_policy = replace(harness.invite_policy, per_inviter=2)
    harness.keep_anew()
    rooms = [harness.homeserver.make_room() for _ in range(4)]
    await harness.store.commit("s0", harness.clock.now(), [])
    async with harness.running(*harness.everything):
        await harness.rest()
        for room in rooms:
            harness.homeserver.upgrade(room)
        await harness.rest()
        await harness.advance(MINUTE)
    assert len(harness.homeserver.times("join")) == 2


async def test_pending_relations_of_one_room_are_bounded_and_keep_their_own_timers(
    harness: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations, "MOST_PENDING", 10)
    items = [
        Message(event_id=EventID(f"$child{n}"), sent=0, parent=EventID(f"$nobody{n}"))
        for n in range(30)
    ]
    before = await harness.pending(room)
    await harness.commit(RoomUpdate(room_id=room, items=list(items)))
    assert await count(harness, "pending_relations") == 10
    assert await harness.pending(room) == before + 30


# --- messages ----------------------------------------------------------------------------------


async def test_a_flood_of_messages_in_one_room_delays_nobody_elsewhere(
    harness: Harness, room: RoomID
) -> None:
    other = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(other, 10 * SECOND)
    harness.homeserver.page = 1_000
    async with harness.running(*harness.everything):
        sent = await harness.said_in(other, "gone in ten seconds")
        for _ in range(9):
            harness.homeserver.hold("sync")
            for number in range(1_000):
                harness.homeserver.send(room, f"flood {number}")
            harness.homeserver.release("sync")
            await harness.advance(SECOND)
        assert not is_gone(harness, other, sent)
        await harness.advance(SECOND)
        assert is_gone(harness, other, sent)
        assert await harness.pending(room) >= 9_000  # and none of them is forgotten


async def test_others_have_their_turn_while_a_page_of_commands_is_decided(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.send(room, "!expire help")
    [event] = harness.homeserver.rooms[room].events[-1:]
    page = [event | {"event_id": f"$many{number}"} for number in range(1_000)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(others())
    now = harness.clock.now()
    await harness.reader.items(room, page, encrypted=False, live=False, since=now, now=now)
    counting.cancel()
    assert turns >= 1_000 // AT_ONCE - 1


def is_gone(harness: Harness, room: RoomID, event_id: EventID) -> bool:
    events = harness.homeserver.rooms[room].events
    return any(timeline.is_gone(event) for event in events if event["event_id"] == event_id)
