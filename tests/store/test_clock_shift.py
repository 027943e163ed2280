"""A clock that is set back leaves no time of the database in the future."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Opener
from tests.support.two_rooms import MINUTE, NOW

NO_TIMES = {
    "id, or what counts rows": {
        "id",
        "room",
        "timer",
        "position",
        "timeline_part",
        "last_child",
        "unseen_up_to",
    },
    "a length of time": {"setting", "state_setting", "default_lifetime", "refused_age"},
    "a count": {
        *("attempts", "review_attempts", "policy_check_attempts", "reviews_asked", "revision"),
        *("redaction_round", "found", "found_this_walk", "events_read", "empty_walks", "size"),
        *("message_index", "stage"),
    },
    "yes or no": {
        *("backlog", "relations_loaded", "from_local_clock", "suspended", "removed", "encrypted"),
        *("encrypted_so_far", "set_by_command", "refusal_notified", "just_joined", "done"),
        *("reread", "whole_room", "gap_given_up", "not_a_command", "key_requested"),
        *("joined_by_bot", "welcome_withheld", "needs_announced"),
    },
}
"""Numbers in the database that no clock has made, by what they are."""
KEPT = {("timers", "redaction_sent_at")}
"""Times that stay as they are: only whether there is one counts."""

Columns = list[tuple[str, str, str]]


def columns(connection: sqlite3.Connection) -> Columns:
    """Return table, name and type of every column."""
    sql = (
        "SELECT t.name, c.name, c.type FROM sqlite_schema t JOIN pragma_table_info(t.name) c"
        " WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'meta'"
    )
    return connection.execute(sql).fetchall()


def is_time(name: str, kind: str) -> bool:
    return kind == "INTEGER" and not any(name in names for names in NO_TIMES.values())


@pytest.mark.parametrize("ahead", [60 * MINUTE, 1])
async def test_every_time_of_the_schema_is_put_right(
    open_store: Opener, tmp_path: Path, ahead: int
) -> None:
    store = await open_store(tmp_path / "timers.db")
    with closing(sqlite3.connect(tmp_path / "timers.db")) as connection, connection:
        found = columns(connection)
        for table in dict.fromkeys(table for table, *_ in found):
            names = {name: kind for owner, name, kind in found if owner == table}
            row: dict[str, Any] = {
                name: NOW + ahead if is_time(name, kind) else 1 if kind == "INTEGER" else "[]"
                for name, kind in names.items()
            }
            marks = ", ".join(f":{name}" for name in row)
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)
    await store.clock_set_back(ahead, NOW, after=0, upto=9)
    with closing(sqlite3.connect(tmp_path / "timers.db")) as connection:
        for table, name, kind in found:
            if is_time(name, kind) and (table, name) not in KEPT:
                values = connection.execute(f"SELECT {name} FROM {table}").fetchall()
                assert values == [(NOW,)], (table, name)
