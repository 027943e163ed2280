"""A homeserver that exists only as answers, and a room with as many devices as one likes in it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import vodozemac
from nio import Api
from nio.crypto import OlmAccount
from unpaddedbase64 import decode_base64

from bot.matrix.encryption.engine import CarefulClient

Json = dict[str, Any]


class Member:
    """Somebody's device: it is known to the homeserver, and reads what comes to it."""

    def __init__(self, user_id: str, device_id: str = "PHONE", *, keys: int = 1) -> None:
        self.user_id, self.device_id = user_id, device_id
        self.account = OlmAccount()
        self._free: list[Json] = []
        self._channels: list[vodozemac.Session] = []
        self.sessions: dict[str, vodozemac.InboundGroupSession] = {}
        self.give_more(keys)

    @cached_property
    def keys(self) -> Json:
        """The device's entry in an answer of `/keys/query`."""
        return self._signed(
            {
                "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                "device_id": self.device_id,
                "user_id": self.user_id,
                "keys": {
                    f"curve25519:{self.device_id}": self.account.identity_keys["curve25519"],
                    f"ed25519:{self.device_id}": self.account.identity_keys["ed25519"],
                },
            }
        )

    def give_more(self, number: int) -> None:
        """Upload one-time keys."""
        self.account.generate_one_time_keys(number)
        found = self.account.one_time_keys["curve25519"].values()
        self._free += [self._signed({"key": key}) for key in found]
        self.account.mark_keys_as_published()

    def one_time_key(self) -> Json | None:
        """Give a key away; `None` when there is none left."""
        return self._free.pop() if self._free else None

    def _signed(self, thing: Json) -> Json:
        signature = self.account.sign(Api.to_canonical_json(thing))
        return thing | {"signatures": {self.user_id: {f"ed25519:{self.device_id}": signature}}}

    def receive(self, content: Json) -> Json:
        """Open an Olm message, take a room key that is in it; return what it says."""
        part = content["ciphertext"][self.account.identity_keys["curve25519"]]
        found = json.loads(self._open(content["sender_key"], part))
        if found["type"] == "m.room_key":
            key = vodozemac.SessionKey(found["content"]["session_key"])
            self.sessions[found["content"]["session_id"]] = vodozemac.InboundGroupSession(key)
        return dict(found)

    def _open(self, sender_key: str, part: Json) -> bytes:
        if part["type"] == 1:
            message = vodozemac.AnyOlmMessage.normal(decode_base64(part["body"]))
            return bytes(self._channels[-1].decrypt(message))
        first = vodozemac.PreKeyMessage.from_base64(part["body"])
        for channel in self._channels:
            if channel.session_matches(first):
                return bytes(channel.decrypt(first.to_any()))
        channel, plain = self.account.create_inbound_session(sender_key, first)
        self._channels.append(channel)
        return bytes(plain)

    def read(self, content: Json) -> Json | None:
        """Return a room event in clear, or `None` without its key."""
        session = self.sessions.get(content["session_id"])
        if session is None:
            return None
        try:
            message = vodozemac.MegolmMessage.from_base64(content["ciphertext"])
            return dict(json.loads(session.decrypt(message).plaintext))
        except vodozemac.MegolmDecryptionException:
            return None


class Answer:
    """What a request came back with, as aiohttp would give it."""

    content_type = "application/json"
    content_disposition = None

    def __init__(self, status: int, body: Json) -> None:
        self.status = status
        self.headers = {"Content-Type": "application/json"}
        self._raw = json.dumps(body).encode()

    @property
    def content(self) -> Self:
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._raw

    def release(self) -> None:
        pass

    close = release

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class Crowd:
    """Rooms full of devices, behind a client whose requests never leave the process."""

    def __init__(self, client: CarefulClient) -> None:
        self.devices: dict[str, dict[str, Member]] = {}
        self.rooms: dict[str, set[str]] = {}
        self.requests: Counter[str] = Counter()
        self.sizes: list[tuple[str, int]] = []
        """Of each request with a body that names devices: what it was, and how many it named."""
        self.events: list[tuple[str, Json]] = []
        self.given: Counter[str] = Counter()
        self.before: Callable[[str, Json], Any] = lambda _name, _body: None
        """Called before an answer: may return an `Answer`, something to wait for, or raise."""
        self.away: set[str] = set()
        """Whose homeserver does not answer."""
        self.deliver = True
        client.send = self._send  # type: ignore[method-assign, assignment]

    def add(self, room_id: str, *members: Member) -> None:
        """Let devices be in a room."""
        for member in members:
            self.devices.setdefault(member.user_id, {})[member.device_id] = member
            self.rooms.setdefault(room_id, set()).add(member.user_id)

    def fill(self, room_id: str, number: int, name: str = "member") -> list[Member]:
        """Let so many people with one device each be in a room."""
        made = [Member(f"@{name}{index}:example.org") for index in range(number)]
        self.add(room_id, *made)
        return made

    async def _send(
        self, method: str, where: str, data: Any = None, *_: object, **__: object
    ) -> Answer:
        parts = [unquote(part) for part in urlsplit(where).path.split("/")[4:]]
        body = json.loads(data) if data else {}
        name = _named(method, parts)
        self.requests[name] += 1
        await asyncio.sleep(0)
        said = self.before(name, body)
        if asyncio.iscoroutine(said):
            said = await said
        if isinstance(said, Answer):
            return said
        answers = {
            "members": self._members,
            "query": self._query,
            "claim": self._claim,
            "share": self._share,
            "write": self._write,
            "other": self._other,
        }
        return Answer(200, answers[name](parts, body))

    def _members(self, parts: list[str], _: Json) -> Json:
        return {"joined": {user_id: {} for user_id in sorted(self.rooms[parts[1]])}}

    def _query(self, _: list[str], body: Json) -> Json:
        wanted = body["device_keys"]
        self.sizes.append(("query", len(wanted)))
        found = {
            user_id: {name: one.keys for name, one in self.devices.get(user_id, {}).items()}
            for user_id in wanted
            if user_id not in self.away
        }
        return {"device_keys": found, "failures": {}}

    def _claim(self, _: list[str], body: Json) -> Json:
        found: Json = {}
        wanted = body["one_time_keys"]
        self.sizes.append(("claim", sum(map(len, wanted.values()))))
        for user_id, device_id in ((user, name) for user in wanted for name in wanted[user]):
            key = self.devices[user_id][device_id].one_time_key()
            if key is not None:
                found.setdefault(user_id, {})[device_id] = {"signed_curve25519:AAAA": key}
        return {"one_time_keys": found, "failures": {}}

    def _share(self, _: list[str], body: Json) -> Json:
        self.sizes.append(("share", sum(map(len, body["messages"].values()))))
        for user_id, devices in body["messages"].items():
            for device_id, content in devices.items():
                self.given[f"{user_id} {device_id}"] += 1
                if self.deliver:
                    self.devices[user_id][device_id].receive(content)
        return {}

    def _write(self, parts: list[str], body: Json) -> Json:
        self.events.append((parts[1], body))
        return {"event_id": f"$event{len(self.events)}"}

    def _other(self, _: list[str], __: Json) -> Json:
        return {"one_time_key_counts": {"signed_curve25519": 50}}


def _named(method: str, parts: list[str]) -> str:
    """Return what kind of request it is."""
    if parts[0] == "rooms":
        return "members" if parts[2] == "joined_members" else "write"
    if parts[0] == "sendToDevice":
        return "share"
    return {"query": "query", "claim": "claim"}.get(parts[-1], "other") if method == "POST" else ""
