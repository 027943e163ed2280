"""Whatever a real homeserver accepts, from whomever, goes: no kind of event slips through."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import Bots
from tests.support.people import ApiError, People, Person, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from bot.core.types import EventID, RoomID
    from bot.demo.homeserver import Homeserver
    from tests.support.bot_process import BotProcess
    from tests.support.bridge import Puppet

pytestmark = pytest.mark.synapse

LIFETIME = {"type": "after_send", "timer": 2_000}
Sendable = tuple[str, dict[str, Any]]
"""The type of an event and its content."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
OURS = "$ours"
"""Stands for an event of the same room."""
IDS = st.sampled_from([OURS, "$nowhere", ""]) | JSON
RELATION = st.fixed_dictionaries(
    {},
    optional={
        "rel_type": st.sampled_from(["m.replace", "m.annotation", "m.reference", "m.thread"])
        | JSON,
        "event_id": IDS,
        "key": JSON,
        "is_falling_back": JSON,
        "m.in_reply_to": st.fixed_dictionaries({"event_id": IDS}) | JSON,
    },
)
KNOWN = [
    "m.room.message",
    "m.room.encrypted",
    "m.room.member",
    "m.room.create",
    "m.room.encryption",
    "m.room.power_levels",
    "m.room.tombstone",
    "m.room.redaction",
    "com.beeper.disappearing_timer",
    "org.matrix.msc3672.beacon_info",
    "m.reaction",
    "m.sticker",
    "m.poll.start",
    "m.call.invite",
    "m.key.verification.start",
    "m.key.verification.request",
    "m.dummy",
    "m.room_key",
    "m.receipt",
]
KINDS = st.sampled_from(KNOWN) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60
)
CONTENT = st.dictionaries(TEXT, JSON, max_size=3) | st.fixed_dictionaries(
    {
        "msgtype": st.sampled_from(["m.text", "m.image", "m.key.verification.request"]) | TEXT,
        "body": st.sampled_from(["!expire off now", "x" * 60_000]) | TEXT,
    },
    optional={
        "m.relates_to": RELATION | JSON,
        "m.new_content": JSON,
        "redacts": IDS,
        "reason": JSON,
        "membership": st.just("leave") | JSON,
        "type": st.just("after_send") | JSON,
        "timer": JSON,
        "algorithm": st.just("m.megolm.v1.aes-sha2") | JSON,
        "ciphertext": JSON,
        "session_id": JSON,
        "sender_key": JSON,
        "device_id": JSON,
    },
)


def nested(depth: int) -> dict[str, Any]:
    """Return content that is as deep as this."""
    content: dict[str, Any] = {"end": None}
    for _ in range(depth):
        content = {"x": content}
    return content


TEXTUAL = {"msgtype": "m.text", "body": "x"}
"""Synapse wants both of every message."""
RELATIONS: list[Any] = [
    None,
    [[]],
    "x",
    {"rel_type": "m.replace"},
    {"rel_type": {}, "event_id": []},
    {"rel_type": "m.replace", "event_id": OURS},
    {"rel_type": "m.thread", "event_id": OURS},
    {"rel_type": "m.reference", "event_id": OURS, "key": None},
    {"m.in_reply_to": {"event_id": 7}},
    {"m.in_reply_to": "$nowhere"},
]
ODD: list[Sendable] = [
    ("m.room.message", {"msgtype": "", "body": ""}),
    ("m.room.message", TEXTUAL | {"body": "x" * 60_000}),
    ("m.room.message", TEXTUAL | {"body": "!expire " * 5_000}),
    *(("m.room.message", TEXTUAL | {"m.relates_to": relation}) for relation in RELATIONS),
    *(("m.room.encrypted", {"m.relates_to": relation}) for relation in RELATIONS),
    ("m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": OURS, "key": "x"}}),
    ("m.reaction", {}),
    ("m.room.encrypted", {}),
    ("m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AAAA"}),
    ("m.room.encrypted", {"algorithm": "m.olm.v1.curve25519-aes-sha2", "ciphertext": {"k": {}}}),
    (
        "m.room.encrypted",
        {
            "algorithm": "m.megolm.v1.aes-sha2",
            "ciphertext": "AwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVchHyprqTqsg",
            "session_id": "a session that nobody has",
            "sender_key": "x",
            "device_id": "GONE",
        },
    ),
    ("m.room.encryption", {"algorithm": "none"}),
    ("com.beeper.disappearing_timer", {}),
    ("x" * 255, {"long": "type"}),
    ("🕳️" * 30, {"🕳️": "\0\u202e"}),
    ("a/b?c#d%2F..", {"a": "path"}),
    ("org.example.deep", nested(100)),
]
"""All of it is accepted."""
REFUSED: list[Sendable] = [
    ("m.room.message", {}),
    ("m.room.message", TEXTUAL | {"m.relates_to": {"rel_type": "x", "event_id": "$nowhere"}}),
    ("m.room.topic", {"topic": "no state"}),
    ("m.room.member", {"membership": "leave"}),
    ("m.room.create", {"creator": "@eve:demo.localhost"}),
    ("m.room.tombstone", {"replacement_room": "!x:demo.localhost"}),
    ("m.room.power_levels", {"users_default": 100}),
    ("m.room.redaction", {"redacts": 7}),
    ("org.example.deep", nested(200)),
]
"""The homeserver's word for it: none of this comes to be."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Two rooms with the bot, one of them encrypted, where messages last two seconds."""

    alice: Person
    bot: BotProcess
    rooms: tuple[RoomID, RoomID]

    async def send(self, who: Person, events: list[Sendable]) -> list[tuple[RoomID, EventID]]:
        """Send all of it to both rooms; return what the homeserver accepted."""
        both = [self._send_to(room, who, events) for room in self.rooms]
        return [one for sent in await asyncio.gather(*both) for one in sent]

    async def _send_to(
        self, room: RoomID, who: Person, events: list[Sendable]
    ) -> list[tuple[RoomID, EventID]]:
        ours: EventID = await who.send(room, "the first")
        sent = [(room, ours)]
        for kind, content in events:
            with contextlib.suppress(ApiError):
                sent.append((room, await who.send(room, aimed(content, ours), kind)))
        return sent

    async def until_gone(self, sent: list[tuple[RoomID, EventID]], within: float = 20) -> None:
        """Wait for the redaction of all of it but redactions."""
        __tracebackhide__ = True
        ids = {event_id for _, event_id in sent}
        left: list[Any] = []

        async def gone() -> bool:
            left[:] = [
                (event["type"], str(event["content"])[:200])
                for room in self.rooms
                for event in await self.alice.messages(room)
                if event["event_id"] in ids and is_left(event)
            ]
            await asyncio.sleep(0.2)
            return not left

        try:
            await wait_until(gone, within)
        except AssertionError:
            assert left == [], self.bot.words()[-2000:]
        assert self.bot.status() is None


def aimed(content: Any, ours: str) -> Any:
    """Return the content with the event that it relates to."""
    if isinstance(content, dict):
        return {key: aimed(value, ours) for key, value in content.items()}
    return ours if content == OURS else content


def is_left(event: dict[str, Any]) -> bool:
    if event["type"] == "m.room.redaction":
        return False
    return event["content"] != {} or "redacted_because" not in event["unsigned"]


@pytest.fixture(scope="module")
async def stage(
    homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    people, bots = People(homeserver, folder), Bots(homeserver, folder)
    alice, bot = await people("alice"), await bots()
    rooms = [await settle_in(alice, bot), await alice.create_room(encrypted=True)]
    await alice.invite(rooms[1], bot.user_id)
    await alice.until_joined(rooms[1], bot.user_id)
    await alice.set_power(rooms[1], bot.user_id, 50)
    for room in rooms:
        await alice.state(room, "com.beeper.disappearing_timer", LIFETIME)
    yield Stage(alice=alice, bot=bot, rooms=(rooms[0], rooms[1]))
    await bots.close()
    await people.close()


@settings(
    max_examples=2,
    deadline=None,
    # To make a counterexample smaller would take a minute for every try.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.large_base_example],
)
@given(events=st.lists(st.tuples(KINDS, CONTENT), min_size=20, max_size=40))
async def test_whatever_the_homeserver_accepts_goes(stage: Stage, events: list[Sendable]) -> None:
    await stage.until_gone(await stage.send(stage.alice, events))


async def test_odd_events_go(stage: Stage) -> None:
    sent = await stage.send(stage.alice, ODD)
    assert len(sent) == 2 * (1 + len(ODD))
    assert len(await stage.send(stage.alice, REFUSED)) == 2
    await stage.until_gone(sent)


async def test_messages_of_anybody_go_wherever_their_sender_is(
    stage: Stage, people: People, puppets: Callable[[], Awaitable[Puppet]]
) -> None:
    left, banned, deactivated = [await people(name) for name in ("left", "banned", "deactivated")]
    bridged, other_bot, silenced = await puppets(), await people("other-bot"), await people("shh")
    everybody: list[Person] = [left, banned, deactivated, bridged, other_bot, silenced]
    sent = []
    for who in everybody:
        for room in stage.rooms:
            await stage.alice.invite(room, who)
            await who.join(room)
    for who in everybody:
        sent += await stage.send(who, [("m.room.message", {"msgtype": "m.notice", "body": "x"})])
    for room in stage.rooms:
        await left.leave(room)
        await stage.alice.ban(room, banned)
        await stage.alice.set_power(room, silenced, -1)
    account = deactivated.account
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": account.user_id},
        "password": account.password,
    }
    await deactivated.call("POST", "account", "deactivate", body={"auth": auth, "erase": True})
    assert len(sent) == 24
    await stage.until_gone(sent)


async def test_state_stays(stage: Stage) -> None:
    beacon = {"live": True, "timeout": 60_000, "description": "where I am"}
    states = [("m.room.topic", {"topic": "a topic"}), ("org.matrix.msc3672.beacon_info", beacon)]
    kept = [await stage.alice.state(stage.rooms[0], kind, content) for kind, content in states]
    await stage.until_gone(await stage.send(stage.alice, []))
    for event_id in kept:
        assert not await stage.alice.is_redacted(stage.rooms[0], event_id)
