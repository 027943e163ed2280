"""Writes the text of a notice: looks up what it has to tell, and leaves the words to `chat`."""

from __future__ import annotations

from typing import Final, Protocol

from bot.chat import notices, status
from bot.chat.notices import Fingerprints, Permission
from bot.chat.status import Files, Load
from bot.core.lifetimes import LifetimeLimits
from bot.core.policy import OutboxItem, Room, lifetime
from bot.core.power_levels import Power
from bot.core.types import Millis, RoomID, UserID
from bot.services.clock import Clock

PLAIN: Final = {
    "closed": notices.closed,
    "missed": notices.missed,
    "reverted": notices.reverted,
}
"""What is said in the same words always."""
TO_SOMEBODY: Final = {
    "hasty": notices.hasty,
    "unsigned": notices.unsigned,
    "unheard": notices.unheard,
    "unjudged": notices.unjudged,
    "overtaken": notices.overtaken,
}
"""What needs the name of whom it is said to."""


class Homeserver(Protocol):
    """What is looked up on the homeserver."""

    @property
    def own_id(self) -> UserID: ...  # noqa: D102
    async def power(self, room_id: RoomID) -> Power: ...  # noqa: D102
    async def name_of(self, room_id: RoomID, user_id: UserID) -> str: ...  # noqa: D102


class Gaps(Protocol):
    """What is looked up in the store of gaps."""

    async def has_gap(self, room_id: RoomID) -> bool: ...  # noqa: D102


class Memory(Protocol):
    """What is looked up in the store."""

    @property
    def gaps(self) -> Gaps: ...  # noqa: D102
    async def pending(self, room_id: RoomID) -> tuple[int, Millis | None]: ...  # noqa: D102
    async def refusals(self, room_id: RoomID) -> tuple[int, Millis]: ...  # noqa: D102


class Identity(Protocol):
    """What is told of the bot's identity."""

    @property
    def trouble(self) -> str: ...  # noqa: D102
    @property
    def fingerprints(self) -> Fingerprints: ...  # noqa: D102


class NoticeWriter:
    """Knows the words for each kind of notice."""

    def __init__(
        self,
        homeserver: Homeserver,
        memory: Memory,
        clock: Clock,
        *,
        prefix: str,
        limits: LifetimeLimits,
        identity: Identity | None = None,
        files: Files | None = None,
        load: Load | None = None,
    ) -> None:
        self._homeserver = homeserver
        self._memory = memory
        self._clock = clock
        self._prefix = prefix
        self._limits = limits
        self._identity = identity
        self._files = files
        self._load = load

    async def text(self, entry: OutboxItem, room: Room) -> str:
        """Return the text of a notice; empty: there is nothing to say. Raises `OutcomeError`."""
        args = entry.args
        match entry.kind:
            case "welcome":
                now = lifetime(room.setting, self._limits)
                permission = await self._permission(room.room_id)
                return notices.welcome(self._prefix, permission, now, args.get("back", 0))
            case "announce" | "changed":
                return await self._announce(entry, room)
            case "suspended":
                return notices.suspended(Permission(need=args["need"], have=args["have"]))
            case "stuck":
                return notices.stuck(args["older_than"])
            case "resumed":
                return notices.resumed((await self._memory.pending(room.room_id))[0])
            case "refused":
                name = await self._name(room, args["sender"])
                return notices.refused(name, args["need"], args["have"])
            case kind if kind in TO_SOMEBODY:
                return TO_SOMEBODY[kind](await self._name(room, args["sender"]))
            case "powerless":
                return notices.powerless(args["need"], args["have"])
            case _:
                return await self._answer(entry, room)

    async def _answer(self, entry: OutboxItem, room: Room) -> str:
        match entry.kind:
            case kind if kind in PLAIN:
                return PLAIN[kind]()
            case "moved":
                now = lifetime(entry.args["setting"], self._limits)
                return notices.moved(now, await self._permission(room.room_id))
            case "needs":
                permission = Permission(need=entry.args["need"], have=entry.args["have"])
                return notices.needs(lifetime(entry.args["setting"], self._limits), permission)
            case "outside":
                return notices.outside(self._prefix, self._limits)
            case "invalid":
                return notices.invalid(self._prefix, self._limits, entry.args.get("reason", ""))
            case "help":
                return notices.help_text(self._prefix, self._limits)
            case "status":
                return await self._status(room)
            case "fingerprint" if self._identity is not None:
                return notices.fingerprint(self._identity.fingerprints, self._identity.trouble)
        return ""

    async def _announce(self, entry: OutboxItem, room: Room) -> str:
        setting = entry.args["setting"]
        after = lifetime(setting, self._limits)
        if entry.kind == "announce" and after == entry.args["was"]:
            return notices.unchanged(setting)
        pending = 0 if after else (await self._memory.pending(room.room_id))[0]
        return notices.announcement(
            await self._name(room, entry.args["sender"]),
            setting,
            self._limits,
            pending=pending,
            permission=await self._permission(room.room_id),
            note=entry.args.get("note", ""),
        )

    async def _status(self, room: Room) -> str:
        pending, due = await self._memory.pending(room.room_id)
        return status.status(
            lifetime(room.setting, self._limits),
            pending=pending,
            next_in=None if due is None else due - self._clock.now(),
            permission=await self._permission(room.room_id),
            reading=await self._memory.gaps.has_gap(room.room_id),
            refused=(await self._memory.refusals(room.room_id))[0],
            trouble="" if self._identity is None else self._identity.trouble,
            files=self._told_of_files(),
            slow=self._told_of_limit(),
        )

    def _told_of_limit(self) -> str:
        behind = None if self._load is None else self._load.behind
        return "" if behind is None else status.slow(behind.late, behind.interval)

    def _told_of_files(self) -> str:
        if self._files is None:
            return status.files_stay()
        return status.files_wait() if self._files.trouble else status.files_go(self._files.server)

    async def _name(self, room: Room, sender: str) -> str:
        name = await self._homeserver.name_of(room.room_id, UserID(sender))
        return notices.person(name, sender)

    async def _permission(self, room_id: RoomID) -> Permission:
        power = await self._homeserver.power(room_id)
        return Permission(have=power.of(self._homeserver.own_id), need=power.to_redact)
