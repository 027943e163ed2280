"""This bot, as an operator starts it: `ephemeral-bot run` with a configuration file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.contestants.contestant import Message
from bot.demo.homeserver import Account
from tests.support.bot_process import BotProcess

MANY = 1_000_000
"""No limit to invitations, since one person makes all rooms in a minute."""


class Ours:
    """The bot as a contestant."""

    name = "ours"

    def __init__(self, homeserver: str, account: Account, folder: Path) -> None:
        self.account = account
        folder.mkdir()
        invites = {"per_inviter": MANY, "per_hour": MANY, "rooms_per_inviter": None}
        self._bot = BotProcess(homeserver, account, folder, invites=invites)

    @property
    def pid(self) -> int:
        return self._bot.pid

    async def start(self) -> None:
        await self._bot.start()

    async def stop(self) -> None:
        if self._bot.status() is None:
            await self._bot.stop()
        await self._bot.close()

    def expect(self, messages: Iterable[Message]) -> None:
        """It finds out by itself."""
