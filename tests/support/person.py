"""A person of the tests: one device, speaking the plain client-server API over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from bot.core.types import Event, EventID, RoomID, UserID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from bot.demo.homeserver import Account

T = TypeVar("T")
V3 = "/_matrix/client/v3"
ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


class ApiError(Exception):
    """The homeserver answered with an error."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.errcode: str = body.get("errcode", "")
        self.retry_after_ms: int | None = body.get("retry_after_ms")


SLOWEST: Final = 10
"""How many times slower than a quiet machine one may be: patience costs time only in a failure."""


async def wait_until(
    predicate: Callable[[], Awaitable[T | None]], within: float = 10, what: str = "the condition"
) -> T:
    """Ask until the answer is truthy, and return it; fail after `within` seconds.

    Those are a quiet machine's; see `SLOWEST`.
    """
    __tracebackhide__ = True
    within *= SLOWEST
    answer: object = "no answer yet"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while True:
                answer = got = await predicate()
                if got:
                    return got
                await asyncio.sleep(0.02)
    raise AssertionError(f"waited {within} s in vain for {what}; last answer: {answer!r}")


class Person:
    """One device of one account, speaking the plain client-server API."""

    def __init__(self, homeserver: str, account: Account) -> None:
        self.account = account
        self.user_id: UserID = account.user_id
        self._homeserver = homeserver
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {account.access_token}"}
        )

    async def close(self) -> None:
        await self._http.close()

    async def call(
        self, method: str, *parts: str, body: Any = None, root: str = V3, **query: str
    ) -> dict[str, Any]:
        """Send one request to `root` and the path of `parts`; raise `ApiError` on refusal."""
        path = "/".join(quote(part, safe="") for part in parts)
        url = URL(f"{self._homeserver}{root}/{path}", encoded=True).with_query(query)
        async with self._http.request(method, url, json=body) as answer:
            content: dict[str, Any] = await answer.json()
            if answer.status != 200:
                raise ApiError(answer.status, content)
            return content

    # --- Rooms and membership

    async def create_room(
        self,
        version: str | None = None,
        *,
        encrypted: bool = False,
        invite: Iterable[Person | str] = (),
        power_levels: dict[str, Any] | None = None,
        name: str | None = None,
    ) -> RoomID:
        """Make a private room; `power_levels` overrides keys of the power levels it starts with."""
        body: dict[str, Any] = {
            "preset": "private_chat",
            "invite": [_id(who) for who in invite],
            "initial_state": [ENCRYPTION] if encrypted else [],
            "power_level_content_override": power_levels or {},
        }
        if version is not None:
            body["room_version"] = version
        if name is not None:
            body["name"] = name
        return RoomID((await self.call("POST", "createRoom", body=body))["room_id"])

    async def invite(self, room: str, who: Person | str) -> None:
        await self._change_membership(room, "invite", who)

    async def kick(self, room: str, who: Person | str) -> None:
        await self._change_membership(room, "kick", who)

    async def ban(self, room: str, who: Person | str) -> None:
        await self._change_membership(room, "ban", who)

    async def _change_membership(self, room: str, verb: str, who: Person | str) -> None:
        await self.call("POST", "rooms", room, verb, body={"user_id": _id(who)})

    async def join(self, room: str) -> None:
        await self.call("POST", "join", room, body={})

    async def leave(self, room: str) -> None:
        await self.call("POST", "rooms", room, "leave", body={})

    async def members(self, room: str) -> set[str]:
        """Return the ids of those who have joined."""
        return set((await self.call("GET", "rooms", room, "joined_members"))["joined"])

    # --- State

    async def state(self, room: str, kind: str, content: Any, key: str = "") -> EventID:
        answer = await self.call("PUT", "rooms", room, "state", kind, key, body=content)
        return EventID(answer["event_id"])

    async def get_state(self, room: str, kind: str, key: str = "") -> dict[str, Any]:
        """Return the content of a state event; `ApiError` with status 404 if there is none."""
        return await self.call("GET", "rooms", room, "state", kind, key)

    async def set_power(self, room: str, who: Person | str, level: int) -> None:
        levels = await self.get_state(room, "m.room.power_levels")
        levels.setdefault("users", {})[_id(who)] = level
        await self.state(room, "m.room.power_levels", levels)

    # --- Messages

    async def send(
        self,
        room: str,
        content: str | dict[str, Any],
        kind: str = "m.room.message",
        txn: str | None = None,
    ) -> EventID:
        """Send an event in clear; a string is sent as a text message."""
        if isinstance(content, str):
            content = {"msgtype": "m.text", "body": content}
        txn = txn or f"test-{next(_numbers)}"
        answer = await self.call("PUT", "rooms", room, "send", kind, txn, body=content)
        return EventID(answer["event_id"])

    async def redact(self, room: str, event_id: str, txn: str | None = None) -> EventID:
        txn = txn or f"test-{next(_numbers)}"
        answer = await self.call("PUT", "rooms", room, "redact", event_id, txn, body={})
        return EventID(answer["event_id"])

    async def read(self, room: str, event_id: str) -> None:
        """Send a public read receipt."""
        await self.call("POST", "rooms", room, "receipt", "m.read", event_id, body={})

    async def event(self, room: str, event_id: str) -> Event:
        return await self.call("GET", "rooms", room, "event", event_id)

    async def messages(self, room: str) -> list[Event]:
        """Return the room's whole visible history, oldest first."""
        history: list[Event] = []
        query = {"dir": "b", "limit": "1000"}
        while True:
            page = await self.call("GET", "rooms", room, "messages", **query)
            history.extend(page["chunk"])
            if "end" not in page:
                return history[::-1]
            query["from"] = page["end"]

    async def bodies(self, room: str, who: Person | str, msgtype: str = "m.notice") -> list[str]:
        """Return what `who` has said in clear, oldest first: notices unless told otherwise."""
        return [
            event["content"]["body"]
            for event in await self.messages(room)
            if event["sender"] == _id(who) and event["content"].get("msgtype") == msgtype
        ]

    async def is_redacted(self, room: str, event_id: str) -> bool:
        """Whether the homeserver shows the event without content and says why."""
        event = await self.event(room, event_id)
        return event["content"] == {} and "redacted_because" in event.get("unsigned", {})

    # --- Waiting

    async def until_redacted(self, room: str, event_id: str, within: float = 10) -> None:
        __tracebackhide__ = True
        what = f"the redaction of {event_id}"
        await wait_until(lambda: self.is_redacted(room, event_id), within, what)

    async def until_notice(
        self, room: str, who: Person | str, text: str, within: float = 10
    ) -> str:
        """Wait for a notice of `who` that contains `text`; return its body."""
        __tracebackhide__ = True

        async def found() -> str | None:
            return next((b for b in await self.bodies(room, who) if text in b), None)

        return await wait_until(found, within, f"a notice with {text!r}")

    async def until_joined(self, room: str, who: Person | str, within: float = 10) -> None:
        __tracebackhide__ = True

        async def joined() -> bool:
            return _id(who) in await self.members(room)

        await wait_until(joined, within, f"{_id(who)} to join")


_numbers = itertools.count(1)


def _id(who: Person | str) -> str:
    return who if isinstance(who, str) else who.user_id
