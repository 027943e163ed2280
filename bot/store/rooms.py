"""Says what the columns of a room's row mean."""

from __future__ import annotations

from typing import Final

from bot.core.policy import Room, RoomState
from bot.core.types import RoomID
from bot.store.database import Database, Row
from bot.store.default_lifetimes import load_defaults

ROOMS: Final = (
    "SELECT room_id, setting, encrypted, suspended, last_event_digest, policy_digest,"
    " reviews_asked, just_joined, refusal_notified, removed, state_setting, set_by_command,"
    " defaults, published_defaults, revision FROM rooms"
)
STATE: Final = (
    "SELECT setting, state_setting, policy_digest, set_by_command, awaited_digest, revision,"
    " encrypted_so_far FROM rooms WHERE id = ?"
)
SAVE_STATE: Final = (
    "UPDATE rooms SET setting = ?, state_setting = ?, policy_digest = ?, set_by_command = ?,"
    " awaited_digest = ?,"
    " revision = ?, encrypted_so_far = ?, encrypted = encrypted OR ?, default_lifetime = ?,"
    " suspended = suspended OR ?, reviews_asked = reviews_asked + ? WHERE id = ?"
)


async def load_state(db: Database, row: int) -> RoomState:
    """Return how the room stands where its timeline is known up to."""
    found = await db.one(STATE, row)
    assert found is not None
    return RoomState(
        setting=found[0],
        state_setting=found[1],
        policy_digest=found[2],
        set_by_command=bool(found[3]),
        awaited_digest=found[4],
        revision=found[5],
        encrypted=bool(found[6]),
    )


def state_row(state: RoomState) -> Row:
    """Return the state as `SAVE_STATE` takes it; encryption that was met is known from then on."""
    policy = (state.setting, state.state_setting, state.policy_digest)
    command = (state.set_by_command, state.awaited_digest, state.revision)
    return *policy, *command, state.encrypted, state.encrypted


def load_room(row: Row) -> Room:
    """Return what a row of `ROOMS` says."""
    return Room(
        room_id=RoomID(row[0]),
        setting=row[1],
        encrypted=bool(row[2]),
        suspended=bool(row[3]),
        last_event_digest=row[4],
        policy_digest=row[5],
        reviews_asked=row[6],
        just_joined=bool(row[7]),
        refusal_notified=bool(row[8]),
        removed=bool(row[9]),
        state_setting=row[10],
        set_by_command=bool(row[11]),
        defaults=load_defaults(row[12]),
        published_defaults=load_defaults(row[13]),
        revision=row[14],
    )
