"""Turns events of a room's timeline into items: judges commands, and drops every word of text."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from bot.addresses import media_ids
from bot.commands import Parsed, parse, text_of
from bot.events import is_encryption, is_nothing, is_verification, may_be_command
from bot.judging import Authority, Clear, Judge, Powers
from bot.model import (
    POLICY_EVENT,
    Bounds,
    Event,
    EventID,
    Locked,
    Millis,
    OutcomeError,
    RoomID,
    UserID,
)
from bot.policy import read_marks, read_setting
from bot.timeline import (
    Attached,
    Change,
    Encrypted,
    Item,
    Message,
    Opened,
    Place,
    Redaction,
    Said,
    Setting,
    Undecided,
    Unheard,
    began,
    belongs_to,
    is_gone,
    is_state,
    redacts,
    says_more,
)

log = logging.getLogger(__name__)

ASK_WITHIN = 2.0
"""Seconds that the homeserver gets to say who may do what, while a stretch is read."""
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
        was_clear: bool = False,
        meet: bool = False,
        until: float | None = None,
    ) -> list[Item]:
        """Return what `events`, in the timeline's order, come to.

        `encrypted`: the room is encrypted by now; `was_clear`: it may not have been yet at their
        place, so that what is in clear counts if that is before encryption was turned on.
        `meet`: find out whose devices they are from that are not known; else what such a one
        says to the bot waits, so that nobody's homeserver holds up the rest, and the call raises
        nothing. With it, `OutcomeError` says that the homeserver did not tell.
        `until`: the loop's time until which the homeserver may say who may do what; what cannot be
        decided by then waits, too. `None`: for `ASK_WITHIN`.
        """
        items: list[Item] = []
        if until is None:
            until = asyncio.get_running_loop().time() + ASK_WITHIN
        powers = self._judge.powers(room_id, until=until, now=now)
        reading = _Reading(room_id=room_id, powers=powers, now=now, meet=meet)
        for number, event in enumerate(events):
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            if is_state(event):
                if is_encryption(event):
                    encrypted, was_clear = True, False
                    items.append(Encrypted(first=_previous(event) is None))
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
            in_clear = was_clear or not encrypted
            heard = await self._heard(
                reading, event, encrypted=encrypted, in_clear=in_clear, sent=sent
            )
            items += [item for item in heard if not isinstance(item, Attached)]
            parent = belongs_to(event)
            items.append(Message(event_id=EventID(event_id), sent=sent, parent=parent, live=live))
            items += [item for item in heard if isinstance(item, Attached)]
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
        setting, note = read_setting(event.get("content"))
        change = Change(
            setting=setting,
            before=_before(event),
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
        self, reading: _Reading, event: Event, *, encrypted: bool, in_clear: bool, sent: Millis
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
            return self._attached(event, event.get("type"), content)
        clear = await self._homeserver.decrypt(reading.room_id, event, meet=reading.meet)
        if clear is None:
            return []
        now = reading.now
        if isinstance(clear, Locked):
            quiet = not may_be_command(content)
            worth = not quiet or sender.partition(":")[2] == self._media_server
            unheard = _unheard(event, clear.session_id, now, sent, quiet=quiet)
            return [unheard] if worth else []
        told = _opened(event, clear)
        if not clear.known and self._matters(event, clear, told):
            return [_unheard(event, clear.session_id, now, sent, quiet=False)]
        read = Opened(session_id=clear.session_id, index=clear.index, at=now)
        if not clear.known:
            return [read]
        self._offer(reading.room_id, told, encrypted=True)
        return [read, *await self._said(reading, event, clear, sent)]

    async def _said(
        self, reading: _Reading, event: Event, clear: Clear | None, sent: Millis
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
        digest, event_id = self.digest(identity), EventID(event["event_id"])
        who = UserID(event["sender"])
        setting = parsed.setting
        said: Said | Undecided | None = self._judge.over_limit(who, digest, sent)
        if said is None and setting is None:
            said = Said(digest=digest, sender=who, kind=parsed.kind, args=dict(parsed.args))
        elif said is None:
            assert setting is not None
            command = Undecided(
                digest=digest,
                event_id=event_id,
                sender=who,
                setting=setting,
                sent=sent,
                at=reading.now,
                device_id="" if clear is None else clear.device_id,
                device_key="" if clear is None else clear.device_key,
            )
            said = await self._judged(command, reading.powers)
        return [*items, replace(said, event_id=event_id, clear=clear is None)]

    async def _judged(self, command: Undecided, powers: Powers) -> Said | Undecided:
        """Return the verdict, or the command as it is where the homeserver does not answer."""
        try:
            return await self._judge.judge(command, powers)
        except OutcomeError as error:
            log.info("a command waits to be decided (%s)", type(error.outcome).__name__)
            return command

    async def decide(self, room_id: RoomID, command: Undecided) -> Said:
        """Return the verdict on a command that waited for it.

        Raises `OutcomeError` when the homeserver does not answer: ask again later.
        """
        said = await self._judge.judge(command, self._judge.powers(room_id))
        self._judge.answers_again(room_id)
        return replace(said, event_id=command.event_id)

    def _command(self, event: Event, kind: object, content: Event) -> Parsed | None:
        """Return the command that a message with this content is, if it is one."""
        text = text_of(content, event["content"].get("m.relates_to"))
        return parse(text, self._prefix) if text is not None and kind == "m.room.message" else None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What holds for all the events that are read together."""

    room_id: RoomID
    powers: Powers
    now: Millis
    meet: bool


def _opened(event: Event, clear: Clear) -> Event:
    """Return the event as it would be in clear."""
    outer = {key: event["content"][key] for key in ("m.relates_to",) if event["content"].get(key)}
    return {**event, "type": clear.type, "content": {**outer, **clear.content}}


def _unheard(event: Event, session_id: str, now: Millis, sent: Millis, *, quiet: bool) -> Unheard:
    """Return the message as one that cannot be read yet, or not be believed."""
    return Unheard(
        event_id=EventID(event["event_id"]),
        sender=UserID(event["sender"]),
        session_id=session_id,
        at=now,
        quiet=quiet,
        sent=sent,
    )


def _before(event: Event) -> Setting:
    """Return what held before a state event, as far as the homeserver says it."""
    before = _previous(event)
    return None if before is None else read_setting(before)[0]


def _previous(event: Event) -> Event | None:
    """Return the content that a state event replaced, if the homeserver tells of any."""
    unsigned = event.get("unsigned")
    before = unsigned.get("prev_content") if isinstance(unsigned, dict) else None
    return before if isinstance(before, dict) else None
