"""Channels that broke are made anew a few at a time, and what cannot be made now is made later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bot.core.types import UserID
from bot.matrix.client import Matrix
from bot.matrix.encryption import device_keys, olm_channels
from tests.support.big_room import Crowd
from tests.support.encryption_engines import ROOM, Bot, commits_of


@pytest.fixture
async def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Twelve devices whose channels broke."""
    monkeypatch.setattr(device_keys, "CLAIMED", 5)
    bot = Bot(tmp_path / "bot")
    crowd, matrix = Crowd(bot.client), Matrix(bot.client)
    people = crowd.fill(ROOM, 12)
    matrix.crypto.device_keys.fallback_wanted = False
    bot.olm.account.shared = True
    await matrix.crypto.query({UserID(one.user_id) for one in people})
    for one in people:
        bot.olm._mark_device_for_unwedging(one.user_id, one.account.identity_keys["curve25519"])
    assert len(bot.olm.wedged_devices) == 12
    yield bot, crowd, matrix
    await matrix.close()


async def test_broken_channels_are_made_anew_in_portions(broken: Any) -> None:
    bot, crowd, matrix = broken
    commits = commits_of(bot)
    await matrix.crypto.keep_up()
    assert [number for what, number in crowd.sizes if what == "claim"] == [5, 5, 2]
    assert set(crowd.given.values()) == {1}
    assert len(crowd.given) == 12
    assert bot.olm.wedged_devices == []
    assert commits() <= 2 * 3


async def test_a_channel_that_cannot_be_made_now_is_made_later(broken: Any) -> None:
    bot, crowd, matrix = broken

    def unanswered(name: str, _: Any) -> None:
        if name == "claim":
            raise aiohttp.ClientConnectionError

    crowd.before = unanswered
    await matrix.crypto.keep_up()
    assert len(bot.olm.wedged_devices) == 12
    crowd.before = lambda _name, _body: None
    await matrix.crypto.keep_up()
    assert len(crowd.given) == 12


async def test_a_device_that_gives_no_key_spoils_no_others_channel(broken: Any) -> None:
    bot, crowd, matrix = broken
    crowd.devices["@member0:example.org"]["PHONE"]._free.clear()
    crowd.devices["@member1:example.org"]["PHONE"]._free = [{"key": 7}]
    await matrix.crypto.keep_up()
    assert len(crowd.given) == 10
    assert bot.olm.wedged_devices == []


async def test_strangers_that_are_not_known_are_remembered_in_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(olm_channels, "MOST_UNKNOWN", 3)
    bot = Bot(tmp_path / "bot")
    for number in range(10):
        bot.olm._mark_device_for_unwedging("@mallory:example.org", f"key{number}")
    assert len(bot.olm._unknown) == 3


async def test_a_device_that_does_not_show_up_is_waited_for_no_longer(tmp_path: Path) -> None:
    bot, user = Bot(tmp_path / "bot"), "@mallory:example.org"
    bot.olm._mark_device_for_unwedging(user, "a key of no device")
    assert bot.olm.users_for_key_query == {user}
    bot.olm.users_for_key_query.clear()
    bot.olm.was_queried(user)
    bot.olm.was_queried(user)
    assert bot.olm.users_for_key_query == set()
    assert bot.olm.wedged_devices == []
