"""Requests that are never answered use up no connection that others need."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bot.matrix.http.connections import new_session, reason

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


class Key:
    """Whom a connection is for; the parts of aiohttp's own that its errors look at."""

    host, port, ssl, is_ssl = "matrix.example.org", 443, True, True


KEY: Any = Key()
ASKED: Any = None


def proxied(status: int) -> aiohttp.ClientHttpProxyError:
    return aiohttp.ClientHttpProxyError(ASKED, (), status=status, message="somebody's text")


def untrusted(said: str | None) -> aiohttp.ClientConnectorCertificateError:
    error = ssl.SSLCertVerificationError("somebody's text")
    if said is not None:
        error.verify_message = said
    return aiohttp.ClientConnectorCertificateError(KEY, error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (aiohttp.ClientProxyConnectionError(KEY, OSError()), "the proxy does not answer"),
        (proxied(407), "the proxy wants another user or password"),
        (proxied(403), "the proxy does not let it through, status 403"),
        (untrusted(None), "the certificate is not trusted"),
        (untrusted(""), "the certificate is not trusted"),
        (untrusted("it has expired"), "the certificate is not trusted: it has expired"),
        (
            aiohttp.ClientConnectorDNSError(KEY, OSError()),
            "no address is known for matrix.example.org",
        ),
        (aiohttp.ClientConnectorError(KEY, OSError()), "ClientConnectorError"),
        (ValueError("somebody's text"), "ValueError"),
    ],
)
def test_what_is_wrong_with_a_connection_is_told_in_our_words(
    error: Exception, expected: str
) -> None:
    assert reason(error) == expected
