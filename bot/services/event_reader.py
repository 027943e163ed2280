"""Turns the events of a room's timeline into items, and drops every word of text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from bot.core.default_lifetime import DEFAULT_EVENT, DefaultSaid, read_defaults
from bot.core.events import is_encryption, is_nothing, is_policy, read_event, replaced
from bot.core.lifetimes import LifetimeLimits
from bot.core.policy import read_marks
from bot.core.timeline import (
    Change,
    Encrypted,
    Item,
    MediaReference,
    Message,
    RedactedEvent,
    Redaction,
    began,
    belongs_to,
    is_gone,
    is_state,
    redacts,
    says_more,
)
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from bot.services.authorization import Authorizer
from bot.services.message_reader import HearVerification, Homeserver, MessageReader, ReadContext

ASK_WITHIN = 2.0
"""Seconds that the homeserver gets to say who may do what, while a part of the timeline is read."""
AT_ONCE = 50
"""Events read without a turn for the others in the event loop; decrypting takes its time."""


class EventReader:
    """Reads events one after another. Text is looked at in memory and kept nowhere."""

    def __init__(
        self,
        homeserver: Homeserver,
        *,
        prefix: str,
        limits: LifetimeLimits,
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
        self.authorizer = Authorizer(
            homeserver, limits=limits, signed_only=signed_only, per_minute=per_minute
        )
        self._message_reader = MessageReader(
            homeserver,
            self.authorizer,
            prefix=prefix,
            digest=digest,
            hear_verification=hear_verification,
            media_server=media_server,
        )
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
        powers = self.authorizer.powers(room_id, until=until, now=now)
        reading = ReadContext(room_id=room_id, powers=powers, now=now, meet=meet)
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
            heard = await self._message_reader.heard(
                reading, event, encrypted=encrypted, in_clear=in_clear, sent=sent
            )
            items += [item for item in heard if not isinstance(item, MediaReference)]
            parent = belongs_to(event)
            items.append(Message(event_id=EventID(event_id), sent=sent, parent=parent, live=live))
            items += [item for item in heard if isinstance(item, MediaReference)]
        return items

    def outline(self, events: list[Event], *, since: Millis, now: Millis) -> list[Item]:
        """Return the messages and changes among `events`, as they stand; commands are not heard."""
        items: list[Item] = []
        for event in events:
            event_id = event.get("event_id")
            if is_state(event):
                items.extend(self._with_marks(event))
            elif is_nothing(event):
                items += (
                    [RedactedEvent(event_id=EventID(event_id))] if isinstance(event_id, str) else []
                )
            elif isinstance(event_id, str):
                sent, parent = began(event, live=False, since=since, now=now), belongs_to(event)
                items.append(_found(event, EventID(event_id), sent, parent))
                if isinstance(event.get("content"), dict):
                    items += self._message_reader.attached(
                        event, event.get("type"), event["content"]
                    )
        return items

    def _with_marks(self, event: Event) -> list[Item]:
        marks = read_marks(event.get("content")) if self.is_own(event) else ()
        found = self.state_change(event, quiet=True)
        return [replace(one, marks=marks) if isinstance(one, Change) else one for one in found]

    def is_own(self, event: Event) -> bool:
        """Whether the bot itself sent the event."""
        return event.get("sender") == self._homeserver.own_id

    def state_change(self, event: Event, *, quiet: bool = False) -> list[Item]:
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


def _found(event: Event, event_id: EventID, sent: Millis, parent: EventID | None) -> Message:
    at = event.get("origin_server_ts")
    said_at = max(at, 0) if type(at) is int else None
    return Message(event_id=event_id, sent=sent, parent=parent, said_at=said_at)


def _previous(event: Event) -> Event | None:
    """Return the content that a state event replaced, if the homeserver tells of any."""
    unsigned = event.get("unsigned")
    before = unsigned.get("prev_content") if isinstance(unsigned, dict) else None
    return before if isinstance(before, dict) else None
