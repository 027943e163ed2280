"""Opens the SQLite file, moves its schema forward, and runs one transaction at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from bot.core.outcomes import DiskError
from bot.core.topics import Topic, Topics
from bot.core.types import Millis
from bot.store import due_rooms
from bot.store.connection import PRAGMAS, Connection, connect, secret_of
from bot.store.damage import look_through_beside, look_through_if_small
from bot.store.errors import StoreError, explain, keep_aside
from bot.store.migration import migrate, refuse_others
from bot.store.news import News
from bot.store.wiping import FIRST, BusyError, Wiper, rewrite_if_small

log = logging.getLogger(__name__)

Row = tuple[Any, ...]
T = TypeVar("T")


class Database:
    """One connection, one transaction at a time, reads included: what is read is committed."""

    def __init__(
        self, connection: Connection, path: Path, secret: bytes, wiper: Wiper, news: News
    ) -> None:
        self._connection = connection
        self._news = news
        self._loop = asyncio.get_running_loop()
        self.synced = True
        """Whether a sync has shown what came into the rooms up to now (`Store.note_synced`)."""
        self.topics = Topics()
        """Where each commit publishes what it has written."""
        self._lock = asyncio.Lock()
        self._path = path
        self._dirty = True  # a process that was killed may have left something
        self._wiper = wiper
        self._looked_through = True
        self.secret = secret
        """Random key of this database's digests."""

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open or create the database at `path`.

        Raises `StoreError` when the file is no database, is damaged, is another program's, or was
        written by a newer version of the bot, and `DiskError` when it cannot be read or written
        now. A damaged file is moved aside.
        """
        connection = connect(path)
        try:
            await connection
            await connection.in_thread(partial(refuse_others, path=path))
            for pragma in PRAGMAS:
                await connection.execute_fetchall(pragma)
            await connection.in_thread(partial(migrate, path=path))
            secret = await secret_of(connection)
            looked_through = await connection.in_thread(look_through_if_small)
            await due_rooms.begin(connection)
            news = News()
            await news.begin(connection)
            wiper = Wiper(path)
        except sqlite3.Error as error:
            await connection.close()
            found = explain(error, path)
            raise (keep_aside(path, found) if isinstance(found, StoreError) else found) from error
        except BaseException:
            await connection.close()
            raise
        database = cls(connection, path, secret, wiper, news)
        database._looked_through = looked_through
        return database

    async def close(self) -> None:
        """Leave no journal behind, and close."""
        try:
            self._dirty = True
            await self.wipe()
        except (DiskError, StoreError, sqlite3.Error) as error:
            log.warning("what was deleted could not be wiped from the disk (%s)", error)
        finally:
            async with self._lock:
                await self._connection.close()
                self._wiper.close()

    @property
    def latest_timer(self) -> int:
        """The number of the timer that was made last, whether it is still there or not."""
        return self._news.latest_timer

    @property
    def first_due(self) -> tuple[Millis | None, Millis | None]:
        """When the first timer of those in rooms that may act wants something: live, backlog."""
        return self._news.first_due

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Database]:
        """Run the block as one transaction: committed as a whole, or not at all.

        Raises `DiskError` when the disk does not take it now.
        """
        async with self._lock:
            try:
                await self._connection.execute_fetchall("BEGIN IMMEDIATE")
                yield self
                await asyncio.shield(self._connection.in_thread(self.commit))
            except BaseException as error:
                # A cancelled BEGIN or COMMIT is done all the same, in the connection's own
                # thread; this comes after it there, and does nothing when all is over.
                await asyncio.shield(self._connection.in_thread(self.roll_back))
                if isinstance(error, sqlite3.Error):
                    raise explain(error, self._path) from error
                raise

    def commit(self, raw: sqlite3.Connection) -> None:
        """End a transaction in the connection's thread, and have it told what was written."""
        raw.execute("COMMIT")
        self._tell(raw)

    def _tell(self, raw: sqlite3.Connection) -> None:
        """Have it told what was written, if anything was."""
        written = self._news.take(raw)
        if written:
            # From here, since whoever began it may have been cancelled meanwhile.
            self._loop.call_soon_threadsafe(self.topics.publish, *written)

    def roll_back(self, raw: sqlite3.Connection) -> None:
        """Undo a transaction in the connection's thread, unless all is over."""
        raw.rollback()
        self._news.forget()

    async def whole(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """Run `work` as one transaction, as `transaction` does, but in the connection's thread.

        Going there and back costs more than most statements do; this goes once. `work` may await
        nothing but what it runs on the database that it is given. Cancelled, it is done all the
        same, or not at all. Raises `DiskError` when the disk does not take it now.
        """
        async with self._lock:
            inside = _Inside(self)
            try:
                return await self._connection.in_thread(lambda raw: inside.run(raw, work))
            except sqlite3.Error as error:
                raise explain(error, self._path) from error

    async def statement(self, sql: str, *args: Any, **named: Any) -> list[Row]:
        """Run one statement as a transaction of its own, which it is by itself; return its rows.

        Cancelled, it is done all the same, or not at all. Raises `DiskError` as others do.
        """

        def work(raw: sqlite3.Connection) -> list[Row]:
            self.note(sql)
            try:
                found = raw.execute(sql, named or args).fetchall()
            except BaseException:
                self._news.forget()
                raise
            self._tell(raw)
            return found

        async with self._lock:
            try:
                return await self._connection.in_thread(work)
            except sqlite3.Error as error:
                raise explain(error, self._path) from error

    def note(self, sql: str) -> None:
        """Note what is to be wiped later: a statement that deletes leaves something."""
        if sql.lstrip().startswith("DELETE"):
            self._dirty = True
            self._news.add(Topic.DELETED)

    async def rows(self, sql: str, *args: Any, **named: Any) -> list[Row]:
        """Run one statement inside the current transaction; return its rows.

        `args` take the places of `?`, or `named` those of `:name`. Not `?1`: some releases of
        Python take that for a name.
        """
        self.note(sql)
        given = named or args
        return [tuple(row) for row in await self._connection.execute_fetchall(sql, given)]

    async def one(self, sql: str, *args: Any, **named: Any) -> Row | None:
        """Run one statement inside the current transaction; return its first row."""
        found = await self.rows(sql, *args, **named)
        return found[0] if found else None

    async def many(self, sql: str, rows: list[Row] | list[dict[str, Any]]) -> None:
        """Run one statement once a row, inside the current transaction."""
        if rows:
            self.note(sql)
            await (await self._connection.executemany(sql, rows)).close()

    async def look_through(self) -> None:
        """Find damage in a file that was too large to be looked through when it was opened.

        Beside the work, by a connection of its own. Raises `StoreError`; then the file was moved
        aside, and the next start begins anew.
        """
        if not self._looked_through:
            self._looked_through = True
            await asyncio.to_thread(look_through_beside, self._path)

    async def wipe(self) -> None:
        """See that nothing that was deleted up to now can be read from the file or its journal.

        A small file is written anew. In a large one what was left is overwritten, a portion at a
        time, and who waits for the database has a turn between. Where somebody else reads the
        file it cannot be done now, and `Topic.DELETED` is published anew. Raises `DiskError`.
        """
        if not self._dirty:
            return
        self._dirty = False  # what is deleted from now on is for the next time
        try:
            await self._wipe_file()
        except BusyError:
            self._dirty = True
            self.topics.publish(Topic.DELETED)
        except sqlite3.Error as error:
            self._dirty = True
            raise explain(error, self._path) from error
        except OSError as error:
            self._dirty = True
            raise DiskError(f"{self._path}: {error.strerror}; look at the disk") from error
        except BaseException:
            self._dirty = True
            raise

    async def _wipe_file(self) -> None:
        async with self._lock:
            small = await self._connection.in_thread(rewrite_if_small)
        page = None if small else FIRST
        while page is not None:
            async with self._lock:
                page = await self._connection.in_thread(partial(self._wiper.wipe, page))


class _Inside(Database):
    """The database as it is seen from within its own thread."""

    def __init__(self, outside: Database) -> None:
        self.secret = outside.secret
        self.synced = outside.synced
        # Told at once, since whoever began it may have been cancelled when it deletes.
        self._outside = outside
        self._raw: sqlite3.Connection | None = None

    def run(self, raw: sqlite3.Connection, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """Run a transaction from its beginning to its end."""
        self._raw = raw
        raw.execute("BEGIN IMMEDIATE")
        try:
            result = _run_through(work(self))
            self._outside.commit(raw)
        except BaseException:
            self._outside.roll_back(raw)
            raise
        return result

    async def whole(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """Run `work` as a part of the transaction."""
        return await work(self)

    async def statement(self, sql: str, *args: Any, **named: Any) -> list[Row]:
        """Run one statement as a part of the transaction."""
        return await self.rows(sql, *args, **named)

    async def rows(self, sql: str, *args: Any, **named: Any) -> list[Row]:
        """Run one statement."""
        self._outside.note(sql)
        return self._statement.execute(sql, named or args).fetchall()

    async def many(self, sql: str, rows: list[Row] | list[dict[str, Any]]) -> None:
        """Run one statement once a row."""
        if rows:
            self._outside.note(sql)
            self._statement.executemany(sql, rows)

    @property
    def _statement(self) -> sqlite3.Connection:
        assert self._raw is not None
        return self._raw


def _run_through(work: Coroutine[Any, Any, T]) -> T:
    """Run what never has to wait."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    work.close()
    raise AssertionError("a transaction waits for something else than the database")


def as_json(busy: Collection[str]) -> str:
    """Return ids of what somebody is at work on, as SQL takes them: for `json_each`."""
    return json.dumps(list(busy))


async def ask(database: Database, sql: str, *args: Any, **named: Any) -> Row | None:
    """Run one statement as a transaction of its own; return its first row."""
    found = await database.statement(sql, *args, **named)
    return found[0] if found else None


async def run(database: Database, sql: str, *args: Any, **named: Any) -> list[Row]:
    """Run one statement as a transaction of its own; return its rows."""
    return await database.statement(sql, *args, **named)
