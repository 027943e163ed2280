"""A person of the tests whose device encrypts: a second real client, with a store of its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import nio
from nio.store import SqliteStore

from bot.model import EventID
from tests.person import Person, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot.demo.homeserver import Account

T = TypeVar("T")


class Heard(NamedTuple):
    """A message that arrived encrypted and was decrypted."""

    event_id: str
    sender: str
    body: str


class EncryptedPerson(Person):
    """A `Person` whose device also encrypts and decrypts: a client of its own, with its own store.

    What `Person` sends is sent in clear; `send_text` encrypts.
    """

    def __init__(self, homeserver: str, account: Account, folder: Path) -> None:
        super().__init__(homeserver, account)
        folder.mkdir(parents=True, exist_ok=True)
        config = nio.AsyncClientConfig(
            encryption_enabled=True, store=SqliteStore, max_limit_exceeded=0, max_timeouts=0
        )
        self._client = nio.AsyncClient(
            homeserver, account.user_id, store_path=str(folder), config=config
        )
        self._heard: dict[str, list[Heard]] = {}
        self._undecrypted: list[tuple[str, Any]] = []
        self._syncing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start syncing; return when others can find this device's keys."""
        self._client.restore_login(self.user_id, self.account.device_id, self.account.access_token)
        self._client.add_event_callback(self._hear, nio.RoomMessage)
        self._client.add_event_callback(self._keep, nio.MegolmEvent)
        self._syncing = asyncio.create_task(
            self._client.sync_forever(timeout=30_000, full_state=True)
        )
        await self._until(lambda: self._client.olm_account_shared, "the device keys")

    async def close(self) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._syncing
        await self._client.close()
        await super().close()

    async def send_text(self, room: str, text: str) -> EventID:
        """Send an encrypted text message that everybody who has joined by now can read."""
        await self._until(
            lambda: room in self._client.rooms and self._client.rooms[room].encrypted,
            "the encrypted room in the sync",
        )
        known = set(self._client.rooms[room].users)
        await self._client.joined_members(room)
        if set(self._client.rooms[room].users) != known:
            # The sync has yet to bring who joined; the old session is not shared with them.
            self._client.invalidate_outbound_session(room)
        if self._client.should_query_keys:
            await self._client.keys_query()
        content = {"msgtype": "m.text", "body": text}
        answer = await self._client.room_send(
            room, "m.room.message", content, ignore_unverified_devices=True
        )
        assert isinstance(answer, nio.RoomSendResponse), answer
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

    async def until_heard(self, room: str, text: str, within: float = 10) -> Heard:
        """Wait for an encrypted message that contains `text`."""
        __tracebackhide__ = True

        def found() -> Heard | None:
            return next((h for h in self.timeline(room) if text in h.body), None)

        return await self._until(found, f"an encrypted message with {text!r}", within)

    async def _until(self, look: Callable[[], T | None], what: str, within: float = 10) -> T:
        __tracebackhide__ = True

        async def predicate() -> T | None:
            if self._syncing is not None and self._syncing.done():
                self._syncing.result()  # raises what ended the sync
            return look()

        return await wait_until(predicate, within, f"{what} ({self.user_id})")

    async def _hear(self, room: Any, event: Any) -> None:
        self._add(room.room_id, event)

    async def _keep(self, room: Any, event: Any) -> None:
        self._undecrypted.append((room.room_id, event))

    def _add(self, room: str, event: Any) -> None:
        body = event.source["content"].get("body")
        if event.decrypted and isinstance(body, str):
            self._heard.setdefault(room, []).append(Heard(event.event_id, event.sender, body))
