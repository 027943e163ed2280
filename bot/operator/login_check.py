"""The checks that take a login: the bot's own, or that of a server administrator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bot.app import credentials_of
from bot.config import Settings
from bot.core.outcome_text import describe
from bot.core.outcomes import (
    Done,
    Forbidden,
    LoginError,
    NotFound,
    Outcome,
    OutcomeError,
    TokenRejectedError,
)
from bot.matrix.client import Matrix
from bot.matrix.http.endpoints import path
from bot.matrix.login.appservice import NO_SERVICE, NOT_ITS_USER, UNKNOWN_DEVICE
from bot.matrix.login.device import Identity
from bot.matrix.login.login import NO_DEVICE, Login, believed
from bot.matrix.login.token_renewal import wall_clock
from bot.matrix.synapse.media import Media
from bot.operator.identity import OperatorError
from bot.operator.rate_limit import LIFTED, look, read_token
from bot.services.media_deletion import FORBIDDEN, REJECTED, trouble_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the list; good, with a remedy: it works, and could be better."""

    good: bool
    what: str
    remedy: str = ""


def short(outcome: Outcome) -> str:
    """Return what an operator may want to know of an answer, in a word or two."""
    return describe(outcome)


async def rate(settings: Settings, admin_token_file: Path | None) -> Finding:
    """Say which rate limit holds, as far as that can be seen: an account cannot see its own."""
    if settings.as_token_text():
        return Finding(
            good=True, what="rate limit: none, if the registration says rate_limited: false"
        )
    if admin_token_file is None:
        return Finding(
            good=True,
            what="rate limit: cannot be seen without an administrator's token",
            remedy="give one with --admin-token-file; lift-rate-limit lifts the limit",
        )
    try:
        found = await look(settings, read_token(admin_token_file))
    except OperatorError as error:
        return Finding(good=False, what="rate limit: cannot be seen", remedy=str(error))
    remedy = "" if found == LIFTED else "ephemeral-bot lift-rate-limit lifts it"
    return Finding(good=True, what=f"rate limit: {found}", remedy=remedy)


async def files(media: Media) -> Finding:
    """Try the administrator's token, and whether the homeserver says whose a file is."""
    try:
        outcome = await media.usable()
    finally:
        await media.close()
    if isinstance(outcome, NotFound):
        return Finding(good=True, what=f"files on {media.server} can be deleted")
    trouble = trouble_of(outcome)
    remedy = "give it an access token of a server administrator, and restart the bot"
    if trouble not in {REJECTED, FORBIDDEN}:
        remedy = "mend that, or set media.delete to false" if trouble else "try again later"
    return Finding(good=False, what=f"files: {trouble or short(outcome)}", remedy=remedy)


async def as_it_is(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask with the login that there is. Raises `TokenRejectedError`."""
    return await ask()


class Visit:
    """The login with which things are looked at: the bot's, or another one for the moment."""

    def __init__(self, matrix: Matrix, settings: Settings) -> None:
        self._matrix = matrix
        self._settings = settings
        self._own = False
        self.device_id: str | None = None
        """The device that the bot is, or will be as far as that is known."""

    async def log_in(self, known: Identity | None) -> Finding:
        """Try the token that the bot has, or the password."""
        settings, matrix = self._settings, self._matrix
        self.device_id = known.device_id if known else None
        service, given = settings.as_token_text(), settings.access_token_text()
        token = service or given or (known.access_token if known else None)
        if token is None:
            return await self._by_password(
                f"login works: the password of {settings.user_id} is right"
            )
        matrix.use_token(token)
        whoami = path("account", "whoami")
        try:
            outcome = await believed(lambda: matrix.request("GET", whoami), asyncio.sleep)
        except TokenRejectedError as error:
            if service:
                return _refused_service(error)
            if given:
                return Finding(
                    good=False,
                    what="login: the access token is no longer accepted",
                    remedy="put a new one into access_token_file",
                )
            return await self._by_password(
                "login works: the last one has ended, and the password is right for the next"
            )
        if service and isinstance(outcome, Forbidden):
            return _service(settings, known)
        if not isinstance(outcome, Done):
            return Finding(good=False, what=f"login: {short(outcome)}", remedy="try again later")
        if outcome.body.get("user_id") != settings.user_id:
            return Finding(
                good=False,
                what=f"login: the access token belongs to {outcome.body.get('user_id')}",
                remedy=f"set user_id to that, or give a token of {settings.user_id}",
            )
        if given:
            device_id = outcome.body.get("device_id")
            self.device_id = device_id if isinstance(device_id, str) else None
            if self.device_id is None:
                return Finding(good=False, what="login: no device", remedy=NO_DEVICE)
        return Finding(good=True, what=f"login works: {settings.user_id} is logged in")

    async def _by_password(self, works: str) -> Finding:
        """Try the password, by a device that is gone again in the end."""
        credentials = credentials_of(self._settings)
        try:
            login = Login(self._matrix, wall_clock, asyncio.sleep)
            guest = await login.by_password(credentials, None)
        except LoginError as error:
            return Finding(
                good=False,
                what=f"login: the homeserver refuses {self._settings.user_id}",
                remedy=str(error),
            )
        except OutcomeError as error:
            what = f"login: {short(error.outcome)}"
            return Finding(good=False, what=what, remedy="try again later")
        self._matrix.use_token(guest.access_token)
        self._own = True
        return Finding(good=True, what=works)

    async def carry(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask; should the login end meanwhile, ask once more with the next one.

        Raises `TokenRejectedError` where there is none.
        """
        try:
            return await ask()
        except TokenRejectedError:
            await self._by_password("")
            return await ask()

    async def leave(self) -> None:
        """Leave no device behind."""
        if self._own:
            with suppress(TokenRejectedError):
                await self._matrix.request("POST", path("logout"), {})


def _refused_service(error: TokenRejectedError) -> Finding:
    if str(error) == UNKNOWN_DEVICE:
        what = "login: the service's token is good; the device was deleted"
        return Finding(good=True, what=what, remedy="the bot makes it again when it runs")
    return Finding(good=False, what="login: the application service is refused", remedy=NO_SERVICE)


def _service(settings: Settings, known: Identity | None) -> Finding:
    """Say what it means that a service's good token is not good for this account."""
    if known is None:
        # Whether the registration allows it, only making the account would tell.
        what = (
            "login: the service's token is good; the account will be made when the bot first runs"
        )
        return Finding(good=True, what=what)
    remedy = NOT_ITS_USER.format(user_id=settings.user_id)
    return Finding(good=False, what="login: the application service is refused", remedy=remedy)
