"""Turns events of a room's timeline into items: judges commands, and drops every word of text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from bot.addresses import media_ids
from bot.commands import parse, text_of
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
from bot.policy import read_setting
from bot.timeline import (
    Attached,
    Change,
    Item,
    Message,
    Opened,
    Redaction,
    Setting,
    Unheard,
    began,
    belongs_to,
    is_gone,
    is_state,
    redacts,
    says_more,
)

SHAPES_ROOM = frozenset({"m.room.power_levels", "m.room.create", "m.room.tombstone"})
"""State that says what the bot may do."""


AT_ONCE = 50
"""Events read without a turn for the others in the event loop; decrypting takes its time."""

LONGEST_COMMAND = 1_024
"""Characters of ciphertext in which every valid command fits, whatever its client adds."""


class Homeserver(Authority, Protocol):
    """What reading asks of the homeserver."""

    async def decrypt(self, room_id: RoomID, event: Event) -> Clear | Locked | None: ...  # noqa: D102


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
    ) -> list[Item]:
        """Return what `events`, in the timeline's order, come to.

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
            heard = await self._heard(room_id, event, encrypted=encrypted, sent=sent, now=now)
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
                items.extend(self.state_change(event, quiet=True))
            elif is_nothing(event):
                continue
            elif isinstance(event_id, str):
                sent, parent = began(event, live=False, since=since, now=now), belongs_to(event)
                items.append(Message(event_id=EventID(event_id), sent=sent, parent=parent))
                sender, content = str(event.get("sender", "")), event.get("content")
                if isinstance(content, dict):
                    items += self._attached(event, sender, event.get("type"), content)
        return items

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
        self, room_id: RoomID, event: Event, *, encrypted: bool, sent: Millis, now: Millis
    ) -> list[Item]:
        """Return what a message says to the bot, if it says anything to it."""
        content, sender = event.get("content"), event.get("sender")
        if not isinstance(content, dict) or not isinstance(sender, str):
            return []
        if sender == self._homeserver.own_id:
            return []
        clear: Clear | None = None
        identity, relates_to = f"event:{event['event_id']}", content.get("m.relates_to")
        kind, found = event.get("type"), list[Item]()
        # Clients verify in clear even in encrypted rooms: nothing in it is secret or believed.
        self._offer(room_id, event, encrypted=False)
        if encrypted:
            # A server can put words in clear into an encrypted room: they do not count there.
            if kind != "m.room.encrypted":
                return self._attached(event, sender, kind, content)
            opened = await self._homeserver.decrypt(room_id, event)
            if opened is None:
                return []
            if isinstance(opened, Locked):
                return self._unheard(event, sender, opened, now)
            clear = opened
            content, kind = clear.content, clear.type
            identity = f"megolm:{clear.session_id}:{clear.index}"
            found.append(Opened(session_id=clear.session_id, index=clear.index, at=now))
            inside = {"m.relates_to": relates_to, **content} if relates_to else content
            self._offer(room_id, {**event, "type": kind, "content": inside}, encrypted=True)
        found += self._attached(event, sender, kind, content)
        text = text_of(content, relates_to) if kind == "m.room.message" else None
        parsed = None if text is None else parse(text, self._prefix)
        if parsed is not None:
            who, digest = UserID(sender), self.digest(identity)
            surplus = self._judge.over_limit(who, digest, sent)
            found.append(surplus or await self._judge.judge(room_id, who, parsed, digest, clear))
        return found

    def _attached(self, event: Event, sender: str, kind: object, content: Event) -> list[Item]:
        """Return the files that go with a message: only who is on their server can own them."""
        server = self._media_server
        if server is None or sender.partition(":")[2] != server:
            return []
        found = media_ids(kind, content, server)
        event_id, owner = EventID(event["event_id"]), self.digest(sender)
        return [Attached(event_id=event_id, media_ids=found, owner=owner)] if found else []

    def _unheard(self, event: Event, sender: str, opened: Locked, now: Millis) -> list[Item]:
        """Return the message as one that waits for its key, if it is worth waiting for."""
        quiet = not may_be_command(event["content"])
        if quiet and sender.partition(":")[2] != self._media_server:
            return []
        unheard = Unheard(
            event_id=EventID(event["event_id"]),
            sender=UserID(sender),
            session_id=opened.session_id,
            at=now,
            quiet=quiet,
        )
        return [unheard]

    def _offer(self, room_id: RoomID, event: Event, *, encrypted: bool) -> None:
        """Hand on what belongs to a verification."""
        if self._hear_verification is not None and is_verification(event):
            self._hear_verification(room_id, event, encrypted=encrypted)


def is_nothing(event: Event) -> bool:
    """Whether nothing of the event is left, or ever was, that a redaction could take away.

    Homeservers show what was redacted long ago as empty, and not always with the reason.
    """
    if event.get("type") == "m.room.redaction":
        return is_gone(event) or not says_more(event)
    return is_gone(event) or event.get("content") == {}


def _before(event: Event) -> Setting:
    """Return what the state event replaced, as far as the homeserver says it."""
    unsigned = event.get("unsigned")
    before = unsigned.get("prev_content") if isinstance(unsigned, dict) else None
    return read_setting(before)[0] if isinstance(before, dict) else None


def may_be_command(content: dict[str, Any]) -> bool:
    """Whether an encrypted event without its key may be a command: an edit is none.

    What relates to another message does so in clear, and a long message is no valid command.
    """
    relation = content.get("m.relates_to")
    edits = isinstance(relation, dict) and relation.get("rel_type") == "m.replace"
    return not edits and len(str(content.get("ciphertext", ""))) <= LONGEST_COMMAND


def is_verification(event: Event) -> bool:
    """Whether the event is part of a verification (spec: client-server API v1.13, 11.12.2)."""
    kind, content = event.get("type"), event.get("content")
    if kind == "m.room.message":
        return isinstance(content, dict) and content.get("msgtype") == "m.key.verification.request"
    return isinstance(kind, str) and kind.startswith("m.key.verification.")


def is_encryption(event: Event) -> bool:
    """Whether the state event turns on encryption (spec: client-server API v1.13, 11.12.1)."""
    return event.get("type") == "m.room.encryption" and event.get("state_key") == ""


def is_own_join(event: Event, own_id: UserID) -> bool:
    """Whether the state event is the bot's own coming into the room."""
    content = event.get("content")
    return (
        event.get("type") == "m.room.member"
        and event.get("state_key") == own_id
        and isinstance(content, dict)
        and content.get("membership") == "join"
        and not _was_joined(event)
    )


def _was_joined(event: Event) -> bool:
    """Whether the member was in the room before, and only the name or the picture changed."""
    unsigned = event.get("unsigned")
    before = unsigned.get("prev_content") if isinstance(unsigned, dict) else None
    return isinstance(before, dict) and before.get("membership") == "join"


def wants_review(event: Event, own_id: UserID) -> bool:
    """Whether the state event may change what the bot can do in the room."""
    if not is_state(event):
        return False
    own = event.get("type") == "m.room.member" and event.get("state_key") == own_id
    kind = event.get("type")
    return own or (isinstance(kind, str) and kind in SHAPES_ROOM)
