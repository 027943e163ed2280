"""What a homeserver answered, each answer by its name, and the errors that carry one."""

from __future__ import annotations

from dataclasses import dataclass, field

from bot.core.types import Event, Millis


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
