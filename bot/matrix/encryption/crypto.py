"""Feeds nio's encryption engine by hand, and decrypts the few events that may be commands."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from nio import AsyncClient
from nio.crypto import InboundGroupSession, OlmDevice
from nio.events import Event as RoomEvent
from nio.events import MegolmEvent

from bot.core.json_shape import as_list, inside, texts
from bot.core.outcomes import OutcomeError, Unreachable
from bot.core.sync_batch import MissingRoomKey
from bot.core.topics import Topic, Topics
from bot.core.types import Event, RoomID, UserID
from bot.matrix.encryption.bounds import SenderBounds, make_room
from bot.matrix.encryption.device_keys import DeviceKeys
from bot.matrix.encryption.device_lists import Devices, Request
from bot.matrix.encryption.engine import CarefulOlm
from bot.matrix.encryption.megolm import LONGEST_ID, MEGOLM, Decrypted, open_with
from bot.matrix.encryption.room_keys import RoomKeys
from bot.matrix.encryption.time_slices import TimeSlices
from bot.matrix.encryption.to_device import ToDevice
from bot.matrix.private_files import disk

log = logging.getLogger(__name__)

MEET_EVERY = 60.0
"""Seconds."""
MOST_OF_VERIFICATIONS = 1_000
"""Events of verifications that wait; anybody can send any number."""


class Crypto:
    """The mended engine, without nio's model of rooms and without its handling of a sync."""

    def __init__(
        self,
        client: AsyncClient,
        request: Request,
        slices: TimeSlices | None = None,
        topics: Topics | None = None,
    ) -> None:
        """`topics`: where to tell that room keys came, or that the device's were made anew."""
        self._client = client
        self._topics = topics = topics or Topics()
        slices = slices or TimeSlices()
        devices = Devices(lambda: self._olm, request, slices)
        self.device_keys = DeviceKeys(client, request, devices, topics)
        self.room_keys = RoomKeys(lambda: self._olm, request, devices, slices)
        self._to_device = ToDevice(client, slices, self._admits, self._keep_for_verification)
        self._met: dict[UserID, float] = {}
        self.wake = asyncio.Event()
        self.sender_bounds = SenderBounds()
        self.verification_events = asyncio.Queue[Event](MOST_OF_VERIFICATIONS)
        """To-device events of verifications, for whoever answers them."""

    @property
    def _olm(self) -> CarefulOlm:
        engine: CarefulOlm = self._client.olm
        return engine

    @property
    def in_place(self) -> bool:
        """Whether the device's keys are on the homeserver."""
        return self._olm is not None and bool(self._olm.account.shared)

    @property
    def device_id(self) -> str:
        """The id of this device."""
        return str(self._client.device_id)

    def doubt_keys(self) -> None:
        """Have the homeserver's copy of this device looked at: it may have been deleted."""
        self.device_keys.unproven = True
        self.wake.set()

    def is_own(self, device: Event) -> bool:
        """Whether the homeserver's copy of a device is this one, by both of its keys."""
        own = self._olm.account.identity_keys
        return all(
            inside(device, "keys", f"{kind}:{self.device_id}") == own[kind]
            for kind in ("ed25519", "curve25519")
        )

    def sign(self, thing: Event) -> Event:
        """Return `thing` with the signature of this device added."""
        bare = {key: value for key, value in thing.items() if key not in {"signatures", "unsigned"}}
        mine = {f"ed25519:{self.device_id}": self._olm.sign_json(bare)}
        signatures = dict(thing.get("signatures", {}))
        owner = self._client.user_id
        signatures[owner] = {**signatures.get(owner, {}), **mine}
        return {**thing, "signatures": signatures}

    def feed(self, body: Event) -> None:
        """Take from an answer of `/sync` all that encryption lives on. Raises `DiskError`."""
        self._to_device.take(as_list(inside(body, "to_device", "events")))
        self._follow(body)
        self._tell_of_keys()

    async def feed_by_slices(self, body: Event) -> None:
        """Take what encryption lives on; of to-device events as many as others can wait for.

        The rest is on the disk, and `run` takes it. Raises `DiskError`.
        """
        self._follow(body)
        await self._to_device.take_by_slices(as_list(inside(body, "to_device", "events")))
        self._tell_of_keys()

    def _follow(self, body: Event) -> None:
        """Take what the answer says of devices and of the device's own keys."""
        changed = texts(inside(body, "device_lists", "changed"))
        # Others are asked for when they matter, and Synapse names the bot itself with every sync
        # while it redacts.
        met = (self._olm.tracked_users | self._olm.device_store.users) - {self._client.user_id}
        self._olm.add_changed_users(changed & met)
        unused = body.get("device_unused_fallback_key_types")
        if isinstance(unused, list):
            self.device_keys.fallback_wanted = "signed_curve25519" not in unused
        counts = body.get("device_one_time_keys_count")
        if isinstance(counts, dict):
            # nio itself skips a count of 0, and never uploads again.
            count = counts.get("signed_curve25519", 0)
            self._olm.uploaded_key_count = count if isinstance(count, int) else 0

    def _tell_of_keys(self) -> None:
        """Tell whoever waits for room keys, if any have come."""
        if self._olm.arrived:
            self._olm.arrived = False
            self._topics.publish(Topic.ROOM_KEYS)

    async def run(self) -> None:
        """Do what the engine asks for after every sync, until cancelled.

        Beside the sync, which waits for nobody: strangers' homeservers are slow to say whose
        devices are whose. Raises `TokenRejectedError`.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_taking())
            while True:
                await self.wake.wait()
                self.wake.clear()
                await self.keep_up()

    async def _keep_taking(self) -> None:
        """Take in what waits to be opened, and tell whoever waits for keys."""
        while True:
            await self._to_device.until_waiting()
            await self._to_device.take_rest(self._tell_of_keys)

    def _admits(self, event: Event) -> bool:
        return self.sender_bounds.admits(event)

    def _keep_for_verification(self, event: Event) -> None:
        try:
            self.verification_events.put_nowait(event)
        except asyncio.QueueFull:
            log.debug("an event of a verification was passed over: too many wait")

    async def keep_up(self) -> None:
        """Do what the engine asks for. Raises `TokenRejectedError`."""
        await self.device_keys.keep_up()

    async def query(self, users: set[UserID]) -> None:
        """Fetch the devices of `users`. Raises `OutcomeError`."""
        await self.device_keys.query(users)

    async def decrypt(
        self, room_id: RoomID, event: Event, *, meet: bool = False
    ) -> Decrypted | MissingRoomKey | None:
        """Decrypt a room event; `MissingRoomKey` without its key, `None` when nothing can open it.

        What it says counts only when its session belongs to a device of its sender whose keys
        are known. nio does not see to that: with it, whoever holds alice's ciphertext can send
        it as bob. `meet`: the homeserver is asked for devices that are not known. Where the
        session belongs to none of them, the type and the content are left empty then.
        Raises `OutcomeError` when the homeserver did not say whose device it is.
        """
        content = event.get("content")
        sender = event.get("sender")
        if not isinstance(content, dict) or not isinstance(sender, str):
            return None
        session_id = content.get("session_id")
        if content.get("algorithm") != MEGOLM or not isinstance(session_id, str):
            return None
        if not 0 < len(session_id) <= LONGEST_ID:
            return None
        # The content's own `sender_key` is deprecated and unauthenticated: look by session.
        claims = self._olm.sessions_of(room_id, session_id)
        if not claims:
            return MissingRoomKey(session_id=session_id)
        clear = open_with(claims[0], str(content.get("ciphertext")), room_id)
        if clear is None:
            return None
        owner = self._owner(UserID(sender), claims)
        if owner is None and not meet:
            return clear
        if owner is None:
            await self._meet(UserID(sender))
            owner = self._owner(UserID(sender), claims)
        if owner is None:
            log.warning("a message came under another name than its key: not a command")
            return replace(clear, type="", content={})
        return replace(clear, device_id=owner.device_id, device_key=owner.curve25519, known=True)

    async def _meet(self, user_id: UserID) -> None:
        """Fetch a sender's devices, at most once a minute: not for every message of a stranger.

        Those that are known to have changed are fetched all the same.
        """
        now = time.monotonic()
        if now - self._met.get(user_id, -MEET_EVERY) < MEET_EVERY:
            await self.keep_up()
            if user_id in self._olm.users_for_key_query:
                raise OutcomeError(Unreachable(reason="the devices are not known yet"))
            return
        await self.query({user_id})
        self._met = {who: at for who, at in self._met.items() if now - at < MEET_EVERY}
        self._met[user_id] = now

    def _owner(self, user_id: UserID, claims: list[InboundGroupSession]) -> OlmDevice | None:
        """Return the sender's device that made the session, if one of the claims is its own."""
        for claim in claims:
            device = self._olm.device_store.device_from_sender_key(user_id, claim.sender_key)
            genuine = device is not None and device.ed25519 == claim.ed25519
            if genuine and not claim.forwarding_chain:  # who forwarded it only says whose it was
                return device
        return None

    def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool = False) -> None:
        """Ask the sender's device for a room key that has not come; sent with the next sync.

        `again`: though it was asked for, as another request.

        spec: client-server API v1.13, 11.12.4.1 key requests.
        """
        parsed = RoomEvent.parse_encrypted_event({**event, "room_id": room_id})
        if not isinstance(parsed, MegolmEvent) or (
            parsed.session_id in self._olm.outgoing_key_requests and not again
        ):
            return
        parsed.room_id = room_id
        request_id = f"{parsed.session_id}-again" if again else parsed.session_id
        wanted = (parsed.sender, self.device_id, request_id, parsed.device_id)
        try:
            message = parsed.as_key_request(*wanted)
        except Exception as error:  # noqa: BLE001 - a stranger's event, of any shape
            log.warning("a key cannot be asked for (%s)", type(error).__name__)
            return
        with disk():
            make_room(self._olm.store, self._olm.outgoing_key_requests)
        self._client.outgoing_to_device_messages.append(message)

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        """Whether a room key has come."""
        return bool(self._olm.sessions_of(room_id, session_id))

    async def ratchet(self, read: list[tuple[str, int]]) -> None:
        """See that what was read of these sessions can never be decrypted again with our keys."""
        with disk():
            async with self._olm.store.piece_aside():
                self._olm.ratchet(read)

    async def forget(self, session_ids: list[str]) -> None:
        """Delete sessions that are of no more use."""
        with disk():
            async with self._olm.store.piece_aside():
                self._olm.forget(session_ids)

    async def scrub(self) -> None:
        """See that nothing replaced can still be read from the crypto store."""
        with disk():
            await self._olm.store.rewrite()

    @property
    def sessions(self) -> dict[str, RoomID]:
        """The sessions that are kept, each with its room."""
        return self._olm.sessions
