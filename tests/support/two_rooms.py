"""Two rooms in one store that hold the same ids, and everything that can be done to one of them."""

from __future__ import annotations

import dataclasses
import inspect
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from bot.core.commands import Command, PendingCommand, Right, SetLifetime, UndecidedCommand
from bot.core.invitations import Invitation, Invite, InviteStage
from bot.core.outbox import AnswerHelp, OutboxItem, Outgoing, Suspended
from bot.core.successors import Stage, Successor
from bot.core.timeline import (
    Change,
    Encrypted,
    Gap,
    Item,
    MediaReference,
    Message,
    Redaction,
    RoomUpdate,
    Sweep,
    Undecryptable,
)
from bot.core.timers import PendingRelation, Timer
from bot.core.types import EventID, Millis, RoomID, UserID
from bot.store.database import Database
from bot.store.migration import migrate
from tests.support.store import Store

ALICE = UserID("@alice:example.org")
ONE, OTHER = RoomID("!this:example.org"), RoomID("!other:example.org")
"""The other one's id is the first in every order: it is what a question without a room finds."""
MINUTE = 60_000
DAY = 1_440 * MINUTE
NOW: Millis = 1_800_000_000_000
FAR = NOW + 10**12

Act = Callable[[Store, RoomID], Awaitable[Any]]


# --- the items of a room -------------------------------------------------------------------------


def message(name: str, sent: Millis = NOW, parent: str | None = None) -> Message:
    return Message(
        event_id=EventID(f"${name}"), sent=sent, parent=EventID(f"${parent}") if parent else None
    )


def gone(name: str) -> Redaction:
    return Redaction(target=EventID(f"${name}"), target_digest="", sender=ALICE, digest=name)


def said(room: RoomID, name: str, setting: int | None = None) -> Command:
    effect = AnswerHelp() if setting is None else SetLifetime(setting=setting)
    return Command(digest=f"{room} {name}", sender=ALICE, effect=effect)


def undecryptable(name: str, sender: UserID = ALICE) -> Undecryptable:
    return Undecryptable(
        event_id=EventID(f"${name}"), sender=sender, session_id="session", read_at=NOW
    )


def undecided(room: RoomID, name: str, sender: UserID = ALICE) -> UndecidedCommand:
    return UndecidedCommand(
        digest=f"{room} {name}",
        event_id=EventID(f"${name}"),
        sender=sender,
        right=Right.CHANGE_LIFETIME,
        request=SetLifetime(setting=2 * MINUTE),
        sent=NOW,
        read_at=NOW,
    )


def gap(room: RoomID) -> Gap:
    return Gap(room_id=room, token="t1", stop_digest="d", stop_at=1, since=2, until=NOW)


def shows(room: RoomID, name: str) -> MediaReference:
    return MediaReference(
        event_id=EventID(f"${name}"), media_ids=[f"{name} of {room}"], owner_digest="owner"
    )


async def commit(store: Store, room: RoomID, *items: Item, **more: Any) -> None:
    await store.commit("s1", NOW, [RoomUpdate(room_id=room, items=list(items), **more)])


def sql(store: Store, text: str, *args: Any) -> list[tuple[Any, ...]]:
    """Ask the file itself, between two transactions of the store."""
    with closing(sqlite3.connect(store._db._path)) as connection, connection:
        return connection.execute(text, args).fetchall()


async def furnish(store: Store, room: RoomID, *, shift: Millis = 0) -> None:
    """Fill a room with something of every kind; `shift` makes it differ from another one."""
    at = NOW - shift
    items: list[Item] = [Change(setting=MINUTE, sender=ALICE, digest="policy", unannounced=True)]
    items += [message(name, at) for name in ("live", "sent", "shown", "wiped")]
    items += [dataclasses.replace(message("parent", at), live=True)]
    items += [message(name, at - MINUTE) for name in ("late", "later", "refused", "stuck")]
    items += [message("child", at, "parent"), message("grandchild", at + 9, "child")]
    items += [message("orphan", at, "unknown"), message("lost", at, "nobody")]
    items += [shows(room, "shown"), shows(room, "wiped"), undecryptable("riddle")]
    items += [undecided(room, "asks"), undecided(room, "asks again")]
    await store.commit("s0", at, [RoomUpdate(room_id=room, items=items, entered=True)])
    await commit(store, room, gone("wiped"), said(room, "first"), said(room, "second"))
    for name in ("refused", "stuck"):
        await store.refused(await timer(store, room, name), NOW, 5 * MINUTE)
    await store.sent(await timer(store, room, "sent"), NOW, NOW + shift)
    await store.postpone(await timer(store, room, "later"), NOW)
    await store.sweeps.begin(Sweep(room_id=room, whole_room=True, since=shift, until=NOW))
    sql(store, "UPDATE sweeps SET token = 's1', setting = ? WHERE token IS NULL", MINUTE)
    await store.successors.claim(pair(room, "new"), now=NOW)


LESS = {
    "bot.store.commands.MOST_OF_ONE": 4,
    "bot.store.commands.MOST_WAITING": 7,
    "bot.core.outbox.MOST_WAITING": 5,
    "bot.store.megolm_sessions.MOST_OF_ONE": 3,
    "bot.store.megolm_sessions.MOST_WAITING": 6,
    "bot.store.relations.MOST_PENDING": 4,
}
"""The bounds of a room, made small: many rows take long."""


async def fill(store: Store, room: RoomID) -> None:
    """Bring a room to every bound that rooms have, and let it wait for a gap."""
    await commit(store, room, *[said(room, f"{number}") for number in range(9)])
    await commit(store, room, *[undecryptable(f"more {number}") for number in range(5)])
    others = [UserID(f"@{number}:example.org") for number in range(5)]
    await commit(store, room, *[undecryptable(f"of {one}", one) for one in others])
    await commit(store, room, *[message(f"o{n}", NOW, f"p{n}") for n in range(5)])
    await commit(store, room, *[undecided(room, f"u{n}") for n in range(5)])
    await commit(store, room, *[undecided(room, f"v{n}", one) for n, one in enumerate(others)])
    await begin_gap(store, room)


async def begin_gap(store: Store, room: RoomID) -> None:
    found: list[Item] = [
        Change(setting=MINUTE, sender=ALICE, digest="found", unannounced=True),
        Encrypted(),
    ]
    items = [message("tail"), message("live", NOW + 5)]
    await commit(store, room, *items, gap=gap(room), found=found)
    await store.gaps.read_on(await its_gap(store, room), [message("page")], "t2", 0, done=False)


async def end_gap(store: Store, room: RoomID) -> None:
    await begin_gap(store, room)
    await store.gaps.read_on(await its_gap(store, room), [], "t3", 0, done=True)


async def invite(store: Store, room: RoomID) -> None:
    """Invite the bot into a room; every other news of the room would take that back."""
    await store.commit("s1", NOW, [], [Invite(room_id=room, inviter=ALICE)])


def walk_on(store: Store, room: RoomID, token: str | None = "t9") -> None:
    """Let a room be in the middle of a walk that it was told of, and of a gap that is read anew."""
    mine = "WHERE room = (SELECT id FROM rooms WHERE room_id = ?)"
    text = (
        f"UPDATE sweeps SET token = ?, found_this_walk = 3, gap_given_up = 1, retry_at = ? {mine}"
    )
    sql(store, text, token, NOW, room)
    sql(store, f"UPDATE gaps SET reread = 1 {mine}", room)
    sql(store, "UPDATE successors SET stage = 3 WHERE room_id = ?", f"{room} new")


def pair(room: RoomID, new: str) -> Successor:
    return Successor(
        room_id=RoomID(f"{room} {new}"),
        predecessor=room,
        setting=MINUTE,
        via="example.org",
        stage=Stage.OUTSIDE,
    )


# --- one of a room's rows, as the store would give it --------------------------------------------

ID_OF = "SELECT min({0}.id) FROM {0} JOIN rooms r ON r.id = {0}.room WHERE r.room_id = ?"


def _id(store: Store, table: str, room: RoomID, more: str = "", *args: Any) -> int:
    found = sql(store, ID_OF.format(table) + more, room, *args)
    return int(found[0][0] or 0)


async def timer(store: Store, room: RoomID, name: str) -> Timer:
    number = _id(store, "timers", room, " AND event_id = ?", f"${name}")
    refused = sql(store, "SELECT refused_age IS NOT NULL, due FROM timers WHERE id = ?", number)
    was, due = refused[0] if refused else (False, NOW)
    return Timer(
        id=number,
        room_id=room,
        event_id=EventID(f"${name}"),
        due=due,
        attempts=0,
        redaction_round=0,
        refused=bool(was),
    )


async def entry(store: Store, room: RoomID) -> OutboxItem:
    number = _id(store, "outbox", room)
    return OutboxItem(
        id=number, room_id=room, key="k", content=AnswerHelp(), attempts=0, retry_at=0
    )


async def relation(store: Store, room: RoomID) -> PendingRelation:
    number = _id(store, "pending_relations", room)
    found = sql(store, "SELECT event_id, parent FROM pending_relations WHERE id = ?", number)
    event_id, parent = found[0] if found else ("$x", "$y")
    return PendingRelation(
        id=number, room_id=room, event_id=EventID(event_id), parent=EventID(parent)
    )


async def invitation(store: Store, room: RoomID) -> Invitation:
    [(number,)] = sql(store, "SELECT min(id) FROM invitations WHERE room_id = ?", room)
    return Invitation(id=number or 0, room_id=room, inviter=ALICE, stage=InviteStage.NEW)


async def pending(store: Store, room: RoomID) -> PendingCommand:
    number = _id(store, "pending_commands", room)
    return PendingCommand(id=number, room_id=room, command=undecided(room, "asks"))


async def its_gap(store: Store, room: RoomID) -> Gap:
    number = _id(store, "gaps", room)
    return dataclasses.replace(gap(room), id=number)


def sweep(room: RoomID) -> Sweep:
    return Sweep(room_id=room, whole_room=True, since=0, until=NOW, token="s1")


def outgoing(key: str) -> Outgoing:
    return Outgoing(key=key, content=Suspended(need=50, have=0))


# --- what the store offers, and what a room has --------------------------------------------------


def methods(store: Store) -> list[str]:
    """Return every public method of the store and of its parts that asks the database."""
    parts = {"store": store} | {
        name: part
        for name, part in vars(store).items()
        if type(part).__module__.startswith("bot.store") and not isinstance(part, Database)
    }
    return [
        f"{name}.{method}"
        for name, part in parts.items()
        for method, _ in inspect.getmembers(type(part), inspect.iscoroutinefunction)
        if not method.startswith("_")
    ]


@cache
def columns() -> dict[str, list[str]]:
    """Return the columns of every table."""
    with closing(sqlite3.connect(":memory:")) as empty:
        migrate(empty, Path(":memory:"))
        found = empty.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            table: [row[1] for row in empty.execute(f"PRAGMA table_info({table})")]
            for (table,) in found
        }


def _whose(names: list[str], room: RoomID) -> str | None:
    """Return which rows of a table are a room's; `None`: the table has none of rooms."""
    if "room" in names:
        return f"room IN (SELECT id FROM rooms WHERE room_id IN ('{room}', 'left {room}'))"
    its = f"room_id IN ('{room}', 'left {room}') OR room_id LIKE '{room} %'"
    return its if "room_id" in names else None


def put_off(store: Store, room: RoomID) -> None:
    """Let everything of a room wait for long."""
    for table, names in columns().items():
        if "retry_at" in names:
            sql(store, f"UPDATE {table} SET retry_at = ? WHERE {_whose(names, room)}", FAR * 2)
    # Those of messages that are gone outlive their room.
    sql(store, "UPDATE media SET retry_at = ? WHERE media_id LIKE ?", FAR * 2, f"% of {room}")


def belongings(store: Store, room: RoomID) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of a room, of whichever tables there are, without the numbers of rows."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    with closing(sqlite3.connect(store._db._path)) as connection:
        for table, names in columns().items():
            if (whose := _whose(names, room)) is not None:
                shown = ", ".join(name for name in names if name not in NUMBERS)
                rows = connection.execute(f"SELECT {shown} FROM {table} WHERE {whose}")
                found[table] = sorted((tuple(map(_unnumbered, row)) for row in rows), key=repr)
    return found


NUMBERS = {"id", "room", "timer", "unseen_up_to"}
"""Columns that count the rows of all rooms."""


def _unnumbered(value: Any) -> Any:
    """Leave out the number of a gap in what is owed for it."""
    return "missed" if isinstance(value, str) and value.startswith("missed:") else value
