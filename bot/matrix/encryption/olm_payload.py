"""Gives nio what strangers encrypted to the bot's device in a form that it can read."""

from __future__ import annotations

import json
import logging
from typing import Any

from nio.crypto import InboundSession, Olm

from bot.matrix.http import responses

log = logging.getLogger(__name__)


def readable(payload: str) -> str:
    """Return a stranger's JSON as nio can read it, which takes it apart by itself."""
    return json.dumps(responses.parse(payload.encode(errors="replace")))


class Opening(InboundSession):  # type: ignore[misc]
    """A channel that somebody opens with a first message."""

    def decrypt(self, message: Any, unicode_errors: str = "replace") -> str:
        """Return what a message says."""
        return readable(super().decrypt(message, unicode_errors))


class ReadingOlm(Olm):  # type: ignore[misc]
    """nio's engine, which can read whatever was encrypted to it."""

    def _try_decrypt(self, sender: str, sender_key: str, message: Any) -> str | None:
        """Open a message with a channel that is there."""
        opened = super()._try_decrypt(sender, sender_key, message)
        return None if opened is None else readable(opened)

    def _create_inbound_session(self, sender: str, sender_key: str, message: Any) -> Opening:
        """Take the channel that somebody opens, and use up its one-time key."""
        log.debug("%s opens a channel", sender)
        session = Opening(self.account, message, sender_key)
        self.account.remove_one_time_keys(session)
        self.save_account()
        return session
