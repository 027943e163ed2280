"""Tells what an event is to the bot, as far as its type and content say."""

from __future__ import annotations

from typing import Any, Final

from bot.core.json_shape import as_object, inside
from bot.core.lifetimes import POLICY_EVENT, Setting
from bot.core.policy import UNREADABLE, read_setting
from bot.core.sync_batch import RoomBatch
from bot.core.timeline import is_gone, is_state, says_more
from bot.core.types import Event, UserID

SHAPES_ROOM: Final = frozenset({"m.room.power_levels", "m.room.create", "m.room.tombstone"})
"""State that says what the bot may do."""

LONGEST_COMMAND: Final = 1_024
"""Characters of ciphertext in which every valid command fits, whatever its client adds."""
LONGEST_REPLY: Final = 8_192
"""The same of a reply: older clients add, twice, the notice of the bot that it replies to."""


def is_nothing(event: Event) -> bool:
    """Whether nothing of the event is left, or ever was, that a redaction could take away.

    Homeservers show what was redacted long ago as empty, and not always with the reason.
    """
    if event.get("type") == "m.room.redaction":
        return is_gone(event) or not says_more(event)
    return is_gone(event) or event.get("content") == {}


def may_be_command(content: dict[str, Any]) -> bool:
    """Whether an encrypted event without its key may be a command: an edit is none.

    What relates to another message does so in clear, and a long message is no valid command.
    """
    relation = as_object(content.get("m.relates_to"))
    longest = LONGEST_REPLY if "m.in_reply_to" in relation else LONGEST_COMMAND
    edits = relation.get("rel_type") == "m.replace"
    return not edits and len(str(content.get("ciphertext", ""))) <= longest


def is_verification(event: Event) -> bool:
    """Whether the event is part of a verification (spec: client-server API v1.13, 11.12.2)."""
    kind = event.get("type")
    if kind == "m.room.message":
        return bool(inside(event, "content", "msgtype") == "m.key.verification.request")
    return isinstance(kind, str) and kind.startswith("m.key.verification.")


def is_encryption(event: Event) -> bool:
    """Whether the state event turns on encryption (spec: client-server API v1.13, 11.12.1)."""
    return event.get("type") == "m.room.encryption" and event.get("state_key") == ""


def is_policy(event: Event) -> bool:
    """Whether the state event says how long messages live in the room."""
    return event.get("type") == POLICY_EVENT and event.get("state_key") == ""


def policies_to_check(batch: RoomBatch, own_id: UserID) -> list[str]:
    """Return the ids of the policy events that others sent, or that a sync shows as state.

    The room's state may be resolved to another one (spec: room version 2, state resolution).
    """
    theirs = [event for event in batch.timeline if event.get("sender") != own_id]
    return [str(one.get("event_id", "")) for one in [*batch.state, *theirs] if is_policy(one)]


def read_event(event: Event) -> tuple[Setting, str]:
    """Read a state event. One that is unreadable leaves as it is what it replaced."""
    setting, note = read_setting(event.get("content"))
    return (replaced(event) if note == UNREADABLE else setting), note


def replaced(event: Event) -> Setting:
    """Return what held before the state event, as far as the homeserver says it."""
    before = previous_content(event)
    return None if before is None else read_setting(before)[0]


def previous_content(event: Event) -> dict[str, Any] | None:
    """Return the content that a state event replaced, if the homeserver tells of any."""
    before = inside(event, "unsigned", "prev_content")
    return before if isinstance(before, dict) else None


def is_echo(event: Event, own_id: UserID) -> bool:
    """Whether it is a redaction of the bot's own."""
    return event.get("type") == "m.room.redaction" and event.get("sender") == own_id


def is_creation(event: Event) -> bool:
    """Whether the state event is a room's first, without which its state was not told in full."""
    return event.get("type") == "m.room.create" and event.get("state_key") == ""


def is_joined(event: Event) -> bool:
    """Whether it says of a member that he is in the room, which of the bot itself is no news.

    Synapse tells it again with what the bot sends: with every sync while it redacts in two rooms.
    """
    return event.get("type") == "m.room.member" and _membership(event, "join")


def seems_alone(batch: RoomBatch, own_id: UserID, *, new: bool) -> bool | None:
    """Return whether nobody else may be in a room, by what a sync says; `None`: nothing.

    Where the homeserver does not count the members, it may be so whenever somebody has left, and
    in a `new` room. (spec: client-server API v1.13, 6.4 syncing, room summary)
    """
    if batch.members is not None:
        return batch.members <= 1
    left = any(
        event.get("type") == "m.room.member"
        and event.get("state_key") != own_id
        and _membership(event, "leave", "ban")
        for event in batch.timeline
    )
    return True if left or new else None


def _membership(event: Event, *kinds: str) -> bool:
    return inside(event, "content", "membership") in kinds


def is_own_join(event: Event, own_id: UserID) -> bool:
    """Whether the state event is the bot's own coming into the room."""
    joined = is_joined(event) and event.get("state_key") == own_id
    # Else only the name or the picture has changed.
    return joined and inside(event, "unsigned", "prev_content", "membership") != "join"


def wants_review(event: Event, own_id: UserID) -> bool:
    """Whether the state event may change what the bot can do in the room."""
    if not is_state(event):
        return False
    own = event.get("type") == "m.room.member" and event.get("state_key") == own_id
    kind = event.get("type")
    return own or (isinstance(kind, str) and kind in SHAPES_ROOM)
