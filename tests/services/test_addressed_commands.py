"""A command is heard however people say it to the bot, and answered in the thread it stands in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bot.core.events import may_be_command
from bot.core.outcomes import Refused, Unreachable
from bot.core.types import Event, EventID, RoomID
from bot.demo.homeserver import Homeserver
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import Bots
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.harness import MINUTE, Harness
from tests.support.people import People, Person, wait_until

LIMITS = Path(__file__).parent.parent.parent / "docs/limits.md"
ROOT = EventID("$root")
THREAD = {"rel_type": "m.thread", "event_id": ROOT, "is_falling_back": True}
IN_THREAD = {**THREAD, "m.in_reply_to": {"event_id": ROOT}}


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room that the bot has known for a while; bob has no power."""
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    async with harness.running(harness.sync):
        pass
    return room


def relating(relation: dict[str, Any]) -> dict[str, Any]:
    return {"m.relates_to": relation}


def replying(event_id: str) -> dict[str, Any]:
    return relating({"m.in_reply_to": {"event_id": event_id}})


def own(harness: Harness, room: RoomID) -> list[Event]:
    """Return what the bot has said, as it stands in the room."""
    events = harness.homeserver.rooms[room].events
    return [one for one in events if one["sender"] == BOT and "state_key" not in one]


async def said(harness: Harness, room: RoomID, body: str, **content: Any) -> list[str]:
    """Let alice say something; return what the bot answers."""
    before = len(harness.homeserver.heard(room))
    async with harness.running(harness.sync, harness.outbox):
        harness.homeserver.send(room, body, **content)
        await harness.rest()
    return harness.homeserver.heard(room)[before:]


# --- to whom it is said --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    ["bot: !expire 5m", "!expire: 5m", "`!expire 5m`", "!expire 5 minutes.", "!expire after 5m"],
)
async def test_a_command_is_heard_however_it_is_written(
    harness: Harness, room: RoomID, body: str
) -> None:
    [answer] = await said(harness, room, body)
    assert answer.endswith("set disappearing messages to 5 minutes.")
    assert harness.homeserver.lifetime_of(room) == {"type": "after_send", "timer": 5 * MINUTE}


@pytest.mark.parametrize("body", ["!expire 0", "!expire 1 month", "!expire set off"])
async def test_what_is_not_understood_is_answered_with_the_way_out(
    harness: Harness, room: RoomID, body: str
) -> None:
    [answer] = await said(harness, room, body)
    assert "!expire off ends it." in answer


@pytest.mark.parametrize("fallback", ["", "> <@bot:example.org> say !expire 1d\n\n"])
async def test_a_reply_to_the_bots_own_notice_is_a_command(
    harness: Harness, room: RoomID, fallback: str
) -> None:
    await said(harness, room, "!expire status")
    about = replying(own(harness, room)[-1]["event_id"])
    [answer] = await said(harness, room, f"{fallback}!expire 5m", **about)
    assert answer.endswith("set disappearing messages to 5 minutes.")


async def test_a_reply_to_somebody_else_is_no_command(harness: Harness, room: RoomID) -> None:
    asked = harness.homeserver.send(room, "how do I turn it off?", sender=BOB)
    about = replying(asked)
    assert await said(harness, room, "!expire off", **about) == []
    named: dict[str, Any] = {"m.mentions": {"user_ids": [BOT]}}
    assert len(await said(harness, room, "!expire off", **about, **named)) == 1


async def test_a_reply_is_heard_though_nobody_says_to_whom_it_replies(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.fail_next(Unreachable(reason="x"), on="event")
    about = replying("$away")
    assert len(await said(harness, room, "!expire status", **about)) == 1


@pytest.mark.parametrize("body", ["Ephemeral: !expire 5m", "@ephemeral, `!expire 5m.`"])
async def test_the_bot_is_called_by_its_name_in_the_room(
    harness: Harness, room: RoomID, body: str
) -> None:
    [answer] = await said(harness, room, body)
    assert answer.endswith("set disappearing messages to 5 minutes.")


@pytest.mark.parametrize("body", ["alice: !expire off", "bob, !expire status", "x: !expire y"])
async def test_what_is_said_to_somebody_else_by_name_is_no_command(
    harness: Harness, room: RoomID, body: str
) -> None:
    assert await said(harness, room, body) == []
    harness.homeserver.set_member(room, BOT, "join")
    assert await said(harness, room, body) == []


async def test_replies_over_the_limit_cost_no_request(harness: Harness, room: RoomID) -> None:
    about = replying("$away")
    async with harness.running(harness.sync, harness.outbox):
        for _ in range(100):
            harness.homeserver.send(room, "!expire status", **about)
        await harness.rest()
    assert len(harness.homeserver.times("event")) == 30


# --- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", ["!expire 5m", "!expire off", "!expire", "!expire help", "!expire soon", "!expire 1s"]
)
@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_command_in_a_thread_is_answered_there(
    harness: Harness, body: str, encrypted: bool
) -> None:
    room = harness.homeserver.make_room(encrypted=encrypted)
    async with harness.running(harness.sync, harness.outbox):
        if encrypted:
            content = {"msgtype": "m.text", "body": body}
            event = harness.homeserver.encrypt(content, ALICE)
            event["content"]["m.relates_to"] = THREAD
            harness.homeserver.add(room, event)
        else:
            harness.homeserver.send(room, body, **relating(THREAD))
        await harness.rest()
    answer = own(harness, room)[-1]
    content = answer["content"]
    if encrypted:
        content = harness.homeserver.clear[content["ciphertext"]]
    assert content["m.relates_to"] == IN_THREAD
    assert content["msgtype"] == "m.notice"


async def test_what_is_not_said_in_a_thread_is_answered_outside(
    harness: Harness, room: RoomID
) -> None:
    await said(harness, room, "!expire 5m", **relating(THREAD))
    harness.homeserver.set_lifetime(room, MINUTE)
    await said(harness, room, "!expire status")
    assert ["m.relates_to" in one["content"] for one in own(harness, room)] == [True, False, False]


async def test_an_answer_in_a_thread_goes_in_its_time(harness: Harness, room: RoomID) -> None:
    async with harness.running(*harness.everything):
        await harness.said_in(room, "!expire 5m")
        harness.homeserver.send(room, "!expire status", **relating(THREAD))
        await harness.rest()
        answer = own(harness, room)[-1]
        assert answer["content"]["m.relates_to"] == IN_THREAD
        await harness.advance(5 * MINUTE)
        await harness.advance(MINUTE)
    assert harness.homeserver.is_redacted(room, answer["event_id"])


async def test_a_command_that_waits_for_the_homeserver_is_answered_in_its_thread(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.fail_next(Unreachable(reason="x"), on="power")
    async with harness.running(*harness.everything):
        harness.homeserver.send(room, "!expire 5m", **relating(THREAD))
        await harness.rest()
        await harness.advance(MINUTE)
    assert own(harness, room)[-1]["content"]["m.relates_to"] == IN_THREAD


async def test_a_command_that_cannot_be_written_is_answered_in_its_thread(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.fail_next(Refused(status=400), on="set_policy")
    [answer] = await said(harness, room, "!expire 5m", **relating(THREAD))
    assert "does not hold" in answer
    assert own(harness, room)[-1]["content"]["m.relates_to"] == IN_THREAD


async def test_a_thread_that_cannot_be_is_answered_outside(harness: Harness, room: RoomID) -> None:
    harness.homeserver.fail_next(Refused(status=400, errcode="M_UNKNOWN"), on="say")
    [answer] = await said(harness, room, "!expire help", **relating(THREAD))
    assert "this list" in answer
    assert "m.relates_to" not in own(harness, room)[-1]["content"]


async def test_nothing_of_a_thread_is_kept_once_it_is_answered(
    harness: Harness, room: RoomID
) -> None:
    await said(harness, room, "!expire help", **relating(THREAD))
    await harness.store.wipe()
    assert ROOT.encode() not in harness.path.read_bytes()


@pytest.mark.synapse
async def test_a_real_homeserver_keeps_the_answer_in_the_thread_until_it_goes(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    root = await alice.send(room, "a thread begins")
    relation = {"rel_type": "m.thread", "event_id": root}
    content = {"msgtype": "m.text", "body": "!expire 3s", "m.relates_to": relation}
    await alice.send(room, content)
    await alice.until_notice(room, bot.user_id, "set disappearing messages to 3 seconds.")
    events = [one for one in await alice.messages(room) if one["sender"] == bot.user_id]
    [answer] = [one for one in events if "3 seconds" in str(one["content"].get("body"))]
    assert answer["content"]["m.relates_to"]["event_id"] == root
    reply = {"m.in_reply_to": {"event_id": answer["event_id"]}}
    content = {"msgtype": "m.text", "body": "!expire: off", "m.relates_to": reply}
    await alice.send(room, content)
    await alice.until_notice(room, bot.user_id, "turned disappearing messages off")
    await alice.until_redacted(room, answer["event_id"], 15)


@pytest.mark.synapse
async def test_the_push_rule_of_the_limits_ends_what_redactions_notify(tmp_path: Path) -> None:
    found = re.search(r"`(\{[^`]*m\.room\.redaction[^`]*\})`", LIMITS.read_text())
    assert found is not None
    rule = json.loads(found[1])
    (tmp_path / "server").mkdir()
    async with Homeserver(tmp_path / "server", extra={"push": {"enabled": True}}) as homeserver:
        people = People(homeserver, tmp_path)
        try:
            alice, bob = await people("alice"), await people("bob")
            assert await notified(alice, bob) == 1
            await bob.call("PUT", "pushrules", "global", "override", "redactions", body=rule)
            assert await notified(alice, bob) == 0
        finally:
            await people.close()


async def notified(alice: Person, bob: Person) -> int:
    """Return how often bob is notified of one redaction in a room set to all messages."""
    room = await alice.create_room()
    await alice.invite(room, bob.user_id)
    await bob.join(room)
    everything = {"actions": ["notify"]}
    await bob.call("PUT", "pushrules", "global", "room", room, body=everything)
    await alice.redact(room, await alice.send(room, "x"))
    last = await alice.send(room, "later")

    async def shown() -> list[str] | None:
        found = (await bob.call("GET", "notifications"))["notifications"]
        here = [one["event"] for one in found if one["room_id"] == room]
        return [one["type"] for one in here] if last in str(here) else None

    return (await wait_until(shown)).count("m.room.redaction")


def test_a_keyless_reply_may_be_a_command_though_it_quotes_a_notice() -> None:
    long = {"ciphertext": "x" * 4_000}
    assert not may_be_command(long)
    assert not may_be_command(long | relating(THREAD))
    assert may_be_command(long | replying("$notice"))
    assert may_be_command(long | relating(IN_THREAD))
    assert not may_be_command({"ciphertext": "x" * 9_000} | replying("$notice"))
    assert not may_be_command(replying("$x") | relating({"rel_type": "m.replace"}))
