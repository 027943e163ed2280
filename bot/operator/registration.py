"""Writes what a homeserver has to know of the bot as an application service."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable
from typing import Final

from bot.app import OK
from bot.config import Settings
from bot.matrix.private_files import write_private
from bot.operator.identity import UNUSABLE, OperatorError

TEMPLATE: Final = """\
# The bot {user_id} as an application service, for Synapse. This file holds a secret.
# In homeserver.yaml, name it under app_service_config_files, and restart Synapse.
id: {id}
# Nothing is pushed: the bot asks for what is new, as every client does.
url: null
as_token: {as_token}
# Not used where nothing is pushed, but it must be there, and be nobody else's.
hs_token: {hs_token}
# The service's own user, which does nothing: the bot is another one.
sender_localpart: {sender}
namespaces:
  users:
    - exclusive: true
      regex: {regex}
# No limit to how fast the bot redacts.
rate_limited: false
# The bot has a device, for encrypted rooms.
io.element.msc4190: true
"""


async def register(
    settings: Settings, say: Callable[[str], None], note: Callable[[str], None]
) -> int:
    """Print the registration; the same one each time. Make the token first, if there is none."""
    file = settings.appservice.token_file
    if file is None:
        raise OperatorError("appservice.token_file: missing; name the file for the token", UNUSABLE)
    token = settings.as_token_text()
    if token is None:
        token = secrets.token_hex(32)
        try:
            write_private(file, token + "\n")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            raise OperatorError(f"appservice.token_file: cannot be written ({reason})") from None
        note("appservice.token_file: a new token was made")
    say(describe(settings.user_id, token).rstrip("\n"))
    return OK


def describe(user_id: str, token: str) -> str:
    """Return the registration of a bot. spec: application service API v1.13, registration."""
    localpart = user_id[1:].partition(":")[0]
    # A name that needs no quoting in a URL, and that is nobody's; Synapse wants the former.
    name = re.sub(r"[^a-z0-9._-]", "-", localpart) + "-appservice"
    values = {
        "id": f"ephemeral-bot-{name}",
        "as_token": token,
        "hs_token": hmac.digest(token.encode(), b"hs_token", hashlib.sha256).hex(),
        "sender": name,
        "regex": f"^{re.escape(user_id)}$",
    }
    # A JSON string is a YAML string, whatever is in it.
    quoted = {key: json.dumps(value) for key, value in values.items()}
    return TEMPLATE.format(user_id=user_id, **quoted)
