"""A person with libolm's crypto: one device on matrix-nio 0.25, driven by JSON lines.

It runs in a virtual environment of its own and imports nothing of this project. Standard input
and output carry what `lines.py` says; the process ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Any

import nio

ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


class Client:
    """What can be asked of it: the methods that do not begin with an underscore."""

    def __init__(self) -> None:
        self._client: Any = None
        self._syncing: asyncio.Task[None] | None = None
        self._heard: list[dict[str, Any]] = []

    async def login(self, homeserver: str, user: str, password: str, store: str) -> dict[str, Any]:
        config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=False)
        self._client = nio.AsyncClient(homeserver, user, store_path=store, config=config)
        _ok(await self._client.login(password), nio.LoginResponse)
        self._client.add_event_callback(self._hear, (nio.RoomMessage, nio.MegolmEvent))
        self._client.add_event_callback(self._hear, nio.RedactedEvent)
        self._client.add_event_callback(self._gone, nio.RedactionEvent)
        self._syncing = asyncio.create_task(
            self._client.sync_forever(timeout=30_000, full_state=True)
        )
        await self._until(lambda: self._client.olm_account_shared)
        return {package: version(package) for package in ("matrix-nio", "python-olm")}

    async def create_room(self, invite: list[str]) -> str:
        answer = _ok(
            await self._client.room_create(
                invite=invite, initial_state=[ENCRYPTION], preset=nio.RoomPreset.private_chat
            ),
            nio.RoomCreateResponse,
        )
        rooms = self._client.rooms
        await self._until(lambda: answer.room_id in rooms and rooms[answer.room_id].encrypted)
        return str(answer.room_id)

    async def members(self, room: str) -> list[str]:
        # Those that the sync has brought are those that messages are encrypted to.
        return [who for who, one in self._client.rooms[room].users.items() if not one.invited]

    async def say(self, room: str, body: str) -> str:
        await self._client.joined_members(room)
        if self._client.should_query_keys:
            await self._client.keys_query()
        answer = await self._client.room_send(
            room,
            "m.room.message",
            {"msgtype": "m.text", "body": body},
            ignore_unverified_devices=True,
        )
        return str(_ok(answer, nio.RoomSendResponse).event_id)

    async def timeline(self, room: str) -> list[dict[str, Any]]:
        return [event for event in self._heard if event["room"] == room]

    async def _hear(self, room: Any, event: Any) -> None:
        readable = isinstance(event, nio.RoomMessage)
        self._heard.append(
            {
                "room": room.room_id,
                "event_id": event.event_id,
                "sender": event.sender,
                "body": event.source["content"].get("body") if readable else None,
                "encrypted": isinstance(event, nio.MegolmEvent) or bool(event.decrypted),
                "redacted": isinstance(event, nio.RedactedEvent),
            }
        )

    async def _gone(self, room: Any, event: Any) -> None:
        for heard in self._heard:
            if heard["event_id"] == event.redacts:
                heard.update(body=None, redacted=True)

    async def _until(self, look: Any) -> None:
        async with asyncio.timeout(60):
            while not look():
                assert self._syncing is not None
                if self._syncing.done():
                    self._syncing.result()
                await asyncio.sleep(0.02)

    async def _close(self) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
        if self._client is not None:
            await self._client.close()


def _ok(answer: Any, kind: type) -> Any:
    if not isinstance(answer, kind):
        raise TypeError(f"{answer}")
    return answer


async def _answer(client: Client, line: str) -> None:
    asked = json.loads(line)
    reply: dict[str, Any] = {"id": asked["id"]}
    try:
        reply["result"] = await getattr(client, asked["do"])(**asked["with"])
    except Exception as error:  # noqa: BLE001 - whoever asked is told
        reply["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(reply), flush=True)


async def _serve() -> None:
    client = Client()
    answering: set[asyncio.Task[None]] = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = asyncio.create_task(_answer(client, line))
        answering.add(task)
        task.add_done_callback(answering.discard)
    await client._close()


if __name__ == "__main__":
    asyncio.run(_serve())
