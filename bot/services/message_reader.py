"""Reads what a message says to the bot: commands, files, verification. Keeps no word of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bot.chat.commands import ParsedCommand, command_of, thread_of
from bot.core.events import is_verification, may_be_command
from bot.core.media_addresses import media_ids
from bot.core.sync_batch import MissingRoomKey
from bot.core.timeline import OFF, Item, KeyUse, MediaReference, Undecryptable
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from bot.core.undecided import UndecidedCommand
from bot.services.authorization import Authority, Authorizer, DecryptedEvent, Powers


class Homeserver(Authority, Protocol):
    """What reading asks of the homeserver."""

    async def decrypt(  # noqa: D102
        self, room_id: RoomID, event: Event, *, meet: bool
    ) -> DecryptedEvent | MissingRoomKey | None: ...


class HearVerification(Protocol):
    """Takes an event by which somebody verifies the bot, in clear."""

    def __call__(self, room_id: RoomID, event: Event, *, encrypted: bool) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadContext:
    """What holds for all the events that are read together."""

    room_id: RoomID
    powers: Powers
    """Who may do what there."""
    now: Millis
    meet: bool
    """Find out whose devices they are from that are not known."""


class MessageReader:
    """Looks at the text of messages, in memory only."""

    def __init__(
        self,
        homeserver: Homeserver,
        authorizer: Authorizer,
        *,
        prefix: str,
        digest: Callable[[str], str],
        hear_verification: HearVerification | None,
        media_server: str | None,
    ) -> None:
        """`media_server`: the server whose files go with their messages, if any do."""
        self._homeserver = homeserver
        self._authorizer = authorizer
        self._prefix = prefix
        self._digest = digest
        self._hear_verification = hear_verification
        self._media_server = media_server

    async def heard(
        self, reading: ReadContext, event: Event, *, encrypted: bool, in_clear: bool, sent: Millis
    ) -> list[Item]:
        """Return what a message says to the bot, if it says anything to it.

        `in_clear`: what is not encrypted may count.
        """
        content, sender = event.get("content"), event.get("sender")
        if not isinstance(content, dict) or not isinstance(sender, str):
            return []
        if sender == self._homeserver.own_id:
            return []
        # Clients verify in clear even in encrypted rooms: nothing in it is secret or believed.
        self._offer(reading.room_id, event, encrypted=False)
        if not encrypted or event.get("type") != "m.room.encrypted":
            if in_clear:
                return await self._said(reading, event, None, sent)
            # A server can put words in clear into an encrypted room: they do not count there.
            return self.attached(event, event.get("type"), content)
        clear = await self._homeserver.decrypt(reading.room_id, event, meet=reading.meet)
        if clear is None:
            return []
        now = reading.now
        if isinstance(clear, MissingRoomKey):
            quiet = not may_be_command(content)
            worth = not quiet or sender.partition(":")[2] == self._media_server
            undecryptable = _undecryptable(event, clear.session_id, now, sent, quiet=quiet)
            return [undecryptable] if worth else []
        told = _opened(event, clear)
        if not clear.known and self._matters(event, clear, told):
            return [_undecryptable(event, clear.session_id, now, sent, quiet=False)]
        read = KeyUse(session_id=clear.session_id, message_index=clear.index, read_at=now)
        if not clear.known:
            return [read]
        self._offer(reading.room_id, told, encrypted=True)
        return [read, *await self._said(reading, event, clear, sent)]

    async def _said(
        self, reading: ReadContext, event: Event, clear: DecryptedEvent | None, sent: Millis
    ) -> list[Item]:
        """Return the files that a message shows, and what it commands; `clear` if encrypted."""
        kind, content = (event.get("type"), event["content"])
        identity = f"event:{event['event_id']}"
        if clear is not None:
            kind, content = clear.type, clear.content
            identity = f"megolm:{clear.session_id}:{clear.index}"
        items = self.attached(event, kind, content)
        parsed = self._command(event, kind, content)
        if parsed is None:
            return items
        command = UndecidedCommand(
            digest=self._digest(identity),
            event_id=EventID(event["event_id"]),
            sender=UserID(event["sender"]),
            setting=OFF if parsed.setting is None else parsed.setting,
            sent=sent,
            read_at=reading.now,
            device_id="" if clear is None else clear.device_id,
            device_key="" if clear is None else clear.device_key,
            clear=clear is None,
            thread=thread_of(content, event["content"].get("m.relates_to")) or "",
        )
        verdict = await self._authorizer.hear(parsed, command, reading.powers)
        return items if verdict is None else [*items, verdict]

    def _command(self, event: Event, kind: object, content: Event) -> ParsedCommand | None:
        """Return the command that a message with this content is, if it is one."""
        if kind != "m.room.message":
            return None
        relation = event["content"].get("m.relates_to")
        return command_of(content, relation, own_id=self._homeserver.own_id, prefix=self._prefix)

    def _matters(self, event: Event, clear: DecryptedEvent, told: Event) -> bool:
        """Whether it makes any difference whose message it is."""
        return (
            self._command(event, clear.type, clear.content) is not None
            or bool(self.attached(event, clear.type, clear.content))
            or is_verification(told)
        )

    def attached(self, event: Event, kind: object, content: Event) -> list[Item]:
        """Return the files that go with a message: only who is on their server can own them."""
        server, sender = self._media_server, str(event.get("sender", ""))
        if server is None or sender.partition(":")[2] != server:
            return []
        found = media_ids(kind, content, server)
        event_id, owner = EventID(event["event_id"]), self._digest(sender)
        return (
            [MediaReference(event_id=event_id, media_ids=found, owner_digest=owner)]
            if found
            else []
        )

    def _offer(self, room_id: RoomID, event: Event, *, encrypted: bool) -> None:
        """Hand on what belongs to a verification."""
        if self._hear_verification is not None and is_verification(event):
            self._hear_verification(room_id, event, encrypted=encrypted)


def _opened(event: Event, clear: DecryptedEvent) -> Event:
    """Return the event as it would be in clear."""
    outer = {key: event["content"][key] for key in ("m.relates_to",) if event["content"].get(key)}
    return {**event, "type": clear.type, "content": {**outer, **clear.content}}


def _undecryptable(
    event: Event, session_id: str, now: Millis, sent: Millis, *, quiet: bool
) -> Undecryptable:
    """Return the message as one that cannot be read yet, or not be believed."""
    return Undecryptable(
        event_id=EventID(event["event_id"]),
        sender=UserID(event["sender"]),
        session_id=session_id,
        read_at=now,
        not_a_command=quiet,
        sent=sent,
    )
