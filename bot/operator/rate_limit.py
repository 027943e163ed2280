"""What an operator does about the homeserver's rate limit for the bot: sees, lifts, restores it."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bot.app import OK
from bot.config import Settings
from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.core.types import Event, UserID
from bot.matrix.synapse.admin import Admin, path
from bot.operator.identity import UNUSABLE, OperatorError

OPTION: Final = "--admin-token-file"
LIFTED: Final = "lifted"
AS_EVERYBODYS: Final = (
    "as everybody's on this homeserver (Synapse's default: 10 events at once, then 1 in 5 seconds)"
)
NO_API: Final = (
    "{url} does not offer Synapse's admin API: it is no Synapse, or a proxy keeps the API back;"
    " then set EPHEMERAL_BOT_HOMESERVER to Synapse's own address, such as http://localhost:8008"
)


def read_token(file: Path) -> str:
    """Return the administrator's token that a file holds; its path may be the token itself.

    Raises `OperatorError`.
    """
    try:
        token = file.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise OperatorError(f"{OPTION}: cannot be read ({reason})", UNUSABLE) from None
    except ValueError:
        raise OperatorError(f"{OPTION}: is not UTF-8 text", UNUSABLE) from None
    if not token:
        raise OperatorError(f"{OPTION}: the file is empty", UNUSABLE)
    if not re.fullmatch(r"[!-~]+", token):
        raise OperatorError(f"{OPTION}: must hold one access token and nothing else", UNUSABLE)
    return token


async def lift(settings: Settings, say: Callable[[str], None], *, file: Path, undo: bool) -> int:
    """Lift the limit of the bot's account, or put it back; read it again, and say what holds."""
    async with _administrator(settings, read_token(file)) as admin:
        where = _where(settings.user_id)
        changed = _ask(admin, "DELETE", where) if undo else _ask(admin, "POST", where, {})
        _must(await changed, settings)
        found = words(_must(await _ask(admin, "GET", where), settings))
    if (found == LIFTED) == undo:
        raise OperatorError("the homeserver did not keep it as it was told")
    say(f"{settings.user_id}: rate limit {found}")
    return OK


def words(override: Event) -> str:
    """Return what the account's entry in Synapse's table of exceptions says."""
    rate, burst = override.get("messages_per_second"), override.get("burst_count")
    if not override:
        return AS_EVERYBODYS
    if not rate:
        return LIFTED
    return f"{rate}/s after {burst or 0} at once"


async def look(settings: Settings, token: str) -> str:
    """Return in words which limit holds. Raises `OperatorError`."""
    async with _administrator(settings, token) as admin:
        return words(_must(await _ask(admin, "GET", _where(settings.user_id)), settings))


@asynccontextmanager
async def _administrator(settings: Settings, token: str) -> AsyncIterator[Admin]:
    admin = Admin(settings.homeserver, token)
    try:
        yield admin
    finally:
        await admin.close()


def _where(user_id: UserID) -> str:
    return path("v1", "users", user_id, "override_ratelimit")


async def _ask(admin: Admin, method: str, where: str, body: Event | None = None) -> Outcome:
    try:
        return await admin.request(method, where, body)
    except TokenRejectedError:
        raise OperatorError(
            "the homeserver does not know this token: log in for a new one"
        ) from None


def _must(outcome: Outcome, settings: Settings) -> Event:
    """Return the answer. Raises `OperatorError` with what is in the way."""
    if isinstance(outcome, Done):
        return outcome.body
    if isinstance(outcome, Forbidden) and outcome.reason:
        reason = "the token is not one of a server administrator"
    elif isinstance(outcome, NotFound):
        reason = f"the homeserver has no account {settings.user_id}: register it first"
    elif isinstance(outcome, Unreachable) and not outcome.page:
        reason = f"{settings.homeserver} does not answer ({outcome.reason})"
    elif isinstance(outcome, Refused) and outcome.errcode != "M_UNRECOGNIZED":
        reason = f"the homeserver refused it ({outcome.status} {outcome.errcode})"
    elif isinstance(outcome, Failed) and outcome.status >= 500:
        reason = f"the homeserver failed (status {outcome.status}): try again later"
    elif isinstance(outcome, Failed | Refused | Forbidden | Unreachable):
        reason = NO_API.format(url=settings.homeserver)
    else:
        reason = "the homeserver asks to slow down: try again later"
    raise OperatorError(reason)
