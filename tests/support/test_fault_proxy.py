"""The fault proxy does what it says: the tests with it are worth no more than that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.support.fault_proxy import PAGE, FaultProxy

TRUTH = {"truth": "x" * 1000}


class Origin:
    """A homeserver that counts what it did."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.asked.append(f"{request.method} {request.rel_url.raw_path_qs} {body}")
        return web.json_response(TRUTH | {"number": len(self.asked)}, status=201)


@pytest.fixture
async def origin() -> Origin:
    return Origin()


@pytest.fixture
async def proxy(origin: Origin) -> AsyncIterator[FaultProxy]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", origin.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with FaultProxy(f"http://127.0.0.1:{runner.addresses[0][1]}") as made:
        yield made
    await runner.cleanup()


async def ask(proxy: FaultProxy, path: str = "/a", **more: Any) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as http,
        http.put(URL(f"{proxy.url}{path}", encoded=True), data=b"body", **more) as answer,
    ):
        return answer.status, await answer.read()


async def test_without_a_fault_it_passes_everything_on(proxy: FaultProxy, origin: Origin) -> None:
    status, body = await ask(proxy, "/rooms/%21a%2Fb?x=%25")
    assert status == 201
    assert b"truth" in body
    assert origin.asked == ["PUT /rooms/%21a%2Fb?x=%25 body"]
    assert proxy.count("rooms") == 1


async def test_an_answer_in_its_place_lasts_as_often_as_told(
    proxy: FaultProxy, origin: Origin
) -> None:
    proxy.answer("/a", status=403, body=PAGE, times=2)
    assert [(await ask(proxy))[0] for _ in range(3)] == [403, 403, 201]
    assert (await ask(proxy, "/b"))[0] == 201
    proxy.answer("/b", status=429, body={"retry_after_ms": 7})
    assert await ask(proxy, "/b") == (429, b'{"retry_after_ms": 7}')
    assert len(origin.asked) == 2
    assert [one.faulty for one in proxy.seen] == [True, True, False, False, True]


async def test_a_reset_comes_at_once_or_in_the_middle(proxy: FaultProxy, origin: Origin) -> None:
    proxy.reset("/a")
    with pytest.raises(aiohttp.ClientOSError):
        await ask(proxy)
    assert origin.asked == []
    proxy.mend()
    proxy.reset("/a", after=0.5)
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
        await ask(proxy)
    assert len(origin.asked) == 1


async def test_a_swallowed_answer_was_done_all_the_same(proxy: FaultProxy, origin: Origin) -> None:
    proxy.swallow("/a")
    with pytest.raises(aiohttp.ClientError):
        await ask(proxy)
    assert len(origin.asked) == 1


async def test_a_cut_answer_is_short(proxy: FaultProxy) -> None:
    proxy.cut("/a", times=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(proxy)
    proxy.cut("/a", honest=True)
    status, body = await ask(proxy)
    assert status == 201
    assert 400 < len(body) < 600


async def test_a_stall_ends_with_the_fault(proxy: FaultProxy) -> None:
    proxy.stall("/a", 60)
    with pytest.raises(TimeoutError):
        await ask(proxy, timeout=aiohttp.ClientTimeout(total=0.2))
    waiting = asyncio.create_task(ask(proxy))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    proxy.mend()
    assert (await waiting)[0] == 201


async def test_a_drip_is_whole_and_slow(proxy: FaultProxy) -> None:
    proxy.drip("/a", size=300, every=0.1)
    began = time.monotonic()
    _, body = await ask(proxy)
    assert len(body) > 1000
    assert time.monotonic() - began >= 0.25


async def test_a_flood_counts_what_was_taken(proxy: FaultProxy) -> None:
    proxy.flood("/a", 1 << 20)
    _, body = await ask(proxy)
    assert len(body) == proxy.longest == 1 << 20


async def test_a_doubled_request_is_done_twice(proxy: FaultProxy, origin: Origin) -> None:
    proxy.twice("/a")
    assert (await ask(proxy))[0] == 201
    assert origin.asked == ["PUT /a body"] * 2


async def test_a_repeated_answer_is_the_first_one(proxy: FaultProxy, origin: Origin) -> None:
    proxy.repeat("/a", times=3)
    answers = [await ask(proxy) for _ in range(4)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[3] != answers[0]
    assert len(origin.asked) == 2
