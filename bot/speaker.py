"""Pays what the bot owes to rooms: sets their lifetime, announces, answers, warns."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Any, Final, Protocol

from bot import report, words
from bot.clock import Clock, work_through
from bot.defaults import Defaults, defaults_content
from bot.model import (
    Bounds,
    Done,
    Event,
    EventID,
    Failed,
    Millis,
    Outcome,
    OutcomeError,
    RateLimited,
    RoomID,
    TokenRejectedError,
    Unreachable,
    UserID,
)
from bot.policy import Debt, Owed, Room, lifetime, policy_content, read_setting
from bot.power import Power
from bot.report import Files, Load
from bot.schedule import retry_in
from bot.words import Fingerprints, Standing

log = logging.getLogger(__name__)

TRIES: Final = 20
"""How often a notice that the homeserver fails on is tried; it stands before the room's others."""


PLAIN: Final = {
    "closed": words.closed,
    "missed": words.missed,
    "reverted": words.reverted,
    "unjudged": words.unjudged,
}
"""What is said in the same words always."""
TO_SOMEBODY: Final = {
    "hasty": words.hasty,
    "unsigned": words.unsigned,
    "unheard": words.unheard,
}
"""What needs the name of whom it is said to."""


class Homeserver(Protocol):
    """What the speaker asks of the homeserver."""

    @property
    def own_id(self) -> UserID: ...  # noqa: D102
    async def power(self, room_id: RoomID) -> Power: ...  # noqa: D102
    async def policy_event(self, room_id: RoomID) -> Event | None: ...  # noqa: D102
    async def set_policy(self, room_id: RoomID, content: dict[str, Any]) -> Outcome: ...  # noqa: D102
    async def set_defaults(self, room_id: RoomID, content: dict[str, Any]) -> Outcome: ...  # noqa: D102
    async def name_of(self, room_id: RoomID, user_id: UserID) -> str: ...  # noqa: D102
    async def say(  # noqa: D102
        self, room_id: RoomID, content: dict[str, Any], txn: str, *, encrypted: bool
    ) -> Outcome: ...


class Unread(Protocol):
    """What the speaker asks of the store for gaps."""

    async def reads(self, room_id: RoomID) -> bool: ...  # noqa: D102


class Memory(Protocol):
    """What the speaker asks of the store."""

    @property
    def unread(self) -> Unread: ...  # noqa: D102
    def digest(self, text: str) -> str: ...  # noqa: D102
    async def next_debt(self) -> Debt | None: ...  # noqa: D102
    async def paid(self, debt: Debt, now: Millis) -> None: ...  # noqa: D102
    async def owed_later(self, debt: Debt, until: Millis) -> None: ...  # noqa: D102
    async def room(self, room_id: RoomID) -> Room | None: ...  # noqa: D102
    async def default_told(self, room_id: RoomID, told: Defaults) -> None: ...  # noqa: D102
    async def pending(self, room_id: RoomID) -> tuple[int, Millis | None]: ...  # noqa: D102
    async def refusals(self, room_id: RoomID) -> tuple[int, Millis]: ...  # noqa: D102
    async def revert(  # noqa: D102
        self, debt: Debt, setting: int | None, digest: str, owed: Owed
    ) -> None: ...


class Identity(Protocol):
    """What the speaker asks of the bot's identity."""

    @property
    def trouble(self) -> str: ...  # noqa: D102
    @property
    def fingerprints(self) -> Fingerprints: ...  # noqa: D102


def _passing(outcome: Outcome, debt: Debt) -> bool:
    """Whether the same request may succeed later: for ever, if only the answer was missing."""
    if isinstance(outcome, RateLimited | Unreachable):
        return True
    return isinstance(outcome, Failed) and debt.attempts < TRIES


class Speaker:
    """Works through the debts, of each room the oldest first. What it does it may do again."""

    def __init__(
        self,
        homeserver: Homeserver,
        memory: Memory,
        clock: Clock,
        *,
        prefix: str,
        bounds: Bounds,
        random: Random,
        identity: Identity | None = None,
        files: Files | None = None,
        load: Load | None = None,
    ) -> None:
        self._homeserver = homeserver
        self._memory = memory
        self._clock = clock
        self._prefix = prefix
        self._bounds = bounds
        self._random = random
        self._identity = identity
        self._files = files
        self._load = load
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Pay debts until cancelled. Raises `TokenRejectedError`."""
        await work_through(self._clock, self.wake, self._memory.next_debt, self.pay)

    async def pay(self, debt: Debt) -> None:
        """Pay one debt, or put it off, or give it up where it can never be paid."""
        room = await self._memory.room(debt.room_id)
        if room is None:
            return
        try:
            if debt.kind == "set" and not await self._set(debt):
                return
            outcome = await (
                self._tell_default(room) if debt.kind == "default" else self._say(debt, room)
            )
        except OutcomeError as error:
            outcome = error.outcome
        except TokenRejectedError:
            raise
        except Exception as error:  # noqa: BLE001 - it is on the disk, and would come again
            outcome = Failed(status=0, errcode=type(error).__name__)
        if isinstance(outcome, Done):
            await self._memory.paid(debt, self._clock.now())
        elif _passing(outcome, debt):
            wait = retry_in(outcome, debt.attempts, chance=self._random.random())
            await self._memory.owed_later(debt, self._clock.now() + wait)
        elif debt.kind == "default":
            # Asked again when the bot's rights change; until then only the database knows.
            log.info("could not write since when lifetime.default holds in a room")
            await self._memory.paid(debt, self._clock.now())
        else:
            log.warning("a notice could not be sent (%s)", type(outcome).__name__)
            await self._memory.paid(debt, self._clock.now())

    async def _set(self, debt: Debt) -> bool:
        """Write the commanded lifetime into the room's state; `False` when there is no more to say.

        The room's state is looked at first: after a crash, what is set there may be our own
        writing, or somebody's later one, which is not to be undone.
        """
        current = await self._homeserver.policy_event(debt.room_id)
        wanted = int(debt.args["setting"])
        there, digest, sender = self._read(current)
        # Some homeservers do not tell the sender of state; with them the command is written.
        foreign = sender not in {"", self._homeserver.own_id}
        if current is not None and digest != debt.args["base"] and foreign:
            await self._memory.paid(debt, self._clock.now())
            return False
        marks = [(EventID(mark[0]), int(mark[1])) for mark in debt.args.get("marks", [])]
        content = policy_content(wanted, marks)
        same = there == wanted or (wanted == 0 and current is None and self._bounds.default is None)
        # Where something else held in between, who walks back later has to know.
        if same and all(setting == wanted for _, setting in marks):
            return True
        if current is not None and current.get("content") == content:
            return True
        outcome = await self._homeserver.set_policy(debt.room_id, content)
        if isinstance(outcome, Done):
            return True
        if _passing(outcome, debt):
            raise OutcomeError(outcome)
        # The command counted from its own place; what the room's state says counts again.
        owed = Owed(key=f"{debt.key}:no", kind="reverted", args={})
        await self._memory.revert(debt, there, digest, owed)
        return False

    async def _tell_default(self, room: Room) -> Outcome:
        """Write into the room's state since when the operator's default holds: disks get lost."""
        if room.defaults == room.told_defaults:
            return Done()
        content = defaults_content(room.defaults)
        outcome = await self._homeserver.set_defaults(room.room_id, content)
        if isinstance(outcome, Done):
            await self._memory.default_told(room.room_id, room.defaults)
        return outcome

    def _read(self, current: Event | None) -> tuple[int | None, str, str]:
        if current is None:
            return None, "", ""
        setting, _ = read_setting(current.get("content"))
        digest = self._memory.digest(str(current.get("event_id", "")))
        return setting, digest, str(current.get("sender", ""))

    async def _say(self, debt: Debt, room: Room) -> Outcome:
        body = await self._text(debt, room)
        if not body:
            return Done()
        content = {"msgtype": "m.notice", "body": body, "m.mentions": {}}
        txn = "say-" + self._memory.digest(f"{debt.room_id}\n{debt.key}")
        return await self._homeserver.say(room.room_id, content, txn, encrypted=room.encrypted)

    async def _text(self, debt: Debt, room: Room) -> str:
        args = debt.args
        match debt.kind:
            case "welcome":
                now = lifetime(room.setting, self._bounds)
                standing = await self._standing(room.room_id)
                return words.welcome(self._prefix, standing, now, args.get("back", 0))
            case "set" | "changed":
                return await self._announce(debt, room)
            case "suspended":
                return words.suspended(Standing(need=args["need"], have=args["have"]))
            case "stuck":
                return words.stuck(args["older_than"])
            case "resumed":
                return words.resumed((await self._memory.pending(room.room_id))[0])
            case "refused":
                name = await self._name(room, args["sender"])
                return words.refused(name, args["need"], args["have"])
            case kind if kind in TO_SOMEBODY:
                return TO_SOMEBODY[kind](await self._name(room, args["sender"]))
            case "powerless":
                return words.powerless(args["need"], args["have"])
            case _:
                return await self._answer(debt, room)

    async def _answer(self, debt: Debt, room: Room) -> str:
        match debt.kind:
            case kind if kind in PLAIN:
                return PLAIN[kind]()
            case "moved":
                now = lifetime(debt.args["setting"], self._bounds)
                return words.moved(now, await self._standing(room.room_id))
            case "needs":
                standing = Standing(need=debt.args["need"], have=debt.args["have"])
                return words.needs(lifetime(debt.args["setting"], self._bounds), standing)
            case "outside":
                return words.outside(self._prefix, self._bounds)
            case "invalid":
                return words.invalid(self._prefix, self._bounds, debt.args.get("reason", ""))
            case "help":
                return words.help_text(self._prefix, self._bounds)
            case "status":
                return await self._status(room)
            case "fingerprint" if self._identity is not None:
                return words.fingerprint(self._identity.fingerprints, self._identity.trouble)
        return ""

    async def _announce(self, debt: Debt, room: Room) -> str:
        setting = debt.args["setting"]
        after = lifetime(setting, self._bounds)
        if debt.kind == "set" and after == debt.args["was"]:
            return words.unchanged(setting)
        pending = 0 if after else (await self._memory.pending(room.room_id))[0]
        return words.announcement(
            await self._name(room, debt.args["sender"]),
            setting,
            self._bounds,
            pending=pending,
            standing=await self._standing(room.room_id),
            note=debt.args.get("note", ""),
        )

    async def _status(self, room: Room) -> str:
        pending, due = await self._memory.pending(room.room_id)
        return report.status(
            lifetime(room.setting, self._bounds),
            pending=pending,
            next_in=None if due is None else due - self._clock.now(),
            standing=await self._standing(room.room_id),
            reading=await self._memory.unread.reads(room.room_id),
            refused=(await self._memory.refusals(room.room_id))[0],
            trouble="" if self._identity is None else self._identity.trouble,
            files=self._told_of_files(),
            slow=self._told_of_limit(),
        )

    def _told_of_limit(self) -> str:
        behind = None if self._load is None else self._load.behind
        return "" if behind is None else report.slow(behind.late, behind.interval)

    def _told_of_files(self) -> str:
        if self._files is None:
            return report.files_stay()
        return report.files_wait() if self._files.trouble else report.files_go(self._files.server)

    async def _name(self, room: Room, sender: str) -> str:
        return await self._homeserver.name_of(room.room_id, UserID(sender))

    async def _standing(self, room_id: RoomID) -> Standing:
        power = await self._homeserver.power(room_id)
        return Standing(have=power.of(self._homeserver.own_id), need=power.to_redact)
