"""A person of the tests whose device encrypts: a second real client, with a store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bot.demo.people import Device, Heard
from tests.support.person import Person

if TYPE_CHECKING:
    from pathlib import Path

    from bot.core.types import EventID
    from bot.demo.homeserver import Account

__all__ = ["EncryptedPerson", "Heard"]


class EncryptedPerson(Person):
    """A `Person` whose device also encrypts and decrypts: a client of its own, with its own store.

    What `Person` sends is sent in clear; `send_text` encrypts.
    """

    def __init__(self, homeserver: str, account: Account, folder: Path) -> None:
        super().__init__(homeserver, account)
        self._device = Device(homeserver, account, folder)

    async def start(self) -> None:
        """Start syncing; return when others can find this device's keys."""
        await self._device.start()

    async def close(self) -> None:
        await self._device.close()
        await super().close()

    async def send_text(self, room: str, text: str) -> EventID:
        """Send an encrypted text message that everybody who has joined by now can read."""
        content = {"msgtype": "m.text", "body": text}
        return await self._device.send(room, "m.room.message", content)

    async def encrypt(self, room: str, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Return the content of any event encrypted, its relation in clear as clients leave it.

        Some message must have been sent before: that makes the room known.
        """
        client = self._device._client
        if client.olm.should_share_group_session(room):
            await client.share_group_session(room, ignore_unverified_devices=True)
        secret: dict[str, Any] = client.encrypt(room, kind, content)[1]
        relation = content.get("m.relates_to")
        return secret | ({"m.relates_to": relation} if relation else {})

    def timeline(self, room: str) -> list[Heard]:
        """Return the encrypted messages that could be read, in the order they became readable."""
        return self._device.timeline(room)

    async def until_heard(self, room: str, text: str, within: float = 10) -> Heard:
        """Wait for an encrypted message that contains `text`."""
        __tracebackhide__ = True
        return await self._device.until_heard(room, text, within)
