"""Says, purely, what one sync leaves out of a room, and what of it is to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bot.core.default_lifetime import began
from bot.core.events import is_own_join
from bot.core.policy import Room
from bot.core.sync_batch import RoomBatch
from bot.core.timeline import Gap, Item, Sweep, is_state
from bot.core.types import Event, Millis, RoomID, UserID

OLDER: Final[Millis] = 24 * 3_600_000
"""An event of the bot's own that is this much older than the last sync ends a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some of what was read of a room without a gap left, in the timeline's order."""

    row: int
    room_id: RoomID
    items: list[Item]
    places: list[tuple[int, int]]
    """Where each stands: the part of the timeline, and its position there."""
    reread: bool
    """The items were decided on before, and what they say now holds."""
    last: bool
    """Nothing stands behind them."""


def since_arrival(
    batch: RoomBatch, own_id: UserID, *, first: bool
) -> tuple[list[Event], list[Event], bool]:
    """Return the state before the bot came into a new room, what was said since, and if it came.

    Of what came before, the state counts: it is how the bot finds the room.
    """
    if first:
        # The account was in the room before this database was made: begin with now.
        return batch.state + [event for event in batch.timeline if is_state(event)], [], True
    for place in range(len(batch.timeline) - 1, -1, -1):
        if is_own_join(batch.timeline[place], own_id):
            old, new = batch.timeline[:place], batch.timeline[place:]
            return batch.state + [event for event in old if is_state(event)], new, True
    return batch.state, batch.timeline, False


def gap_before(batch: RoomBatch, known: Room | None, *, since: Millis, now: Millis) -> Gap | None:
    """Return the gap before a limited timeline; what is in it came between `since` and `now`."""
    if not batch.limited:
        return None
    return Gap(
        room_id=batch.room_id,
        token=batch.prev_batch,
        stop_digest=known.last_event_digest if known else "",
        stop_at=since - OLDER,
        since=since,
        until=now,
        encrypted=known is not None and known.encrypted,
    )


def sweep_of(
    batch: RoomBatch,
    known: Room | None,
    found: list[Item],
    *,
    live: bool,
    first: bool,
    since: Millis,
    now: Millis,
) -> Sweep | None:
    """Return the sweep that a room needs, if it needs one. `found` is what its state says.

    On the first sync of a database, where the room's state says that messages disappear or did.
    Later where the homeserver leaves a hole though everything would have fitted in: the link to
    another homeserver was cut, and what that one has is fetched only by reading back.
    """
    held = known is not None and (known.setting is not None or began(known.defaults) is not None)
    if first:
        whole = Sweep(room_id=batch.room_id, whole_room=True, since=0, until=now)
        return whole if found or held else None
    if not held or not batch.limited or (live and batch.full):
        return None
    return Sweep(room_id=batch.room_id, whole_room=False, since=since, until=now)


def gap_after(room_id: RoomID, token: str, digest: str, at: Millis, now: Millis) -> Gap:
    """Return the gap from a message that was understood late to the present, to be read again.

    `token` is the sync token, `digest` that of the message, and `at` when it was sent.
    """
    return Gap(
        room_id=room_id,
        token=token,
        stop_digest=digest,
        stop_at=at - OLDER,
        since=at,
        until=now,
        reread=True,
        encrypted=True,  # what was said in clear was read at the first time
    )
