"""Decides, purely, when each message of a room is due, from the setting at its own place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from bot.model import Bounds, EventID, Millis, RoomID, UserID
from bot.timeline import OFF, Change, Item, Message, Redaction, Said, Setting

LARGEST: Final = 2**53 - 1
"""The largest integer in canonical JSON; larger ones cannot have come through a homeserver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomState:
    """What is known of a room at one point of its timeline."""

    setting: Setting = None
    policy_digest: str = ""
    """Digest of the state event that `setting` was read from."""
    commanded: bool = False
    """A command has changed the lifetime, and its state event has not come back yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """Something the bot owes to a room: a state event to set, or words to say."""

    key: str
    kind: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the bot knows of a room it is in."""

    room_id: RoomID
    setting: Setting
    encrypted: bool
    suspended: bool
    last_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """Something owed to a room, as the store gives it back to be paid."""

    id: int
    room_id: RoomID
    key: str
    kind: str
    args: dict[str, Any]
    attempts: int
    next: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """What a stretch of timeline comes to, to be committed at once with its sync token."""

    state: RoomState
    timers: list[tuple[EventID, Millis]]
    dropped: list[EventID]
    owed: list[Owed]
    handled: list[str]
    suspends: bool = False


def lifetime(setting: Setting, bounds: Bounds) -> Millis | None:
    """Return the lifetime in force under `setting`, or `None` when messages stay.

    A setting outside the operator's bounds counts as the nearest bound.
    """
    if setting is None:
        return bounds.default
    return None if setting == OFF else bounds.clamp(setting)


def read_setting(content: Any) -> tuple[Setting, str]:
    """Read the content of `com.beeper.disappearing_timer`; return the setting and a note.

    `{}` is off. `after_read` is counted from sending, the earlier of the two, so that nothing
    outlives what was asked for. What cannot be read is off, and the note says so.
    """
    if not isinstance(content, dict):
        return OFF, "unreadable"
    kind, timer = content.get("type"), content.get("timer")
    if kind is None and timer is None:
        return OFF, ""
    if type(timer) is not int or not 0 <= timer <= LARGEST:
        return OFF, "unreadable"
    if kind == "after_send" or timer == 0:
        return timer, ""
    return (timer, "after_read") if kind == "after_read" else (OFF, "unreadable")


def policy_content(setting: int) -> dict[str, Any]:
    """Return the content that says `setting` in the room's state."""
    return {} if setting == OFF else {"type": "after_send", "timer": setting}


def stamp(state: RoomState, items: list[Item], *, bounds: Bounds, own_id: UserID) -> Stamped:
    """Walk along `items` in the timeline's order and give each message its timer.

    The policy in force at a message's own place decides; later changes do not touch it.
    """
    timers: list[tuple[EventID, Millis]] = []
    dropped: list[EventID] = []
    owed: list[Owed] = []
    handled: list[str] = []
    suspends = False
    for item in items:
        match item:
            case Message():
                span = lifetime(state.setting, bounds)
                if span is not None:
                    timers.append((item.event_id, item.sent + span))
            case Change(digest=digest) if digest and digest == state.policy_digest:
                pass  # told again, as the state at the start of a timeline
            case Change():
                state = _changed(state, item, owed, bounds=bounds, own_id=own_id)
            case Redaction():
                dropped.append(item.target)
                if item.target_digest == state.policy_digest and state.policy_digest:
                    # Redacting the state event empties it, which is how the room reads `off`.
                    emptied = Change(
                        setting=OFF, sender=item.sender, digest=state.policy_digest, note=""
                    )
                    state = _changed(state, emptied, owed, bounds=bounds, own_id=own_id)
            case Said():
                handled.append(item.digest)
                base = {"base": state.policy_digest, "was": lifetime(state.setting, bounds)}
                args = item.args | base | {"sender": item.sender}
                if item.setting is not None:
                    args["setting"] = item.setting
                    state = replace(state, setting=item.setting, commanded=True)
                    owed = [one for one in owed if one.kind != "set"]
                    suspends = item.suspends
                owed.append(Owed(key=item.digest, kind=item.kind, args=args))
    return Stamped(
        state=state,
        timers=timers,
        dropped=dropped,
        owed=owed,
        handled=handled,
        suspends=suspends,
    )


def _changed(
    state: RoomState, change: Change, owed: list[Owed], *, bounds: Bounds, own_id: UserID
) -> RoomState:
    """Apply a state event; what the bot itself set was announced with the command."""
    if change.sender == own_id:
        if state.commanded and change.setting != state.setting:
            # The echo of an earlier command; a later one already counts from its own place.
            return replace(state, policy_digest=change.digest)
        return RoomState(setting=change.setting, policy_digest=change.digest)
    before, after = lifetime(state.setting, bounds), lifetime(change.setting, bounds)
    if (before != after or change.note) and not change.quiet:
        args = {
            "sender": change.sender,
            "setting": change.setting,
            "was": before,
            "note": change.note,
        }
        owed.append(Owed(key=f"change:{change.digest}", kind="changed", args=args))
    return RoomState(setting=change.setting, policy_digest=change.digest)
