"""Finds the homeserver where the operator named only the place that leads to it."""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from bot.core.json_shape import inside
from bot.core.outcome_text import describe
from bot.core.outcomes import (
    Done,
    Failed,
    LoginError,
    Outcome,
    RateLimited,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.core.proxies import ProxyError
from bot.matrix.http import responses
from bot.matrix.http.connections import new_session, reason
from bot.matrix.http.requests import ANSWER_WITHIN
from bot.matrix.http.response_body import read

log = logging.getLogger(__name__)

VERSIONS: Final = "/_matrix/client/versions"
WELL_KNOWN: Final = "/.well-known/matrix/client"
MOST: Final = 64 << 10
"""Bytes read of either answer."""
REDIRECTS: Final = 5


async def find(address: str) -> Outcome:
    """Return `Done` with the `homeserver` that clients of `address` are to use, and its `versions`.

    That is `address` itself where a homeserver answers there; only where something else answers is
    it asked for `.well-known/matrix/client`. Any other outcome says why there is none yet.
    Raises `LoginError` when that names an address that cannot be used.
    spec: client-server API v1.13, 3.1 server discovery.
    """
    found = await _versions(address)
    if not isinstance(found, Done) and _was_answered(found):
        named = await _named(address)
        if named is None:
            return Unreachable(reason=f"{_why(found)}, and no .well-known leads on from there")
        if not isinstance(named, str):
            return named
        found = await _versions(named)
        if not isinstance(found, Done):
            why = f"its .well-known leads to {named}, which is no homeserver now: {_why(found)}"
            return Unreachable(reason=why)
    if isinstance(found, Done) and found.body["homeserver"] != address:
        log.info("%s leads to the homeserver at %s", address, found.body["homeserver"])
    return found


def _was_answered(outcome: Outcome) -> bool:
    """Whether somebody is there who is no homeserver; else it may be one that is away."""
    match outcome:
        case Unreachable(page=page):
            return page != 0
        case Failed(status=status):
            return status < 500
    return not isinstance(outcome, RateLimited)


def _why(outcome: Outcome) -> str:
    match outcome:
        case Unreachable(reason=why):
            return why
        case Failed(status=status) | Refused(status=status):
            return f"status {status}"
    return describe(outcome)


async def _versions(address: str) -> Outcome:
    """Ask for what a homeserver speaks; `Done` only for one."""
    outcome, last = await _get(address, VERSIONS)
    if not isinstance(outcome, Done):
        return outcome
    versions = outcome.body.get("versions")
    if not isinstance(versions, list) or not last.endswith(VERSIONS):
        return Unreachable(reason="it names no versions", page=200)
    # Not where it was redirected from: a login that is redirected arrives without its contents.
    return Done(body={"homeserver": last.removesuffix(VERSIONS), "versions": versions})


async def _named(address: str) -> str | Outcome | None:
    """Return the address that `.well-known` names, `None` if none, or why it cannot be asked now.

    Raises `LoginError`.
    """
    parts = urlsplit(address)
    outcome, _ = await _get(f"{parts.scheme}://{parts.netloc}", WELL_KNOWN)
    if not isinstance(outcome, Done):
        return None if _was_answered(outcome) else outcome
    named = inside(outcome.body, "m.homeserver", "base_url")
    if not isinstance(named, str) or named.rstrip("/") == address:
        return None
    if not _is_usable(named, parts.scheme):
        raise LoginError(
            f"the .well-known of {address} leads to {named[:100]!r}, which is no {parts.scheme}"
            " address: set homeserver to the address that clients connect to"
        )
    return named.rstrip("/")


def _is_usable(url: str, scheme: str) -> bool:
    """Whether it is an address to send requests to, and no less safe than the one that named it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    schemes = {"https"} if scheme == "https" else {"http", "https"}
    plain = url.isascii() and url.isprintable() and " " not in url
    whole = parts.hostname and port != 0 and not parts.username
    return bool(plain and whole) and parts.scheme in schemes and not parts.query + parts.fragment


async def _get(origin: str, where: str) -> tuple[Outcome, str]:
    """Ask for something that takes no login; return the answer, and which address gave it.

    Redirects are followed, unless they lead from https to http.
    """
    try:
        async with (
            new_session(origin, within=ANSWER_WITHIN) as http,
            http.get(origin + where, max_redirects=REDIRECTS) as response,
        ):
            raw = await read(response, MOST)
            steps = [str(one.url) for one in (*response.history, response)]
    except ProxyError as error:
        raise LoginError(str(error)) from error
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return Unreachable(reason=reason(error)), origin
    if origin.startswith("https:") and any(step.startswith("http:") for step in steps):
        return Unreachable(reason="it leads from https to http", page=response.status), steps[-1]
    if raw is None:
        return responses.TOO_LARGE, steps[-1]
    try:
        outcome = responses.name(response.status, responses.parse(raw), response.headers)
    except TokenRejectedError as error:
        outcome = Unreachable(reason=f"status {response.status} {error}", page=response.status)
    return outcome, steps[-1]
