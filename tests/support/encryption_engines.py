"""Encryption engines without a homeserver: what one writes is handed to the other."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nio.crypto import Olm, OlmDevice, OutboundGroupSession
from nio.store import SqliteStore

from bot.core.outcomes import Done, Outcome
from bot.core.topics import Topics
from bot.core.types import RoomID
from bot.matrix.encryption.crypto import Crypto
from bot.matrix.encryption.engine import CarefulClient, CarefulOlm

ROOM = RoomID("!room:example.org")

_open: list[SqliteStore | CarefulClient] = []


def close_all() -> None:
    """Close the crypto stores of all engines that were made; a fixture calls it after each test."""
    while _open:
        one = _open.pop()
        if isinstance(one, CarefulClient):
            one.close_store()
        else:
            one.database.close()


class Peer:
    """Somebody with one device."""

    def __init__(self, name: str, folder: Path, engine: type[Olm] = Olm) -> None:
        self.user_id, self.device_id = f"@{name}:example.org", f"{name.upper()}DEVICE"
        folder.mkdir(parents=True, exist_ok=True)
        self.store = SqliteStore(self.user_id, self.device_id, str(folder), "secret")
        _open.append(self.store)
        self.olm: Any = engine(self.user_id, self.device_id, self.store)

    @property
    def device(self) -> OlmDevice:
        return OlmDevice(self.user_id, self.device_id, dict(self.olm.account.identity_keys))

    def meet(self, *others: Peer | Bot) -> None:
        """Learn the devices of others, and open a channel to each."""
        for other in others:
            self.olm.device_store.add(other.device)
            other.olm.account.generate_one_time_keys(1)
            key = next(iter(other.olm.account.one_time_keys["curve25519"].values()))
            other.olm.account.mark_keys_as_published()
            self.olm.create_session(key, other.device.curve25519)

    def tell(self, other: Peer | Bot, kind: str, content: Any) -> dict[str, Any]:
        """Return a to-device event for the other."""
        session = self.olm.session_store.get(other.device.curve25519)
        body = self.olm._olm_encrypt(session, other.device, kind, content)
        return {"type": "m.room.encrypted", "sender": self.user_id, "content": body}

    def tell_raw(self, other: Peer | Bot, payload: str) -> dict[str, Any]:
        """Return a to-device event with any text inside."""
        event = self.tell(other, "m.dummy", {})
        session = self.olm.session_store.get(other.device.curve25519)
        kind, body = session.encrypt(payload).to_parts()
        from unpaddedbase64 import encode_base64

        inner = {"type": kind, "body": encode_base64(body)}
        event["content"]["ciphertext"] = {other.device.curve25519: inner}
        return event


class Writer:
    """A Megolm session that somebody writes with."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.session = OutboundGroupSession()
        self.session.mark_as_shared()
        self.key = self.session.session_key
        self.count = 0

    def room_key(self, room_id: str = ROOM) -> dict[str, Any]:
        """Return the content that shares the key, as it was at the session's beginning."""
        return {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": room_id,
            "session_id": self.session.id,
            "session_key": self.key,
        }

    def write(self, text: str, sender: str | None = None) -> dict[str, Any]:
        """Return an encrypted message."""
        content = {"msgtype": "m.text", "body": text}
        return self.write_raw({"type": "m.room.message", "content": content}, sender)

    def write_raw(self, inner: dict[str, Any], sender: str | None = None) -> dict[str, Any]:
        """Return an encrypted event with anything inside."""
        self.count += 1
        return {
            "type": "m.room.encrypted",
            "event_id": f"$event-{self.session.id}-{self.count}",
            "sender": sender or self.peer.user_id,
            "origin_server_ts": 1,
            "content": {
                "algorithm": "m.megolm.v1.aes-sha2",
                "sender_key": self.peer.device.curve25519,
                "device_id": self.peer.device_id,
                "session_id": self.session.id,
                "ciphertext": self.session.encrypt(json.dumps(inner | {"room_id": ROOM})),
            },
        }


class Bot:
    """The bot's own engine, fed as the bot feeds it; its homeserver refuses nothing."""

    def __init__(self, folder: Path, homeserver: str = "http://127.0.0.1:9") -> None:
        self.folder = folder
        self.homeserver = homeserver
        self.topics = Topics()
        self.requests: list[tuple[str, str, Any]] = []
        self.answers: list[Outcome] = []
        self.restart()

    def restart(self) -> None:
        """Begin anew with what is on the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.client = CarefulClient(
            self.homeserver, "@bot:example.org", store_path=str(self.folder)
        )
        _open.append(self.client)
        self.client.restore_login("@bot:example.org", "BOTDEVICE", "token")
        self.crypto = Crypto(self.client, self._request, topics=self.topics)

    async def _request(self, method: str, where: str, body: Any = None, /, **_: object) -> Outcome:
        self.requests.append((method, where, body))
        count = {"one_time_key_counts": {"signed_curve25519": 50}}
        return self.answers.pop(0) if self.answers else Done(body=count)

    @property
    def olm(self) -> CarefulOlm:
        engine: CarefulOlm = self.client.olm
        return engine

    @property
    def device(self) -> OlmDevice:
        return OlmDevice("@bot:example.org", "BOTDEVICE", dict(self.olm.account.identity_keys))

    def meet(self, *others: Peer) -> None:
        """Learn the devices of others."""
        for other in others:
            self.olm.device_store.add(other.device)
        self.olm.users_for_key_query.clear()

    def feed(self, *events: Any) -> None:
        """Hand to-device events over, as a sync does."""
        self.crypto.feed({"to_device": {"events": list(events)}})

    async def reads(self, event: dict[str, Any]) -> str | None:
        """Return the text of a room event, if the bot can and may read it."""

        async def nobody_answers(_: object) -> None:
            pass

        self.crypto.query = nobody_answers  # type: ignore[method-assign, assignment]
        clear = await self.crypto.decrypt(ROOM, event, meet=True)
        content = getattr(clear, "content", None)
        return str(content["body"]) if content else None


def commits_of(bot: Bot) -> Callable[[], int]:
    """Return what tells how often the crypto store was written from now on."""
    database: sqlite3.Connection = bot.client.store.database.connection()
    seen: list[str] = []
    database.set_trace_callback(lambda statement: seen.append(statement[:8].upper()))

    def count() -> int:
        begun = sum(one.startswith("BEGIN") for one in seen)
        inside = alone = 0
        for one in seen:
            if one.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
                inside = one.startswith("BEGIN")
            elif one.startswith(("INSERT", "UPDATE", "DELETE", "REPLACE")) and not inside:
                alone += 1
        return begun + alone

    return count
