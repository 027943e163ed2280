"""Opens connections the way that the environment says, and tells what is wrong with one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from bot.core.proxies import find_proxy

KEPT: Final = 50.0
"""Seconds that an idle connection is kept, so that the next redaction need not wait for one.

Less than homeservers and their proxies keep it: Synapse does for 60, nginx for 75.
"""


def new_session(
    address: str, *, within: float, headers: Mapping[str, str] | None = None
) -> aiohttp.ClientSession:
    """Return a session for requests to one address, `within` seconds each, through its proxy.

    aiohttp's own `trust_env` would do two things more: it takes logins from ~/.netrc in place of
    the bot's token, and it knows neither ranges nor ports in `NO_PROXY`. Which certificates are
    trusted, OpenSSL reads from `SSL_CERT_FILE` and `SSL_CERT_DIR`. Raises `ProxyError`.
    """
    proxy = find_proxy(address, os.environ)
    return aiohttp.ClientSession(
        # The bot itself bounds what is under way: requests that nobody answers must not use up
        # the hundred connections of aiohttp's own pool, which the sync waits for as well.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT),
        timeout=aiohttp.ClientTimeout(total=within),
        headers=headers,
        proxy=proxy.url if proxy else None,
    )


def reason(error: Exception) -> str:
    """Return what went wrong with a connection, for the log: no text of somebody else's.

    An error that the operator has to do something about is told in words, others by their name.
    """
    match error:
        case aiohttp.ClientProxyConnectionError():
            return "the proxy does not answer"
        case aiohttp.ClientHttpProxyError(status=407):
            return "the proxy wants another user or password"
        case aiohttp.ClientHttpProxyError(status=status):
            return f"the proxy does not let it through, status {status}"
        case aiohttp.ClientConnectorCertificateError():
            return _untrusted(error.certificate_error)
        case aiohttp.ClientConnectorDNSError(host=host):
            return f"no address is known for {host}"
    return type(error).__name__


def _untrusted(error: Any) -> str:
    """Return why a certificate is not trusted, in OpenSSL's words."""
    reason = getattr(error, "verify_message", "")
    return (
        f"the certificate is not trusted: {reason}" if reason else "the certificate is not trusted"
    )
