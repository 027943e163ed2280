"""Bad neighbours: whoever floods the bot troubles himself, and not others."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bot.core import timeline
from bot.core.invitations import Invite
from bot.core.outcomes import RateLimited
from bot.core.policy import Outgoing
from bot.core.rate_limits import HOUR, KEPT, RateLimit
from bot.core.timeline import SURPLUS, Command, Message, RoomUpdate, Undecryptable
from bot.core.types import Event, EventID, RoomID, UserID
from bot.services.event_reader import AT_ONCE
from bot.services.late_keys import ASKED_TO_REPEAT, GIVE_UP_AFTER, LateKeys
from bot.store import handled_commands, invitations, megolm_sessions, outbox, relations
from tests.services.test_key_expiry import looked_at
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import DAY, MINUTE, SECOND, Harness

HASTY = "that was a lot of commands. I listen again in a minute."


async def count(house: Harness, table: str) -> int:
    async with house.store._db.transaction() as db:
        found = await db.one(f"SELECT count(*) FROM {table}")
    assert found is not None
    return int(found[0])


# --- how things are counted --------------------------------------------------------------------


def test_so_many_are_admitted_in_each_stretch_of_time() -> None:
    allowance = RateLimit(2, HOUR)
    assert [allowance.admits("alice", what, 0) for what in "abc"] == [True, True, False]
    assert allowance.admits("bob", "d", 0)
    assert allowance.admits("alice", "c", HOUR)


def test_the_same_thing_counts_once() -> None:
    allowance = RateLimit(2, HOUR)
    assert all(allowance.admits("alice", "a", 0) for _ in range(5))
    assert allowance.admits("alice", "b", 0)
    assert allowance.admits("alice", "a", 0)
    assert not allowance.admits("alice", "c", 0)


def test_an_episode_lasts_until_a_stretch_without_surplus() -> None:
    allowance = RateLimit(1, HOUR)
    assert allowance.begins("alice", "a", 0)
    assert not allowance.begins("alice", "b", HOUR)
    assert not allowance.begins("alice", "c", 2 * HOUR)
    assert allowance.begins("alice", "d", 4 * HOUR)
    assert allowance.begins("alice", "d", 4 * HOUR)  # it is read again


def test_what_is_counted_stays_small() -> None:
    allowance = RateLimit(1, HOUR)
    for number in range(KEPT + 50):
        allowance.admits(f"@{number}", "a", 0)
        allowance.begins(f"@{number}", "a", 0)
    assert len(allowance._admitted) == len(allowance._episodes) == KEPT


# --- invitations -------------------------------------------------------------------------------


async def invited(house: Harness, *inviters: UserID) -> list[str]:
    """Let people invite the bot, one room each; return what became of it, sorted."""
    rooms = [house.homeserver.make_room(joined=False, invited=False) for _ in inviters]
    for room, inviter in zip(rooms, inviters, strict=True):
        house.homeserver.set_member(room, BOT, "invite", sender=inviter)
    await house.rest()
    return sorted(house.homeserver.rooms[room].membership(BOT) for room in rooms)


async def test_one_accounts_flood_of_invitations_is_declined_and_others_are_welcome(
    house: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    house.guests = replace(house.guests, per_inviter=3)
    house.keep_anew()
    await house.store.commit("s0", house.clock.now(), [])
    async with house.running(*house.everything):
        assert await invited(house, *[ALICE] * 6) == ["join"] * 3 + ["leave"] * 3
        assert await invited(house, BOB) == ["join"]
        await house.advance(HOUR)
        assert await invited(house, ALICE) == ["join"]
    assert caplog.text.count("too many invitations by one account") == 1


async def test_all_invitations_together_are_limited(house: Harness) -> None:
    house.guests = replace(house.guests, per_hour=4)
    house.keep_anew()
    await house.store.commit("s0", house.clock.now(), [])
    many = [UserID(f"@{number}:example.org") for number in range(6)]
    async with house.running(*house.everything):
        assert await invited(house, *many) == ["join"] * 4 + ["leave"] * 2
        await house.advance(HOUR)
        assert await invited(house, *many[:1]) == ["join"]


async def test_a_full_bot_declines_until_it_has_left_a_room(
    house: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    house.guests = replace(house.guests, max_rooms=2)
    house.keep_anew()
    await house.store.commit("s0", house.clock.now(), [])
    async with house.running(*house.everything):
        assert await invited(house, ALICE, ALICE, BOB, BOB) == ["join"] * 2 + ["leave"] * 2
        house.homeserver.set_member(next(iter(house.homeserver.rooms)), BOT, "leave")
        assert await invited(house, BOB) == ["join"]
    assert caplog.text.count("in 2 rooms, as many as may be") == 1


async def test_an_invitation_over_the_limit_that_cannot_be_declined_now_is_not_accepted_later(
    house: Harness,
) -> None:
    house.guests = replace(house.guests, per_inviter=1)
    house.keep_anew()
    await house.store.commit("s0", house.clock.now(), [])
    async with house.running(*house.everything):
        house.homeserver.fail_next(RateLimited(retry_after=10), on="leave")
        await invited(house, ALICE, ALICE)
        await house.advance(MINUTE)
        states = [room.membership(BOT) for room in house.homeserver.rooms.values()]
        assert sorted(states) == ["join", "leave"]


async def test_an_invitation_that_is_tried_again_counts_once(house: Harness) -> None:
    house.guests = replace(house.guests, per_inviter=2)
    house.keep_anew()
    await house.store.commit("s0", house.clock.now(), [])
    async with house.running(*house.everything):
        house.homeserver.fail_next(*[RateLimited(retry_after=10)] * 3, on="join")
        await invited(house, ALICE)
        for _ in range(4):
            await house.advance(10 * SECOND)
        assert await invited(house, ALICE) == ["join"]


async def test_only_so_many_invitations_wait(
    house: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations, "MOST_OF_ONE", 5)
    many = [Invite(room_id=RoomID(f"!{number}:example.org"), inviter=ALICE) for number in range(9)]
    await house.store.commit("s0", 0, [], many)
    assert await count(house, "invites") == 5
    await house.store.commit("s1", 0, [], [replace(many[0], inviter=BOB)])
    found = await house.store.invitations.undecided()
    assert found is not None
    assert (found.room_id, found.inviter) == (many[0].room_id, BOB)


async def test_reviews_go_on_among_invitations(house: Harness) -> None:
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    await house.store.commit("s0", house.clock.now(), [])
    await house.enter(room, MINUTE)
    invites = [Invite(room_id=RoomID(f"!{n}:example.org"), inviter=ALICE) for n in range(50)]
    async with house.running(house.rooms, house.invitations):
        house.homeserver.hold("join")
        await house.store.commit("s1", house.clock.now(), [], invites)
        house.wake()
        await house.rest()
        assert "power" not in [name for name, _ in house.homeserver.asked]
        await house.store.ask_review(room)
        house.wake()
        await house.rest()
        names = [name for name, _ in house.homeserver.asked]
        assert "power" in names
        assert names.count("join") < 15
        house.homeserver.release("join")


# --- commands ----------------------------------------------------------------------------------


@pytest.fixture
async def room(house: Harness) -> RoomID:
    """A room that the bot has known for a while, with a lifetime of a minute."""
    house.per_minute = 5
    house.keep_anew()
    room = house.homeserver.make_room()
    house.homeserver.set_lifetime(room, MINUTE)
    async with house.running(*house.everything):
        await house.advance(MINUTE)
    return room


async def setting(house: Harness, room: RoomID) -> int | None:
    known = await house.store.room(room)
    assert known is not None
    return known.setting


async def test_commands_over_the_limit_do_nothing_and_are_answered_once(
    house: Harness, room: RoomID
) -> None:
    before = len(house.homeserver.heard(room))
    async with house.running(*house.everything):
        for number in range(20):
            house.homeserver.send(room, f"!expire {2 + number}m")
        await house.rest()
        await house.rest()
        assert await setting(house, room) == 6 * MINUTE
        said = house.homeserver.heard(room)[before:]
        assert [line for line in said if HASTY in line] == said[-1:]
        assert len(said) <= 5 + 1


async def test_another_person_is_still_heard(house: Harness, room: RoomID) -> None:
    house.homeserver.set_power(room, BOB, 100)
    async with house.running(*house.everything):
        for _ in range(20):
            house.homeserver.send(room, "!expire help")
        house.homeserver.send(room, "!expire 3h", sender=BOB)
        await house.rest()
        assert await setting(house, room) == 180 * MINUTE
        await house.advance(MINUTE)
        await house.said_in(room, "!expire 4h")
        assert await setting(house, room) == 240 * MINUTE


async def test_an_ignored_command_is_not_carried_out_when_it_is_read_again(
    house: Harness, room: RoomID
) -> None:
    async with house.running(*house.everything):
        for _ in range(5):
            house.homeserver.send(room, "!expire help")
        ignored = [house.homeserver.send(room, "!expire 3h") for _ in range(3)]
        await house.rest()
    await house.restart()
    house.clock.advance(DAY // 2)
    for event in house.homeserver.rooms[room].events:
        if event["event_id"] in ignored:
            now = house.clock.now()
            items = await house.reader.items(
                room, [event], encrypted=False, live=False, since=now, now=now
            )
            assert any(isinstance(item, Command) and item.kind == "set" for item in items)
            await house.commit(RoomUpdate(room_id=room, items=items))
    assert await setting(house, room) == MINUTE


async def test_a_batch_that_is_read_again_keeps_its_commands(house: Harness, room: RoomID) -> None:
    async with house.running(*house.everything):
        house.homeserver.hold("sync")
        for number in range(4):
            house.homeserver.send(room, f"!expire {2 + number}m")
        house.homeserver.fail_next(*[RateLimited(retry_after=10)] * 6, on="power")
        house.homeserver.release("sync")
        for _ in range(8):
            await house.advance(10 * SECOND)
        assert await setting(house, room) == 5 * MINUTE
    assert not any(HASTY in line for line in house.homeserver.heard(room))


async def test_commands_of_a_long_absence_count_by_their_own_times(
    house: Harness, room: RoomID
) -> None:
    for number in range(12):
        house.clock.advance(MINUTE)
        house.homeserver.send(room, f"!expire {2 + number}m")
    async with house.running(*house.everything):
        await house.rest()
        assert await setting(house, room) == 13 * MINUTE
    assert not any(HASTY in line for line in house.homeserver.heard(room))


async def test_many_commands_at_once_have_their_right_looked_up_once(
    house: Harness, room: RoomID
) -> None:
    async with house.running(house.intake):
        house.homeserver.hold("sync")
        asked = len(house.homeserver.times("power"))
        for _ in range(5):
            house.homeserver.send(room, "!expire 2m")
        house.homeserver.release("sync")
        await house.rest()
        assert len(house.homeserver.times("power")) == asked + 1


async def test_what_is_kept_of_ignored_commands_is_bounded(
    house: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handled_commands, "MOST_SURPLUS", 10)
    for part in range(4):
        items = [Command(digest=f"{part}-{n}", sender=ALICE, kind=SURPLUS) for n in range(10)]
        await house.commit(RoomUpdate(room_id=room, items=list(items)))
    assert await count(house, "handled") == 10


# --- answers -----------------------------------------------------------------------------------


async def test_answers_that_wait_for_one_room_are_bounded_and_its_lifetime_is_set(
    house: Harness, room: RoomID
) -> None:
    helps = [
        Command(digest=f"help{n}", sender=ALICE, kind="help") for n in range(outbox.MOST_OWED * 2)
    ]
    last = Command(digest="set", sender=ALICE, kind="set", setting=2 * MINUTE)
    await house.commit(RoomUpdate(room_id=room, items=[*helps, last]))
    assert await count(house, "owed") == outbox.MOST_OWED + 1
    await house.store.reviewed(
        room,
        suspended=True,
        owed=[Outgoing(key="s", kind="suspended", args={"need": 50, "have": 0})],
    )
    assert await count(house, "owed") == outbox.MOST_OWED + 2
    for number in range(outbox.MOST_MUST):
        kind = "suspended" if number % 2 else "resumed"
        owed = Outgoing(key=f"{number}", kind=kind, args={"need": 50, "have": 0})
        await house.store.reviewed(room, suspended=bool(number % 2), owed=[owed])
    assert await count(house, "owed") == outbox.MOST_MUST
    again = Command(digest="again", sender=ALICE, kind="set", setting=3 * MINUTE)
    await house.commit(RoomUpdate(room_id=room, items=[again]))
    async with house.store._db.transaction() as db:
        assert await db.one("SELECT 1 FROM owed WHERE kind = 'set' AND key = 'again'")


async def test_rooms_take_turns_in_being_answered(house: Harness, room: RoomID) -> None:
    other = house.homeserver.make_room()
    await house.enter(other)
    helps = [Command(digest=f"help{n}", sender=ALICE, kind="help") for n in range(50)]
    await house.commit(RoomUpdate(room_id=room, items=list(helps)))
    one = [Command(digest="other", sender=BOB, kind="help")]
    await house.commit(RoomUpdate(room_id=other, items=list(one)))
    served = []
    for _ in range(3):
        debt = await house.store.next_debt()
        assert debt is not None
        served.append(debt.room_id)
        house.clock.advance(10)
        await house.store.paid(debt, house.clock.now())
    assert served == [room, other, room]


# --- what rooms make the bot keep --------------------------------------------------------------


async def test_messages_that_wait_for_keys_are_bounded_for_each_sender_and_room(
    house: Harness, room: RoomID
) -> None:
    def flood(sender: UserID, many: int) -> list[Undecryptable]:
        return [
            Undecryptable(
                event_id=EventID(f"${sender}{n}"), sender=sender, session_id=f"s{n}", at=0
            )
            for n in range(many)
        ]

    await house.commit(RoomUpdate(room_id=room, items=list(flood(ALICE, 200))))
    assert await count(house, "unheard") == megolm_sessions.MOST_OF_ONE
    await house.commit(RoomUpdate(room_id=room, items=list(flood(BOB, 1))))
    assert await count(house, "unheard") == megolm_sessions.MOST_OF_ONE + 1
    for number in range(20):
        crowd = flood(UserID(f"@{number}:example.org"), megolm_sessions.MOST_OF_ONE)
        await house.commit(RoomUpdate(room_id=room, items=list(crowd)))
    assert await count(house, "unheard") == megolm_sessions.MOST_WAITING


async def test_a_sender_without_keys_makes_the_bot_ask_only_so_often(
    house: Harness, room: RoomID
) -> None:
    flood = [
        Undecryptable(
            event_id=EventID(f"${n}"), sender=ALICE, session_id=f"s{n}", at=house.clock.now()
        )
        for n in range(30)
    ]
    await house.commit(RoomUpdate(room_id=room, items=list(flood)))
    house.clock.advance(GIVE_UP_AFTER)
    keyless = Keyless()
    late = LateKeys(keyless, house.store, house.reader, house.clock, wake_others=house.wake)
    await looked_at(late)
    assert await count(house, "unheard") == 0
    assert await count(house, "owed") == ASKED_TO_REPEAT


class Keyless:
    """A homeserver that no key comes from."""

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        return None

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return False

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool = False) -> None:
        raise AssertionError


async def test_successors_count_as_invitations(house: Harness) -> None:
    house.guests = replace(house.guests, per_inviter=2)
    house.keep_anew()
    rooms = [house.homeserver.make_room() for _ in range(4)]
    await house.store.commit("s0", house.clock.now(), [])
    async with house.running(*house.everything):
        await house.rest()
        for room in rooms:
            house.homeserver.upgrade(room)
        await house.rest()
        await house.advance(MINUTE)
    assert len(house.homeserver.times("join")) == 2


async def test_orphans_of_one_room_are_bounded_and_keep_their_own_timers(
    house: Harness, room: RoomID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations, "MOST_ORPHANS", 10)
    items = [
        Message(event_id=EventID(f"$child{n}"), sent=0, parent=EventID(f"$nobody{n}"))
        for n in range(30)
    ]
    before = await house.pending(room)
    await house.commit(RoomUpdate(room_id=room, items=list(items)))
    assert await count(house, "orphans") == 10
    assert await house.pending(room) == before + 30


# --- messages ----------------------------------------------------------------------------------


async def test_a_flood_of_messages_in_one_room_delays_nobody_elsewhere(
    house: Harness, room: RoomID
) -> None:
    other = house.homeserver.make_room()
    house.homeserver.set_lifetime(other, 10 * SECOND)
    house.homeserver.page = 1_000
    async with house.running(*house.everything):
        sent = await house.said_in(other, "gone in ten seconds")
        for _ in range(9):
            house.homeserver.hold("sync")
            for number in range(1_000):
                house.homeserver.send(room, f"flood {number}")
            house.homeserver.release("sync")
            await house.advance(SECOND)
        assert not is_gone(house, other, sent)
        await house.advance(SECOND)
        assert is_gone(house, other, sent)
        assert await house.pending(room) >= 9_000  # and none of them is forgotten


async def test_others_have_their_turn_while_a_page_of_commands_is_judged(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.send(room, "!expire help")
    [event] = house.homeserver.rooms[room].events[-1:]
    page = [event | {"event_id": f"$many{number}"} for number in range(1_000)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(others())
    now = house.clock.now()
    await house.reader.items(room, page, encrypted=False, live=False, since=now, now=now)
    counting.cancel()
    assert turns >= 1_000 // AT_ONCE - 1


def is_gone(house: Harness, room: RoomID, event_id: EventID) -> bool:
    events = house.homeserver.rooms[room].events
    return any(timeline.is_gone(event) for event in events if event["event_id"] == event_id)
