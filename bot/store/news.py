"""Knows which topics a transaction has written, so that its commit wakes who waits for them.

Temporary triggers tell it: they see each row that changes, whatever statement changes it, and say
nothing of a statement that changes none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

import aiosqlite

from bot.core.topics import Topic
from bot.core.types import Millis

FIRST_DUE: Final = (
    "SELECT (SELECT min(retry_at) FROM due_rooms WHERE backlog = 0),"
    " (SELECT min(retry_at) FROM due_rooms WHERE backlog = 1)"
)
LATEST: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'timers'"

CHANGES: Final[tuple[tuple[Topic, str, str], ...]] = (
    (Topic.TIMERS, "timers", "due, retry_at, backlog, redaction_sent_at, attempts, refused_age"),
    (Topic.RELATED, "gone_parents", "last_child"),
    (Topic.RELATIONS, "pending_relations", "parent, retry_at"),
    (Topic.MEDIA, "media", "timer, owner_digest, retry_at"),
    (Topic.GAPS, "gaps", "token, retry_at, done"),
    (Topic.SWEEPS, "sweeps", "token, retry_at"),
    (Topic.OUTBOX, "outbox", "retry_at"),
    (Topic.COMMANDS, "pending_commands", "retry_at"),
    (Topic.UNDECRYPTABLE, "undecryptable", "key_requested"),
    (Topic.KEY_USES, "key_uses", "read_at"),
    (Topic.INVITATIONS, "invitations", "inviter, stage, retry_at"),
    (Topic.SUCCESSORS, "successors", "stage, retry_at"),
)
"""Tables with one topic each: it is news when a row comes, goes, or changes in these columns."""
CHANGES_OF_ROOMS: Final[tuple[tuple[Topic, str], ...]] = (
    (Topic.ACCESS, "suspended, returned_at, left_at"),
    (Topic.POLICY, "set_by_command"),
    (Topic.REVIEWS, "reviews_asked, review_at"),
    (Topic.POLICY_CHECKS, "policy_check_at"),
    (Topic.MEMBERS, "alone_check_at"),
)
"""The table of rooms has several: each is news when one of these columns changes, or a room goes.

A room that comes has nothing to be done yet, or it is changed in the same transaction.
"""

SAYS_WHEN: Final = frozenset({Topic.TIMERS, Topic.ACCESS})
"""News after which another timer may be the first that is due."""


def _triggers() -> Iterator[str]:
    for topic, table, columns in CHANGES:
        yield from (_trigger(topic, table, event) for event in ("INSERT", "DELETE"))
        yield _trigger(topic, table, "UPDATE", columns)
    for topic, columns in CHANGES_OF_ROOMS:
        yield _trigger(topic, "rooms", "UPDATE", columns)
    yield _trigger(Topic.ACCESS, "rooms", "DELETE")
    yield "CREATE TEMP TRIGGER timer_numbered AFTER INSERT ON main.timers"
    yield "BEGIN SELECT timer_made(new.id); END;"


def _trigger(topic: Topic, table: str, event: str, columns: str = "") -> str:
    name = f"news_of_{topic.name}_{event}".lower()
    of = f" OF {columns} " if columns else " "
    old, new = (", ".join(f"{row}.{one}" for one in columns.split(", ")) for row in ("old", "new"))
    changed = f" WHEN ({old}) IS NOT ({new})" if columns else ""
    return (
        f"CREATE TEMP TRIGGER {name} AFTER {event}{of}ON main.{table}{changed}"
        f" BEGIN SELECT news('{topic}'); END;"
    )


class News:
    """What a transaction has written, until it is committed or undone."""

    def __init__(self) -> None:
        self._written: set[Topic] = set()
        self._timer = 0
        self.latest_timer = 0
        """The greatest number that any timer has had."""
        self.first_due: tuple[Millis | None, Millis | None] = None, None
        """When the first timer of those in rooms that may act wants something: live, backlog."""

    async def begin(self, connection: aiosqlite.Connection) -> None:
        """Have the database tell of what is written from now on."""
        await connection.create_function("news", 1, lambda topic: self.add(Topic(topic)))
        await connection.create_function("timer_made", 1, self._timer_made)
        await (await connection.executescript("\n".join(_triggers()))).close()
        [row] = await connection.execute_fetchall(LATEST)
        self.latest_timer = int(row[0])
        [row] = await connection.execute_fetchall(FIRST_DUE)
        self.first_due = row[0], row[1]

    def add(self, topic: Topic) -> None:
        """The transaction has written this."""
        self._written.add(topic)

    def _timer_made(self, number: int) -> None:
        self._timer = number

    def take(self, raw: sqlite3.Connection) -> tuple[Topic, ...]:
        """Return what was written by a transaction that is committed now.

        In the connection's thread. What is asked for most often is looked up here, once a change,
        so that nobody has to go to that thread for it.
        """
        self.latest_timer = max(self.latest_timer, self._timer)
        if not self._written.isdisjoint(SAYS_WHEN):
            [row] = raw.execute(FIRST_DUE)
            self.first_due = row[0], row[1]
        written = tuple(self._written)
        self.forget()
        return written

    def forget(self) -> None:
        """The transaction was undone."""
        self._written.clear()
        self._timer = 0
