"""A bridge of the tests: an application service, whose users may forge the time of events."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from bot.core.types import EventID, UserID
from bot.demo.homeserver import Account
from tests.support.person import V3, Person

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "the-token-of-the-bridge"
REGISTRATION = {
    "id": "bridge",
    "url": None,
    "as_token": TOKEN,
    "hs_token": "the-token-of-the-homeserver",
    "sender_localpart": "bridge",
    "rate_limited": False,
    "namespaces": {"users": [{"exclusive": False, "regex": "@puppet-.*"}]},
}
_numbers = itertools.count(1)


def register_bridge(folder: Path) -> dict[str, Any]:
    """Write the bridge's registration; return what Synapse's configuration says of it."""
    path = folder / "bridge.yaml"
    path.write_text(json.dumps(REGISTRATION))
    return {"app_service_config_files": [str(path)]}


class Puppet(Person):
    """A user of the bridge."""

    @classmethod
    async def make(cls, homeserver: str, server_name: str) -> Puppet:
        """Register a new one."""
        name = f"puppet-{next(_numbers)}"
        account = Account(
            user_id=UserID(f"@{name}:{server_name}"), password="", access_token=TOKEN, device_id=""
        )
        puppet = cls(homeserver, account)
        body = {"type": "m.login.application_service", "username": name, "inhibit_login": True}
        await Person.call(puppet, "POST", "register", body=body)
        return puppet

    async def call(
        self, method: str, *parts: str, body: Any = None, root: str = V3, **query: str
    ) -> dict[str, Any]:
        """Send one request in this user's name."""
        return await super().call(
            method, *parts, body=body, root=root, user_id=self.user_id, **query
        )

    async def send_at(self, room: str, text: str, stamp: int) -> EventID:
        """Send a message with an `origin_server_ts` of one's own choice, as bridges may."""
        content = {"msgtype": "m.text", "body": text}
        where = ("rooms", room, "send", "m.room.message", f"bridge-{next(_numbers)}")
        return EventID((await self.call("PUT", *where, body=content, ts=str(stamp)))["event_id"])
