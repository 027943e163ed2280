"""Says what the columns of a room's row mean."""

from __future__ import annotations

from typing import Final

from bot.core.policy import Room, RoomState
from bot.core.types import RoomID
from bot.store.database import Database, Row
from bot.store.default_lifetimes import load_defaults

ROOMS: Final = (
    "SELECT room_id, setting, encrypted, suspended, last_digest, policy_digest, review, greeting,"
    " stuck, removed, stated, commanded, defaults, told_defaults,"
    " revision FROM rooms"
)
STATE: Final = (
    "SELECT setting, stated, policy_digest, commanded, awaits, revision, encrypted_here FROM rooms"
    " WHERE id = ?"
)
SAVE_STATE: Final = (
    "UPDATE rooms SET setting = ?, stated = ?, policy_digest = ?, commanded = ?, awaits = ?,"
    " revision = ?, encrypted_here = ?, encrypted = encrypted OR ?, inherited = ?,"
    " suspended = suspended OR ?, review = review + ? WHERE id = ?"
)


async def load_state(db: Database, row: int) -> RoomState:
    """Return how the room stands where its timeline is known up to."""
    found = await db.one(STATE, row)
    assert found is not None
    return RoomState(
        setting=found[0],
        stated=found[1],
        policy_digest=found[2],
        commanded=bool(found[3]),
        awaits=found[4],
        revision=found[5],
        encrypted=bool(found[6]),
    )


def state_row(state: RoomState) -> Row:
    """Return the state as `SAVE_STATE` takes it; encryption that was met is known from then on."""
    policy = (state.setting, state.stated, state.policy_digest)
    command = (state.commanded, state.awaits, state.revision)
    return *policy, *command, state.encrypted, state.encrypted


def load_room(row: Row) -> Room:
    """Return what a row of `ROOMS` says."""
    return Room(
        room_id=RoomID(row[0]),
        setting=row[1],
        encrypted=bool(row[2]),
        suspended=bool(row[3]),
        last_digest=row[4],
        policy_digest=row[5],
        reviews=row[6],
        greeting=bool(row[7]),
        stuck=bool(row[8]),
        removed=bool(row[9]),
        stated=row[10],
        commanded=bool(row[11]),
        defaults=load_defaults(row[12]),
        told_defaults=load_defaults(row[13]),
        revision=row[14],
    )
