"""A person with a real client: matrix-nio on a device that encrypts, with its own key store."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote

import aiohttp
import nio
from nio.store import SqliteStore

from bot.core.types import Event, EventID, RoomID, UserID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot.demo.homeserver import Account

T = TypeVar("T")
BASE: Final = "/_matrix/client/v3"
WITHIN: Final = 30.0
"""Seconds that anything on one's own machine gets to happen."""
ENCRYPTION: Final = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


class DeviceError(Exception):
    """The homeserver refused something, or what was waited for did not happen."""


class Heard(NamedTuple):
    """A message that arrived encrypted and was decrypted."""

    event_id: EventID
    sender: UserID
    body: str


class Device:
    """One device of one account that syncs, encrypts and decrypts.

    As an async context manager it starts and closes. Every method but `close` and `timeline`
    raises `DeviceError`.
    """

    def __init__(self, homeserver: str, account: Account, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.account = account
        self.user_id: UserID = account.user_id
        config = nio.AsyncClientConfig(
            encryption_enabled=True, store=SqliteStore, max_limit_exceeded=0, max_timeouts=0
        )
        self._client = nio.AsyncClient(
            homeserver, account.user_id, store_path=str(folder), config=config
        )
        self._heard: dict[str, list[Heard]] = {}
        self._undecrypted: list[tuple[str, Any]] = []
        self._syncing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start syncing; return when others can find this device's keys."""
        self._client.restore_login(self.user_id, self.account.device_id, self.account.access_token)
        self._client.add_event_callback(self._hear, nio.RoomMessage)
        self._client.add_event_callback(self._keep, nio.MegolmEvent)
        self._syncing = asyncio.create_task(self._sync())
        await self.until(lambda: self._client.olm_account_shared, "the device keys")

    async def _sync(self) -> None:
        """Sync for ever. nio raises when two key queries begin at once: the second has no users."""
        whole = True
        while True:
            with contextlib.suppress(nio.LocalProtocolError):
                await self._client.sync_forever(timeout=30_000, full_state=whole)
            whole = False

    async def close(self) -> None:
        """Stop syncing and close the connections. May be called more than once."""
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
        await self._client.close()
        if self._client.store is not None:
            self._client.store.database.close()

    async def call(self, method: str, *parts: str, body: Any = None) -> Event:
        """Make one request to the client-server API; return the answer."""
        path = "/".join([BASE, *(quote(part, safe="") for part in parts)])
        headers = {"Authorization": f"Bearer {self.account.access_token}"}
        data = None if body is None else json.dumps(body)
        try:
            async with await self._client.send(method, path, data, headers) as answer:
                status, content = answer.status, await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise DeviceError(f"{method} {path}: {type(error).__name__}") from error
        if status != 200:
            raise DeviceError(f"{method} {path}: {status} {content.get('error')}")
        return Event(content)

    async def create_encrypted_room(self, name: str) -> RoomID:
        """Make a private room where this person may do everything."""
        body = {"preset": "private_chat", "name": name, "initial_state": [ENCRYPTION]}
        return RoomID((await self.call("POST", "createRoom", body=body))["room_id"])

    async def invite(self, room: RoomID, who: UserID) -> None:
        """Invite somebody."""
        await self.call("POST", "rooms", room, "invite", body={"user_id": who})

    async def join(self, room: RoomID) -> None:
        """Accept an invitation."""
        await self.call("POST", "join", room, body={})

    async def set_power(self, room: RoomID, who: UserID, level: int) -> None:
        """Give somebody a power level."""
        where = ("rooms", room, "state", "m.room.power_levels", "")
        levels = await self.call("GET", *where)
        await self.call("PUT", *where, body=levels | {"users": levels["users"] | {who: level}})

    async def event(self, room: RoomID, event_id: EventID) -> Event:
        """Return an event as the homeserver serves it now, not decrypted.

        spec: client-server API v1.13, `GET /rooms/{roomId}/event/{eventId}`.
        """
        return await self.call("GET", "rooms", room, "event", event_id)

    async def send(self, room: str, kind: str, content: dict[str, Any]) -> EventID:
        """Send an event that everybody who has joined by now can read; return its id.

        It is encrypted, unless it is a reaction: those are sent in clear in all of Matrix.
        """
        await self.until(
            lambda: room in self._client.rooms and self._client.rooms[room].encrypted,
            "the encrypted room in the sync",
        )
        known = set(self._client.rooms[room].users)
        await self._client.joined_members(room)
        if set(self._client.rooms[room].users) != known:
            # The sync has yet to bring who joined; the old session is not shared with them.
            self._client.invalidate_outbound_session(room)
        if self._client.should_query_keys:
            with contextlib.suppress(nio.LocalProtocolError):  # it was asked for meanwhile
                await self._client.keys_query()
        answer = await self._client.room_send(room, kind, content, ignore_unverified_devices=True)
        if not isinstance(answer, nio.RoomSendResponse):
            raise DeviceError(f"{self.user_id} could not send {kind}: {answer}")
        return EventID(answer.event_id)

    def timeline(self, room: str) -> list[Heard]:
        """Return the encrypted messages that could be read, in the order they became readable."""
        waiting, self._undecrypted = self._undecrypted, []
        for where, event in waiting:
            try:
                decrypted = self._client.decrypt_event(event)
            except nio.EncryptionError:
                self._undecrypted.append((where, event))
            else:
                self._add(where, decrypted)
        return self._heard.get(room, [])

    async def until_heard(self, room: str, text: str, within: float = WITHIN) -> Heard:
        """Wait up to `within` seconds for an encrypted message that contains `text`."""

        def found() -> Heard | None:
            return next((h for h in self.timeline(room) if text in h.body), None)

        return await self.until(found, f"an encrypted message with {text!r}", within)

    async def until(self, look: Callable[[], T | None], what: str, within: float = WITHIN) -> T:
        """Look until there is something to see, and return it; `within` is in seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while True:
                    if self._syncing is not None and self._syncing.done():
                        self._syncing.result()  # raises what ended the sync
                    seen = look()
                    if seen:
                        return seen
                    await asyncio.sleep(0.02)
        raise DeviceError(f"{self.user_id} waited {within:g} s in vain for {what}")

    async def _hear(self, room: Any, event: Any) -> None:
        self._add(room.room_id, event)

    async def _keep(self, room: Any, event: Any) -> None:
        self._undecrypted.append((room.room_id, event))

    def _add(self, room: str, event: Any) -> None:
        body = event.source["content"].get("body")
        if event.decrypted and isinstance(body, str):
            self._heard.setdefault(room, []).append(Heard(event.event_id, event.sender, body))
