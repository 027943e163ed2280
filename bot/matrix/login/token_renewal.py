"""Keeps the bot logged in: as the same device, with the next token when one ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from typing import Final, TypeVar

from bot.core.outcome_text import describe
from bot.core.outcomes import (
    ChangedDeviceError,
    DiskError,
    Done,
    Failed,
    LoginError,
    Outcome,
    OutcomeError,
    RateLimited,
    TokenRejectedError,
    Unreachable,
)
from bot.core.retry import PAUSE_CEILING, backoff, retry_in
from bot.core.types import Millis
from bot.matrix.http.endpoints import path
from bot.matrix.http.nio_client import Client
from bot.matrix.http.requests import Requests
from bot.matrix.login.appservice import NO_SERVICE, UNKNOWN_DEVICE, have_device
from bot.matrix.login.device import Credentials, Identity, load_identity, save_identity
from bot.matrix.login.login import DOUBT_FOR, NOT_RENEWED, Login

log = logging.getLogger(__name__)

TRUST_FOR: Final[Millis] = 60_000
"""A token that was found good is not doubted again so soon, whatever one request is told."""
LATER: Final[Millis] = 5_000
"""How much longer to wait than a homeserver asks for that has had too many logins: Synapse counts
by address and by account, and asked a moment too early, counts for one what the other refuses."""

T = TypeVar("T")


def wall_clock() -> Millis:
    """Return the time in milliseconds since the epoch: a token's end is kept over restarts."""
    return time.time_ns() // 1_000_000


def elapsed() -> Millis:
    """Return milliseconds since some moment."""
    return time.monotonic_ns() // 1_000_000


class Renewal:
    """One login, and the ways to have its next token. One task at a time looks for it."""

    def __init__(
        self,
        client: Client,
        credentials: Credentials,
        where: Path,
        identity: Identity,
        *,
        on_login: Callable[[], None] = lambda: None,
        now: Callable[[], Millis] = wall_clock,
        ticks: Callable[[], Millis] = elapsed,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`on_login`: called after a new login; the device may have been deleted, and its keys."""
        self._client = client
        self._credentials = credentials
        self._where = where
        self._identity = identity
        self._now, self._ticks, self._pause = now, ticks, pause
        self._requests = Requests(client)
        self._login = Login(self._requests, now, pause)
        self._lock = asyncio.Lock()
        self._count = 0  # how many tokens there have been
        self._random = SystemRandom()
        self._trusted_until: Millis = -1
        self._not_before: Millis = -1
        self._trouble = ""
        self._failures = 0
        self._unproven = 0
        self._on_login = on_login

    async def carry(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request with a token that is accepted; renewed meanwhile, it is made once more.

        Raises `OutcomeError` when there can be no such token now, `LoginError` when there is no
        way to one, `ChangedDeviceError` when it is another device's, and `DiskError`.
        """
        await self._stay_ahead()
        which = self._count
        try:
            answer = await request()
        except LoginError:
            raise
        except TokenRejectedError as error:
            await self._renew(which, error)
        else:
            if isinstance(answer, Done):
                self._unproven = 0
            return answer
        try:
            return await request()
        except TokenRejectedError as error:
            raise OutcomeError(_status(error)) from None

    # --- when ------------------------------------------------------------------------------

    async def _stay_ahead(self) -> None:
        """Renew a token that is about to end. If that fails, this one is good for a while."""
        if not self._is_due() or self._lock.locked() or self._ticks() < self._not_before:
            return
        async with self._lock:
            if self._is_due():
                try:
                    await self._refresh()
                except OutcomeError as error:
                    self._rest(error.outcome)
                except DiskError:
                    self._rest(Failed(status=0))

    def _is_due(self) -> bool:
        known = self._identity
        due = known.renew_at is not None and self._now() >= known.renew_at
        return due and known.refresh_token is not None

    async def _renew(self, which: int, error: TokenRejectedError) -> None:
        """Have a token that is accepted, in place of one that was not."""
        async with self._lock:
            if self._count != which:
                return  # somebody else had it renewed meanwhile
            if not (error.soft or self._is_over()):
                doubted = await self._doubt()
                if doubted is None:
                    return
                error = doubted
            if self._ticks() < self._not_before:
                raise OutcomeError(self._still())
            try:
                await self._replace(error)
            except OutcomeError as trouble:
                raise OutcomeError(self._rest(trouble.outcome)) from None

    def _is_over(self) -> bool:
        ends = self._identity.expires_at
        return ends is not None and self._now() >= ends

    async def _doubt(self) -> TokenRejectedError | None:
        """Ask once more, after some seconds; return the refusal if it is one.

        One answer may come from a proxy, or from a worker that is just starting.
        """
        if self._ticks() < self._trusted_until:
            raise OutcomeError(Unreachable(reason="status 401, though the login holds"))
        await self._pause(DOUBT_FOR)
        try:
            outcome = await self._requests.once("GET", path("account", "whoami"))
        except TokenRejectedError as error:
            return error
        if isinstance(outcome, Done):
            log.info("a request was refused, though the login holds: it is made once more")
            self._trusted_until = self._ticks() + TRUST_FOR
            return None
        raise OutcomeError(Unreachable(reason=f"logging in: {describe(outcome)}"))

    def _still(self) -> Outcome:
        """Return what was in the way last time, for who asks again too soon.

        It is never `RateLimited`: from that the redactor would learn how fast to redact.
        """
        left = max(1, self._not_before - self._ticks())
        return Unreachable(reason=self._trouble, retry_after=left)

    def _rest(self, outcome: Outcome) -> Outcome:
        """Let some time go by before the next try; return what was in the way."""
        wait = retry_in(outcome, self._failures, chance=self._random.random())
        if isinstance(outcome, RateLimited):
            wait += LATER
        self._failures += 1
        self._not_before = self._ticks() + wait
        self._trouble = f"logging in: {describe(outcome)}"
        return self._still()

    # --- how -------------------------------------------------------------------------------

    async def _replace(self, error: TokenRejectedError) -> None:
        """Find the next token: on the disk, from the operator, or from the homeserver."""
        rejected = self._client.access_token
        found = await self._stored()
        if found is not None and found.access_token != rejected:
            self._take(found)  # another process had it renewed, such as `identity show`
            return
        if self._credentials.reread is not None:
            self._credentials = await asyncio.to_thread(self._credentials.reread)
        given = self._credentials
        if given.as_token is not None:
            await self._serve(given.as_token, rejected, error)
        elif given.access_token is not None:
            await self._be_given(given.access_token, rejected)
        elif self._identity.refresh_token is None or not await self._refresh():
            await self._log_in()

    async def _refresh(self) -> bool:
        """Have the next pair of tokens; whether the homeserver gave it."""
        found = await self._login.refresh(self._identity)
        if found is None:
            self._identity = replace(self._identity, refresh_token=None)
            return False
        await self._keep(found)
        log.debug("the access token was renewed")
        return True

    async def _log_in(self) -> None:
        """Log in anew, as the same device."""
        device_id = self._identity.device_id
        found = await self._login.by_password(self._credentials, device_id)
        same = found.device_id == device_id
        await self._keep(self._with_keys(found) if same else found)
        if not same:
            raise ChangedDeviceError("the homeserver gave another device")
        log.info("the login had ended: logged in again as the same device")
        self._on_login()

    async def _be_given(self, token: str, rejected: str) -> None:
        """Use the token in the operator's file, if it is another one than before."""
        if token == rejected:
            raise LoginError(NOT_RENEWED)
        found = await self._login.by_token(self._credentials, token)
        if found.device_id != self._identity.device_id:
            raise ChangedDeviceError("the new access token is another device's")
        await self._keep(self._with_keys(found))
        log.info("the access token in the file is another one: it is used from now on")
        self._on_login()

    async def _serve(self, token: str, rejected: str, error: TokenRejectedError) -> None:
        """Use the service's token, on the device that is made again if it was deleted."""
        if token == rejected and str(error) != UNKNOWN_DEVICE:
            raise LoginError(NO_SERVICE)
        speaks, device_id = self._client.speaks_for, self._identity.device_id
        try:
            self._client.speak_for(self._identity.user_id)  # as a device that is not there, nobody
            await have_device(self._requests, token, device_id)
        except LoginError:
            raise
        except TokenRejectedError:
            raise LoginError(NO_SERVICE) from None
        finally:
            self._client.speaks_for = speaks
        await self._keep(replace(self._identity, access_token=token))
        self._on_login()

    def _with_keys(self, found: Identity) -> Identity:
        known = self._identity
        return replace(found, ed25519=known.ed25519, curve25519=known.curve25519)

    async def _keep(self, identity: Identity) -> None:
        """Have the tokens on the disk before they are used: then the ones before may be void."""
        work = asyncio.ensure_future(asyncio.to_thread(save_identity, self._where, identity))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])  # two at once would write the same draft
            raise
        self._take(identity)

    async def _stored(self) -> Identity | None:
        """Return the device as it is on the disk, if it is this one."""
        try:
            found = await asyncio.to_thread(load_identity, self._where)
        except LoginError:
            return None  # it is written anew
        same = found is not None and found.device_id == self._identity.device_id
        return found if same else None

    def _take(self, identity: Identity) -> None:
        self._identity = identity
        self._client.access_token = identity.access_token
        self._count += 1
        self._failures, self._trusted_until = 0, -1
        self._unproven += 1
        if self._unproven > 1:
            # None of those before was ever accepted: not to be had in a circle.
            wait = backoff(self._unproven, ceiling=PAUSE_CEILING, chance=self._random.random())
            self._not_before = self._ticks() + wait
            self._trouble = "status 401 after every login"


def _status(error: TokenRejectedError) -> Outcome:
    return Unreachable(reason=f"status 401 {error}".rstrip())
