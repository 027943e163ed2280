"""One message of the demonstration: when it was due, and what the homeserver says became of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot.core.types import Event, EventID, Millis, UserID

EXCERPT: Final = 60
"""Characters kept of what the homeserver returns."""


@dataclass(slots=True, kw_only=True)
class Message:
    """A message as the homeserver returned it last; times are the homeserver's own, in ms."""

    event_id: EventID
    sender: str
    what: str
    text: str
    sent: Millis
    due: Millis | None
    """`None` when it stays: it was said before there was a lifetime."""
    returned: str
    """The content that the homeserver returns, shortened."""
    gone: Millis | None = None
    """When the bot's redaction reached the homeserver."""
    given_up: bool = False
    """It was still there long after it was due."""

    @property
    def pending(self) -> bool:
        """Whether it is still to go."""
        return self.due is not None and self.gone is None and not self.given_up

    @property
    def late(self) -> Millis | None:
        """How long after it was due it went; `None` while it has not gone."""
        return None if self.gone is None or self.due is None else self.gone - self.due

    def look(self, event: Event, bot: UserID) -> bool:
        """Take in what the homeserver returns now; tell whether it is the bot's redaction."""
        because = event.get("unsigned", {}).get("redacted_because")
        if event["content"] != {} or not because or because["sender"] != bot:
            return False
        self.returned = "{}"
        self.gone = because["origin_server_ts"]
        return True


def excerpt(event: Event) -> str:
    """Return the telling beginning of an event's content: the ciphertext where there is one."""
    content = event["content"]
    if "ciphertext" in content:
        return f"ciphertext: {content['ciphertext']}"[:EXCERPT]
    return json.dumps(content, ensure_ascii=False)[:EXCERPT]


def seconds(span: Millis) -> str:
    """Write a length of time as the audience reads it."""
    return f"{span / 1000:.2f} s"


def summary(messages: Sequence[Message]) -> str:
    """Say how many messages went, and how late."""
    meant = [message for message in messages if message.due is not None]
    late = [message.late for message in meant if message.late is not None]
    said = f"{len(late)} of {len(meant)} messages are gone"
    if not late:
        return f"{said}."
    return f"{said}; median {seconds(round(median(late)))} late, worst {seconds(max(late))}."


def remaining(messages: Sequence[Message]) -> list[str]:
    """Name the messages that should have gone and did not."""
    return [
        f"still there: {message.sender}: {message.what} {message.text!r} ({message.event_id})"
        for message in messages
        if message.due is not None and message.gone is None
    ]
