"""A client in a process of its own, asked by JSON lines on its standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LONGEST_LINE = 2**24
"""Bytes: a timeline comes as one line."""


class ClientError(Exception):
    """The client could not do what it was asked to, or it is gone."""


class LineClient:
    """Starts `command`, asks it, and ends it by closing its standard input."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LONGEST_LINE,
            )
        self._reading = asyncio.create_task(self._read())

    async def ask(self, do: str, *, within: float = 30, **args: Any) -> Any:
        """Have something done and return what came of it; raise `ClientError`."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._ids)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "do": do, "with": args})
        self._process.stdin.write(line.encode() + b"\n")
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            raise ClientError(f"no answer to {do!r} within {within:g} s: {self._words()}") from None
        finally:
            del self._asked[number]

    async def close(self) -> None:
        """Let it end by itself; end it if it does not."""
        if self._process is None or self._reading is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(60):
                status = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise ClientError("the client did not end with its standard input") from None
        finally:
            await self._reading
        if status != 0:
            raise ClientError(f"the client ended with status {status}: {self._words()}")

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            asked = self._asked.get(answer["id"])
            if asked is None or asked.done():
                continue
            if "error" in answer:
                asked.set_exception(ClientError(answer["error"]))
            else:
                asked.set_result(answer["result"])
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ClientError(f"the client is gone: {self._words()}"))

    def _words(self) -> str:
        """Return the last of what it said on its standard error."""
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace")[-2000:]
        return ""
