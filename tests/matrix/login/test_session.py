"""The bot's device is opened anew from what is on the disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bot.core.outcomes import DiskError, Outcome
from bot.core.types import UserID
from bot.matrix.login.device import Credentials, Identity, save_identity
from bot.matrix.login.session import DEVICE, connect, open_session

BOT = UserID("@expire:example.org")
CREDENTIALS = Credentials(homeserver="http://localhost:1", user_id=BOT, password="secret")


async def nobody_is_asked(_: Callable[[], Awaitable[Outcome]]) -> Outcome:
    raise AssertionError


async def test_another_pickle_key_is_named_as_what_is_wrong(tmp_path: Path) -> None:
    device = Identity(user_id=BOT, device_id="DEVICE", access_token="token")
    save_identity(tmp_path / DEVICE, device)
    client = connect(CREDENTIALS, tmp_path, "a" * 64)
    client.restore_login(BOT, device.device_id, device.access_token)  # makes the crypto store
    await client.close()
    client = connect(CREDENTIALS, tmp_path, "b" * 64)
    with pytest.raises(DiskError, match="the pickle key does not open the encryption keys"):
        await open_session(client, CREDENTIALS, tmp_path, nobody_is_asked)
    await client.close()
