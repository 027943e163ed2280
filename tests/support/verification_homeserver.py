"""A homeserver for verifications, in memory, and the bot's side on it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from bot.core.outcomes import Done, Outcome
from bot.core.types import RoomID
from bot.matrix.verification.responder import Verification
from bot.matrix.verification.sas import Party
from tests.support.fake_homeserver import ALICE, BOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = 1_800_000_000_000
MINUTE = 60_000
ROOM = RoomID("!room:example.org")
PHONE = Party(user_id=ALICE, device_id="PHONE", keys={"ed25519:PHONE": "her key"})
DEVICE = Party(
    user_id=BOT,
    device_id="BOTDEVICE",
    keys={"ed25519:BOTDEVICE": "its key", "ed25519:MASTER": "MASTER"},
)


class Homeserver:
    """Takes what the bot sends; knows alice's phone."""

    own_id = BOT
    fingerprint = "its key"

    def __init__(self) -> None:
        events = asyncio.Queue[dict[str, Any]]()
        self.crypto = SimpleNamespace(device_id="BOTDEVICE", verification_events=events)
        self.sent: asyncio.Queue[tuple[str, str, dict[str, Any]]] = asyncio.Queue()
        self.fails: list[Outcome] = []

    async def request(self, method: str, where: str, body: Any) -> Outcome:
        if self.fails:
            return self.fails.pop(0)
        if where.endswith("keys/query"):
            keys = {"PHONE": {"keys": dict(PHONE.keys)}}
            return Done(body={"device_keys": {ALICE: keys}, "master_keys": []})
        ((user_id, devices),) = body["messages"].items()
        ((device_id, content),) = devices.items()
        kind = unquote(where).split("/")[-2]
        self.sent.put_nowait((f"{user_id} {device_id}", kind, content))
        return Done()

    async def send(
        self, room_id: str, kind: str, content: Any, txn: str, *, encrypted: bool
    ) -> Outcome:
        if self.fails:
            return self.fails.pop(0)
        self.sent.put_nowait((f"{room_id} {'sealed' if encrypted else 'open'}", kind, content))
        return Done()

    async def next(self) -> tuple[str, str, dict[str, Any]]:
        """Return to whom the bot speaks next, and what it says."""
        async with asyncio.timeout(60):
            where, kind, content = await self.sent.get()
        return where, kind.removeprefix("m.key.verification."), content

    async def code(self) -> str:
        """Wait for a cancellation; return its code."""
        while True:
            _, kind, content = await self.next()
            if kind == "cancel":
                return str(content["code"])


class Bot:
    """The bot's side, and ways to tell it something."""

    def __init__(self, lasts: int = 10 * MINUTE) -> None:
        self.now = NOW
        self.homeserver = Homeserver()
        self.side = Verification(
            self.homeserver,  # type: ignore[arg-type]
            master=lambda: "MASTER",
            now=lambda: self.now,
            lasts=lasts,
        )

    def hear(self, kind: str, content: Any, sender: str = ALICE) -> None:
        kind = f"m.key.verification.{kind}"
        self.side.hear_device({"type": kind, "sender": sender, "content": content})

    def ask(self, ident: str, sender: str = ALICE, **change: Any) -> None:
        content = {"from_device": "PHONE", "methods": ["m.sas.v1"], "timestamp": self.now}
        self.hear("request", content | {"transaction_id": ident} | change, sender)

    async def quiet(self) -> bool:
        """Whether nothing more is being sent."""
        for _ in range(20):
            await asyncio.sleep(0)
        return self.homeserver.sent.empty()


@asynccontextmanager
async def running(**args: Any) -> AsyncIterator[Bot]:
    bot = Bot(**args)
    task = asyncio.create_task(bot.side.run())
    await asyncio.sleep(0)
    yield bot
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
