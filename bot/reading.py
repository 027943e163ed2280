"""Turns events of a room's timeline into items: judges commands, and drops every word of text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from bot.addresses import media_ids
from bot.commands import Parsed, command_of, thread_of
from bot.events import (
    is_encryption,
    is_nothing,
    is_verification,
    may_be_command,
    read_event,
    replaced,
)
from bot.judging import Authority, Clear, Judge
from bot.model import (
    POLICY_EVENT,
    Bounds,
    Event,
    EventID,
    Locked,
    Millis,
    RoomID,
    UserID,
)
from bot.policy import read_marks
from bot.timeline import (
    Attached,
    Change,
    Item,
    Message,
    Opened,
    Place,
    Redaction,
    Unheard,
    began,
    belongs_to,
    is_gone,
    is_state,
    redacts,
    says_more,
)

AT_ONCE = 50
"""Events read without a turn for the others in the event loop; decrypting takes its time."""


class Homeserver(Authority, Protocol):
    """What reading asks of the homeserver."""

    async def decrypt(  # noqa: D102
        self, room_id: RoomID, event: Event, *, meet: bool
    ) -> Clear | Locked | None: ...


class HearVerification(Protocol):
    """Takes an event by which somebody verifies the bot, in clear."""

    def __call__(self, room_id: RoomID, event: Event, *, encrypted: bool) -> None: ...  # noqa: D102


class Reader:
    """Reads events one after another. Text is looked at in memory and kept nowhere."""

    def __init__(
        self,
        homeserver: Homeserver,
        *,
        prefix: str,
        bounds: Bounds,
        digest: Callable[[str], str],
        signed_only: bool = False,
        hear_verification: HearVerification | None = None,
        media_server: str | None = None,
        per_minute: int = 30,
    ) -> None:
        """`media_server`: the server whose files go with their messages, if any do.

        `per_minute`: the commands of one sender that count.
        """
        self._homeserver = homeserver
        self._prefix = prefix
        self._judge = Judge(
            homeserver, bounds=bounds, signed_only=signed_only, per_minute=per_minute
        )
        self._hear_verification = hear_verification
        self._media_server = media_server
        self.digest = digest

    async def items(
        self,
        room_id: RoomID,
        events: list[Event],
        *,
        encrypted: bool,
        live: bool,
        since: Millis,
        now: Millis,
        meet: bool = False,
    ) -> list[Item]:
        """Return what `events`, in the timeline's order, come to.

        `meet`: find out whose devices they are from that are not known; else what such a one
        says to the bot waits, so that nobody's homeserver holds up the rest.

        Raises `OutcomeError` when a command could not be judged because the homeserver did not
        answer: read the same events again later.
        """
        items: list[Item] = []
        self._judge.look_anew(room_id)
        for number, event in enumerate(events):
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            if is_state(event):
                encrypted = encrypted or is_encryption(event)
                items.extend(self.state_change(event))
                continue
            if event.get("type") == "m.room.redaction":
                items.extend(self._redaction(event))
                if not says_more(event):
                    continue
            event_id = event.get("event_id")
            if not isinstance(event_id, str) or is_gone(event):
                continue
            # A command stands before its own message: its lifetime covers it as well.
            sent = began(event, live=live, since=since, now=now)
            heard = await self._heard(
                room_id, event, encrypted=encrypted, sent=sent, now=now, meet=meet
            )
            items += [item for item in heard if not isinstance(item, Attached)]
            parent = belongs_to(event)
            items.append(Message(event_id=EventID(event_id), sent=sent, parent=parent, live=live))
            items += [item for item in heard if isinstance(item, Attached)]
        self._judge.look_anew(room_id)
        return items

    def outline(self, events: list[Event], *, since: Millis, now: Millis) -> list[Item]:
        """Return the messages and changes among `events`, as they stand; commands are not heard."""
        items: list[Item] = []
        for event in events:
            event_id = event.get("event_id")
            if is_state(event):
                items.extend(self._with_marks(event))
            elif is_nothing(event):
                items += [Place(event_id=EventID(event_id))] if isinstance(event_id, str) else []
            elif isinstance(event_id, str):
                sent, parent = began(event, live=False, since=since, now=now), belongs_to(event)
                items.append(Message(event_id=EventID(event_id), sent=sent, parent=parent))
                if isinstance(event.get("content"), dict):
                    items += self._attached(event, event.get("type"), event["content"])
        return items

    def _with_marks(self, event: Event) -> list[Item]:
        marks = read_marks(event.get("content")) if self._is_own(event) else ()
        found = self.state_change(event, quiet=True)
        return [replace(one, marks=marks) if isinstance(one, Change) else one for one in found]

    def _is_own(self, event: Event) -> bool:
        return event.get("sender") == self._homeserver.own_id

    def state_change(self, event: Event, *, quiet: bool = False) -> list[Item]:
        """Return the change that a state event makes to the room's lifetime, if any."""
        if event.get("type") != POLICY_EVENT or event.get("state_key") != "":
            return []
        setting, note = read_event(event)
        change = Change(
            setting=setting,
            before=replaced(event),
            sender=UserID(str(event.get("sender", ""))),
            digest=self.digest(str(event.get("event_id", ""))),
            quiet=quiet,
            note=note,
        )
        return [change]

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

    async def _heard(
        self,
        room_id: RoomID,
        event: Event,
        *,
        encrypted: bool,
        sent: Millis,
        now: Millis,
        meet: bool,
    ) -> list[Item]:
        """Return what a message says to the bot, if it says anything to it."""
        content, sender = event.get("content"), event.get("sender")
        if not isinstance(content, dict) or not isinstance(sender, str):
            return []
        if sender == self._homeserver.own_id:
            return []
        # Clients verify in clear even in encrypted rooms: nothing in it is secret or believed.
        self._offer(room_id, event, encrypted=False)
        if not encrypted:
            return await self._said(room_id, event, None, sent)
        if event.get("type") != "m.room.encrypted":
            # A server can put words in clear into an encrypted room: they do not count there.
            return self._attached(event, event.get("type"), content)
        clear = await self._homeserver.decrypt(room_id, event, meet=meet)
        if clear is None:
            return []
        if isinstance(clear, Locked):
            quiet = not may_be_command(content)
            worth = not quiet or sender.partition(":")[2] == self._media_server
            return [_unheard(event, clear.session_id, now, quiet=quiet)] if worth else []
        told = _opened(event, clear)
        if not clear.known and self._matters(event, clear, told):
            return [_unheard(event, clear.session_id, now, quiet=False)]
        read = Opened(session_id=clear.session_id, index=clear.index, at=now)
        if not clear.known:
            return [read]
        self._offer(room_id, told, encrypted=True)
        return [read, *await self._said(room_id, event, clear, sent)]

    async def _said(
        self, room_id: RoomID, event: Event, clear: Clear | None, sent: Millis
    ) -> list[Item]:
        """Return the files that a message shows, and what it commands; `clear` if encrypted."""
        kind, content = (event.get("type"), event["content"])
        identity = f"event:{event['event_id']}"
        if clear is not None:
            kind, content = clear.type, clear.content
            identity = f"megolm:{clear.session_id}:{clear.index}"
        items = self._attached(event, kind, content)
        parsed = self._command(event, kind, content)
        if parsed is None:
            return items
        who, digest = UserID(event["sender"]), self.digest(identity)
        said = self._judge.over_limit(who, digest, sent)
        if said is None and await self._judge.is_for_another(room_id, parsed):
            return items
        said = said or await self._judge.judge(room_id, who, parsed, digest, clear)
        root = thread_of(content, event["content"].get("m.relates_to"))
        args = said.args | ({"thread": root} if root else {})
        return [*items, replace(said, event_id=EventID(event["event_id"]), args=args)]

    def _command(self, event: Event, kind: object, content: Event) -> Parsed | None:
        """Return the command that a message with this content is, if it is one."""
        if kind != "m.room.message":
            return None
        relation = event["content"].get("m.relates_to")
        return command_of(content, relation, own_id=self._homeserver.own_id, prefix=self._prefix)

    def _matters(self, event: Event, clear: Clear, told: Event) -> bool:
        """Whether it makes any difference whose message it is."""
        return (
            self._command(event, clear.type, clear.content) is not None
            or bool(self._attached(event, clear.type, clear.content))
            or is_verification(told)
        )

    def _attached(self, event: Event, kind: object, content: Event) -> list[Item]:
        """Return the files that go with a message: only who is on their server can own them."""
        server, sender = self._media_server, str(event.get("sender", ""))
        if server is None or sender.partition(":")[2] != server:
            return []
        found = media_ids(kind, content, server)
        event_id, owner = EventID(event["event_id"]), self.digest(sender)
        return [Attached(event_id=event_id, media_ids=found, owner=owner)] if found else []

    def _offer(self, room_id: RoomID, event: Event, *, encrypted: bool) -> None:
        """Hand on what belongs to a verification."""
        if self._hear_verification is not None and is_verification(event):
            self._hear_verification(room_id, event, encrypted=encrypted)


def _opened(event: Event, clear: Clear) -> Event:
    """Return the event as it would be in clear."""
    outer = {key: event["content"][key] for key in ("m.relates_to",) if event["content"].get(key)}
    return {**event, "type": clear.type, "content": {**outer, **clear.content}}


def _unheard(event: Event, session_id: str, now: Millis, *, quiet: bool) -> Unheard:
    """Return the message as one that cannot be read yet, or not be believed."""
    return Unheard(
        event_id=EventID(event["event_id"]),
        sender=UserID(event["sender"]),
        session_id=session_id,
        at=now,
        quiet=quiet,
    )
