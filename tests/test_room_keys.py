"""A room's key reaches every device in it, a few at a time, and nobody who has left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bot.matrix import devices, room_keys
from bot.matrix.client import SEND_WITHIN, Matrix
from bot.matrix.crypto import Crypto
from bot.matrix.devices import CLAIMED, KEYLESS_FOR, PEOPLE
from bot.matrix.room_keys import ALONE_AFTER, FREE, PORTION, REST
from bot.matrix.turns import Turns
from bot.model import (
    Done,
    Failed,
    Outcome,
    OutcomeError,
    RateLimited,
    RoomID,
    TokenRejectedError,
    Unreachable,
)
from tests.crowd import Answer, Crowd, Json, Member
from tests.engines import ROOM, Bot, commits_of

OTHER = RoomID("!other:example.org")


class House:
    """The bot's client before a crowd, at a time that only the tests move."""

    def __init__(self, folder: Path) -> None:
        self.bot = Bot(folder)
        self.crowd = Crowd(self.bot.client)
        self.matrix = Matrix(self.bot.client)
        self.now, self.rests, self.number = 0.0, 0, 0
        turns = Turns(lambda: self.now, self._rest, lambda: self.now, most=10)
        self.matrix.crypto = Crypto(self.bot.client, self.matrix.request, turns)

    async def _rest(self, _: float) -> None:
        self.rests += 1
        await asyncio.sleep(0)

    async def say(self, room: RoomID = ROOM) -> Outcome:
        self.number += 1
        content = {"body": f"words {self.number}"}
        return await self.matrix.say(room, content, f"txn{self.number}", encrypted=True)

    def readers(self, number: int = -1) -> set[str]:
        """Return whose devices can read an event; `-1` is the last."""
        _, content = self.crowd.events[number]
        return {
            f"{user_id} {name}"
            for user_id, found in self.crowd.devices.items()
            for name, one in found.items()
            if one.read(content) is not None
        }

    def everybody(self, room: RoomID = ROOM) -> set[str]:
        return {
            f"{user_id} {name}"
            for user_id in self.crowd.rooms[room]
            for name in self.crowd.devices[user_id]
        }

    def changed(self, user_id: str) -> None:
        """Say, as a sync does, that somebody's devices changed."""
        self.matrix.crypto.feed({"device_lists": {"changed": [user_id]}})

    def sizes(self, what: str) -> list[int]:
        return [number for name, number in self.crowd.sizes if name == what]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path / "bot")
    yield made
    await made.matrix.close()


def failing(what: str, how: Callable[[Json], Any]) -> Callable[[str, Json], Any]:
    """Return what has requests of a kind answered by `how`; `None` is the true answer."""
    return lambda name, body: how(body) if name == what else None


def second(how: Callable[[Json], Any]) -> Callable[[Json], Any]:
    """Return what answers the second request by `how`, and the others truly."""
    count = iter(range(1_000))
    return lambda body: how(body) if next(count) == 1 else None


def unanswered(_: Json) -> Any:
    raise aiohttp.ClientConnectionError


async def test_keys_are_given_in_portions_with_turns_between(house: House) -> None:
    house.crowd.fill(ROOM, PEOPLE + 10)
    commits = commits_of(house.bot)
    assert await house.say() == Done(body={"event_id": "$event1"})
    assert house.readers() == house.everybody()
    for what, most in (("query", PEOPLE), ("claim", CLAIMED), ("share", PORTION)):
        assert sum(house.sizes(what)) == PEOPLE + 10
        assert max(house.sizes(what)) <= most
    pieces = (PEOPLE + 10) / 10  # of devices learned, channels opened, keys encrypted
    assert pieces * 2 <= house.rests <= pieces * 3 + 10
    assert commits() <= pieces * 3 + 1


async def test_what_follows_costs_no_keys_and_no_writing(house: House) -> None:
    house.crowd.fill(ROOM, 30)
    await house.say()
    before, commits = house.crowd.requests.copy(), commits_of(house.bot)
    await house.say()
    assert house.crowd.requests - before == {"members": 1, "write": 1}
    assert commits() == 0
    assert house.readers() == house.everybody()


@pytest.mark.parametrize("how", [unanswered, lambda _: Answer(500, {}), lambda _: Answer(429, {})])
async def test_a_portion_that_fails_is_sent_again_and_no_other(
    house: House, how: Callable[[Json], Any]
) -> None:
    house.crowd.fill(ROOM, 5 * PORTION)
    house.crowd.before = failing("share", second(how))
    outcome = await house.say()
    assert isinstance(outcome, Unreachable | Failed | RateLimited)
    assert house.crowd.events == []
    assert isinstance(await house.say(), Done)
    assert set(house.crowd.given.values()) == {1}
    assert house.readers() == house.everybody()


async def test_who_comes_reads_from_then_on_and_others_need_nothing_new(house: House) -> None:
    house.crowd.fill(ROOM, 100)
    await house.say()
    new = Member("@new:example.org")
    house.crowd.add(ROOM, new)
    await house.say()
    assert house.readers() == house.everybody()
    assert house.readers(0) == house.everybody() - {"@new:example.org PHONE"}
    assert set(house.crowd.given.values()) == {1}


async def test_who_leaves_does_not_read_on(house: House) -> None:
    house.crowd.fill(ROOM, 5)
    await house.say()
    house.crowd.rooms[ROOM].discard("@member0:example.org")
    await house.say()
    assert house.readers() == house.everybody()


async def test_who_left_while_keys_were_given_does_not_read_either(house: House) -> None:
    house.crowd.fill(ROOM, 3 * PORTION)
    house.crowd.before = failing("share", second(unanswered))
    assert isinstance(await house.say(), Unreachable)
    gone = min(house.crowd.given)
    house.crowd.rooms[ROOM].discard(gone.split(" ")[0])
    house.now += REST * 3 * PORTION
    assert isinstance(await house.say(), Done)
    assert house.readers() == house.everybody()


async def test_a_device_that_is_gone_ends_the_key_and_a_new_one_does_not(house: House) -> None:
    house.crowd.fill(ROOM, 3)
    tablet = Member("@member0:example.org", "TABLET")
    await house.say()
    house.crowd.add(ROOM, tablet)
    house.changed("@member0:example.org")
    await house.say()
    assert house.readers() == house.everybody()
    assert set(house.crowd.given.values()) == {1}
    lost = house.crowd.devices["@member0:example.org"].pop("PHONE")
    house.changed("@member0:example.org")
    await house.say()
    assert house.readers() == house.everybody()
    assert lost.read(house.crowd.events[-1][1]) is None
    house.crowd.devices["@member0:example.org"]["PHONE"] = lost
    house.changed("@member0:example.org")
    await house.say()
    assert house.readers() == house.everybody()


async def test_leaving_and_coming_costs_a_big_room_one_new_key_in_a_while(house: House) -> None:
    number = FREE + 10
    house.crowd.fill(ROOM, number)
    await house.say()
    for _ in range(30):
        house.crowd.rooms[ROOM].discard("@member0:example.org")
        outcome = await house.say()
        assert isinstance(outcome, RateLimited)
        assert outcome.retry_after == pytest.approx(10 * REST * 1000, abs=2)
        house.crowd.rooms[ROOM].add("@member0:example.org")
        assert isinstance(await house.say(), Done)
    assert set(house.crowd.given.values()) == {1}
    house.crowd.rooms[ROOM].discard("@member0:example.org")
    house.now += 10 * REST
    assert isinstance(await house.say(), Done)
    assert isinstance(await house.say(), Done)
    assert house.readers() == house.everybody()
    assert sum(house.crowd.given.values()) == number + number - 1


async def test_a_small_room_never_waits_for_a_new_key(house: House) -> None:
    house.crowd.fill(ROOM, 5)
    await house.say()
    for turn in range(4):
        house.crowd.rooms[ROOM].discard(f"@member{turn}:example.org")
        assert isinstance(await house.say(), Done)
        assert house.readers() == house.everybody()


async def test_one_rooms_keys_do_not_hold_up_another_rooms_words(house: House) -> None:
    house.crowd.fill(ROOM, 3 * PORTION)
    house.crowd.add(OTHER, Member("@alice:example.org"))
    stalled = asyncio.Event()
    house.crowd.before = failing(
        "share",
        lambda body: stalled.wait() if "@alice:example.org" not in body["messages"] else None,
    )
    waiting = asyncio.create_task(house.say())
    assert isinstance(await house.say(OTHER), Done)
    assert house.readers() == house.everybody(OTHER)
    assert not waiting.done()
    stalled.set()
    house.crowd.before = lambda _name, _body: None
    assert isinstance(await waiting, Done)


async def test_messages_of_one_room_go_one_after_the_other(house: House) -> None:
    house.crowd.fill(ROOM, 2 * PORTION)
    outcomes = await asyncio.gather(*(house.say() for _ in range(3)))
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert set(house.crowd.given.values()) == {1}
    assert len({content["session_id"] for _, content in house.crowd.events}) == 1


async def test_a_message_that_is_cut_off_anywhere_is_gone_on_with(house: House) -> None:
    house.crowd.fill(ROOM, 2 * PORTION)
    for turns in range(0, 60, 3):
        sending = asyncio.create_task(house.say())
        for _ in range(turns):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert isinstance(await house.say(), Done)
    assert house.readers() == house.everybody()


async def test_what_takes_too_long_is_said_and_gone_on_with(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    passed, time = [0.0], loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + passed[0])

    def stall(_: Json) -> Any:
        passed[0] += SEND_WITHIN
        return asyncio.Event().wait()

    house.crowd.fill(ROOM, 3 * PORTION)
    house.crowd.before = failing("share", second(stall))
    assert await house.say() == Unreachable(reason="TimeoutError")
    given = sum(house.crowd.given.values())
    assert f"{given} of {3 * PORTION} devices have its key; the next try goes on" in caplog.text
    assert 0 < given <= PORTION
    assert "example.org" not in caplog.text
    house.crowd.before = lambda _name, _body: None
    assert isinstance(await house.say(), Done)
    assert house.readers() == house.everybody()
    assert set(house.crowd.given.values()) == {1}


async def test_devices_without_one_time_keys_are_passed_over_for_a_while(house: House) -> None:
    house.crowd.add(ROOM, Member("@alice:example.org"), Member("@bob:example.org", keys=0))
    for _ in range(3):
        assert isinstance(await house.say(), Done)
    assert house.readers() == {"@alice:example.org PHONE"}
    assert house.crowd.requests["claim"] == 1
    house.crowd.add(ROOM, Member("@carol:example.org"))
    house.crowd.devices["@bob:example.org"]["PHONE"].give_more(1)
    house.now += KEYLESS_FOR + 1
    assert isinstance(await house.say(), Done)
    assert house.readers() == house.everybody()


async def test_keys_that_cannot_be_claimed_hold_up_only_once(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_keys, "CLAIMED", 5)
    house.crowd.fill(ROOM, 3)
    await house.say()
    house.crowd.fill(ROOM, 3 * 5, "new")
    house.crowd.before = failing("claim", unanswered)
    assert isinstance(await house.say(), Unreachable)
    assert isinstance(await house.say(), Done)
    assert house.crowd.requests["claim"] == 1 + 1 + 2
    assert "stay without keys" in caplog.text
    house.crowd.before = lambda _name, _body: None
    assert isinstance(await house.say(), Done)
    assert house.readers() == house.everybody()


async def test_a_device_that_is_refused_for_good_does_not_silence_the_room(house: House) -> None:
    house.crowd.fill(ROOM, 2 * PORTION)
    bad = "@member3:example.org"
    house.crowd.before = failing(
        "share", lambda body: Answer(400, {"errcode": "M_BAD"}) if bad in body["messages"] else None
    )
    for _ in range(ALONE_AFTER):
        assert isinstance(await house.say(), Failed)
    assert isinstance(await house.say(), Done)
    assert house.readers() == house.everybody() - {f"{bad} PHONE"}


async def test_a_device_that_signed_its_key_badly_spoils_only_its_own(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.crowd.fill(ROOM, 3)
    bad = house.crowd.devices["@member1:example.org"]["PHONE"]
    bad._free = [key | {"signatures": {}} for key in bad._free]
    worse = house.crowd.devices["@member2:example.org"]["PHONE"]
    worse._free = [{"key": 7}]
    assert isinstance(await house.say(), Done)
    assert house.readers() == {"@member0:example.org PHONE"}
    assert "example.org" not in caplog.text


# nio passes over every device that is called as the bot's own is, whoever has it.
async def test_a_device_with_the_name_of_the_bots_own_is_given_the_key(house: House) -> None:
    house.crowd.add(ROOM, Member("@alice:example.org", house.bot.device.id))
    house.crowd.add(ROOM, Member("@bot:example.org", house.bot.device.id))
    assert isinstance(await house.say(), Done)
    assert house.readers() == {f"@alice:example.org {house.bot.device.id}"}


# nio keeps a device for ever as one that was deleted, though it is there again.
async def test_a_device_that_is_there_again_is_given_the_key(house: House) -> None:
    alice = Member("@alice:example.org")
    house.crowd.add(ROOM, alice)
    await house.say()
    house.crowd.devices[alice.user_id].clear()
    house.changed(alice.user_id)
    await house.say()
    house.crowd.add(ROOM, alice)
    house.changed(alice.user_id)
    await house.say()
    assert house.readers() == house.everybody()
    assert alice.read(house.crowd.events[1][1]) is None


# nio takes whoever is answered for off its list, though they changed since they were asked for.
async def test_who_changes_while_being_asked_for_is_asked_for_again(house: House) -> None:
    alice = Member("@alice:example.org")
    house.crowd.add(ROOM, alice)
    house.crowd.before = failing(
        "query", lambda _: house.bot.olm.add_changed_users({alice.user_id})
    )
    await house.say()
    house.crowd.before = lambda _name, _body: None
    house.crowd.add(ROOM, Member(alice.user_id, "TABLET"))
    await house.say()
    assert house.readers() == house.everybody()


async def test_of_one_person_only_so_many_devices_are_taken(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "MOST_DEVICES", 20)
    first = Member("@mallory:example.org", "FIRST")
    house.crowd.add(ROOM, first)
    await house.say()
    many = [Member(first.user_id, f"A{number:04}") for number in range(40)]
    house.crowd.add(ROOM, *many)
    house.changed(first.user_id)
    assert isinstance(await house.say(), Done)
    assert len(house.readers()) == 20
    assert f"{first.user_id} FIRST" in house.readers()


async def test_people_nobody_answers_for_are_asked_for_once_a_minute(house: House) -> None:
    house.crowd.fill(ROOM, 2)
    house.crowd.rooms[ROOM].add("@away:elsewhere.org")
    house.crowd.away.add("@away:elsewhere.org")
    for _ in range(3):
        assert isinstance(await house.say(), Done)
    assert house.crowd.requests["query"] == 1
    house.now += devices.SILENT_FOR
    await house.say()
    assert house.crowd.requests["query"] == 2


async def test_a_new_key_is_used_after_a_hundred_messages(house: House) -> None:
    house.crowd.fill(ROOM, 2)
    for _ in range(101):
        assert isinstance(await house.say(), Done)
    assert len({content["session_id"] for _, content in house.crowd.events}) == 2
    assert house.readers() == house.everybody()


async def test_a_channel_is_on_the_disk_before_anything_goes_through_it(house: House) -> None:
    house.crowd.fill(ROOM, PORTION + 5)

    def look(body: Json) -> None:
        assert not house.bot.client.store.database.in_transaction()
        on_disk = {session.id for session in house.bot.client.store.load_sessions()}
        for user_id in body["messages"]:
            (device,) = house.bot.olm.device_store.active_user_devices(user_id)
            channel = house.bot.olm.channel_to(device)
            assert channel is not None
            assert channel.id in on_disk

    house.crowd.before = failing("share", look)
    assert isinstance(await house.say(), Done)


async def test_the_room_that_was_silent_for_longest_is_forgotten_first(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_keys, "MOST_HELD", 25)
    rooms = [RoomID(f"!room{number}:example.org") for number in range(3)]
    for room in rooms:
        house.crowd.fill(room, 10, room[1:6])
        await house.say(room)
    keys = house.matrix.crypto.room_keys
    assert list(keys._rooms) == rooms[1:]
    await house.say(rooms[1])
    await house.say(rooms[0])
    assert list(keys._rooms) == [rooms[1], rooms[0]]


async def test_a_relation_stays_readable_and_the_words_do_not(house: House) -> None:
    house.crowd.fill(ROOM, 1)
    relation = {"rel_type": "m.reference", "event_id": "$one"}
    content = {"body": "secret", "m.relates_to": relation}
    await house.matrix.send(ROOM, "m.key.verification.done", content, "txn", encrypted=True)
    ((room, sealed),) = house.crowd.events
    assert room == ROOM
    assert sealed["m.relates_to"] == relation
    assert "secret" not in str(sealed)
    (member,) = [one["PHONE"] for one in house.crowd.devices.values()]
    assert member.read(sealed) == {
        "type": "m.key.verification.done",
        "content": content,
        "room_id": ROOM,
    }


async def test_a_room_the_bot_was_put_out_of_is_named_as_such(house: House) -> None:
    house.crowd.before = failing("members", lambda _: Answer(403, {"errcode": "M_FORBIDDEN"}))
    outcome = await house.say()
    assert type(outcome).__name__ == "Forbidden"


async def test_big_shares_are_told_in_numbers_only(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_keys, "TOLD_FROM", 5)
    caplog.set_level(logging.INFO, "bot")
    house.crowd.fill(ROOM, 5)
    await house.say()
    assert "a room's key was given to 5 devices" in caplog.text
    assert "example.org" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Failed(status=500), Failed(status=500)),
        (Unreachable(reason="x"), Unreachable(reason="x")),
        (Done(body={}), Failed(status=200)),
        (Done(body={"joined": []}), Failed(status=200)),
    ],
)
async def test_nothing_is_encrypted_to_members_that_are_not_known(
    house: House, answer: Outcome, expected: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def members(*given: Any, **more: Any) -> Outcome:
        return answer if given[1].endswith("/joined_members") else await ask(*given, **more)

    house.crowd.fill(ROOM, 3)
    ask = house.matrix.crypto.room_keys._request
    monkeypatch.setattr(house.matrix.crypto.room_keys, "_request", members)
    assert await house.say() == expected
    assert house.crowd.events == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("somebody's text"), Failed(status=0, errcode="ValueError")),
        (OutcomeError(Failed(status=500)), Failed(status=500)),
        (TimeoutError(), Unreachable(reason="TimeoutError")),
    ],
)
async def test_whatever_members_keys_are_made_of_words_come_to_an_outcome(
    house: House,
    error: Exception,
    expected: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def share(_: object) -> Any:
        raise error

    house.crowd.fill(ROOM, 3)
    monkeypatch.setattr(house.matrix.crypto.room_keys, "share", share)
    assert await house.say() == expected
    assert house.crowd.events == []
    assert "somebody's text" not in caplog.text
    monkeypatch.undo()
    assert await house.say() == Done(body={"event_id": "$event1"})


async def test_a_token_that_has_ended_is_no_outcome_of_words(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def share(_: object) -> Any:
        raise TokenRejectedError("M_UNKNOWN_TOKEN")

    house.crowd.fill(ROOM, 3)
    monkeypatch.setattr(house.matrix.crypto.room_keys, "share", share)
    with pytest.raises(TokenRejectedError):
        await house.say()
