"""Whatever JSON a timeline holds, reading it raises nothing and forgets no message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bot.core.events import is_encryption, is_own_join, wants_review
from bot.core.lifetimes import POLICY_EVENT, LifetimeLimits
from bot.core.timeline import Gap, Item, Message, RoomUpdate, is_gone, is_state
from bot.core.types import Event, RoomID, UserID
from bot.matrix.http import responses
from bot.services.event_reader import EventReader
from tests.matrix.http.test_lenient_json import ODD, documents
from tests.support.fake_homeserver import ALICE, BOT, FakeHomeserver
from tests.support.harness import whatever_is_due
from tests.support.store import Store

NOW = 1_800_000_000_000
LIMITS = LifetimeLimits(minimum=1_000, maximum=86_400_000, default=60_000)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([BOT, ALICE, "", "!expire 5m", "!expire off", "$event", "m.text"])
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
KINDS = [
    "m.room.message",
    "m.room.encrypted",
    "m.room.redaction",
    "m.room.member",
    "m.room.encryption",
    "m.room.power_levels",
    "m.reaction",
    POLICY_EVENT,
]
RELATIONS = st.fixed_dictionaries(
    {}, optional={"rel_type": st.just("m.thread") | JSON, "m.in_reply_to": JSON}
)
CONTENTS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "msgtype": st.just("m.text") | JSON,
        "body": st.sampled_from(["!expire 5m", "!expire x"]) | JSON,
        "m.relates_to": RELATIONS | JSON,
        "m.new_content": JSON,
        "redacts": JSON,
        "type": st.sampled_from(["after_send", "after_read"]) | JSON,
        "timer": st.integers() | JSON,
        "algorithm": st.just("m.megolm.v1.aes-sha2") | JSON,
        "ciphertext": JSON,
        "session_id": JSON,
    },
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(KINDS) | JSON,
        "event_id": st.sampled_from(["$one", "$two", "$three"]) | JSON,
        "sender": st.sampled_from([ALICE, BOT]) | JSON,
        "content": CONTENTS,
        "origin_server_ts": JSON | st.integers(0, 2**53),
        "state_key": st.just("") | JSON,
        "redacts": JSON,
        "unsigned": JSON | st.just({"redacted_because": {"event_id": "$r"}}),
    },
)


async def read(events: list[Event], store: Store, *, encrypted: bool) -> list[Item]:
    homeserver = FakeHomeserver()
    room = homeserver.make_room()
    reader = EventReader(homeserver, prefix="!expire", limits=LIMITS, digest=store.digest)
    for event in events:
        wants_review(event, BOT)
        is_own_join(event, BOT)
        is_encryption(event)
    return await reader.items(room, events, encrypted=encrypted, live=False, since=0, now=NOW)


def should_expire(event: Event) -> bool:
    if is_state(event) or is_gone(event):
        return False
    if event.get("type") == "m.room.redaction":
        content = event.get("content")
        if not isinstance(content, dict) or not [key for key in content if key != "redacts"]:
            return False
    return isinstance(event.get("event_id"), str)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(tmp_path / "timers.db", limits=LIMITS, own_id=UserID(BOT))
    yield made
    await made.close()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=st.lists(EVENTS, max_size=4), encrypted=st.booleans())
@example(events=[{"event_id": "$x"}], encrypted=True)
async def test_every_message_of_any_timeline_gets_a_timer(
    store: Store, events: list[Event], encrypted: bool
) -> None:
    items = await read(events, store, encrypted=encrypted)
    found = [item.event_id for item in items if isinstance(item, Message)]
    assert found == [event["event_id"] for event in events if should_expire(event)]
    await store.commit("s1", NOW, [RoomUpdate(room_id=RoomID("!room:x"), items=items)])


@pytest.mark.parametrize(
    "event",
    [
        {"sender": "@\ud800:x", "content": {"msgtype": "m.text", "body": "x"}},
        {"sender": "@\ud800:x", "content": {"msgtype": "m.text", "body": "!expire help"}},
        {"sender": ALICE, "content": {"msgtype": "m.text", "body": "!expire \ud800"}},
        {"type": "\ud800", "content": {"\ud800": "\ud800"}},
    ],
)
async def test_text_that_is_no_unicode_wedges_nothing(store: Store, event: Event) -> None:
    """What was encrypted is not seen by the homeserver, nor mended on its way in."""
    whole = {"type": "m.room.message", "event_id": "$x", "content": {}} | event
    items = await read([whole, {"event_id": "$next"}], store, encrypted=False)
    await store.commit("s1", NOW, [RoomUpdate(room_id=RoomID("!room:x"), items=items)])
    assert [timer.event_id for timer in await whatever_is_due(store, NOW * 2, 9)] == ["$x", "$next"]


EVENT = (
    b'{"type": %(type)b, "event_id": "$odd", "sender": "@alice:example.org", "unsigned": %(odd)b,'
    b' "origin_server_ts": %(odd)b, "redacts": %(odd)b, "content": %(content)b %(more)b}'
)
CONTENT = (
    b'{"msgtype": "m.text", "body": %(odd)b, "m.relates_to": %(odd)b, "membership": %(odd)b,'
    b' "timer": %(odd)b, "type": %(odd)b, "algorithm": "m.megolm.v1.aes-sha2",'
    b' "session_id": %(odd)b, "ciphertext": %(odd)b, "m.mentions": %(odd)b, "reason": %(odd)b}'
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    odd=documents | st.sampled_from(list(ODD.values())),
    kind=st.sampled_from(KINDS),
    more=st.sampled_from([b"", b', "state_key": ""', b', "state_key": "@bot:example.org"']),
    filled=st.booleans(),
    encrypted=st.booleans(),
)
async def test_no_bytes_in_an_answer_keep_a_good_message_from_its_timer(
    store: Store, *, odd: bytes, kind: str, more: bytes, filled: bool, encrypted: bool
) -> None:
    content = CONTENT % {b"odd": odd} if filled else odd
    fields = {"type": b'"%b"' % kind.encode(), "odd": odd, "content": content, "more": more}
    event = EVENT % {name.encode(): value for name, value in fields.items()}
    part = b'{"events": [%b, {"event_id": "$good", "content": {}}, %b]}' % (event, odd)
    raw = b'{"next_batch": "s", "rooms": {"join": {"!room:x": {"timeline": %b, "state": %b}}}}'
    [room] = responses.read_sync(responses.parse(raw % (part, part)), UserID(BOT)).joined
    items = await read([*room.state, *room.timeline], store, encrypted=encrypted)
    assert "$good" in [item.event_id for item in items if isinstance(item, Message)]
    await store.commit("s1", NOW, [RoomUpdate(room_id=room.room_id, items=items)])
    gap = Gap(room_id=room.room_id, token="t", stop_digest="", stop_at=0, since=0, until=NOW)
    await store.commit("s2", NOW, [RoomUpdate(room_id=room.room_id, items=items, gap=gap)])
