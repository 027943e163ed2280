"""Delivers the outbox: sets lifetimes in rooms, announces, answers, warns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial
from random import Random
from typing import Any, Final, Protocol

from bot.chat.commands import in_thread
from bot.chat.status import Files, Load
from bot.core.default_lifetime import Defaults, defaults_content
from bot.core.lifetimes import LifetimeLimits
from bot.core.outcome_text import describe
from bot.core.outcomes import Done, Failed, Outcome, OutcomeError, Refused, TokenRejectedError
from bot.core.policy import OutboxItem, Outgoing, Room, lifetime, policy_content, read_setting
from bot.core.policy_forward import not_held
from bot.core.retry import POSTPONE_CEILING, backoff, nobody_answered, retry_in
from bot.core.timeline import is_gone
from bot.core.topics import Topic
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from bot.services import notice_writer
from bot.services.clock import Clock
from bot.services.notice_writer import Identity, NoticeWriter
from bot.services.worker import Worker, room_of, run_together

log = logging.getLogger(__name__)

TRIES: Final = 20
"""How often a notice that the homeserver fails on is tried; it stands before the room's others."""
SETTING_WITHIN: Final[Millis] = 90_000
"""How long the writing of one lifetime may take: two requests."""
WORDS_WITHIN: Final[Millis] = 180_000
"""How long one notice may take: what it says is looked up, and in an encrypted room it takes the
keys of all members' devices."""


class Homeserver(notice_writer.Homeserver, Protocol):
    """What this service asks of the homeserver."""

    @property
    def own_id(self) -> UserID: ...  # noqa: D102
    async def policy_event(self, room_id: RoomID) -> Event | None: ...  # noqa: D102
    async def set_policy(self, room_id: RoomID, content: dict[str, Any]) -> Outcome: ...  # noqa: D102
    async def set_defaults(self, room_id: RoomID, content: dict[str, Any]) -> Outcome: ...  # noqa: D102
    async def say(  # noqa: D102
        self, room_id: RoomID, content: dict[str, Any], txn: str, *, encrypted: bool
    ) -> Outcome: ...


class Memory(notice_writer.Memory, Protocol):
    """What this service asks of the store."""

    def listen(self, *topics: Topic) -> asyncio.Event: ...  # noqa: D102
    def digest(self, text: str) -> str: ...  # noqa: D102
    async def next_to_deliver(  # noqa: D102
        self, busy: Collection[RoomID] = (), *, setting: bool | None = None
    ) -> OutboxItem | None: ...
    async def written(self, entry: OutboxItem, digest: str) -> None: ...  # noqa: D102
    async def delivered(self, entry: OutboxItem, now: Millis) -> None: ...  # noqa: D102
    async def deliver_later(self, entry: OutboxItem, until: Millis) -> None: ...  # noqa: D102
    async def room(self, room_id: RoomID) -> Room | None: ...  # noqa: D102
    async def defaults_published(self, room_id: RoomID, told: Defaults) -> None: ...  # noqa: D102
    async def take_back(self, entry: OutboxItem, outgoing: Outgoing) -> None: ...  # noqa: D102


def _passing(outcome: Outcome, entry: OutboxItem) -> bool:
    """Whether the same request may succeed later: for ever, if only the answer was missing."""
    if nobody_answered(outcome):
        return True
    return isinstance(outcome, Failed) and entry.attempts < TRIES


class OutboxDelivery:
    """Works through the outbox, of each room the oldest first. What it does it may do again.

    A lifetime that is to be set waits for no words; that it was set is said as a step of its own.
    """

    def __init__(
        self,
        homeserver: Homeserver,
        memory: Memory,
        clock: Clock,
        *,
        prefix: str,
        limits: LifetimeLimits,
        random: Random,
        identity: Identity | None = None,
        files: Files | None = None,
        load: Load | None = None,
    ) -> None:
        self._homeserver = homeserver
        self._memory = memory
        self._clock = clock
        self._notices = NoticeWriter(
            homeserver,
            memory,
            clock,
            prefix=prefix,
            limits=limits,
            identity=identity,
            files=files,
            load=load,
        )
        self._limits = limits
        self._random = random
        self._wake = memory.listen(Topic.OUTBOX)

    async def run(self) -> None:
        """Deliver until cancelled. Raises `TokenRejectedError`."""
        settings = self._worker("lifetimes to be set", within=SETTING_WITHIN, setting=True)
        said = self._worker("notices", within=WORDS_WITHIN, setting=False)
        await run_together(self._clock, self._wake, settings, said)

    def _worker(self, what: str, *, within: Millis, setting: bool) -> Worker[OutboxItem, RoomID]:
        return Worker(
            self._clock,
            self._wake,
            partial(self._memory.next_to_deliver, setting=setting),
            self.deliver,
            lane=room_of,
            put_off=self._put_off,
            within=within,
            what=what,
        )

    async def deliver(self, entry: OutboxItem) -> str | None:
        """Deliver one entry, or give it up if that can never be, or put it off; return why."""
        room = await self._memory.room(entry.room_id)
        if room is None:
            return None
        try:
            if entry.kind == "set":
                await self._set(entry, room)
                return None
            outcome = await (
                self._tell_default(room) if entry.kind == "default" else self._say(entry, room)
            )
        except OutcomeError as error:
            outcome = error.outcome
        except TokenRejectedError:
            raise
        except Exception as error:  # noqa: BLE001 - it is on the disk, and would come again
            outcome = Failed(status=0, errcode=type(error).__name__)
        if isinstance(outcome, Done):
            await self._memory.delivered(entry, self._clock.now())
        elif _passing(outcome, entry):
            wait = retry_in(outcome, entry.attempts, chance=self._random.random())
            await self._memory.deliver_later(entry, self._clock.now() + wait)
            return describe(outcome)
        elif entry.kind == "default":
            # Asked again when the bot's rights change; until then only the database knows.
            log.info("could not write since when lifetime.default holds in a room")
            await self._memory.delivered(entry, self._clock.now())
        else:
            log.warning("a notice could not be sent (%s)", describe(outcome))
            if entry.kind == "set":
                # The command counted from its own place; what the room's state says counts again.
                place = {key: entry.args[key] for key in ("thread",) if key in entry.args}
                outgoing = Outgoing(key=f"{entry.key}:no", kind="reverted", args=place)
                await self._memory.take_back(entry, outgoing)
            await self._memory.delivered(entry, self._clock.now())
        return None

    async def _put_off(self, entry: OutboxItem, outcome: Outcome) -> str:
        """It took too long, and would again: others of its kind get more turns meanwhile."""
        chance = self._random.random()
        wait = backoff(entry.attempts, ceiling=POSTPONE_CEILING, chance=chance)
        await self._memory.deliver_later(entry, self._clock.now() + wait)
        return describe(outcome)

    async def _set(self, entry: OutboxItem, room: Room) -> None:
        """Write the commanded lifetime into the room's state, unless it was changed meanwhile.

        The room's state is looked at first: after a crash, what is set there may be our own
        writing, or somebody's later one, which is not to be undone. Raises `OutcomeError`.
        """
        current = await self._homeserver.policy_event(entry.room_id)
        wanted = int(entry.args["setting"])
        there, digest, sender = self._read(current)
        # Some homeservers do not tell the sender of state; with them the command is written.
        foreign = sender not in {"", self._homeserver.own_id} and digest != entry.args["base"]
        removed = is_gone(current or {}) and lifetime(room.state_setting, self._limits) is not None
        # What somebody has changed since may have come with the timeline already.
        if foreign or removed or not room.set_by_command:
            await self._memory.take_back(entry, not_held(entry.key, entry.args))
            return
        marks = [(EventID(mark[0]), int(mark[1])) for mark in entry.args.get("marks", [])]
        content = policy_content(wanted, marks)
        same = there == wanted or (wanted == 0 and current is None and self._limits.default is None)
        # Where something else held in between, who walks back later has to know.
        held = same and all(setting == wanted for _, setting in marks)
        if not held and (current is None or current.get("content") != content):
            outcome = await self._homeserver.set_policy(entry.room_id, content)
            if not isinstance(outcome, Done):
                raise OutcomeError(outcome)
            digest = self._digest(outcome.body)
        await self._memory.written(entry, digest)

    async def _tell_default(self, room: Room) -> Outcome:
        """Write into the room's state since when the operator's default holds: disks get lost."""
        if room.defaults == room.published_defaults:
            return Done()
        content = defaults_content(room.defaults)
        outcome = await self._homeserver.set_defaults(room.room_id, content)
        if isinstance(outcome, Done):
            await self._memory.defaults_published(room.room_id, room.defaults)
        return outcome

    def _read(self, current: Event | None) -> tuple[int | None, str, str]:
        if current is None:
            return None, "", ""
        setting, _ = read_setting(current.get("content"))
        return setting, self._digest(current), str(current.get("sender", ""))

    def _digest(self, told: Event) -> str:
        """Return the digest of the event id that the homeserver tells; empty: it tells none."""
        event_id = told.get("event_id")
        return self._memory.digest(event_id) if event_id and isinstance(event_id, str) else ""

    async def _say(self, entry: OutboxItem, room: Room) -> Outcome:
        body = await self._notices.text(entry, room)
        if not body:
            return Done()
        content: dict[str, Any] = {"msgtype": "m.notice", "body": body, "m.mentions": {}}
        txn = "say-" + self._memory.digest(f"{entry.room_id}\n{entry.key}")
        say = partial(self._homeserver.say, room.room_id, encrypted=room.encrypted)
        if "thread" in entry.args:
            outcome = await say(content | in_thread(entry.args["thread"]), txn)
            if not isinstance(outcome, Refused):
                return outcome
            txn += "-outside"  # no thread can begin there: whoever wrote the command made it up
        return await say(content, txn)
