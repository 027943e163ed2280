"""Turns events of a room's timeline into items: judges commands, and drops every word of text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from bot.commands import Parsed, parse, text_of
from bot.model import (
    POLICY_EVENT,
    Bounds,
    Event,
    EventID,
    Millis,
    OutcomeError,
    RateLimited,
    RoomID,
    Unreachable,
    UserID,
)
from bot.policy import read_setting
from bot.power import Power
from bot.timeline import (
    OFF,
    Change,
    Item,
    Message,
    Redaction,
    Said,
    began,
    is_gone,
    is_state,
    redacts,
)

log = logging.getLogger(__name__)

SHAPES_ROOM = frozenset({"m.room.power_levels", "m.room.create", "m.room.tombstone"})
"""State that says what the bot may do."""


class Clear(Protocol):
    """A decrypted event."""

    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def content(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def session_id(self) -> str: ...  # noqa: D102
    @property
    def index(self) -> int: ...  # noqa: D102


class Homeserver(Protocol):
    """What reading asks of the homeserver."""

    @property
    def own_id(self) -> UserID: ...  # noqa: D102
    async def power(self, room_id: RoomID) -> Power: ...  # noqa: D102
    async def decrypt(self, room_id: RoomID, event: Event) -> Clear | None: ...  # noqa: D102


class Reader:
    """Reads events one after another. Text is looked at in memory and kept nowhere."""

    def __init__(
        self,
        homeserver: Homeserver,
        *,
        prefix: str,
        bounds: Bounds,
        digest: Callable[[str], str],
    ) -> None:
        self._homeserver = homeserver
        self._prefix = prefix
        self._bounds = bounds
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
        for event in events:
            if is_state(event):
                encrypted = encrypted or is_encryption(event)
                items.extend(self.state_change(event))
                continue
            if event.get("type") == "m.room.redaction":
                items.extend(self._redaction(event))
                continue
            event_id = event.get("event_id")
            if not isinstance(event_id, str) or is_gone(event):
                continue
            said = await self._said(room_id, event, encrypted=encrypted)
            if said is not None:
                items.append(said)  # before its own message: a lifetime covers its command
            sent = began(event, live=live, since=since, now=now)
            items.append(Message(event_id=EventID(event_id), sent=sent))
        return items

    def state_change(self, event: Event, *, quiet: bool = False) -> list[Item]:
        """Return the change that a state event makes to the room's lifetime, if any."""
        if event.get("type") != POLICY_EVENT or event.get("state_key") != "":
            return []
        setting, note = read_setting(event.get("content"))
        change = Change(
            setting=setting,
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

    async def _said(self, room_id: RoomID, event: Event, *, encrypted: bool) -> Said | None:
        """Return the judged command that a message is, if it is one."""
        sender = event.get("sender")
        if not isinstance(sender, str) or sender == self._homeserver.own_id:
            return None
        found = await self._text(room_id, event, encrypted=encrypted)
        if found is None:
            return None
        parsed, identity = found
        return await self._judge(room_id, UserID(sender), parsed, self.digest(identity))

    async def _text(
        self, room_id: RoomID, event: Event, *, encrypted: bool
    ) -> tuple[Parsed, str] | None:
        content = event.get("content")
        if not isinstance(content, dict):
            return None
        identity = f"event:{event['event_id']}"
        relates_to = content.get("m.relates_to")
        kind = event.get("type")
        if encrypted:
            # A server can put words in clear into an encrypted room: they do not count there.
            if kind != "m.room.encrypted":
                return None
            clear = await self._homeserver.decrypt(room_id, event)
            if clear is None:
                return None
            content, kind = clear.content, clear.type
            identity = f"megolm:{clear.session_id}:{clear.index}"
        if kind != "m.room.message":
            return None
        text = text_of(content, relates_to)
        parsed = None if text is None else parse(text, self._prefix)
        return None if parsed is None else (parsed, identity)

    async def _judge(
        self, room_id: RoomID, sender: UserID, parsed: Parsed, digest: str
    ) -> Said | None:
        """Decide whether the command may do what it says, by the room's state as it is now."""
        said = Said(digest=digest, sender=sender, kind=parsed.kind, args=dict(parsed.args))
        if parsed.setting is None:
            return said
        try:
            power = await self._homeserver.power(room_id)
        except OutcomeError as error:
            if isinstance(error.outcome, Unreachable | RateLimited):
                raise
            log.warning("a command could not be judged (%s)", type(error.outcome).__name__)
            return Said(digest=digest, sender=sender, kind="unjudged")
        own_id, need = self._homeserver.own_id, power.to_send_state(POLICY_EVENT)
        if not power.may_send_state(sender, POLICY_EVENT):
            args = {"need": need, "have": power.of(sender)}
            return Said(digest=digest, sender=sender, kind="refused", args=args)
        if parsed.setting != OFF and not self._bounds.allows(parsed.setting):
            return Said(digest=digest, sender=sender, kind="outside")
        if not power.may_send_state(own_id, POLICY_EVENT):
            args = {"need": need, "have": power.of(own_id)}
            return Said(digest=digest, sender=sender, kind="powerless", args=args)
        return Said(
            digest=digest,
            sender=sender,
            kind="set",
            setting=parsed.setting,
            suspends=not power.may_redact(own_id),
        )


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
    )


def wants_review(event: Event, own_id: UserID) -> bool:
    """Whether the state event may change what the bot can do in the room."""
    if not is_state(event):
        return False
    own = event.get("type") == "m.room.member" and event.get("state_key") == own_id
    return own or event.get("type") in SHAPES_ROOM
