"""Which proxy an address is reached through."""

from __future__ import annotations

import pytest

from bot.core.proxies import Proxy, ProxyError, find_proxy

PROXY = "http://proxy.example.org:3128"
SERVER = "https://matrix.example.org"


def through(url: str, **environ: str) -> str | None:
    found = find_proxy(url, environ)
    return found.url if found else None


def test_without_a_variable_there_is_no_proxy() -> None:
    assert find_proxy(SERVER, {}) is None
    assert find_proxy(SERVER, {"HTTPS_PROXY": "", "https_proxy": " "}) is None


def test_each_scheme_has_its_variable_and_all_have_one() -> None:
    assert through(SERVER, HTTPS_PROXY=PROXY) == PROXY
    assert through(SERVER, HTTP_PROXY=PROXY) is None
    assert through("http://localhost:8008", HTTP_PROXY=PROXY) == PROXY
    assert through("http://localhost:8008", HTTPS_PROXY=PROXY) is None
    assert through(SERVER, ALL_PROXY=PROXY) == PROXY
    assert through(SERVER, ALL_PROXY="http://all:1", HTTPS_PROXY=PROXY) == PROXY


def test_small_letters_win() -> None:
    assert through(SERVER, https_proxy=PROXY, HTTPS_PROXY="http://other:1") == PROXY
    assert through(SERVER, https_proxy="", HTTPS_PROXY=PROXY) == PROXY
    assert through(SERVER, https_proxy=PROXY, no_proxy="example.org", NO_PROXY="other") is None


def test_a_proxy_without_a_scheme_is_spoken_to_by_http() -> None:
    assert through(SERVER, HTTPS_PROXY="proxy.example.org:3128") == PROXY


@pytest.mark.parametrize(
    "value",
    [
        "socks5://proxy:1080",
        "https://",
        "http://proxy:port",
        "http://pro xy:1",
        "http://[::1",
    ],
)
def test_what_is_no_proxy_is_refused_without_quoting_it(value: str) -> None:
    with pytest.raises(ProxyError) as caught:
        find_proxy(SERVER, {"HTTPS_PROXY": value})
    assert str(caught.value).startswith("HTTPS_PROXY: must be")
    assert value not in str(caught.value)


def test_a_proxys_password_is_used_and_never_shown() -> None:
    found = find_proxy(SERVER, {"HTTPS_PROXY": "http://me:secret@proxy.example.org:3128"})
    assert isinstance(found, Proxy)
    assert found.url == "http://me:secret@proxy.example.org:3128"
    assert str(found) == PROXY
    assert "secret" not in f"{found} {found!r}"


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("*", SERVER),
        ("matrix.example.org", SERVER),
        ("example.org", SERVER),
        (".example.org", SERVER),
        (".example.org", "https://example.org"),
        ("*.example.org", SERVER),
        ("EXAMPLE.ORG", SERVER),
        ("example.org.", SERVER),
        ("other.org, example.org", SERVER),
        ("other.org example.org", SERVER),
        ("matrix.example.org:443", SERVER),
        ("example.org:8448", "https://matrix.example.org:8448/path"),
        ("localhost", "https://localhost:8008"),
        ("127.0.0.1", "https://127.0.0.1:8008"),
        ("127.0.0.1:8008", "https://127.0.0.1:8008"),
        ("10.0.0.0/8", "https://10.1.2.3"),
        ("10.0.0.5/8", "https://10.1.2.3"),
        ("::1", "https://[::1]:8008"),
        ("[::1]", "https://[::1]:8008"),
        ("[::1]:8008", "https://[::1]:8008"),
        ("fd00::/8", "https://[fd12::1]"),
        ("[fd00::]/8,0:0:0:0:0:0:0:1", "https://[::1]"),
    ],
)
def test_an_exception_is_reached_directly(exceptions: str, url: str) -> None:
    assert through(url, HTTPS_PROXY=PROXY, NO_PROXY=exceptions) is None


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("", SERVER),
        (",,", SERVER),
        (".", SERVER),
        ("*.", SERVER),
        ("ample.org", SERVER),
        ("matrix.example.org.evil.org", SERVER),
        ("matrix.example.org:8448", SERVER),
        ("element.example.org", SERVER),
        ("10.0.0.0/8", "https://11.1.2.3"),
        ("10.0.0.0/8", SERVER),
        ("0.0.1", "https://127.0.0.1"),
        ("127.0.0.1:8008", "https://127.0.0.1:8009"),
        ("::1", "https://127.0.0.1"),
        ("[::1]:8008", "https://[::1]:8009"),
        ("fd00::/8", "https://[fe80::1]"),
        ("10.0.0.0/99", "https://10.0.0.1"),
    ],
)
def test_what_is_no_exception_goes_through_the_proxy(exceptions: str, url: str) -> None:
    assert through(url, HTTPS_PROXY=PROXY, NO_PROXY=exceptions) == PROXY
