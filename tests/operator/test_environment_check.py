"""The way to the homeserver: through a proxy, by a certificate of one's own, by .well-known."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from bot.core.outcomes import Done, Unreachable
from bot.matrix.client import Matrix
from bot.matrix.http.nio_client import Client
from bot.matrix.synapse.admin import Admin
from bot.operator.environment_check import surroundings
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.federation import self_signed
from tests.support.people import wait_until
from tests.support.web_servers import BOT, VERSIONS, WELL_KNOWN, Proxy, Site, config, leads_to

if TYPE_CHECKING:
    from pathlib import Path

    from bot.demo.homeserver import Homeserver
    from tests.support.bot_process import Bots
    from tests.support.people import People

USUAL = re.compile(r"(?i)(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if USUAL.fullmatch(name):
            monkeypatch.delenv(name)


async def check(homeserver: str, folder: Path, **environ: str) -> tuple[int | None, str]:
    """Run `check` as a process of its own: OpenSSL reads its variables when it is loaded."""
    file = config(homeserver, folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bot", "check", "--config", str(file)),
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


# --- proxies -------------------------------------------------------------------------------------


async def test_every_request_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Site() as site, Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        client, admin = Client(site.url, BOT), Admin(site.url, "token")
        assert isinstance(await Matrix(client).request("GET", VERSIONS), Done)
        assert isinstance(await admin.request("GET", VERSIONS), Done)
        await client.close()
        await admin.close()
    assert proxy.seen == [f"GET {site.url}{VERSIONS} HTTP/1.1"] * 2
    assert site.asked == [VERSIONS] * 2


async def test_an_exception_goes_past_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Site() as site:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        client = Client(site.url, BOT)
        assert isinstance(await Matrix(client).request("GET", VERSIONS), Done)
        await client.close()


async def reason(url: str) -> str:
    client = Client(url, BOT)
    outcome = await Matrix(client).request("GET", VERSIONS)
    await client.close()
    assert isinstance(outcome, Unreachable)
    return outcome.reason


@pytest.mark.parametrize("url", ["http://homeserver.test", "https://homeserver.test"])
async def test_a_dead_proxy_is_told_from_a_dead_homeserver(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert await reason(url) == "the proxy does not answer"


async def test_a_proxy_that_wants_a_password_is_given_it_or_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    login = base64.b64encode(b"me:secret").decode()
    async with Site() as site, Proxy(f"Proxy-Authorization: Basic {login}") as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert await reason(site.url) == "status 407"
        tunnelled = await reason(site.url.replace("http:", "https:"))
        assert tunnelled == "the proxy wants another user or password"
        monkeypatch.setenv("ALL_PROXY", proxy.url.replace("//", "//me:secret@"))
        client = Client(site.url, BOT)
        assert isinstance(await Matrix(client).request("GET", VERSIONS), Done)
        await client.close()


async def test_no_password_of_a_netrc_takes_the_place_of_the_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with Site() as site:
        client = Client(site.url, BOT)
        client.access_token = "token"
        assert isinstance(await Matrix(client).request("GET", VERSIONS), Done)
        await client.close()


# --- certificates --------------------------------------------------------------------------------


async def test_check_names_the_proxy_and_the_authority_and_both_work(tmp_path: Path) -> None:
    async with Site(folder=tmp_path) as site, Proxy() as proxy:
        secret = proxy.url.replace("//", "//me:secret@")
        trusted = {"SSL_CERT_FILE": str(site.certificate), "HTTPS_PROXY": secret}
        status, said = await check(site.url, tmp_path, **trusted)
    assert status == 0, said
    assert f"proxy {proxy.url} is used, as HTTPS_PROXY says" in said
    assert f"those in {site.certificate} (SSL_CERT_FILE)" in said
    assert "secret" not in said
    assert proxy.seen
    assert {line.split()[0] for line in proxy.seen} == {"CONNECT"}
    assert f"homeserver {site.url} answers" in said


async def test_an_authority_that_is_not_known_is_said(tmp_path: Path) -> None:
    async with Site(folder=tmp_path) as site:
        status, said = await check(site.url, tmp_path)
        assert status == 1
        assert "the certificate is not trusted: self-signed certificate" in said
        wrong = {"SSL_CERT_FILE": str(tmp_path / "nothing.pem")}
        _, said = await check(site.url, tmp_path, **wrong)
    assert "nothing.pem, which cannot be read (No such file or directory)" in said


def test_what_openssl_would_pass_over_is_said(tmp_path: Path) -> None:
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("nothing")
    wrong = {"SSL_CERT_FILE": str(no_pem), "SSL_CERT_DIR": str(tmp_path)}
    file, folder = surroundings("https://example.org", wrong)
    assert not file.good
    assert "holds no certificates" in file.what
    assert not folder.good
    assert "openssl rehash" in folder.what
    (tmp_path / "0a1b2c3d.0").write_text("")
    assert [one.good for one in surroundings("https://example.org", wrong)] == [False, True]
    assert not list(surroundings("http://example.org", wrong))


# --- .well-known ---------------------------------------------------------------------------------


async def test_check_follows_well_known_and_says_where_it_leads(tmp_path: Path) -> None:
    async with Site() as homeserver, Site(leads_to(homeserver.url)) as site:
        status, said = await check(site.url, tmp_path)
    assert status == 0, said
    assert f"homeserver {homeserver.url}, where {site.url} leads to, answers" in said
    assert site.asked == [VERSIONS, WELL_KNOWN]
    assert "/_matrix/client/v3/login" in homeserver.asked


@pytest.mark.parametrize("leads", ["well-known", "redirect"])
async def test_check_is_not_led_from_https_to_http(tmp_path: Path, leads: str) -> None:
    async with Site() as plain, Site({}, tmp_path) as site:
        way = {VERSIONS: (302, f"{plain.url}{VERSIONS}")}
        site.answers = leads_to(plain.url) if leads == "well-known" else way
        status, said = await check(site.url, tmp_path, SSL_CERT_FILE=str(site.certificate))
    assert status == 1
    assert ("leads to" if leads == "well-known" else "leads from https to http") in said
    assert "/_matrix/client/v3/login" not in plain.asked


@pytest.mark.synapse
async def test_the_bot_follows_well_known_when_it_starts(
    homeserver: Homeserver, people: People, bots: Bots
) -> None:
    alice = await people("alice")
    async with Site(leads_to(homeserver.url)) as site:
        bot = await bots(homeserver=site.url)
        assert f"{site.url} leads to the homeserver at {homeserver.url}" in bot.words()
        await settle_in(alice, bot)
    assert site.asked == [VERSIONS, WELL_KNOWN]


@pytest.mark.synapse
async def test_a_place_that_leads_nowhere_is_waited_for(bots: Bots) -> None:
    async with Site({}) as site:
        bot = await bots(start=False, homeserver=site.url)
        await bot.start(ready=False)

        async def waits() -> bool:
            return "waiting for the homeserver" in bot.words()

        await wait_until(waits)
        assert not [path for path in site.asked if path.endswith("/login")]
        assert await bot.stop() == 0


def test_a_proxy_and_authorities_are_named_where_they_count(tmp_path: Path) -> None:
    (file, _), folder, empty = self_signed(tmp_path), tmp_path / "one", tmp_path / "two"
    for one in (folder, empty):
        one.mkdir()
    (folder / "0a1b2c3d.17").write_text("")
    given = {"SSL_CERT_FILE": str(file), "SSL_CERT_DIR": f"{empty}::{folder}"}
    both = [
        f"certificate authorities: those in {file} (SSL_CERT_FILE)",
        f"certificate authorities: those in {empty}::{folder} (SSL_CERT_DIR)",
    ]

    def said(url: str, **environ: str) -> list[str]:
        found = list(surroundings(url, environ))
        assert all(one.good for one in found)
        return [one.what for one in found]

    assert said("https://example.org") == []
    assert said("https://example.org", **given) == both
    assert said("http://example.org", **given) == []
    plain = {"HTTP_PROXY": "http://proxy.test:1"}
    assert said("http://example.org", **given, **plain) == [
        "proxy http://proxy.test:1 is used, as HTTP_PROXY says"
    ]
    safe = {"http_proxy": "https://proxy.test:1"}
    assert said("http://example.org", **given, **safe)[1:] == both
    missing = {"SSL_CERT_FILE": f"{file}x", "SSL_CERT_DIR": f"{folder}:{folder}x"}
    assert [(one.good, one.what) for one in surroundings("https://example.org", missing)] == [
        (False, f"certificate authorities: {name} is {value}, which {WHY}")
        for name, value in missing.items()
    ]


WHY = "cannot be read (No such file or directory)"
