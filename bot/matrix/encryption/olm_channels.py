"""What nio's engine knows of other devices, and its Olm channels to them, with defects mended."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

import vodozemac
from nio.crypto import OlmDevice, OutboundSession, Session

from bot.core.types import Event
from bot.matrix.encryption.bounds import prune
from bot.matrix.encryption.crypto_store import CryptoStore
from bot.matrix.encryption.megolm import LONGEST_ID
from bot.matrix.encryption.olm_payload import ReadingOlm

log = logging.getLogger(__name__)

KEY_ERRORS: Final = (
    vodozemac.SessionCreationException,
    vodozemac.SessionKeyDecodeException,
    vodozemac.DecodeException,
    vodozemac.KeyException,
    vodozemac.OlmDecryptionException,
)


MOST_UNKNOWN: Final = 1_000
"""Devices that wrote and are not known yet, whose channels are to be made anew."""


class Channels(ReadingOlm):
    """The part of the engine that has to do with single devices."""

    def __init__(self, user_id: str, device_id: str, store: CryptoStore) -> None:
        super().__init__(user_id, device_id, store)
        self._unknown: set[tuple[str, str]] = set()

    # --- devices -------------------------------------------------------------------------

    def take_device(self, user_id: str, device_id: str, payload: Any) -> OlmDevice | None:
        """Take a device as the homeserver shows it; return it if it is new, or has a new key.

        What is not as it should be raises, or counts for nothing. A device never changes its
        signing key. Its display name is not kept: nobody reads it here.
        """
        if (user_id, device_id) == (self.user_id, self.device_id) or len(device_id) > LONGEST_ID:
            return None
        if payload["user_id"] != user_id or payload["device_id"] != device_id:
            return None
        signing, curve = (payload["keys"][f"{kind}:{device_id}"] for kind in KINDS)
        vodozemac.Curve25519PublicKey.from_base64(curve)
        if not self.verify_json(payload, signing, user_id, device_id):
            return None
        known = self.device_store[user_id].get(device_id)
        if known is None:
            known = OlmDevice(user_id, device_id, {"ed25519": signing, "curve25519": curve})
            # nio's own `add` compares with every device of everybody first.
            self.device_store[user_id][device_id] = known
            return known
        if known.ed25519 != signing or (known.curve25519 == curve and not known.deleted):
            return None
        known.curve25519, known.deleted = curve, False
        return known

    def drop_devices(self, user_id: str, current: Iterable[str]) -> list[OlmDevice]:
        """Take it that a person has no other devices than these; return those that are gone."""
        here = set(current)
        gone = [one for one in self.device_store.active_user_devices(user_id) if one.id not in here]
        for one in gone:
            one.deleted = True
        return gone

    def was_queried(self, user_id: str) -> None:
        """Follow a person's devices from now on, and mend the channels that waited for them."""
        self.tracked_users.add(user_id)
        for sender, key in [one for one in self._unknown if one[0] == user_id]:
            self._unknown.discard((sender, key))
            if self.device_store.device_from_sender_key(sender, key) is not None:
                super()._mark_device_for_unwedging(sender, key)

    # --- channels ------------------------------------------------------------------------

    def channel_to(self, device: OlmDevice) -> Session | None:
        """Return the channel to a device that was used last."""
        found = self.session_store._entries.get(device.curve25519)  # noqa: SLF001 - adds nothing
        return found[0] if found else None

    def open_channel(self, device: OlmDevice, claimed: Any) -> Session | None:
        """Open a channel with a one-time key of the device; `None` if it did not sign that.

        Raises, whatever a stranger's key may raise.
        """
        (key,) = claimed.values()
        if not self.verify_json(key, device.ed25519, device.user_id, device.device_id):
            return None
        # Unlike in nio the account is not saved: a channel that goes out changes nothing in it.
        channel = OutboundSession(self.account, device.curve25519, key["key"])
        self.session_store.add(device.curve25519, channel)
        self.save_session(device.curve25519, channel)
        prune(self.store, self.session_store, device.curve25519)
        return channel

    def seal(self, device: OlmDevice, kind: str, content: Event) -> Event | None:
        """Return a to-device message's content, encrypted; `None` without a channel."""
        channel = self.channel_to(device)
        if channel is None:
            return None
        sealed: Event = self._olm_encrypt(channel, device, kind, content)
        return sealed

    def decrypt(self, sender: str, sender_key: str, message: Any) -> Any:
        """Decrypt a message from a device; one that cannot be is answered with a new channel."""
        try:
            event = super().decrypt(sender, sender_key, message)
        except KEY_ERRORS as error:
            log.info("a device's channel is broken (%s): making a new one", type(error).__name__)
            self._mark_device_for_unwedging(sender, sender_key)
            return None
        # nio saves the account before its one-time key is used up, and not after.
        self.save_account()
        prune(self.store, self.session_store, sender_key)
        return event

    def _mark_device_for_unwedging(self, sender: str, sender_key: str) -> None:
        """Have a new channel made; for a device that is not known yet, once it is."""
        if self.device_store.device_from_sender_key(sender, sender_key) is None:
            if len(self._unknown) < MOST_UNKNOWN:
                self._unknown.add((sender, sender_key))
            self.users_for_key_query.add(sender)
            return
        super()._mark_device_for_unwedging(sender, sender_key)

    def unwedge(self, device: OlmDevice) -> list[Any]:
        """Return what tells a device, by a channel that was made anew, that there is one.

        It may be sent once the channel is on the disk.
        """
        channel = self.channel_to(device)
        if channel is None:
            return []
        self._queue_dummy_message(channel, device)
        return [self.outgoing_to_device_messages.pop()]


KINDS: Final = ("ed25519", "curve25519")
