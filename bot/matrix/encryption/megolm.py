"""Opens what was encrypted to a room, with a session that is at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import vodozemac
from nio.crypto import InboundGroupSession
from nio.exceptions import EncryptionError

from bot.core.types import RoomID
from bot.matrix.http import responses

MEGOLM = "m.megolm.v1.aes-sha2"
LONGEST_ID = 255
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
    device_id: str = ""
    """The sender's device that made the session."""
    device_key: str = ""
    known: bool = False
    """Whether that device is known to be the sender's own: else what it says counts for nothing."""


def open_with(session: InboundGroupSession, ciphertext: str, room_id: RoomID) -> Decrypted | None:
    """Decrypt with a session; `None` when that does not open it, or not to an event of the room."""
    try:
        # nio gives up a text that is not all UTF-8.
        message = vodozemac.MegolmMessage.from_base64(ciphertext)
        opened = session._session.decrypt(message)  # noqa: SLF001
    except UNREADABLE:
        return None
    payload = responses.parse(opened.plaintext)
    if not isinstance(payload, dict) or payload.get("room_id") != room_id:
        return None
    content, kind = payload.get("content"), payload.get("type")
    if not isinstance(content, dict) or not isinstance(kind, str):
        return None
    return Decrypted(type=kind, content=content, session_id=session.id, index=opened.message_index)
