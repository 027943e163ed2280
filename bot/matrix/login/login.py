"""Asks the homeserver to let the bot in: by a password, a refresh token, or a given token."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

from bot.core.json_shape import objects
from bot.core.outcome_text import describe
from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    LoginError,
    NotFound,
    Outcome,
    OutcomeError,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.core.types import Event, Millis, UserID
from bot.matrix.http.endpoints import BASE_V1, path
from bot.matrix.http.requests import Requests
from bot.matrix.login.device import Credentials, Identity

DEVICE_NAME: Final = "Disappearing messages"
REFUSALS: Final = frozenset({"M_FORBIDDEN", "M_UNAUTHORIZED", "M_USER_DEACTIVATED"})
"""What a login is refused with for good; any other 403 is about now, such as a full server."""
PASSWORD: Final = "m.login.password"  # noqa: S105 - the name of a way to log in
LONGEST: Final[Millis] = 10 * 365 * 86_400_000
"""The longest life of a token that is believed."""
AHEAD: Final[Millis] = 60_000
"""How long before its end a token is renewed at most; a short-lived one in its last fifth."""

WAYS: Final = (
    "Three ways out: set homeserver to the public address of the server, where the service answers"
    " logins (if it takes passwords); or put a compatibility token into access_token_file (mas-cli"
    " manage issue-compatibility-token NAME --device-id ID); or run the bot as an application"
    " service. See docs/operating.md"
)
MAS: Final = (
    "{homeserver} logs nobody in by itself: that is done by a Matrix Authentication Service"
    " (MAS){where}. " + WAYS
)
NO_PASSWORDS: Final = (
    "{homeserver} takes no passwords ({flows}). If that is for a Matrix Authentication Service"
    " (MAS) or a single sign-on: put an access token into access_token_file, or run the bot as an"
    " application service. See docs/operating.md"
)
NO_DEVICE: Final = (
    "the access token belongs to no device, and without one nothing can be encrypted: make one"
    " that does (mas-cli manage issue-compatibility-token NAME --device-id ID), or log in with a"
    " password"
)
NOT_RENEWED: Final = (
    "the homeserver no longer accepts the bot's access token: put a new one into access_token_file"
)

Insist = Callable[[Callable[[], Awaitable[Outcome]]], Awaitable[Outcome]]
"""Repeats a request until the homeserver is there to answer it."""
T = TypeVar("T")

DOUBT_FOR: Final = 3.0
"""Seconds before a refused token is tried once more."""


async def once(request: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """Make a request once."""
    return await request()


async def believed(
    request: Callable[[], Awaitable[T]], pause: Callable[[float], Awaitable[None]]
) -> T:
    """Make a request, and once more some seconds after its token was refused.

    One such answer may come from a proxy, or from a worker that is just starting.
    """
    try:
        return await request()
    except LoginError:
        raise
    except TokenRejectedError:
        await pause(DOUBT_FOR)
    return await request()


class Login:
    """The ways in, with what the operator gave for them.

    Everything here raises `LoginError` when it is refused for good, and `OutcomeError` when it
    cannot be done now.
    """

    def __init__(
        self,
        requests: Requests,
        now: Callable[[], Millis],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._requests = requests
        self._now = now
        self._pause = pause

    async def by_password(
        self, credentials: Credentials, device_id: str | None, insist: Insist = once
    ) -> Identity:
        """Log in as a device that is known, or as a new one.

        spec: client-server API v1.13, 5.7.3 login, and 5.2.3 soft logout for `device_id`.
        """
        body: Event = {
            "type": PASSWORD,
            "identifier": {"type": "m.id.user", "user": credentials.user_id},
            "password": credentials.password,
            "initial_device_display_name": DEVICE_NAME,
            "refresh_token": True,
        }
        if device_id is not None:
            body["device_id"] = device_id

        async def attempt() -> Outcome:
            return await self._judged(credentials, await self._bare("login", body))

        answer = _must(await insist(attempt), credentials)
        found, token = answer.get("user_id"), answer.get("access_token")
        device = answer.get("device_id")
        if found != credentials.user_id:
            raise LoginError(f"the login is {found}'s, but user_id says {credentials.user_id}")
        if not isinstance(device, str) or not isinstance(token, str) or not token:
            raise LoginError(f"{credentials.homeserver} does not answer as a homeserver does")
        known = Identity(user_id=credentials.user_id, device_id=device, access_token=token)
        return self._with_end(known, answer)

    async def by_token(
        self, credentials: Credentials, token: str, insist: Insist = once
    ) -> Identity:
        """Ask whose a token is."""

        async def attempt() -> Outcome:
            return await self._requests.once("GET", path("account", "whoami"), token=token)

        try:
            outcome = await believed(lambda: insist(attempt), self._pause)
        except TokenRejectedError:
            raise LoginError(NOT_RENEWED) from None
        if isinstance(outcome, Forbidden | Refused):
            raise LoginError(_refused(credentials, outcome))
        answer = _must(outcome, credentials)
        found, device_id = answer.get("user_id"), answer.get("device_id")
        if found != credentials.user_id:
            raise LoginError(f"the login is {found}'s, but user_id says {credentials.user_id}")
        if not isinstance(device_id, str):
            raise LoginError(NO_DEVICE)
        return Identity(user_id=UserID(found), device_id=device_id, access_token=token)

    async def refresh(self, known: Identity) -> Identity | None:
        """Return the same device with its next tokens; `None` when that is refused.

        The old refresh token is good until one of the new ones is used.
        spec: client-server API v1.13, 5.2.2 refreshing access tokens.
        """
        outcome = await self._bare(
            "refresh", {"refresh_token": known.refresh_token}, refusal_counts=True
        )
        if isinstance(outcome, Forbidden | NotFound | Refused):
            return None
        if isinstance(outcome, Failed) and outcome.errcode == "M_UNRECOGNIZED":
            return None  # it has no refresh tokens any more
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        token = outcome.body.get("access_token")
        if not isinstance(token, str) or not token:
            raise OutcomeError(Failed(status=200))
        return self._with_end(replace(known, access_token=token), outcome.body)

    async def _bare(self, where: str, body: Event, *, refusal_counts: bool = False) -> Outcome:
        """Make a request without a token; a refusal may be a proxy's, unless `refusal_counts`."""
        try:
            return await self._requests.once("POST", path(where), body, token="")
        except TokenRejectedError as error:
            if refusal_counts:
                return Refused(status=401, errcode=str(error))
            return Unreachable(reason=f"status 401 {error}")

    async def _judged(self, credentials: Credentials, outcome: Outcome) -> Outcome:
        """Return what came of a login, as far as it may be tried again. Raises `LoginError`."""
        match outcome:
            case Forbidden(reason=errcode) | Refused(errcode=errcode) if errcode in REFUSALS:
                raise LoginError(_refused(credentials, outcome))
            case Forbidden():
                return Unreachable(reason=describe(outcome))
            case Failed(errcode="M_UNRECOGNIZED") | Refused():
                why = await self.without_passwords(credentials.homeserver)
                if why:
                    raise LoginError(why)
                if outcome.errcode == "M_UNRECOGNIZED":
                    return Unreachable(reason=describe(outcome))  # somebody else answered it
                raise LoginError(_refused(credentials, outcome))
        return outcome

    async def without_passwords(self, homeserver: str) -> str:
        """Return what to say where logins by password are not offered, or nothing if they are."""
        for base in (BASE_V1, "/_matrix/client/unstable/org.matrix.msc2965"):
            metadata = await self._ask(path("auth_metadata", base=base))
            if isinstance(metadata, Done) and "issuer" in metadata.body:
                where = _address(metadata.body["issuer"])
                return MAS.format(homeserver=homeserver, where=where)
        outcome = await self._ask(path("login"))
        if isinstance(outcome, Done):
            found = [flow.get("type") for flow in objects(outcome.body.get("flows"))]
            if PASSWORD in found:
                return ""
            named = ", ".join(str(one) for one in found if _is_name(one)) or "it names no other way"
            return NO_PASSWORDS.format(homeserver=homeserver, flows=named)
        unknown = isinstance(outcome, Failed | Refused) and outcome.errcode == "M_UNRECOGNIZED"
        return MAS.format(homeserver=homeserver, where=", as it seems") if unknown else ""

    async def _ask(self, where: str) -> Outcome:
        try:
            return await self._requests.once("GET", where, token="")
        except TokenRejectedError as error:
            return Unreachable(reason=f"status 401 {error}")

    def _with_end(self, known: Identity, answer: Event) -> Identity:
        """Return the identity with what an answer says of its token's end and of the next one."""
        refresh = answer.get("refresh_token")
        if isinstance(refresh, str) and refresh:
            known = replace(known, refresh_token=refresh)
        life = answer.get("expires_in_ms")
        if type(life) is not int or not 0 < life <= LONGEST:
            return replace(known, expires_at=None, renew_at=None)
        ends = self._now() + life
        return replace(known, expires_at=ends, renew_at=ends - min(AHEAD, life // 5))


def _must(outcome: Outcome, credentials: Credentials) -> Event:
    """Return the answer. Raises `OutcomeError` for one that may be another later."""
    if isinstance(outcome, Done):
        return outcome.body
    if isinstance(outcome, Forbidden | NotFound | Refused):
        raise LoginError(f"{credentials.homeserver} does not answer as a homeserver does")
    raise OutcomeError(outcome)


def _refused(credentials: Credentials, outcome: Outcome) -> str:
    text = f"{credentials.user_id}: the homeserver refused the login ({describe(outcome)})"
    by_password = credentials.password is not None and credentials.access_token is None
    return f"{text}: is the account there, and the password right?" if by_password else text


def _address(issuer: Any) -> str:
    found = re.fullmatch(r"https?://[!-~]{1,200}", issuer) if isinstance(issuer, str) else None
    return f" at {found[0]}" if found else ""


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[a-z0-9._]{1,64}", text) is not None
