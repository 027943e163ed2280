"""Power levels: who may do what in a room, computed from that room's own state and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bot.core.json_shape import as_object, inside, texts

if TYPE_CHECKING:
    from bot.core.types import Event

CREATOR: Final = 2**53
"""The level of a creator since room version 12: above every level canonical JSON can hold.

(Spec: room version 12, client considerations; appendices v1.16, canonical JSON.)
"""

_HIGHEST: Final = CREATOR - 1

# Where a room's creator is named, by room version. The unstable versions are experiments that were
# built on these. Every other version, known or not, is taken for a descendant of version 12: a
# room of tomorrow obeys its creators, who are in no list of users.
_NAMED_IN_CONTENT: Final = frozenset(str(version) for version in range(1, 11)) | {
    "org.matrix.msc1767.10",
    "org.matrix.msc3757.10",
}
_MORTAL_CREATOR: Final = _NAMED_IN_CONTENT | {"11", "org.matrix.msc3757.11"}

# Room versions 1 to 9 let servers write a level as a string of this form. Later versions refuse
# such an event, so it cannot be met there. Far more digits than a level has are no level.
_WRITTEN: Final = re.compile(r"\s*[+-]?[0-9]{1,100}\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The power levels of one room at one moment; made by `read`.

    A level that is missing or is no level has the specification's default (spec: client-server
    API v1.16, m.room.power_levels).
    """

    creators: frozenset[str]
    users: dict[str, int]
    users_default: int
    events: dict[str, int]
    events_default: int
    state_default: int
    redact: int

    @classmethod
    def read(cls, create: Event | None, power_levels: dict[str, Any] | None) -> Power:
        """Return what two state events say, whatever shape their JSON has; raises nothing.

        `create` is the whole m.room.create event, since its sender matters; `power_levels` the
        content of m.room.power_levels, or None when the room has no such event. The result
        replaces what was known before: a user whom a new event no longer lists has lost the level.

        From room version 12 on, the sender of the create event and its `additional_creators` have
        `CREATOR`, whatever `users` says. In earlier versions, and only while the room has no
        power levels, its creator has 100 (spec: room version 12, client considerations;
        client-server API v1.16, m.room.power_levels).
        """
        creators, mortal = _creators(create)
        if power_levels is None:
            # `state_default` and `redact` stay 50 (same section; servers decide so as well). Older
            # specifications say 0 for the former: to follow them would let anybody in such a
            # room set the lifetime of everybody's messages.
            power_levels = {"users": dict.fromkeys(mortal, 100)}
        content = as_object(power_levels)
        return cls(
            creators=creators,
            users=_levels(content.get("users")),
            users_default=_level(content.get("users_default"), default=0),
            events=_levels(content.get("events")),
            events_default=_level(content.get("events_default"), default=0),
            state_default=_level(content.get("state_default"), default=50),
            redact=_level(content.get("redact"), default=50),
        )

    def of(self, user_id: str) -> int:
        """Return a user's level, whether or not the user is in the room."""
        if user_id in self.creators:
            return CREATOR
        return self.users.get(user_id, self.users_default)

    def to_send_state(self, event_type: str) -> int:
        """Return the level that a state event of this type needs."""
        return self.events.get(event_type, self.state_default)

    def to_send(self, event_type: str) -> int:
        """Return the level that a message event of this type needs."""
        return self.events.get(event_type, self.events_default)

    @property
    def to_redact(self) -> int:
        """The level that redacting the events of others needs.

        It takes two rights: to send an m.room.redaction at all, and to have it applied (spec:
        client-server API v1.16, redactions; room version 3, handling redactions). The level of
        the author does not matter: a moderator may redact a creator.
        """
        return max(self.redact, self.to_send("m.room.redaction"))

    def may_send_state(self, user_id: str, event_type: str) -> bool:
        """Whether the user's level suffices for a state event of this type."""
        return self.of(user_id) >= self.to_send_state(event_type)

    def may_send(self, user_id: str, event_type: str) -> bool:
        """Whether the user's level suffices for a message event of this type."""
        return self.of(user_id) >= self.to_send(event_type)

    def may_redact(self, user_id: str) -> bool:
        """Whether the user's level suffices to redact the events of others."""
        return self.of(user_id) >= self.to_redact


def _creators(create: Event | None) -> tuple[frozenset[str], frozenset[str]]:
    """Return the creators whose power has no end, and those whose power a room may take away."""
    content = as_object(inside(create, "content"))
    version = content.get("room_version")
    if not isinstance(version, str):
        # The default, and the strictest reading: nobody is above `users`.
        version = "1"
    if version in _NAMED_IN_CONTENT:
        return frozenset(), texts([content.get("creator")])
    sender = texts([inside(create, "sender")])
    if version in _MORTAL_CREATOR:
        return frozenset(), sender
    return sender | texts(content.get("additional_creators")), frozenset()


def _level(value: Any, *, default: int) -> int:
    """Return the level that `value` is, or `default` when it is none."""
    return _integer(value) if _is_level(value) else default


def _levels(value: Any) -> dict[str, int]:
    """Return the levels in a JSON object, without the entries that are none."""
    return {key: _integer(item) for key, item in as_object(value).items() if _is_level(item)}


def _is_level(value: Any) -> bool:
    """Whether a JSON value is a level: an integer, or one written as a string; never a bool."""
    if isinstance(value, str):
        return _WRITTEN.fullmatch(value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(level: int | str) -> int:
    """Return a level as an integer of canonical JSON's range.

    Room versions 1 to 5 do not hold numbers to that range. One beyond it counts as the nearest end
    of it, so that what is out of reach stays out of reach, and only creators reach `CREATOR`.
    """
    return max(-_HIGHEST, min(int(level), _HIGHEST))
