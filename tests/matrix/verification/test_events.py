"""What verifies the bot finds its way out of a sync, and nothing else does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bot.core.lifetimes import LifetimeLimits
from bot.core.timeline import Item, KeyUse, Message
from bot.core.types import Event, RoomID
from bot.services.event_reader import EventReader
from tests.support.encryption_engines import Bot
from tests.support.fake_homeserver import ALICE, BOT, Clear

if TYPE_CHECKING:
    from pathlib import Path

ROOM = RoomID("!room:example.org")
RELATION = {"rel_type": "m.reference", "event_id": "$request"}
REQUEST = {"msgtype": "m.key.verification.request", "body": "verify me", "to": BOT}


class Homeserver:
    """Decrypts to what it was told."""

    own_id = BOT
    clear = Clear(type="m.key.verification.key", content={"key": "public"}, session_id="s")

    async def decrypt(self, room_id: RoomID, event: Event, *, meet: bool) -> Clear:
        return self.clear


async def read(event: dict[str, Any], *, encrypted: bool) -> tuple[list[Any], list[Item]]:
    """Return what is handed on of an event, with whether it came encrypted, and the items."""
    heard: list[Any] = []

    def hear(room_id: RoomID, event: Event, *, encrypted: bool) -> None:
        heard.append((event["type"], event["content"], encrypted))

    reader = EventReader(
        Homeserver(),  # type: ignore[arg-type]
        prefix="!expire",
        limits=LifetimeLimits(minimum=1_000, maximum=10_000),
        digest=str,
        verification=hear,
    )
    full = {"event_id": "$event", "sender": ALICE, "origin_server_ts": 1} | event
    items = await reader.items(ROOM, [full], encrypted=encrypted, live=True, since=0, now=1)
    return heard, items


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("m.room.message", REQUEST),
        ("m.key.verification.start", {"m.relates_to": RELATION}),
    ],
)
async def test_a_verification_in_clear_is_handed_on_and_expires(
    kind: str, content: dict[str, Any], *, encrypted: bool
) -> None:
    heard, items = await read({"type": kind, "content": content}, encrypted=encrypted)
    assert heard == [(kind, content, False)]
    assert [type(item) for item in items] == [Message]


async def test_an_encrypted_one_is_handed_on_with_what_it_relates_to() -> None:
    event = {"type": "m.room.encrypted", "content": {"m.relates_to": RELATION}}
    heard, items = await read(event, encrypted=True)
    inside = {"key": "public", "m.relates_to": RELATION}
    assert heard == [("m.key.verification.key", inside, True)]
    assert [type(item) for item in items] == [KeyUse, Message]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "m.room.message", "content": {"msgtype": "m.text", "body": "hello"}},
        {"type": "m.room.message", "content": REQUEST, "sender": BOT},
        {"type": "m.key.verification.key", "content": {"key": "mine"}, "sender": BOT},
        {"type": "m.key.verification.key", "content": None},
        {"type": "m.reaction", "content": {"m.relates_to": RELATION}},
        {"type": None, "content": {}},
    ],
)
async def test_nothing_else_is(event: dict[str, Any]) -> None:
    heard, _ = await read(event, encrypted=False)
    assert heard == []


def test_to_device_events_of_verifications_are_handed_on(tmp_path: Path) -> None:
    bot = Bot(tmp_path / "bot")
    ours = {"type": "m.key.verification.request", "sender": ALICE, "content": {}}
    bot.feed(None, {"type": None}, {"type": "m.room_key_request", "sender": ALICE}, ours)
    waiting = bot.crypto.verification_events
    assert [waiting.get_nowait() for _ in range(waiting.qsize())] == [ours]
