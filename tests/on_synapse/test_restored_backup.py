"""An old copy of the data folder is put back, as an operator does after a loss."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import Bots
from tests.support.people import People

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.synapse


async def test_after_a_restore_everything_that_is_due_goes(
    people: People, bots: Bots, tmp_path: Path
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 5s")
    await alice.until_notice(room, bot.user_id, "set disappearing messages to 5 seconds.")
    early = await alice.send(room, "before the backup")
    assert await bot.stop() == 0
    shutil.copytree(bot.data_dir, tmp_path / "copy")

    await bot.start()
    await alice.send(room, "!expire 4s")
    await alice.until_notice(room, bot.user_id, "set disappearing messages to 4 seconds.")
    gone = await alice.send(room, "after the backup, and gone before the restore")
    await alice.until_redacted(room, early, 20)
    await alice.until_redacted(room, gone, 20)
    waiting = await alice.send(room, "after the backup, and waiting")
    assert await bot.stop() == 0
    away = await alice.send(room, "while nobody was there")

    shutil.rmtree(bot.data_dir)
    shutil.copytree(tmp_path / "copy", bot.data_dir)
    await bot.start()
    await alice.until_redacted(room, waiting, 20)
    await alice.until_redacted(room, away, 20)
    live = await alice.send(room, "after the restore")
    await alice.until_redacted(room, live, 20)
    assert "ERROR" not in bot.words()
    assert "Traceback" not in bot.words()
    assert "logged in as a new device" not in bot.words().split("stopped")[-1]
    state = await alice.get_state(room, "com.beeper.disappearing_timer")
    assert state["timer"] == 4000
