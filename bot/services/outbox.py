"""Delivers the outbox: sets lifetimes in rooms, announces, answers, warns."""

from __future__ import annotations

import logging
from functools import partial
from random import Random
from typing import Any, Final, Protocol

from bot.chat.command_text import in_thread
from bot.chat.status import Files, Load
from bot.core.default_lifetime import defaults_content
from bot.core.lifetimes import LifetimeLimits
from bot.core.outbox import (
    Announce,
    Notice,
    OutboxItem,
    Outgoing,
    SetPolicy,
    WriteDefault,
    WriteRefused,
)
from bot.core.outcome_text import describe
from bot.core.outcomes import Done, Failed, Outcome, OutcomeError, Refused, TokenRejectedError
from bot.core.policy import Room, lifetime, policy_content, read_setting
from bot.core.policy_forward import overtaken
from bot.core.ports.homeserver import RoomState, Speech
from bot.core.ports.reading import DefaultStore, OutboxStore, SettingStore
from bot.core.ports.rooms import Digests, RoomStore, Wakeups
from bot.core.retry import POSTPONE_CEILING, backoff, nobody_answered, retry_in
from bot.core.timeline import is_gone
from bot.core.topics import Topic
from bot.core.types import Event, Millis, RoomID
from bot.services.clock import Clock
from bot.services.notice_writer import Identity, NoticeStore, NoticeWriter
from bot.services.worker import Worker, room_of, run_together

log = logging.getLogger(__name__)

TRIES: Final = 20
"""How often a notice that the homeserver fails on is tried; it stands before the room's others."""
SETTING_WITHIN: Final[Millis] = 90_000
"""How long the writing of one lifetime may take: two requests."""
WORDS_WITHIN: Final[Millis] = 180_000
"""How long one notice may take: what it says is looked up, and in an encrypted room it takes the
keys of all members' devices."""


class OutboxHomeserver(RoomState, Speech, Protocol):
    """What this service asks of the homeserver."""


class DeliveryStore(
    NoticeStore,
    Wakeups,
    Digests,
    OutboxStore,
    SettingStore,
    DefaultStore,
    RoomStore,
    Protocol,
):
    """What this service asks of the store."""


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
        homeserver: OutboxHomeserver,
        store: DeliveryStore,
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
        self._store = store
        self._clock = clock
        self._notices = NoticeWriter(
            homeserver,
            store,
            clock,
            prefix=prefix,
            limits=limits,
            identity=identity,
            files=files,
            load=load,
        )
        self._limits = limits
        self._random = random
        self._wake = store.listen(Topic.OUTBOX)

    async def run(self) -> None:
        """Deliver until cancelled. Raises `TokenRejectedError`."""
        settings = self._worker("lifetimes to be set", within=SETTING_WITHIN, setting=True)
        words = self._worker("notices", within=WORDS_WITHIN, setting=False)
        await run_together(self._clock, self._wake, settings, words)

    def _worker(self, what: str, *, within: Millis, setting: bool) -> Worker[OutboxItem, RoomID]:
        return Worker(
            self._clock,
            self._wake,
            partial(self._store.next_to_deliver, setting=setting),
            self.deliver,
            lane=room_of,
            put_off=self._put_off,
            within=within,
            what=what,
        )

    async def deliver(self, entry: OutboxItem) -> str | None:
        """Deliver one entry, or give it up if that can never be, or put it off; return why."""
        room = await self._store.room(entry.room_id)
        if room is None:
            return None
        try:
            match entry.content:
                case SetPolicy() as policy:
                    await self._set(entry, policy, room)
                    return None
                case WriteDefault():
                    outcome = await self._write_default(room)
                case notice:
                    outcome = await self._send(entry, notice, room)
        except OutcomeError as error:
            outcome = error.outcome
        except TokenRejectedError:
            raise
        except Exception as error:  # noqa: BLE001 - it is on the disk, and would come again
            outcome = Failed(status=0, errcode=type(error).__name__)
        if isinstance(outcome, Done):
            await self._store.delivered(entry, self._clock.now())
        elif _passing(outcome, entry):
            wait = retry_in(outcome, entry.attempts, chance=self._random.random())
            await self._store.deliver_later(entry, self._clock.now() + wait)
            return describe(outcome)
        else:
            await self._give_up(entry, outcome)
        return None

    async def _give_up(self, entry: OutboxItem, outcome: Outcome) -> None:
        """Forget an entry that can never be delivered."""
        if isinstance(entry.content, WriteDefault):
            # Asked again when the bot's rights change; until then only the database knows.
            log.info("could not write since when lifetime.default holds in a room")
        else:
            log.warning("a notice could not be sent (%s)", describe(outcome))
            if isinstance(entry.content, SetPolicy):
                # The command counted from its own place; what the room's state says counts again.
                key, thread = f"{entry.key}:no", entry.thread
                outgoing = Outgoing(key=key, content=WriteRefused(), thread=thread)
                await self._store.take_back(entry, outgoing)
        await self._store.delivered(entry, self._clock.now())

    async def _put_off(self, entry: OutboxItem, outcome: Outcome) -> str:
        """It took too long, and would again: others of its kind get more turns meanwhile."""
        chance = self._random.random()
        wait = backoff(entry.attempts, ceiling=POSTPONE_CEILING, chance=chance)
        await self._store.deliver_later(entry, self._clock.now() + wait)
        return describe(outcome)

    async def _set(self, entry: OutboxItem, policy: SetPolicy, room: Room) -> None:
        """Write the commanded lifetime into the room's state, unless it was changed meanwhile.

        The room's state is looked at first: after a crash, what is set there may be our own
        writing, or somebody's later one, which is not to be undone. Raises `OutcomeError`.
        """
        current = await self._homeserver.policy_event(entry.room_id)
        wanted = policy.setting
        there, digest, sender = self._read(current)
        # Some homeservers do not tell the sender of state; with them the command is written.
        foreign = sender not in {"", self._homeserver.own_id} and digest != policy.base
        removed = is_gone(current or {}) and lifetime(room.state_setting, self._limits) is not None
        # What somebody has changed since may have come with the timeline already.
        if foreign or removed or not room.set_by_command:
            await self._store.take_back(entry, overtaken(entry.key, policy.sender, entry.thread))
            return
        content = policy_content(wanted, policy.marks)
        same = there == wanted or (wanted == 0 and current is None and self._limits.default is None)
        # Where something else held in between, who walks back later has to know.
        held = same and all(setting == wanted for _, setting in policy.marks)
        if not held and (current is None or current.get("content") != content):
            outcome = await self._homeserver.set_policy(entry.room_id, content)
            if not isinstance(outcome, Done):
                raise OutcomeError(outcome)
            digest = self._digest(outcome.body)
        notice = Announce(setting=wanted, sender=policy.sender, was=policy.was)
        await self._store.written(entry, digest, notice)

    async def _write_default(self, room: Room) -> Outcome:
        """Write into the room's state since when the operator's default holds: disks get lost."""
        if room.defaults == room.published_defaults:
            return Done()
        content = defaults_content(room.defaults)
        outcome = await self._homeserver.set_defaults(room.room_id, content)
        if isinstance(outcome, Done):
            await self._store.defaults_published(room.room_id, room.defaults)
        return outcome

    def _read(self, current: Event | None) -> tuple[int | None, str, str]:
        if current is None:
            return None, "", ""
        setting, _ = read_setting(current.get("content"))
        return setting, self._digest(current), str(current.get("sender", ""))

    def _digest(self, told: Event) -> str:
        """Return the digest of the event id that the homeserver tells; empty: it tells none."""
        event_id = told.get("event_id")
        return self._store.digest(event_id) if event_id and isinstance(event_id, str) else ""

    async def _send(self, entry: OutboxItem, notice: Notice, room: Room) -> Outcome:
        body = await self._notices.text(notice, room)
        if not body:
            return Done()
        content: dict[str, Any] = {"msgtype": "m.notice", "body": body, "m.mentions": {}}
        txn = "say-" + self._store.digest(f"{entry.room_id}\n{entry.key}")
        say = partial(self._homeserver.say, room.room_id, encrypted=room.encrypted)
        if entry.thread:
            outcome = await say(content | in_thread(entry.thread), txn)
            if not isinstance(outcome, Refused):
                return outcome
            txn += "-outside"  # no thread can begin there: whoever wrote the command made it up
        return await say(content, txn)
