"""Tells which proxy an address is reached through, as the usual environment variables say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

PORTS: Final = {"http": 80, "https": 443}


class ProxyError(ValueError):
    """A variable does not name a proxy; the message names the variable, and never its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy, and the variable that names it."""

    url: str = field(repr=False)
    """With the user's name and password, if it has any."""
    variable: str

    def __str__(self) -> str:
        """Return its address without a password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def find_proxy(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for an `http` or `https` address; `None`: it is reached directly.

    `HTTPS_PROXY` and `HTTP_PROXY` count for their scheme, `ALL_PROXY` for both, and `NO_PROXY`
    names exceptions. Each may be written in small letters, which win. Raises `ProxyError`.
    """
    address = urlsplit(url)
    variable = _first(environ, f"{address.scheme}_proxy", "all_proxy")
    if not variable:
        return None
    host, port = address.hostname or "", address.port or PORTS.get(address.scheme, 0)
    exceptions = environ.get(_first(environ, "no_proxy"), "")
    if any(_matches(entry, host, port) for entry in re.split(r"[,\s]+", exceptions.lower())):
        return None
    return Proxy(url=_checked(variable, environ[variable].strip()), variable=variable)


def _first(environ: Mapping[str, str], *names: str) -> str:
    """Return which of the variables is set first, or an empty text."""
    both = [written for name in names for written in (name, name.upper())]
    return next((name for name in both if environ.get(name, "").strip()), "")


def _checked(variable: str, value: str) -> str:
    """Return the address that the variable holds; without a scheme, it is an `http` one."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", url):
        raise ProxyError(
            f"{variable}: must be the http or https address of a proxy, such as"
            " http://proxy.example.org:3128"
        )
    return url


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `NO_PROXY` names a host.

    It may be `*`, a name, which stands for the names below it too, an IP address, or a range of
    them such as 10.0.0.0/8; each with a port or without.
    """
    if entry == "*":
        return True
    name, its_port = _split(entry)
    host = host.rstrip(".")
    if not name or (its_port and its_port != str(port)):
        return False
    try:
        address = ip_address(host)
    except ValueError:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return address in ip_network(name, strict=False)
    except ValueError:
        return False


def _split(entry: str) -> tuple[str, str]:
    """Return an entry's host and its port, if it has one."""
    found = re.fullmatch(r"\[([^\]]*)\](?::([0-9]+))?|([^:]*):([0-9]+)", entry)
    if found is None:
        return entry, ""
    inside, behind, name, its_port = found.groups(default="")
    return inside or name, behind or its_port
