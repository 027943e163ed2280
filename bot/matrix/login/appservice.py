"""Is a device by the token of an application service: its account and device are made as needed."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final

from bot.core.outcomes import (
    Done,
    Forbidden,
    LoginError,
    NotFound,
    Outcome,
    OutcomeError,
    Refused,
    TokenRejectedError,
)
from bot.core.types import UserID
from bot.matrix.http.endpoints import path
from bot.matrix.http.nio_client import Client
from bot.matrix.http.requests import Requests
from bot.matrix.login.device import Credentials, Identity
from bot.matrix.login.login import DEVICE_NAME, Insist, believed, once

log = logging.getLogger(__name__)

NO_SERVICE: Final = (
    "the homeserver does not know the application service: is its registration in"
    " app_service_config_files, with this token, and was the homeserver restarted since?"
)
NOT_ITS_USER: Final = "{user_id} is not in the namespace of the application service's registration"
UNKNOWN_DEVICE: Final = "M_UNKNOWN_DEVICE"
NO_DEVICE: Final = (
    "the homeserver gives an application service no device (MSC4190): use a newer one,"
    " or another way to log in"
)


async def serve(
    client: Client, credentials: Credentials, device_id: str | None, insist: Insist = once
) -> Identity:
    """Be a device of an application service's user; both are made if they are not there.

    The device that a password or another token had before is taken over, with its keys.
    Raises `LoginError`, and `OutcomeError` when it cannot be told now.
    spec: application service API, server admin style permissions; devices: MSC4190.
    """
    user_id, token = credentials.user_id, str(credentials.as_token)
    requests = Requests(client)
    client.speaks_for = None
    whoami = path("account", "whoami")

    async def be_device() -> tuple[str, Outcome]:
        await _have_account(requests, credentials, insist)
        client.speak_for(user_id)
        found = await have_device(requests, token, device_id, insist)
        client.speak_for(user_id, found)
        return found, await insist(lambda: requests.once("GET", whoami, token=token))

    try:
        made, answer = await believed(be_device, asyncio.sleep)
    except LoginError:
        raise
    except TokenRejectedError as error:
        raise LoginError(NO_DEVICE if str(error) == UNKNOWN_DEVICE else NO_SERVICE) from None
    if not isinstance(answer, Done | Forbidden | NotFound | Refused):
        raise OutcomeError(answer)
    found = answer.body if isinstance(answer, Done) else {}
    if (found.get("user_id"), found.get("device_id")) != (user_id, made):
        raise LoginError(NO_DEVICE)
    log.info("logged in as an application service")
    return Identity(user_id=user_id, device_id=made, access_token=token, appservice=True)


async def _have_account(requests: Requests, credentials: Credentials, insist: Insist) -> None:
    user_id, token = credentials.user_id, credentials.as_token
    body = {
        "type": "m.login.application_service",
        "username": _local(user_id),
        "inhibit_login": True,
    }
    answer = await insist(lambda: requests.once("POST", path("register"), body, token=token))
    errcode = answer.errcode if isinstance(answer, Refused) else ""
    if isinstance(answer, Forbidden) or errcode == "M_EXCLUSIVE":
        raise LoginError(NOT_ITS_USER.format(user_id=user_id))
    if isinstance(answer, Done) or errcode == "M_USER_IN_USE":
        return
    if not isinstance(answer, NotFound | Refused):
        raise OutcomeError(answer)
    raise LoginError(f"{user_id}: the homeserver makes no such account ({errcode or 'refused'})")


async def have_device(
    requests: Requests, token: str, device_id: str | None, insist: Insist = once
) -> str:
    """Return the id of a device: the one that is asked for, made again if need be, or a new one.

    Made again, it is without the keys that it had uploaded.
    """
    if device_id is not None:
        old = path("devices", device_id)
        answer = await insist(lambda: requests.once("GET", old, token=token))
        if isinstance(answer, Done):
            return device_id
        log.warning("the device was deleted: it is made again")
    device_id = device_id or secrets.token_hex(5).upper()
    new, body = path("devices", device_id), {"display_name": DEVICE_NAME}
    answer = await insist(lambda: requests.once("PUT", new, body, token=token))
    if not isinstance(answer, Done | Forbidden | NotFound | Refused):
        raise OutcomeError(answer)
    return device_id


def _local(user_id: UserID) -> str:
    return user_id[1:].partition(":")[0]
