"""A homeserver in which nothing happens, as a process of its own: it answers every request at once.

It knows one account and its rooms, holds long polls for as long as it is asked to, and tells
`GET /asked` how often it was asked for what, and when it gave its first answer.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from typing import Any

from aiohttp import web

from tests.support.fake_rooms import BOT

Json = dict[str, Any]
DEVICE = "QUIETDEVICE"
CREATOR = "@alice:example.org"


def room(number: int) -> str:
    return f"!room-{number}:example.org"


def state(kind: str, content: Json, key: str = "", sender: str = CREATOR) -> Json:
    return {
        "type": kind,
        "state_key": key,
        "sender": sender,
        "content": content,
        "event_id": f"${kind}-{key}",
        "origin_server_ts": 1,
    }


def member(user_id: str) -> Json:
    return state("m.room.member", {"membership": "join"}, user_id, user_id)


STATE = {
    "m.room.create": state("m.room.create", {"room_version": "10", "creator": CREATOR}),
    "m.room.power_levels": state("m.room.power_levels", {"users": {BOT: 100, CREATOR: 100}}),
}


class Quiet:
    """The rooms, and what was asked."""

    def __init__(self, rooms: int, members: int) -> None:
        self._rooms = [room(n) for n in range(rooms)]
        self._members = [BOT, *(f"@person-{n}:example.org" for n in range(members))]
        self._device: Json = {}
        self.asked: Counter[str] = Counter()
        self.first: float | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        path = request.path.removeprefix("/_matrix/client").split("/")[2:]
        if request.path == "/asked":
            found = {"first": self.first, "asked": self.asked}
            self.asked, self.first = Counter(), None
            return web.json_response(found)
        kind = path[2] if path[:1] == ["rooms"] and len(path) > 2 else "/".join(path[:2])
        self.asked[kind or "versions"] += 1
        status, body = await self._find(request, path)
        self.first = self.first or time.time()
        return web.json_response(body, status=status)

    async def _find(self, request: web.Request, path: list[str]) -> tuple[int, Json]:
        match path:
            case ["sync"]:
                return 200, await self._sync(request)
            case ["login"] if request.method == "POST":
                return 200, {"user_id": BOT, "device_id": DEVICE, "access_token": "token"}
            case ["account", "whoami"]:
                return 200, {"user_id": BOT, "device_id": DEVICE}
            case ["keys", "upload"]:
                self._device = (await request.json()).get("device_keys") or self._device
                return 200, {"one_time_key_counts": {"signed_curve25519": 50}}
            case ["keys", "query"]:
                return 200, {"device_keys": {BOT: {DEVICE: self._device}}, "failures": {}}
            case ["user", *_] | ["room_keys", *_]:
                return 404, {"errcode": "M_NOT_FOUND", "error": "there is none"}
            case ["joined_rooms"]:
                return 200, {"joined_rooms": self._rooms}
            case ["rooms", _, *rest]:
                return self._in_room(rest)
        if request.path.endswith("/versions"):
            return 200, {"versions": ["v1.11", "v1.13"]}
        return 200, {}

    def _in_room(self, path: list[str]) -> tuple[int, Json]:
        match path:
            case ["state", kind, *_] if kind in STATE:
                return 200, STATE[kind]
            case ["state", kind, *_] if len(path) < 4 and kind != "m.room.member":
                return 404, {"errcode": "M_NOT_FOUND", "error": "there is none"}
            case ["members"]:
                return 200, {"chunk": [member(one) for one in self._members]}
            case ["joined_members"]:
                return 200, {"joined": {one: {} for one in self._members}}
            case ["messages" | "relations", *_]:
                return 200, {"chunk": []}
        return 200, {"event_id": f"$answer-{self.asked.total()}"}

    async def _sync(self, request: web.Request) -> Json:
        counts = {
            "device_one_time_keys_count": {"signed_curve25519": 50},
            "device_unused_fallback_key_types": ["signed_curve25519"],
        }
        if "since" in request.query:
            await asyncio.sleep(int(request.query.get("timeout", 0)) / 1000)
            return counts | {"next_batch": request.query["since"]}
        known = [*STATE.values(), member(BOT), member(CREATOR)]
        part: Json = {
            "state": {"events": known},
            "timeline": {"events": [], "limited": False, "prev_batch": "s0"},
            "summary": {"m.joined_member_count": len(self._members)},
        }
        return counts | {"next_batch": "s1", "rooms": {"join": dict.fromkeys(self._rooms, part)}}


async def serve(rooms: int, members: int) -> None:
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", Quiet(rooms, members).answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until whoever began it ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=10)
    parser.add_argument("--members", type=int, default=2)
    options = parser.parse_args()
    asyncio.run(serve(options.rooms, options.members))


if __name__ == "__main__":
    main()
