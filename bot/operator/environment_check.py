"""Checks what the environment says of the way to the homeserver: its proxy, and whom to trust."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bot.core.proxies import find_proxy
from bot.operator.login_check import Finding

FILE: Final = "SSL_CERT_FILE"
FOLDER: Final = "SSL_CERT_DIR"
HASHED: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""What OpenSSL calls a certificate that it looks up in a folder."""


def surroundings(url: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Name the proxy for an address, and the certificates it is held against, if they are given.

    OpenSSL passes over a file or a folder that it cannot use, without a word.
    """
    proxy = find_proxy(url, environ)
    if proxy is not None:
        yield Finding(good=True, what=f"proxy {proxy} is used, as {proxy.variable} says")
    if url.startswith("https:") or (proxy is not None and proxy.url.startswith("https:")):
        for variable, look in ((FILE, _file), (FOLDER, _folders)):
            value = environ.get(variable, "")
            if value:
                yield _authorities(variable, value, look(value))


def _authorities(variable: str, value: str, problem: str) -> Finding:
    if problem:
        return Finding(
            good=False,
            what=f"certificate authorities: {variable} is {value}, which {problem}",
            remedy="correct it, or unset it for those that the system trusts",
        )
    return Finding(good=True, what=f"certificate authorities: those in {value} ({variable})")


def _file(value: str) -> str:
    try:
        ssl.create_default_context(cafile=value)
    except ssl.SSLError:
        return "holds no certificates in PEM format"
    except OSError as error:
        return f"cannot be read ({os.strerror(error.errno) if error.errno else 'error'})"
    return ""


def _folders(value: str) -> str:
    """OpenSSL looks in several folders, between colons."""
    try:
        names = [one.name for part in value.split(":") if part for one in Path(part).iterdir()]
    except OSError as error:
        return f"cannot be read ({os.strerror(error.errno) if error.errno else 'error'})"
    if not any(map(HASHED.fullmatch, names)):
        return "holds no certificate under its hash: run openssl rehash"
    return ""
