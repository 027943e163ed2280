"""The store together with the decisions of the timeline writer, for tests that need both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from bot import store
from bot.core.commands import Command, PendingCommand
from bot.core.invitations import Invite
from bot.core.lifetimes import LifetimeLimits
from bot.core.timeline import Change, Item, RoomUpdate, Undecryptable
from bot.core.types import Millis, RoomID, UserID
from bot.services.timeline_writer import TimelineWriter

LIMITS = LifetimeLimits(minimum=1_000, maximum=365 * 86_400_000)
BOT = UserID("@bot:example.org")


class Store(store.Store):
    """A store, and a timeline over it."""

    timeline: TimelineWriter

    @classmethod
    async def open(
        cls, path: Path, *, limits: LifetimeLimits = LIMITS, own_id: UserID = BOT
    ) -> Self:
        made = await super().open(path)
        made.timeline = TimelineWriter(made, limits=limits, own_id=own_id)
        return made

    async def commit(
        self,
        token: str,
        now: Millis,
        updates: list[RoomUpdate],
        invited: Sequence[Invite] = (),
        left: Sequence[RoomID] = (),
    ) -> None:
        await self.timeline.commit(token, now, updates, invited, left)

    async def take_over(self, now: Millis) -> tuple[RoomID, int] | None:
        return await self.timeline.take_over(now)

    async def read_late(
        self, room_id: RoomID, undecryptable: Undecryptable, items: list[Item], now: Millis
    ) -> None:
        await self.timeline.read_late(room_id, undecryptable, items, now)

    async def command_decided(self, pending: PendingCommand, command: Command, now: Millis) -> None:
        await self.timeline.command_decided(pending, command, now)

    async def policy_resolved(
        self, room_id: RoomID, change: Change, now: Millis, *, revision: int
    ) -> bool:
        return await self.timeline.policy_resolved(room_id, change, now, revision=revision)
