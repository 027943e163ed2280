"""nio's encryption engine with its defects mended, each where it stands in nio."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from nio.crypto import InboundGroupSession, OutboundGroupSession
from nio.events import ForwardedRoomKeyEvent
from nio.store import MegolmInboundSessions
from peewee import PeeweeException

from bot.core.types import RoomID
from bot.matrix.encryption.bounds import MOST_KEYS
from bot.matrix.encryption.crypto_store import CryptoStore
from bot.matrix.encryption.olm_channels import KEY_ERRORS, Channels
from bot.matrix.http.nio_client import Client

log = logging.getLogger(__name__)

CLAIMS: Final = 4
"""How many may claim to have made one session."""


def _moved(session: InboundGroupSession, index: int) -> InboundGroupSession:
    """Return the session from message `index` on; what came before is out of its reach."""
    return InboundGroupSession.import_session(
        session.export_session(index),
        session.ed25519,
        session.sender_key,
        session.room_id,
        session.forwarding_chain,
    )


def _row(session: InboundGroupSession) -> str:
    return f"{session.id} {session.sender_key} {session.room_id}"


class CarefulOlm(Channels):
    """The engine of one device."""

    def __init__(self, user_id: str, device_id: str, store: CryptoStore) -> None:
        super().__init__(user_id, device_id, store)
        self.arrived = False
        """A room key has come since this was last set to `False`."""
        self._sessions: dict[str, list[InboundGroupSession]] = {}
        self._makers: dict[str, dict[str, None]] = {}
        """The sessions of each device, the oldest first."""
        for session in self.inbound_group_store:
            self._remember(session)

    # --- Megolm: room keys ---------------------------------------------------------------

    def sessions_of(self, room_id: str, session_id: str) -> list[InboundGroupSession]:
        """Return who claims to have made a room's session; a claim tells by its sender key."""
        return [one for one in self._sessions.get(session_id, []) if one.room_id == room_id]

    @property
    def sessions(self) -> dict[str, RoomID]:
        """All sessions that are kept, each with its room."""
        return {name: RoomID(claims[0].room_id) for name, claims in self._sessions.items()}

    def create_group_session(
        self, sender_key: str, sender_fp_key: str, room_id: str, session_id: str, session_key: str
    ) -> None:
        """Keep a room key that came from its creator.

        Any member who holds the key can send it on as his own. nio lets him replace the
        creator's, and put it back to where it began. Here every claim stands for itself, and
        none reaches further back than the others.
        """
        claims = self._sessions.get(session_id, [])
        known = any(one.sender_key == sender_key and one.room_id == room_id for one in claims)
        if known or len(claims) >= CLAIMS:
            return
        try:
            session = InboundGroupSession(session_key, sender_fp_key, sender_key, room_id)
            first = max((one.first_known_index for one in claims), default=0)
            if first > session.first_known_index:
                session = _moved(session, first)
        except (*KEY_ERRORS, ValueError) as error:
            log.warning("passed over a room key (%s)", type(error).__name__)
            return
        if session.id == session_id:
            self._keep(session)

    def create_outbound_group_session(self, room_id: str) -> None:
        """Begin a session to write with. nio also keeps it to read with: nobody here does."""
        self.outbound_group_sessions[room_id] = OutboundGroupSession()

    def _remember(self, session: InboundGroupSession) -> None:
        self._sessions.setdefault(session.id, []).append(session)
        self._makers.setdefault(session.sender_key, {})[session.id] = None

    def _keep(self, session: InboundGroupSession) -> None:
        if len(self._sessions) >= MOST_KEYS:
            # Who has most gives way: a flood drives out its own keys and nobody else's.
            maker = max(self._makers, key=lambda one: len(self._makers[one]))
            self.forget([next(iter(self._makers[maker]))])
        self._remember(session)
        self.inbound_group_store[session.room_id][session.sender_key][session.id] = session
        self.save_inbound_group_session(session)
        self.arrived = True

    def _handle_forwarded_room_key_event(
        self, sender: str, sender_key: str, payload: dict[Any, Any]
    ) -> ForwardedRoomKeyEvent | None:
        """Take a key that was asked for, from the device that made it and from no other."""
        content = payload["content"]
        event = ForwardedRoomKeyEvent.from_dict(payload, sender, sender_key)
        asked = isinstance(event, ForwardedRoomKeyEvent) and (
            self.outgoing_key_requests.get(event.session_id)
        )
        device = self.device_store.device_from_sender_key(sender, sender_key)
        if not asked or device is None or asked.room_id != event.room_id:
            return None
        if content.get("sender_key") != sender_key or self.sessions_of(
            event.room_id, event.session_id
        ):
            return None
        session = self._import_group_session(
            content["session_key"], device.ed25519, sender_key, event.room_id, []
        )
        if session is None or session.id != event.session_id:
            return None
        self._keep(session)
        request = self.outgoing_key_requests.pop(event.session_id)
        self.store.remove_outgoing_key_request(request)
        self.outgoing_to_device_messages.append(
            request.as_cancellation(self.user_id, self.device_id)
        )
        return event

    def ratchet(self, read: Iterable[tuple[str, int]]) -> None:
        """Move sessions past what was read of them, in memory and on the disk.

        `read` holds session ids and message indexes. What was said up to there cannot be
        decrypted with what is kept any more; what follows can.
        """
        with self.store.piece():
            self._ratchet(read)

    def _ratchet(self, read: Iterable[tuple[str, int]]) -> None:
        for session_id, index in read:
            try:
                moved = [
                    one if one.first_known_index > index else _moved(one, index + 1)
                    for one in self._sessions.get(session_id, [])
                ]
            except (OverflowError, ValueError, *KEY_ERRORS):
                self.forget([session_id])  # it is at its end: there is nothing after it
                continue
            for session in moved:
                room = self.inbound_group_store[session.room_id]
                room[session.sender_key][session_id] = session
                self.save_inbound_group_session(session)
            if moved:
                self._sessions[session_id] = moved

    def save_inbound_group_session(self, session: InboundGroupSession) -> None:
        """Save a claim in a row of its own. nio has one row a session, whoever claims it."""
        with self.store.database.bind_ctx(self.store.models):
            MegolmInboundSessions.replace(
                sender_key=session.sender_key,
                account=self.store._get_account(),  # noqa: SLF001
                fp_key=session.ed25519,
                room_id=session.room_id,
                session=session.pickle(self.store.pickle_key),
                session_id=_row(session),
            ).execute()

    def forget(self, session_ids: Iterable[str]) -> None:
        """Delete sessions for good."""
        with self.store.piece():
            for session_id in session_ids:
                for session in self._sessions.pop(session_id, []):
                    made = self._makers.get(session.sender_key, {})
                    made.pop(session_id, None)
                    if not made:
                        self._makers.pop(session.sender_key, None)
                    room = self.inbound_group_store[session.room_id]
                    room[session.sender_key].pop(session_id, None)
                    found = MegolmInboundSessions.session_id == _row(session)
                    MegolmInboundSessions.delete().where(found).execute()

    # --- the account's own keys ----------------------------------------------------------

    def keys_to_upload(self, *, fallback: bool) -> dict[str, Any]:
        """Return the body of an upload, of keys that are on the disk already.

        nio saves them after the upload: a crash between makes the homeserver refuse every
        later upload. `fallback`: also a new key for when the one-time keys run out.
        spec: client-server API v1.13, 11.12.4 one-time and fallback keys.
        """
        content: dict[str, Any] = self.share_keys() if self.should_upload_keys else {}
        if fallback:
            account = self.account._account  # noqa: SLF001 - nio does not know fallback keys
            if not account.fallback_key:
                account.generate_fallback_key()
            content["fallback_keys"] = {
                f"signed_curve25519:{name}": self._signed_fallback(key.to_base64())
                for name, key in account.fallback_key.items()
            }
        self.save_account()
        return content

    def _signed_fallback(self, key: str) -> dict[str, Any]:
        body: dict[str, Any] = {"key": key, "fallback": True}
        name = f"ed25519:{self.device_id}"
        return {**body, "signatures": {self.user_id: {name: self.sign_json(body)}}}

    def uploaded(self, count: int) -> None:
        """Remember that the homeserver has the keys; `count` is how many one-time keys."""
        self.account.shared = True
        self.uploaded_key_count = count
        self.mark_keys_as_published()
        self.save_account()


class CarefulClient(Client):
    """nio's client with that engine."""

    def load_store(self) -> None:
        """Open the crypto store of the device that is logged in."""
        if self.olm is None:
            where, key = self.store_path, self.config.pickle_key
            store = CryptoStore(self.user_id, self.device_id, where, key, "")
            try:
                self.olm: Any = CarefulOlm(self.user_id, self.device_id, store)
            except BaseException:
                store.database.close()
                raise
            self.store: Any = store

    def load_again(self) -> None:
        """Forget what is in memory for what is on the disk."""
        before, self.olm = self.olm, None
        before.store.database.settle()  # what is being written may be on its way a moment later
        try:
            self.load_store()
        except PeeweeException:
            self.olm = before  # better than nothing
            raise
        before.store.database.close()

    def close_store(self) -> None:
        """Close the crypto store; nio leaves it open."""
        if self.store is not None:
            self.store.database.close()

    async def close(self) -> None:
        """Close the connections, that to the crypto store too."""
        try:
            await super().close()
        finally:
            self.close_store()
