"""Gives every answer of a homeserver its name, and plain data to what a sync brings."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from bot.core.invitations import Invite
from bot.core.json_shape import as_object, inside, objects
from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    RateLimited,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.core.sync_batch import RoomBatch, SyncBatch
from bot.core.types import Event, Millis, RoomID, UserID
from bot.matrix.http import lenient_json

log = logging.getLogger(__name__)

GATEWAY: Final = frozenset({407, 502, 503, 504, 520, 521, 522, 523, 524})
"""Statuses of a proxy whose homeserver is away, or that itself wants a password first."""

NO_LOGIN: Final = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_UNKNOWN_DEVICE"})
ITS_OWN: Final = frozenset({400, 413, 414, 431, 500})
"""Statuses that one request can bring upon itself; others may succeed, whoever said it."""
TOO_LARGE: Final = Failed(status=200, errcode="TOO_LARGE")
"""An answer that is longer than what is read of it."""

UNRECOGNIZED: Final = "M_UNRECOGNIZED"
"""The homeserver has no such request: status 404 or 405, or others of its own."""

TOO_OLD: Final = re.compile(r"Events older than ([0-9]{1,15})ms cannot be redacted\.?")
"""What Synapse says for `redaction_allowed_period`; its error code says only `M_FORBIDDEN`."""

TIMELINE: Final = 100
"""Events of a room in one sync; Synapse's own limit."""

DEFAULT_WAIT: Final[Millis] = 5_000
SHORTEST_WAIT: Final[Millis] = 100
UNTOLD_WAIT: Final[Millis] = 500
"""Where it says that there is nothing to wait for."""
LONGEST_WAIT: Final[Millis] = 600_000
"""Whoever asks for more rest than this is asked again all the same: it may be a mistake."""


def name(status: int, body: Any, headers: Mapping[str, str]) -> Outcome:
    """Return the outcome that an HTTP answer stands for; `body` is the parsed JSON or `None`.

    Raises `TokenRejectedError` on `M_UNKNOWN_TOKEN` and `M_MISSING_TOKEN`, and on
    `M_UNKNOWN_DEVICE`: an application service's token is good, and its device was deleted.

    A gateway's status with an `errcode` is the homeserver's own answer: it is there, and somebody
    that it asked is not (see `Failed.elsewhere`).
    spec: client-server API v1.13, 4.1 standard error response.
    """
    errcode = _errcode(body)
    page = not isinstance(body, dict) and headers.get("Content-Type", "").startswith("text/")
    if page and status != 429 and status not in ITS_OWN:
        # A homeserver speaks JSON: this is a proxy's own page, and nobody behind it was asked.
        reason = f"status {status}" if status in GATEWAY else f"a web page, status {status}"
        return Unreachable(reason=reason, page=0 if status in GATEWAY else status)
    if 200 <= status < 300:
        return Done(body=body) if isinstance(body, dict) else Failed(status=status)
    see_to_login(body)
    if status == 429 or errcode == "M_LIMIT_EXCEEDED":
        return RateLimited(retry_after=_wait(body, headers))
    if status in GATEWAY and not errcode:
        return Unreachable(reason=f"status {status}")
    if status == 403 and errcode:
        return Forbidden(reason=errcode, older_than=_older_than(body))
    if status == 404 and errcode == "M_NOT_FOUND":
        return NotFound()
    if status == 401 and isinstance(body, dict) and not _asks_back(body, errcode):
        return Unreachable(reason=f"status 401 {errcode}".rstrip())
    if isinstance(body, dict) and _is_refusal(status, errcode):
        return Refused(status=status, errcode=errcode, body=body)
    return Failed(status=status, errcode=errcode)


def see_to_login(body: Any) -> None:
    """Raise `TokenRejectedError` when this is the body of an answer that says so."""
    errcode = _errcode(body)
    if errcode in NO_LOGIN:
        raise TokenRejectedError(errcode, soft=body.get("soft_logout") is True)


def read_object(raw: bytes | bytearray) -> dict[str, Any]:
    """Return an answer's body, empty if it is no object. Raises `TokenRejectedError`."""
    found = parse(raw)
    see_to_login(found)
    return as_object(found)


def _is_refusal(status: int, errcode: str) -> bool:
    """Whether the homeserver says that the same request will not do another time either."""
    if errcode == UNRECOGNIZED:
        return 400 <= status < 500 or status == 501
    if status == 404:
        return False  # only its own word says that something does not exist
    return 400 <= status < 500 and (bool(errcode) or status == 401)


def parse(raw: bytes | bytearray) -> Any:
    """Return what `raw` says as JSON, or `None` when it is something else.

    What cannot be represented is left out; see `lenient_json`.
    """
    return _tell_of_cuts(*lenient_json.read(raw))


async def parse_by_portions(raw: bytes | bytearray, levels: int) -> Any:
    """Return the same of a long answer, while others have turns; see `lenient_json`."""
    return _tell_of_cuts(*await lenient_json.read_by_portions(raw, levels))


def _tell_of_cuts(found: Any, cut: int) -> Any:
    if cut:
        log.warning("left out %d parts of what came: too deep, or no number or text at all", cut)
    return found


def _asks_back(body: Event, errcode: str) -> bool:
    """Whether a 401 is the homeserver's own word on this request, and not on who makes it.

    It names the flows of interactive authentication, or refuses what was proven. A proxy's, or an
    account's that is locked for now, says nothing of the request.
    """
    return "flows" in body or errcode in {"M_FORBIDDEN", "M_USER_DEACTIVATED"}


def _older_than(body: Event) -> Millis:
    """Return the age from which on the homeserver lets nobody redact, if that is what it says."""
    reason = body.get("error")
    found = TOO_OLD.fullmatch(reason) if isinstance(reason, str) else None
    return int(found[1]) if found else 0


def _wait(body: Any, headers: Mapping[str, str]) -> Millis:
    """Return how long to wait after a 429: what it asks for, within limits."""
    asked = _asked(body, headers)
    if asked > LONGEST_WAIT:
        log.warning(
            "the homeserver asks for %d s without requests: it is tried again in %d s",
            min(asked, 10**15) // 1000,
            LONGEST_WAIT // 1000,
        )
    return max(SHORTEST_WAIT, min(asked, LONGEST_WAIT)) if asked > 0 else UNTOLD_WAIT


def _asked(body: Any, headers: Mapping[str, str]) -> Millis:
    """Return the wait that a 429 asks for: the deprecated field is exact, the header in seconds."""
    exact = inside(body, "retry_after_ms")
    if type(exact) is int and exact >= 0:
        return exact
    try:
        return max(0, int(headers.get("Retry-After", "")) * 1000)
    except ValueError:
        return DEFAULT_WAIT


def read_sync(body: Event, own_id: UserID) -> SyncBatch:
    """Return what a sync brings as plain data; what has not the shape it should is left out."""
    rooms = as_object(body.get("rooms"))
    return SyncBatch(
        next_batch=str(body["next_batch"]),
        joined=[
            _room(RoomID(room_id), part)
            for room_id, part in as_object(rooms.get("join")).items()
            if isinstance(part, dict)
        ],
        invited=[
            Invite(room_id=RoomID(room_id), inviter=_inviter(part, own_id))
            for room_id, part in as_object(rooms.get("invite")).items()
        ],
        left=[RoomID(room_id) for room_id in as_object(rooms.get("leave"))],
    )


def _room(room_id: RoomID, part: Event) -> RoomBatch:
    timeline = as_object(part.get("timeline"))
    return RoomBatch(
        room_id=room_id,
        state=objects(inside(part, "state", "events")),
        timeline=objects(timeline.get("events")),
        limited=bool(timeline.get("limited")) and isinstance(timeline.get("prev_batch"), str),
        full=len(objects(timeline.get("events"))) >= TIMELINE,
        prev_batch=str(timeline.get("prev_batch", "")),
        members=_count(inside(part, "summary", "m.joined_member_count")),
    )


def _inviter(part: Any, own_id: UserID) -> UserID | None:
    """Return who sent the invitation that is meant for us, by the stripped state."""
    found: UserID | None = None
    for event in objects(inside(part, "invite_state", "events")):
        invites = inside(event, "content", "membership") == "invite"
        ours = event.get("type") == "m.room.member" and event.get("state_key") == own_id
        if ours and invites:
            sender = event.get("sender")
            found = UserID(sender) if isinstance(sender, str) else found
    return found


def _errcode(body: Any) -> str:
    found = inside(body, "errcode")
    return found if isinstance(found, str) else ""


def _count(found: Any) -> int | None:
    return found if type(found) is int and found >= 0 else None
