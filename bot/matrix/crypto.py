"""Feeds nio's encryption engine by hand, and decrypts the few events that may be commands."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import vodozemac
from nio import AsyncClient, MatrixRoom
from nio.crypto import InboundGroupSession, Olm
from nio.events import ToDeviceEvent
from nio.exceptions import EncryptionError

from bot.model import Event, RoomID, UserID

log = logging.getLogger(__name__)

MEGOLM = "m.megolm.v1.aes-sha2"
MEET_EVERY = 60.0
"""Seconds."""
UNREADABLE = (
    vodozemac.MegolmDecryptionException,
    vodozemac.DecodeException,
    EncryptionError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decrypted:
    """A room event in clear, held in memory only."""

    type: str
    content: dict[str, Any] = field(repr=False)
    session_id: str
    index: int
    """Where in its Megolm session it stands: with the session's id, what a replay repeats."""


class Crypto:
    """nio's `Olm`, without nio's model of rooms and without its handling of a sync."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._met: dict[UserID, float] = {}

    @property
    def _olm(self) -> Olm:
        return self._client.olm

    @property
    def in_place(self) -> bool:
        """Whether the device's keys are on the homeserver."""
        return self._olm is not None and bool(self._olm.account.shared)

    @property
    def device_id(self) -> str:
        """The id of this device."""
        return str(self._client.device_id)

    def is_own(self, device: Event) -> bool:
        """Whether the homeserver's copy of a device is this one, by both of its keys."""
        keys = device.get("keys")
        own = self._olm.account.identity_keys
        return isinstance(keys, dict) and all(
            keys.get(f"{kind}:{self.device_id}") == own[kind] for kind in ("ed25519", "curve25519")
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
        """Take from an answer of `/sync` what encryption lives on.

        Every to-device event is taken by itself: anybody who knows the bot's id can send one,
        and eight malformed kinds raise inside nio. None of them may stop the sync.
        """
        for event in _list(body, "to_device", "events"):
            # Key requests and verifications are not answered: the bot has nobody's trust to give.
            if not isinstance(event, dict) or event.get("type") != "m.room.encrypted":
                continue
            try:
                parsed = ToDeviceEvent.parse_event(event)
                if parsed is not None:
                    self._olm.handle_to_device_event(parsed)
            except Exception as error:  # noqa: BLE001 - a stranger's input, of any shape
                log.warning("passed over a to-device event (%s)", type(error).__name__)
        changed = _list(body, "device_lists", "changed")
        self._olm.add_changed_users({user for user in changed if isinstance(user, str)})
        counts = body.get("device_one_time_keys_count")
        if isinstance(counts, dict):
            # nio itself skips a count of 0, and never uploads again.
            count = counts.get("signed_curve25519", 0)
            self._olm.uploaded_key_count = count if isinstance(count, int) else 0

    async def keep_up(self) -> None:
        """Do what the engine asks for: upload keys, query devices, mend sessions.

        What fails is asked for again with the next sync.
        """
        client = self._client
        try:
            if client.should_upload_keys:
                await client.keys_upload()
            await self.query(set())
            if client.should_claim_keys:
                await client.keys_claim(client.get_users_for_key_claiming())
            if client.outgoing_to_device_messages:
                await client.send_to_device_messages()
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("encryption keys wait for the homeserver (%s)", type(error).__name__)
        except Exception as error:  # noqa: BLE001 - answers are made of strangers' device keys
            log.warning("encryption keys: %s", type(error).__name__)

    async def query(self, users: set[UserID]) -> None:
        """Fetch the devices of `users`, and of all whose devices changed."""
        wanted = self._olm.users_for_key_query
        wanted.update(users)
        asked = set(wanted)
        if asked:
            await self._client.keys_query()
            # A server that is away answers for nobody; its users are asked for when needed.
            wanted.difference_update(asked)

    async def decrypt(self, room_id: RoomID, event: Event) -> Decrypted | None:
        """Decrypt a room event; `None` when there is no key, or it is not its sender's.

        The session must belong to a device of the event's sender whose keys are known. nio
        checks neither: with it, whoever holds alice's ciphertext can send it as bob.
        """
        content = event.get("content")
        sender = event.get("sender")
        if not isinstance(content, dict) or not isinstance(sender, str):
            return None
        session = self._session(room_id, content)
        if session is None:
            return None
        if not self._owns(UserID(sender), session):
            await self._meet(UserID(sender))
            if not self._owns(UserID(sender), session):
                log.warning("a message came under another name than its key: not a command")
                return None
        return _open(session, str(content.get("ciphertext")), room_id)

    async def _meet(self, user_id: UserID) -> None:
        """Fetch a sender's devices, at most once a minute: not for every message of a stranger."""
        now = time.monotonic()
        if now - self._met.get(user_id, -MEET_EVERY) < MEET_EVERY:
            return
        self._met = {who: at for who, at in self._met.items() if now - at < MEET_EVERY}
        self._met[user_id] = now
        try:
            await self.query({user_id})
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("a sender's keys wait for the homeserver (%s)", type(error).__name__)

    def _session(self, room_id: RoomID, content: dict[str, Any]) -> InboundGroupSession | None:
        session_id = content.get("session_id")
        if content.get("algorithm") != MEGOLM or not isinstance(session_id, str):
            return None
        # The content's own `sender_key` is deprecated and unauthenticated: look by session.
        senders: dict[str, dict[str, InboundGroupSession]] = self._olm.inbound_group_store[room_id]
        found = [sessions[session_id] for sessions in senders.values() if session_id in sessions]
        return found[0] if len(found) == 1 else None

    def _owns(self, user_id: UserID, session: InboundGroupSession) -> bool:
        if session.forwarding_chain:
            return False  # whoever forwarded it only says whose it was
        device = self._olm.device_store.device_from_sender_key(user_id, session.sender_key)
        return device is not None and device.ed25519 == session.ed25519

    async def prepare(self, room_id: RoomID) -> None:
        """Make ready to write to an encrypted room: know its members and their devices.

        Raises aiohttp's errors and `TimeoutError` when the homeserver does not answer.
        """
        client = self._client
        room = client.rooms.setdefault(room_id, MatrixRoom(room_id, client.user_id, encrypted=True))
        before = set(room.users)
        await client.joined_members(room_id)
        if set(room.users) != before:
            # Who left must not read on, and who came has no key of the session in use.
            client.invalidate_outbound_session(room_id)
        await self.query(set())


def _open(session: InboundGroupSession, ciphertext: str, room_id: RoomID) -> Decrypted | None:
    try:
        plaintext, index = session.decrypt(ciphertext)
        payload = json.loads(plaintext)
    except UNREADABLE:
        return None
    if not isinstance(payload, dict) or payload.get("room_id") != room_id:
        return None
    content, kind = payload.get("content"), payload.get("type")
    if not isinstance(content, dict) or not isinstance(kind, str):
        return None
    return Decrypted(type=kind, content=content, session_id=session.id, index=index)


def _list(body: Event, outer: str, inner: str) -> list[Any]:
    """Return `body[outer][inner]` if it is a list, else an empty one."""
    part = body.get(outer)
    found = part.get(inner) if isinstance(part, dict) else None
    return found if isinstance(found, list) else []
