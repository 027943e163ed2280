"""A room's key reaches every device in it, a few at a time, and nobody who has left."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bot.core.outcomes import (
    Done,
    Failed,
    Outcome,
    OutcomeError,
    RateLimited,
    TokenRejectedError,
    Unreachable,
)
from bot.core.types import RoomID
from bot.matrix.client import SEND_WITHIN, Matrix
from bot.matrix.encryption import device_lists, room_keys
from bot.matrix.encryption.crypto import Crypto
from bot.matrix.encryption.device_lists import CLAIMED, KEYLESS_FOR, PEOPLE
from bot.matrix.encryption.room_keys import ALONE_AFTER, FREE, PORTION, REST
from bot.matrix.encryption.time_slices import TimeSlices
from tests.support.big_room import Answer, Crowd, Json, Member
from tests.support.encryption_engines import ROOM, Bot, commits_of

OTHER = RoomID("!other:example.org")


class Harness:
    """The bot's client before a crowd, at a time that only the tests move."""

    def __init__(self, folder: Path) -> None:
        self.bot = Bot(folder)
        self.crowd = Crowd(self.bot.client)
        self.matrix = Matrix(self.bot.client)
        self.now, self.rests, self.number = 0.0, 0, 0
        slices = TimeSlices(lambda: self.now, self._rest, lambda: self.now, most=10)
        self.matrix.crypto = Crypto(self.bot.client, self.matrix.request, slices)

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
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path / "bot")
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


async def test_keys_are_given_in_portions_with_turns_between(harness: Harness) -> None:
    harness.crowd.fill(ROOM, PEOPLE + 10)
    commits = commits_of(harness.bot)
    assert await harness.say() == Done(body={"event_id": "$event1"})
    assert harness.readers() == harness.everybody()
    for what, most in (("query", PEOPLE), ("claim", CLAIMED), ("share", PORTION)):
        assert sum(harness.sizes(what)) == PEOPLE + 10
        assert max(harness.sizes(what)) <= most
    pieces = (PEOPLE + 10) / 10  # of devices learned, channels opened, keys encrypted
    assert pieces * 2 <= harness.rests <= pieces * 3 + 10
    assert commits() <= pieces * 3 + 1


async def test_what_follows_costs_no_keys_and_no_writing(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 30)
    await harness.say()
    before, commits = harness.crowd.requests.copy(), commits_of(harness.bot)
    await harness.say()
    assert harness.crowd.requests - before == {"members": 1, "write": 1}
    assert commits() == 0
    assert harness.readers() == harness.everybody()


@pytest.mark.parametrize("how", [unanswered, lambda _: Answer(500, {}), lambda _: Answer(429, {})])
async def test_a_portion_that_fails_is_sent_again_and_no_other(
    harness: Harness, how: Callable[[Json], Any]
) -> None:
    harness.crowd.fill(ROOM, 5 * PORTION)
    harness.crowd.before = failing("share", second(how))
    outcome = await harness.say()
    assert isinstance(outcome, Unreachable | Failed | RateLimited)
    assert harness.crowd.events == []
    assert isinstance(await harness.say(), Done)
    assert set(harness.crowd.given.values()) == {1}
    assert harness.readers() == harness.everybody()


async def test_who_comes_reads_from_then_on_and_others_need_nothing_new(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 100)
    await harness.say()
    new = Member("@new:example.org")
    harness.crowd.add(ROOM, new)
    await harness.say()
    assert harness.readers() == harness.everybody()
    assert harness.readers(0) == harness.everybody() - {"@new:example.org PHONE"}
    assert set(harness.crowd.given.values()) == {1}


async def test_who_leaves_does_not_read_on(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 5)
    await harness.say()
    harness.crowd.rooms[ROOM].discard("@member0:example.org")
    await harness.say()
    assert harness.readers() == harness.everybody()


async def test_who_left_while_keys_were_given_does_not_read_either(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 3 * PORTION)
    harness.crowd.before = failing("share", second(unanswered))
    assert isinstance(await harness.say(), Unreachable)
    gone = min(harness.crowd.given)
    harness.crowd.rooms[ROOM].discard(gone.split(" ")[0])
    harness.now += REST * 3 * PORTION
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == harness.everybody()


async def test_a_leaving_device_ends_the_key_and_a_new_one_does_not(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 3)
    tablet = Member("@member0:example.org", "TABLET")
    await harness.say()
    harness.crowd.add(ROOM, tablet)
    harness.changed("@member0:example.org")
    await harness.say()
    assert harness.readers() == harness.everybody()
    assert set(harness.crowd.given.values()) == {1}
    lost = harness.crowd.devices["@member0:example.org"].pop("PHONE")
    harness.changed("@member0:example.org")
    await harness.say()
    assert harness.readers() == harness.everybody()
    assert lost.read(harness.crowd.events[-1][1]) is None
    harness.crowd.devices["@member0:example.org"]["PHONE"] = lost
    harness.changed("@member0:example.org")
    await harness.say()
    assert harness.readers() == harness.everybody()


async def test_leaving_and_coming_costs_a_big_room_few_new_keys(harness: Harness) -> None:
    number = FREE + 10
    harness.crowd.fill(ROOM, number)
    await harness.say()
    for _ in range(30):
        harness.crowd.rooms[ROOM].discard("@member0:example.org")
        outcome = await harness.say()
        assert isinstance(outcome, RateLimited)
        assert outcome.retry_after == pytest.approx(10 * REST * 1000, abs=2)
        harness.crowd.rooms[ROOM].add("@member0:example.org")
        assert isinstance(await harness.say(), Done)
    assert set(harness.crowd.given.values()) == {1}
    harness.crowd.rooms[ROOM].discard("@member0:example.org")
    harness.now += 10 * REST
    assert isinstance(await harness.say(), Done)
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == harness.everybody()
    assert sum(harness.crowd.given.values()) == number + number - 1


async def test_a_small_room_never_waits_for_a_new_key(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 5)
    await harness.say()
    for turn in range(4):
        harness.crowd.rooms[ROOM].discard(f"@member{turn}:example.org")
        assert isinstance(await harness.say(), Done)
        assert harness.readers() == harness.everybody()


async def test_one_rooms_keys_do_not_hold_up_another_rooms_words(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 3 * PORTION)
    harness.crowd.add(OTHER, Member("@alice:example.org"))
    stalled = asyncio.Event()
    harness.crowd.before = failing(
        "share",
        lambda body: stalled.wait() if "@alice:example.org" not in body["messages"] else None,
    )
    waiting = asyncio.create_task(harness.say())
    assert isinstance(await harness.say(OTHER), Done)
    assert harness.readers() == harness.everybody(OTHER)
    assert not waiting.done()
    stalled.set()
    harness.crowd.before = lambda _name, _body: None
    assert isinstance(await waiting, Done)


async def test_messages_of_one_room_go_one_after_the_other(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 2 * PORTION)
    outcomes = await asyncio.gather(*(harness.say() for _ in range(3)))
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert set(harness.crowd.given.values()) == {1}
    assert len({content["session_id"] for _, content in harness.crowd.events}) == 1


async def test_a_message_that_is_cut_off_anywhere_is_gone_on_with(harness: Harness) -> None:
    for one in harness.crowd.fill(ROOM, 2 * PORTION):
        one.give_more(20)  # a key that was claimed may be lost
    for slices in range(0, 60, 3):
        sending = asyncio.create_task(harness.say())
        for _ in range(slices):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == harness.everybody()


async def test_what_takes_too_long_is_said_and_gone_on_with(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    passed, time = [0.0], loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + passed[0])

    def stall(_: Json) -> Any:
        passed[0] += SEND_WITHIN
        return asyncio.Event().wait()

    harness.crowd.fill(ROOM, 3 * PORTION)
    harness.crowd.before = failing("share", second(stall))
    assert await harness.say() == Unreachable(reason="TimeoutError")
    given = sum(harness.crowd.given.values())
    assert f"{given} of {3 * PORTION} devices have its key; the next try goes on" in caplog.text
    assert 0 < given <= PORTION
    assert "example.org" not in caplog.text
    harness.crowd.before = lambda _name, _body: None
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == harness.everybody()
    assert set(harness.crowd.given.values()) == {1}


async def test_devices_without_one_time_keys_are_passed_over_for_a_while(harness: Harness) -> None:
    harness.crowd.add(ROOM, Member("@alice:example.org"), Member("@bob:example.org", keys=0))
    for _ in range(3):
        assert isinstance(await harness.say(), Done)
    assert harness.readers() == {"@alice:example.org PHONE"}
    assert harness.crowd.requests["claim"] == 1
    harness.crowd.add(ROOM, Member("@carol:example.org"))
    harness.crowd.devices["@bob:example.org"]["PHONE"].give_more(1)
    harness.now += KEYLESS_FOR + 1
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == harness.everybody()


async def test_keys_that_cannot_be_claimed_hold_up_only_once(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_keys, "CLAIMED", 5)
    harness.crowd.fill(ROOM, 3)
    await harness.say()
    harness.crowd.fill(ROOM, 3 * 5, "new")
    harness.crowd.before = failing("claim", unanswered)
    assert isinstance(await harness.say(), Unreachable)
    assert isinstance(await harness.say(), Done)
    assert harness.crowd.requests["claim"] == 1 + 1 + 2
    assert "stay without keys" in caplog.text
    harness.crowd.before = lambda _name, _body: None
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == harness.everybody()


async def test_a_device_that_is_refused_for_good_does_not_silence_the_room(
    harness: Harness,
) -> None:
    harness.crowd.fill(ROOM, 2 * PORTION)
    bad = "@member3:example.org"
    harness.crowd.before = failing(
        "share", lambda body: Answer(400, {"errcode": "M_BAD"}) if bad in body["messages"] else None
    )
    for _ in range(ALONE_AFTER):
        assert isinstance(await harness.say(), Failed)
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == harness.everybody() - {f"{bad} PHONE"}


async def test_a_device_that_signed_its_key_badly_spoils_only_its_own(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.crowd.fill(ROOM, 3)
    bad = harness.crowd.devices["@member1:example.org"]["PHONE"]
    bad._free = [key | {"signatures": {}} for key in bad._free]
    worse = harness.crowd.devices["@member2:example.org"]["PHONE"]
    worse._free = [{"key": 7}]
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == {"@member0:example.org PHONE"}
    assert "example.org" not in caplog.text


# nio passes over every device that is called as the bot's own is, whoever has it.
async def test_a_device_named_like_the_bots_own_is_given_the_key(harness: Harness) -> None:
    harness.crowd.add(ROOM, Member("@alice:example.org", harness.bot.device.id))
    harness.crowd.add(ROOM, Member("@bot:example.org", harness.bot.device.id))
    assert isinstance(await harness.say(), Done)
    assert harness.readers() == {f"@alice:example.org {harness.bot.device.id}"}


# nio keeps a device for ever as one that was deleted, though it is there again.
async def test_a_device_that_is_there_again_is_given_the_key(harness: Harness) -> None:
    alice = Member("@alice:example.org")
    harness.crowd.add(ROOM, alice)
    await harness.say()
    harness.crowd.devices[alice.user_id].clear()
    harness.changed(alice.user_id)
    await harness.say()
    harness.crowd.add(ROOM, alice)
    harness.changed(alice.user_id)
    await harness.say()
    assert harness.readers() == harness.everybody()
    assert alice.read(harness.crowd.events[1][1]) is None


# nio takes whoever is answered for off its list, though they changed since they were asked for.
async def test_who_changes_while_being_asked_for_is_asked_for_again(harness: Harness) -> None:
    alice = Member("@alice:example.org")
    harness.crowd.add(ROOM, alice)
    harness.crowd.before = failing(
        "query", lambda _: harness.bot.olm.add_changed_users({alice.user_id})
    )
    await harness.say()
    harness.crowd.before = lambda _name, _body: None
    harness.crowd.add(ROOM, Member(alice.user_id, "TABLET"))
    await harness.say()
    assert harness.readers() == harness.everybody()


async def test_of_one_person_only_so_many_devices_are_taken(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_lists, "MOST_DEVICES", 20)
    first = Member("@mallory:example.org", "FIRST")
    harness.crowd.add(ROOM, first)
    await harness.say()
    many = [Member(first.user_id, f"A{number:04}") for number in range(40)]
    harness.crowd.add(ROOM, *many)
    harness.changed(first.user_id)
    assert isinstance(await harness.say(), Done)
    assert len(harness.readers()) == 20
    assert f"{first.user_id} FIRST" in harness.readers()


async def test_people_nobody_answers_for_are_asked_for_once_a_minute(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 2)
    harness.crowd.rooms[ROOM].add("@away:elsewhere.org")
    harness.crowd.away.add("@away:elsewhere.org")
    for _ in range(3):
        assert isinstance(await harness.say(), Done)
    assert harness.crowd.requests["query"] == 1
    harness.now += device_lists.SILENT_FOR
    await harness.say()
    assert harness.crowd.requests["query"] == 2


async def test_a_new_key_is_used_after_a_hundred_messages(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 2)
    for _ in range(101):
        assert isinstance(await harness.say(), Done)
    assert len({content["session_id"] for _, content in harness.crowd.events}) == 2
    assert harness.readers() == harness.everybody()


async def test_a_channel_is_on_the_disk_before_anything_goes_through_it(harness: Harness) -> None:
    harness.crowd.fill(ROOM, PORTION + 5)

    def look(body: Json) -> None:
        with closing(sqlite3.connect(harness.bot.client.store.database_path)) as disk:
            on_disk = {name for (name,) in disk.execute("SELECT session_id FROM olmsessions")}
        for user_id in body["messages"]:
            (device,) = harness.bot.olm.device_store.active_user_devices(user_id)
            channel = harness.bot.olm.channel_to(device)
            assert channel is not None
            assert channel.id in on_disk

    harness.crowd.before = failing("share", look)
    assert isinstance(await harness.say(), Done)


async def test_the_room_that_was_silent_for_longest_is_forgotten_first(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_keys, "MOST_HELD", 25)
    rooms = [RoomID(f"!room{number}:example.org") for number in range(3)]
    for room in rooms:
        harness.crowd.fill(room, 10, room[1:6])
        await harness.say(room)
    keys = harness.matrix.crypto.room_keys
    assert list(keys._rooms) == rooms[1:]
    await harness.say(rooms[1])
    await harness.say(rooms[0])
    assert list(keys._rooms) == [rooms[1], rooms[0]]


async def test_a_relation_stays_readable_and_the_words_do_not(harness: Harness) -> None:
    harness.crowd.fill(ROOM, 1)
    relation = {"rel_type": "m.reference", "event_id": "$one"}
    content = {"body": "secret", "m.relates_to": relation}
    await harness.matrix.send(ROOM, "m.key.verification.done", content, "txn", encrypted=True)
    ((room, sealed),) = harness.crowd.events
    assert room == ROOM
    assert sealed["m.relates_to"] == relation
    assert "secret" not in str(sealed)
    (member,) = [one["PHONE"] for one in harness.crowd.devices.values()]
    assert member.read(sealed) == {
        "type": "m.key.verification.done",
        "content": content,
        "room_id": ROOM,
    }


async def test_a_room_the_bot_was_put_out_of_is_named_as_such(harness: Harness) -> None:
    harness.crowd.before = failing("members", lambda _: Answer(403, {"errcode": "M_FORBIDDEN"}))
    outcome = await harness.say()
    assert type(outcome).__name__ == "Forbidden"


async def test_big_shares_are_told_in_numbers_only(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_keys, "TOLD_FROM", 5)
    caplog.set_level(logging.INFO, "bot")
    harness.crowd.fill(ROOM, 5)
    await harness.say()
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
    harness: Harness, answer: Outcome, expected: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def members(*given: Any, **more: Any) -> Outcome:
        return answer if given[1].endswith("/joined_members") else await ask(*given, **more)

    harness.crowd.fill(ROOM, 3)
    ask = harness.matrix.crypto.room_keys._request
    monkeypatch.setattr(harness.matrix.crypto.room_keys, "_request", members)
    assert await harness.say() == expected
    assert harness.crowd.events == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("somebody's text"), Failed(status=0, errcode="ValueError")),
        (OutcomeError(Failed(status=500)), Failed(status=500)),
        (TimeoutError(), Unreachable(reason="TimeoutError")),
    ],
)
async def test_whatever_members_keys_are_made_of_words_come_to_an_outcome(
    harness: Harness,
    error: Exception,
    expected: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def share(_: object) -> Any:
        raise error

    harness.crowd.fill(ROOM, 3)
    monkeypatch.setattr(harness.matrix.crypto.room_keys, "share", share)
    assert await harness.say() == expected
    assert harness.crowd.events == []
    assert "somebody's text" not in caplog.text
    monkeypatch.undo()
    assert await harness.say() == Done(body={"event_id": "$event1"})


async def test_a_token_that_has_ended_is_no_outcome_of_words(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def share(_: object) -> Any:
        raise TokenRejectedError("M_UNKNOWN_TOKEN")

    harness.crowd.fill(ROOM, 3)
    monkeypatch.setattr(harness.matrix.crypto.room_keys, "share", share)
    with pytest.raises(TokenRejectedError):
        await harness.say()
