"""Says, purely, what an event comes to: items, commands to be authorized. Keeps no word of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from bot.chat.command_text import ParsedCommand, command_of, thread_of
from bot.core.commands import UndecidedCommand
from bot.core.default_lifetime import DEFAULT_EVENT, DefaultSaid, read_defaults
from bot.core.events import (
    is_encryption,
    is_nothing,
    is_policy,
    is_verification,
    may_be_command,
    previous_content,
    read_event,
    replaced,
)
from bot.core.media_addresses import media_ids
from bot.core.policy import read_marks
from bot.core.ports.homeserver import DecryptedEvent
from bot.core.sync_batch import MissingRoomKey
from bot.core.timeline import (
    Change,
    Encrypted,
    Item,
    KeyUse,
    MediaReference,
    Message,
    RedactedEvent,
    Redaction,
    Undecryptable,
    began,
    belongs_to,
    is_gone,
    is_state,
    redacts,
    says_more,
)
from bot.core.types import Event, EventID, Millis, UserID


@dataclass(frozen=True, slots=True, kw_only=True)
class InClear:
    """The event is not encrypted, or stands in a room that is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """The event is encrypted in a way that nobody can ever decrypt."""


DecryptionResult: TypeAlias = DecryptedEvent | MissingRoomKey | InClear | Damaged
"""What decrypting an event led to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and when an event is read."""

    live: bool
    """It was seen to arrive."""
    since: Millis
    now: Millis
    """Its lifetime began between these two times."""
    clear_counts: bool
    """The room may not have been encrypted there: what is in clear may be a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedCommand:
    """A command in a message: it stands for itself until its sender's right is looked up."""

    command: UndecidedCommand
    replies_to: EventID | None = None
    called: str = ""
    """Both as of `ParsedCommand`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationEvent:
    """Part of a verification by which somebody verifies the bot, in clear."""

    event: Event
    encrypted: bool
    """It came encrypted."""


Found: TypeAlias = Item | RequestedCommand | VerificationEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Reads events one at a time. Holds values only, and remembers nothing."""

    own_id: UserID
    prefix: str
    digest: Callable[[str], str]
    """Returns what is remembered of an id: always the same, and nothing that tells it."""
    media_server: str | None
    """The server whose files go with their messages, if any do."""

    def classify(self, event: Event, decrypted: DecryptionResult, place: Place) -> list[Found]:
        """Return what an event comes to, in the order in which it counts.

        A command stands before its own message, whose lifetime it covers; files stand after it.
        """
        if is_state(event):
            first = previous_content(event) is None
            turned_on: list[Found] = [Encrypted(first=first)] if is_encryption(event) else []
            return [*turned_on, *self.state_change(event)]
        found: list[Found] = []
        if event.get("type") == "m.room.redaction":
            found += self._redaction(event)
            if not says_more(event):
                return found
        event_id = event.get("event_id")
        if not isinstance(event_id, str) or is_gone(event):
            return found
        sent = began(event, since=place.since, now=place.now)
        found_in_it = self._of_message(event, decrypted, place, sent)
        found += [one for one in found_in_it if not isinstance(one, MediaReference)]
        parent = belongs_to(event)
        found.append(Message(event_id=EventID(event_id), sent=sent, parent=parent, live=place.live))
        return found + [one for one in found_in_it if isinstance(one, MediaReference)]

    def outline(self, event: Event, *, since: Millis, now: Millis) -> list[Item]:
        """Return the message, change or redacted event that an event is, for who walks back.

        Nothing is decrypted, and no command is looked for. `since` and `now` as of `Place`.
        """
        event_id = event.get("event_id")
        if is_state(event):
            marks = read_marks(event.get("content")) if self.is_own(event) else ()
            found = self.state_change(event, unannounced=True)
            return [replace(one, marks=marks) if isinstance(one, Change) else one for one in found]
        if not isinstance(event_id, str):
            return []
        if is_nothing(event):
            return [RedactedEvent(event_id=EventID(event_id))]
        sent, at = began(event, since=since, now=now), event.get("origin_server_ts")
        message = Message(
            event_id=EventID(event_id),
            sent=sent,
            parent=belongs_to(event),
            said_at=max(at, 0) if type(at) is int else None,
        )
        content = event.get("content")
        if not isinstance(content, dict):
            return [message]
        return [message, *self._files(event, event.get("type"), content)]

    def state_change(self, event: Event, *, unannounced: bool = False) -> list[Item]:
        """Return what a state event says of the room's lifetime, if anything."""
        if event.get("type") == DEFAULT_EVENT and event.get("state_key") == "":
            own = self.is_own(event)
            return [DefaultSaid(defaults=read_defaults(event.get("content")))] if own else []
        if not is_policy(event):
            return []
        setting, note = read_event(event)
        change = Change(
            setting=setting,
            before=replaced(event),
            sender=UserID(str(event.get("sender", ""))),
            digest=self.digest(str(event.get("event_id", ""))),
            unannounced=unannounced,
            note=note,
        )
        return [change]

    def is_own(self, event: Event) -> bool:
        """Whether the bot itself sent the event."""
        return event.get("sender") == self.own_id

    def _redaction(self, event: Event) -> list[Item]:
        target = redacts(event)
        if target is None:
            return []
        redaction = Redaction(
            target=target,
            target_digest=self.digest(target),
            sender=UserID(str(event.get("sender", ""))),
            digest=self.digest(str(event.get("event_id", ""))),
        )
        return [redaction]

    def _of_message(
        self, event: Event, decrypted: DecryptionResult, place: Place, sent: Millis
    ) -> list[Found]:
        """Return what a message says to the bot, the files that it shows, and its key's use."""
        content, sender = event.get("content"), event.get("sender")
        if not isinstance(content, dict) or not isinstance(sender, str) or self.is_own(event):
            return []
        # Clients verify in clear even in encrypted rooms: nothing in it is secret or believed.
        offered: list[Found] = _verification(event, encrypted=False)
        match decrypted:
            case InClear() if place.clear_counts:
                return [*offered, *self._text(event, None, place, sent)]
            case InClear():
                # A server can put words in clear into an encrypted room: they do not count there.
                return [*offered, *self._files(event, event.get("type"), content)]
            case Damaged():
                return offered
            case MissingRoomKey(session_id=session_id):
                no_command = not may_be_command(content)
                if no_command and sender.partition(":")[2] != self.media_server:
                    return offered
                return [
                    *offered,
                    _undecryptable(event, session_id, place.now, sent, not_a_command=no_command),
                ]
            case clear:
                return [*offered, *self._clear(event, clear, place, sent)]

    def _clear(
        self, event: Event, clear: DecryptedEvent, place: Place, sent: Millis
    ) -> list[Found]:
        """Return what a decrypted message says; that of an unknown device is not believed yet."""
        used = KeyUse(session_id=clear.session_id, message_index=clear.index, read_at=place.now)
        verification = _verification(_opened(event, clear), encrypted=True)
        words = self._text(event, clear, place, sent)
        if clear.known:
            return [used, *verification, *words]
        if verification or words:
            return [_undecryptable(event, clear.session_id, place.now, sent, not_a_command=False)]
        return [used]

    def _text(
        self, event: Event, clear: DecryptedEvent | None, place: Place, sent: Millis
    ) -> list[Found]:
        """Return the files that a message shows, and what it commands; `clear` if encrypted."""
        kind, content, identity = event.get("type"), event["content"], f"event:{event['event_id']}"
        if clear is not None:
            kind, content = clear.type, clear.content
            identity = f"megolm:{clear.session_id}:{clear.index}"
        files: list[Found] = [*self._files(event, kind, content)]
        parsed = self._command(event, kind, content)
        if parsed is None:
            return files
        command = UndecidedCommand(
            digest=self.digest(identity),
            event_id=EventID(event["event_id"]),
            sender=UserID(event["sender"]),
            right=parsed.right,
            request=parsed.effect,
            sent=sent,
            read_at=place.now,
            device_id="" if clear is None else clear.device_id,
            device_key="" if clear is None else clear.device_key,
            clear=clear is None,
            thread=thread_of(content, event["content"].get("m.relates_to")) or "",
        )
        asked = RequestedCommand(
            command=command, replies_to=parsed.replies_to, called=parsed.called
        )
        return [*files, asked]

    def _command(self, event: Event, kind: object, content: Event) -> ParsedCommand | None:
        """Return the command that a message with this content is, if it is one."""
        if kind != "m.room.message":
            return None
        relation = event["content"].get("m.relates_to")
        return command_of(content, relation, own_id=self.own_id, prefix=self.prefix)

    def _files(self, event: Event, kind: object, content: Event) -> list[Item]:
        """Return the files that go with a message: only who is on their server can own them."""
        server, sender = self.media_server, str(event.get("sender", ""))
        if server is None or sender.partition(":")[2] != server:
            return []
        found = media_ids(kind, content, server)
        event_id, owner = EventID(event["event_id"]), self.digest(sender)
        return (
            [MediaReference(event_id=event_id, media_ids=found, owner_digest=owner)]
            if found
            else []
        )


def _verification(event: Event, *, encrypted: bool) -> list[Found]:
    return [VerificationEvent(event=event, encrypted=encrypted)] if is_verification(event) else []


def _opened(event: Event, clear: DecryptedEvent) -> Event:
    """Return the event as it would be in clear."""
    outer = {key: event["content"][key] for key in ("m.relates_to",) if event["content"].get(key)}
    return {**event, "type": clear.type, "content": {**outer, **clear.content}}


def _undecryptable(
    event: Event, session_id: str, now: Millis, sent: Millis, *, not_a_command: bool
) -> Undecryptable:
    """Return the message as one that cannot be read yet, or not be believed."""
    return Undecryptable(
        event_id=EventID(event["event_id"]),
        sender=UserID(event["sender"]),
        session_id=session_id,
        read_at=now,
        not_a_command=not_a_command,
        sent=sent,
    )
