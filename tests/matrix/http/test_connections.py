"""Requests that are never answered use up no connection that others need."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from bot.matrix.http.connections import new_session

MANY = 120
"""More than aiohttp's own pool has."""


async def test_many_requests_that_hang_hold_up_no_other() -> None:
    never, hanging = asyncio.Event(), asyncio.Semaphore(0)

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            hanging.release()
            await never.wait()
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def ask(session: aiohttp.ClientSession, path: str) -> str:
        async with session.get(address + path) as response:
            return await response.text()

    try:
        async with new_session(address, within=60) as session, asyncio.TaskGroup() as group:
            slow = [group.create_task(ask(session, "/slow")) for _ in range(MANY)]
            for _ in range(MANY):
                await hanging.acquire()
            assert await ask(session, "/quick") == "done"
            never.set()
        assert [task.result() for task in slow] == ["done"] * MANY
    finally:
        await runner.cleanup()
