"""Gives nio what strangers encrypted to the bot's device in a form that it can read."""

from __future__ import annotations

import json
from typing import Any

from nio.crypto import InboundSession

from bot.matrix import answers


def readable(payload: str) -> str:
    """Return a stranger's JSON as nio can read it, which takes it apart by itself."""
    return json.dumps(answers.parse(payload.encode(errors="replace")))


class Opening(InboundSession):  # type: ignore[misc]
    """A channel that somebody opens with a first message."""

    def decrypt(self, message: Any, unicode_errors: str = "replace") -> str:
        """Return what a message says."""
        return readable(super().decrypt(message, unicode_errors))
