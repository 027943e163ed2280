"""Encrypted syncs for `benchmarks.encryption`: from an answer's bytes to timers, and to no keys."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from nio.crypto import OlmAccount, OlmDevice, OutboundGroupSession

from benchmarks.held import Held
from benchmarks.recorded import Client, Instant, now
from bot.core.lifetimes import LifetimeLimits
from bot.core.timeline import Change, Message, RoomUpdate
from bot.core.types import EventID, RoomID
from bot.matrix.client import Matrix
from bot.matrix.encryption.engine import CarefulClient
from bot.matrix.encryption.megolm import MEGOLM
from bot.services.clock import SystemClock
from bot.services.event_reader import EventReader
from bot.services.key_expiry import KeyExpiry
from bot.services.redactor import Redactor
from bot.services.sync import Sync
from tests.support.store import BOT, Store

HOUR: Final = 3_600_000
LIMITS: Final = LifetimeLimits(minimum=1_000, maximum=365 * 24 * HOUR)
OF_ONE_ROOM: Final = 100
"""Events of a room in one sync, as the bot's filter has it."""
WRITERS: Final = 10
"""Devices that write in each room, each with a session of its own."""
DUE_EVERY: Final = 20
"""Milliseconds from one message that falls due meanwhile to the next."""
ELSEWHERE: Final = RoomID("!elsewhere:example.org")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a sync took: events a second, and milliseconds."""

    read: float
    """Until the timers were committed, by the processor: all threads of the process."""
    by_clock: float
    gone: float
    """Until also the keys of all events were moved past them, by the processor."""
    held: float
    late: float
    """How late a redaction that fell due meanwhile was asked for."""


class Device:
    """A device that writes in one room."""

    def __init__(self, name: str, room_id: RoomID) -> None:
        self.user_id, self.room_id = f"@{name}:example.org", room_id
        self.keys = OlmAccount().identity_keys
        self.session = OutboundGroupSession()
        self.session.mark_as_shared()
        self.key = self.session.session_key

    def meet(self, client: CarefulClient) -> None:
        """Let the bot know the device, and give it the session's key."""
        known = OlmDevice(self.user_id, "PHONE", dict(self.keys))
        client.olm.device_store[self.user_id]["PHONE"] = known
        curve, signing = self.keys["curve25519"], self.keys["ed25519"]
        client.olm.create_group_session(curve, signing, self.room_id, self.session.id, self.key)

    def write(self, number: int, at: int) -> dict[str, Any]:
        text = f"This is message {number}, about as long as what people write to each other."
        content = {"body": text, "msgtype": "m.text", "m.mentions": {}}
        inner = {"type": "m.room.message", "content": content, "room_id": self.room_id}
        return {
            "type": "m.room.encrypted",
            "sender": self.user_id,
            "content": {
                "algorithm": MEGOLM,
                "sender_key": self.keys["curve25519"],
                "ciphertext": self.session.encrypt(json.dumps(inner)),
                "session_id": self.session.id,
                "device_id": "PHONE",
            },
            "origin_server_ts": at,
            "unsigned": {"age": 1234, "membership": "join"},
            "event_id": f"${number * 2_654_435_761 % 2**32:08x}-{number:034}",
        }


def answer(devices: list[Device], events: int) -> bytes:
    """Return the bytes of a sync in which all devices of all rooms write by turns."""
    rooms: dict[str, list[dict[str, Any]]] = {}
    for number in range(events):
        device = devices[number % len(devices)]
        rooms.setdefault(device.room_id, []).append(device.write(number, now()))
    parts: dict[str, Any] = {"state": {"events": []}, "account_data": {"events": []}, "summary": {}}
    join = {
        room_id: parts | {"timeline": {"events": found, "prev_batch": "s1", "limited": False}}
        for room_id, found in rooms.items()
    }
    body = {
        "next_batch": "s2",
        "device_one_time_keys_count": {"signed_curve25519": 50},
        "device_unused_fallback_key_types": ["signed_curve25519"],
        "rooms": {"join": join},
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


async def read(folder: Path, events: int) -> Figures:
    """Read one sync of so many events, while keys expire and messages fall due elsewhere."""
    store = await Store.open(folder / "timers.db", limits=LIMITS)
    client = Client("http://127.0.0.1:9", BOT, store_path=str(folder))
    client.restore_login(BOT, "BOTDEVICE", "token")
    matrix, clock, random = Matrix(client), SystemClock(), Random(1)
    reader = EventReader(matrix, prefix="!expire", limits=LIMITS, digest=store.digest)
    sync = Sync(matrix, store, store.timeline, reader, clock, random=random)
    expiry = KeyExpiry(matrix.crypto, store, clock, grace=0, limits=LIMITS)
    homeserver = Instant()
    redactor = Redactor(homeserver, store, clock, random=random)
    rooms = [RoomID(f"!room{n}:example.org") for n in range(max(1, events // OF_ONE_ROOM))]
    devices = [Device(f"{n}-{room[1:-12]}", room) for n in range(WRITERS) for room in rooms]
    with client.olm.store.piece():
        for device in devices:
            device.meet(client)
    change = [Change(setting=HOUR, sender=BOT, digest="policy", unannounced=True)]
    known = [RoomUpdate(room_id=one, items=list(change), encrypted=True) for one in rooms]
    await store.commit("s0", now(), known)
    client.raw = answer(devices, events)
    begins = now() + 200
    homeserver.due = {EventID(f"$due{n}"): begins + n * DUE_EVERY for n in range(400)}
    short = Change(setting=1_000, sender=BOT, digest="policy", unannounced=True)
    falls = [Message(event_id=one, sent=at - 1_000) for one, at in homeserver.due.items()]
    await store.commit("s1", now(), [RoomUpdate(room_id=ELSEWHERE, items=[short, *falls])])
    beside = [asyncio.create_task(one.run()) for one in (expiry, redactor)]
    gc.collect()
    gc.freeze()  # what was made for this is not the bot's to go through
    await asyncio.sleep(0.4)
    homeserver.late.clear()
    async with Held() as held:
        began, used = time.perf_counter(), time.process_time()
        await sync.once()
        took, read = time.perf_counter() - began, time.process_time() - used
        while await store.keys.first_key_use() is not None:  # noqa: ASYNC110 - no topic tells
            await asyncio.sleep(0.002)
        gone = time.process_time() - used
        await asyncio.sleep(2 * DUE_EVERY / 1000)
    pending = sum([(await store.pending(one))[0] for one in rooms])
    assert pending == events, pending
    for task in beside:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    late = float(max(homeserver.late))
    await store.close()
    client.close_store()
    gc.unfreeze()
    speeds = {"read": events / read, "by_clock": events / took, "gone": events / gone}
    return Figures(**speeds, held=held.longest, late=late)
