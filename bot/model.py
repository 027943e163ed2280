"""The words that every part of the bot shares: ids, timers, policies, outcomes. Data only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NewType

RoomID = NewType("RoomID", str)
EventID = NewType("EventID", str)
UserID = NewType("UserID", str)

MANY: Final = 10_000
"""Rows are counted up to this number: to count more of them takes too long."""

Millis = int
"""Milliseconds: a length of time, or since the epoch where the name says when (`due`, `now`)."""

Event = dict[str, Any]
"""An event as the homeserver wrote it. Nothing in it may be relied on before it was looked at."""

POLICY_EVENT: Final = "com.beeper.disappearing_timer"
"""The state event that holds a room's lifetime; deployed clients and bridges read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the operator allows: lifetimes between `minimum` and `maximum`, and the default."""

    minimum: Millis
    maximum: Millis
    default: Millis | None = None

    def clamp(self, lifetime: Millis) -> Millis:
        """Return the allowed lifetime nearest to `lifetime`."""
        return max(self.minimum, min(lifetime, self.maximum))

    def allows(self, lifetime: Millis) -> bool:
        """Whether a command may ask for this lifetime."""
        return self.minimum <= lifetime <= self.maximum


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """Who may invite the bot, by globs over user ids; how often in an hour.

    And into how many rooms: of all, and of one account; `None` is any number.
    """

    allow: Sequence[str]
    per_inviter: int = 20
    per_hour: int = 100
    max_rooms: int | None = 1_000
    rooms_per_inviter: int | None = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """One pending redaction, as the store gives it to the redactor."""

    id: int
    room_id: RoomID
    event_id: EventID
    due: Millis
    attempts: int = 0
    generation: int = 0
    """How many redactions of it reported success and did not happen."""
    sent_at: Millis | None = None
    """When a redaction was answered with 200 and is waiting to be seen in the timeline."""
    refused: bool = False
    """Whether the homeserver refuses to redact it, though the room's state allows it."""
    looked: bool = True
    """Whether what belongs to the message is known, so that it can go first."""
    room: int = 0
    """The number of its room in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A message that belongs to one of which no timer is known: it may be gone already."""

    id: int
    room_id: RoomID
    event_id: EventID
    parent: EventID
    attempts: int = 0
    next: Millis = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file whose messages are gone, to be deleted from the homeserver."""

    media_id: str = field(repr=False)
    owners: frozenset[str]
    """Digests of those who sent the messages."""
    attempts: int = 0
    next: Millis = 0


# --- What the homeserver said ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The request was accepted (status 200)."""

    body: Event = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited:
    """Status 429: nothing may be sent for `retry_after` milliseconds."""

    retry_after: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Forbidden:
    """Status 403: a right or the membership is missing; which one, the room's state tells."""

    reason: str = field(default="", repr=False)
    older_than: Millis = 0
    """Nobody may redact what is older than this; 0: that is not what the homeserver says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound:
    """Status 404: the homeserver knows no such room, event or state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Any other 4xx: the same request will not be accepted by being sent again."""

    status: int
    errcode: str = ""
    body: Event = field(default_factory=dict, repr=False)
    """What the answer says beside, such as how to authenticate (status 401)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Status 500, or an answer that makes no sense: this request failed; others may succeed."""

    status: int
    errcode: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether the homeserver says that somebody else failed: a server, or a part of its own.

        A request that takes another server may fail so for ever. Any other one is answered when
        that part is back, as after an outage of the whole homeserver.
        """
        return self.status in {502, 503, 504}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """No answer: refused, reset, timed out, or a proxy in front of a dead homeserver."""

    reason: str
    page: int = field(default=0, compare=False)
    """The status of a web page that came instead, from something before the homeserver."""
    retry_after: Millis = field(default=0, compare=False)
    """Nothing will come of asking before so many milliseconds; 0: that is not known."""


Outcome = Done | RateLimited | Forbidden | NotFound | Refused | Failed | Unreachable


class TokenRejectedError(Exception):
    """The homeserver no longer accepts the access token (status 401); the text is the errcode."""

    def __init__(self, errcode: str = "", *, soft: bool = False) -> None:
        """`soft`: the homeserver knows the token, which has ended; the device is still there."""
        super().__init__(errcode)
        self.soft = soft


class LoginError(TokenRejectedError):
    """The homeserver does not let the bot in, for good; the message says what to do."""


class ChangedDeviceError(TokenRejectedError):
    """The login that the bot has now is another device's: it has to begin anew as that one."""


class DiskError(Exception):
    """What is to be remembered cannot be written or read now; the message says why.

    Nothing of it was remembered: done again when the disk takes it, it is done once.
    """


class OutcomeError(Exception):
    """A request that had to succeed did not; carries the outcome that says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(repr(outcome))
        self.outcome = outcome


# --- What a sync brings ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomBatch:
    """What one sync says of one joined room. `state` is the state at the timeline's start."""

    room_id: RoomID
    state: list[Event]
    timeline: list[Event]
    limited: bool = False
    full: bool = False
    """As many events as are sent at once: what is missing may just not have fitted in."""
    prev_batch: str = ""
    members: int | None = None
    """How many are in the room, the bot included, where the homeserver says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """An encrypted event whose room key has not come."""

    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """An invitation: who asks the bot into which room."""

    room_id: RoomID
    inviter: UserID | None


class InviteStage(IntEnum):
    """How far an invitation has come."""

    NEW = 0
    """Nothing was decided."""
    JOINING = 1
    """It is to be accepted."""
    DECLINING = 2
    """It is to be declined."""
    JOINED = 3
    """It was accepted; the room is to come with a sync."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """An invitation as the store gives it to be answered."""

    id: int
    room_id: RoomID
    inviter: UserID | None
    stage: InviteStage
    attempts: int = 0
    next: Millis = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A room whose state is to be looked at."""

    room_id: RoomID
    attempts: int = 0
    next: Millis = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncBatch:
    """One answer of `GET /sync` as plain data (spec: client-server API v1.13, syncing)."""

    next_batch: str
    joined: list[RoomBatch] = field(default_factory=list)
    invited: list[Invite] = field(default_factory=list)
    left: list[RoomID] = field(default_factory=list)
    keys: bool = False
    """Room keys came with it: what could not be decrypted before may be now."""
