"""The crypto store's database: what takes long there is done in a thread of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Any

from peewee import OperationalError, SqliteDatabase
from peewee import __exception_wrapper__ as as_peewee_says


class CryptoDatabase(SqliteDatabase):  # type: ignore[misc]
    """One connection. While its thread is at work, whoever wants to use the connection waits.

    Nothing is ever read that may still be rolled back.
    """

    bound = False
    """nio binds its tables to the database for every statement, which takes longer than that."""
    keeps_open = False
    """A transaction that ends is not committed: the thread does it, a moment later."""

    def __init__(self, path: str, pragmas: dict[str, Any]) -> None:
        super().__init__(path, pragmas=pragmas, check_same_thread=False)
        self._thread: ThreadPoolExecutor | None = None
        self._at_work: Future[Exception | None] | None = None

    def bind_ctx(self, *arguments: Any, **options: Any) -> Any:
        """Bind tables for a time; within a piece they are bound."""
        return nullcontext() if self.bound else super().bind_ctx(*arguments, **options)

    def settle(self) -> None:
        """Wait for the thread; what fails there is told to whoever gave it the work."""
        if self._at_work is not None:
            wait([self._at_work])

    async def turn(self) -> None:
        """Wait for the thread while others go on. Raises when the database was closed meanwhile."""
        while self._at_work is not None and not self._at_work.done():
            await asyncio.wait([asyncio.wrap_future(self._at_work)])
        if self.is_closed():
            raise OperationalError("it was closed meanwhile")

    async def run_aside(self, statement: str) -> None:
        """Run a statement in the thread; return when it is done. Its failure ends a transaction.

        To be begun when it is one's `turn`. Who is cancelled does not wait, but it is done.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "crypto-store")
        connection = self.connection()
        try:
            self._at_work = work = self._thread.submit(_run, connection, statement)
        except RuntimeError:  # the system gives no thread
            connection.rollback()
            raise
        await asyncio.wait([asyncio.wrap_future(work)])
        if (error := work.result()) is not None:
            raise error

    def commit(self) -> None:
        """End a transaction."""
        if not self.keeps_open:
            super().commit()

    def connection(self) -> Any:
        """Return the connection once nothing is at work on it."""
        self.settle()
        return super().connection()

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Return what runs a statement once nothing else is at work."""
        self.settle()
        return super().cursor(*arguments, **options)

    def close(self) -> bool:
        """Close the connection once nothing is at work on it."""
        self.settle()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        return bool(super().close())


def _run(connection: Any, statement: str) -> Exception | None:
    """Run a statement; return what it failed with, in peewee's words."""
    try:
        with as_peewee_says:
            connection.execute(statement).close()
    except Exception as error:  # noqa: BLE001 - told to whoever waits for it
        connection.rollback()
        return error
    return None
