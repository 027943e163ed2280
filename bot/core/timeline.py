"""Says, purely, what an event of a room's timeline is: a message, a change, a redaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from bot.core.commands import Command, UndecidedCommand
from bot.core.default_lifetime import DefaultBegins, Defaults, DefaultSaid
from bot.core.json_shape import as_object, inside, texts
from bot.core.lifetimes import Setting, SettingStart
from bot.core.types import Event, EventID, Millis, RoomID, UserID

PAGE: Final = 1000
"""Events asked for at once when reading back; Synapse's own limit."""

BELONGS: Final = frozenset({"m.replace", "m.annotation", "m.reference"})
"""Relations of what is nothing by itself: edits, reactions, votes and ends of polls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Something that expires: any event that is neither state nor a redaction."""

    event_id: EventID
    sent: Millis
    """When its lifetime began, in milliseconds since the epoch."""
    parent: EventID | None = None
    """The message that it belongs to, and goes with."""
    live: bool = False
    """It was seen to arrive: `sent` is the bot's own time."""
    said_at: Millis | None = None
    """When it says itself that it was sent, for who walks back; `None`: it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The room's state event was set at this point of the timeline."""

    setting: Setting
    sender: UserID
    digest: str
    unannounced: bool = False
    """It was set before the bot came: nobody needs to be told."""
    before: Setting = None
    """What held until then; `None` also where the homeserver does not say."""
    note: str = ""
    """`after_read` or `unreadable` when the content asks for what the bot cannot do."""
    resolved: bool = False
    """State resolution kept it, though the timeline ended with another one."""
    marks: tuple[SettingStart, ...] = ()
    """Where the bot's own change was commanded, the oldest first, for who walks back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """Somebody redacted `target`: it needs no timer any more."""

    target: EventID
    target_digest: str
    sender: UserID
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecryptable:
    """A message whose key has not come, and which may be a command or show a file."""

    event_id: EventID
    sender: UserID
    session_id: str
    read_at: Millis
    """When it was read: its key is waited for from then on."""
    not_a_command: bool = False
    """It is no command: nobody is asked to say it again."""
    sent: Millis | None = None
    """When its lifetime began; `None`: at `read_at`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """A message was decrypted: its key is to be ratcheted past it."""

    session_id: str
    message_index: int
    read_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReference:
    """The files that a message shows; stands after the message itself."""

    event_id: EventID
    media_ids: list[str] = field(repr=False)
    owner_digest: str
    """Digest of the sender's id: whose files they must be to go with the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactedEvent:
    """Where something stood that is gone: it may have been a command."""

    event_id: EventID


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypted:
    """Encryption was turned on at this point of the timeline; it is never turned off again."""

    first: bool = True
    """The homeserver tells of none before it."""


Item = (
    Message
    | Change
    | DefaultBegins
    | DefaultSaid
    | Redaction
    | Command
    | UndecidedCommand
    | Undecryptable
    | KeyUse
    | MediaReference
    | RedactedEvent
    | Encrypted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A part of the timeline still to be read, back from `token` to what was read before."""

    id: int = 0
    room_id: RoomID
    token: str
    stop_digest: str
    """Digest of the last event read before the gap; empty when nothing was."""
    stop_at: Millis
    """An event that the bot itself sent before this time ends the gap as well."""
    since: Millis
    until: Millis
    """The lifetime of what is found began between these two times."""
    attempts: int = 0
    size: int = PAGE
    """Events of the next page; fewer where a larger one does not come."""
    another_given_up: bool = False
    """Another gap of the room was given up, and the room could not be swept since."""
    policy_digest: str = ""
    """Digest of the state event that the room's lifetime was read from when the gap began."""
    reread: bool = False
    """It was read before, and a command in it was understood late."""
    encrypted: bool = False
    """The room was known to be encrypted before the gap: nothing in it was said in clear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One reading backwards through a whole room, to give timers to what has none."""

    room_id: RoomID
    whole_room: bool
    """Nothing is known of the room: go as far back as its policy and the lifetimes reach."""
    since: Millis
    until: Millis
    """The lifetime of what is found began between these two times."""
    token: str | None = None
    """What comes before it is still to be read; `None`: the sweep has not begun."""
    setting: Setting = None
    """The room's setting at `token`."""
    earlier_settings: tuple[tuple[EventID, Setting], ...] = ()
    """Messages, the newest first, before which another setting held."""
    defaults: Defaults = ()
    """The operator's defaults that held before `token`, where nobody had set a lifetime."""
    found_this_walk: int = 0
    """Messages found in this sweep, and in all of them."""
    found: int = 0
    events_read: int = 0
    """Events read in all sweeps."""
    empty_walks: int = 0
    """Walks since the last one that found something."""
    size: int = PAGE
    """Events of the next page; fewer where a larger one does not come."""
    attempts: int = 0
    retry_at: Millis = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomUpdate:
    """One room's part of a sync, read and ready to be committed with its token."""

    room_id: RoomID
    items: list[Item]
    found: list[Item] = field(default_factory=list)
    """What counts from the beginning of the gap, unless it is found within: the state in which a
    room was found that has a gap at once, and encryption that was turned on in the gap."""
    gap: Gap | None = None
    """What lies before `items` and was not sent with the sync."""
    encrypted: bool = False
    """The room was seen to be encrypted; never taken back (spec: client-server API, 11.12)."""
    review: bool = False
    """Power or membership changed: look at the room's state afresh."""
    check_policy: bool = False
    """The room's state may hold another lifetime than the timeline ends with: compare them."""
    sweep: Sweep | None = None
    """Messages may be missing that no gap leads to."""
    entered: bool = False
    """The bot has just joined: the room is greeted."""
    alone: bool | None = None
    """Whether nobody else may be in the room; `None`: nothing is said of that."""
    last_event_digest: str = ""
    """Digest of the last event read, how far the timeline is known."""


def is_state(event: Event) -> bool:
    """Whether the event is state, which is never redacted: room upgrades break without it."""
    return "state_key" in event


def belongs_to(event: Event) -> EventID | None:
    """Return the message that an edit, a reaction or a vote belongs to.

    Replies and messages in a thread belong to nobody. The relation stands in clear in encrypted
    events too (spec: client-server API v1.13, 11.12.4.1 and 11.30 forming relationships).
    """
    relation = as_object(inside(event, "content", "m.relates_to"))
    kind, parent = relation.get("rel_type"), relation.get("event_id")
    if not isinstance(kind, str) or kind not in BELONGS or not isinstance(parent, str):
        return None
    return EventID(parent) if parent and parent != event.get("event_id") else None


def descendants(root: EventID, parents: dict[EventID, EventID]) -> list[EventID]:
    """Return those of `parents` (child: parent) that hang together with `root`, nearest first.

    What hangs on a reply or on a message of a thread does not: these live on their own.
    """
    children: dict[EventID, list[EventID]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found, ring = {root: None}, [root]
    while ring:
        ring = [one for parent in ring for one in children.get(parent, []) if one not in found]
        found |= dict.fromkeys(ring)
    return list(found)[1:]


def is_gone(event: Event) -> bool:
    """Whether the homeserver serves this event as already redacted.

    spec: client-server API v1.13, 8.3 redactions: `unsigned.redacted_because`.
    """
    return bool(inside(event, "unsigned", "redacted_because"))


def says_more(redaction: Event) -> bool:
    """Whether a redaction carries words of its own, such as a reason: they go like a message."""
    return bool(set(as_object(redaction.get("content"))) - {"redacts"})


def redacts(event: Event) -> EventID | None:
    """Return what an `m.room.redaction` redacts; room version 11 moved it into the content."""
    named = texts([inside(event, "content", "redacts"), event.get("redacts")]) - {""}
    if len(named) == 1:  # two that differ: one of them is forged
        return EventID(next(iter(named)))
    return None


def began(event: Event, *, since: Millis, now: Millis) -> Millis:
    """Return when the event's lifetime began.

    Its own `origin_server_ts` counts, which its sender can forge: never before `since` (the time
    from which it may have waited for us) and never after `now`. An event that did not wait begins
    when it is seen, and `since` is `now`.
    """
    timestamp = event.get("origin_server_ts")
    if type(timestamp) is not int:
        return now
    return min(max(timestamp, since), now)
