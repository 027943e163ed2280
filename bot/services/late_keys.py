"""Waits for keys that come after their message, and asks for those that do not come."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Protocol

from bot.chat.command_text import thread_of
from bot.core.commands import Command
from bot.core.json_shape import as_object, inside
from bot.core.outbox import KeyNeverCame
from bot.core.outcome_text import describe
from bot.core.outcomes import Forbidden, Outcome, OutcomeError, TokenRejectedError
from bot.core.ports.homeserver import RoomKeys
from bot.core.ports.reading import KeyStore
from bot.core.ports.rooms import Wakeups
from bot.core.rate_limits import HOUR, RateLimit
from bot.core.timeline import Item, Undecryptable
from bot.core.topics import Topic
from bot.core.types import Event, EventID, Millis, RoomID
from bot.services.clock import Clock
from bot.services.event_reader import EventReader
from bot.services.timeline_writer import TimelineWriter
from bot.services.worker import Worker

log = logging.getLogger(__name__)

ASK_AFTER: Final[Millis] = 5_000
"""A key may be that late by itself; then its maker is asked for it."""
ASK_AGAIN_AFTER: Final[Millis] = 12_000
"""The answer may have come by a channel that was lost, and has been made anew since."""
GIVE_UP_AFTER: Final[Millis] = 60_000
MEET_WITHIN: Final[Millis] = 3_600_000
"""How long somebody's homeserver may take to say whose device a message is from."""
WITHIN: Final[Millis] = 90_000
"""How long the messages of one room may take in one go."""
WIDTH: Final = 4
SLOW: Final = 4
MOST_ASKED_TWICE: Final = 1_000
"""KeyStore that are asked for a second time, of those that are waited for now."""
ASKED_TO_REPEAT: Final = 5
"""Messages without a key of which one sender is told in an hour; anybody can make any number."""


class LateKeysStore(Wakeups, Protocol):
    """What this service asks of the store."""

    @property
    def keys(self) -> KeyStore:
        """Room keys."""


Waiting = tuple[Undecryptable, bool]
"""A message, and whether its key was asked for."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """The messages of a room that wait for keys."""

    room_id: RoomID
    retry_at: Millis
    """When there is something to be done for the first of them."""
    waiting: list[Waiting] = field(default_factory=list)


class LateKeys:
    """Reads what could not be read at first, once its key is there; rooms beside one another."""

    def __init__(
        self,
        homeserver: RoomKeys,
        store: LateKeysStore,
        timeline: TimelineWriter,
        reader: EventReader,
        clock: Clock,
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._timeline = timeline
        self._reader = reader
        self._clock = clock
        self._due: dict[RoomID, Turn] = {}
        """Rooms that were found to have something to be done."""
        self._later: dict[tuple[RoomID, EventID], Millis] = {}
        """Messages that are under way or were put off: nothing more is done for them before."""
        self._asked_twice: set[tuple[str, str]] = set()
        self._threads: dict[tuple[str, str], EventID] = {}
        """Where to answer to a message whose key was asked for, if that is in a thread."""
        self._told = RateLimit(ASKED_TO_REPEAT, HOUR)
        self._wake = store.listen(Topic.UNDECRYPTABLE, Topic.ROOM_KEYS, Topic.GAPS)

    async def run(self) -> None:
        """Wait for keys until cancelled. Raises `TokenRejectedError`."""
        await Worker(
            self._clock,
            self._wake,
            self.next_turn,
            self.go_through,
            lane=lambda turn: turn.room_id,
            put_off=self._put_off,
            within=WITHIN,
            what="messages whose keys come late",
            width=WIDTH,
            slow=SLOW,
        ).run()

    async def next_turn(self, busy: Collection[RoomID] = ()) -> Turn | None:
        """Return what is to be gone through first, not of `busy` rooms, and when, keys or not."""
        for room_id in self._due.keys() - set(busy):
            return self._due.pop(room_id)
        waiting, turns = await self._store.keys.waiting(), dict[RoomID, Turn]()
        now = self._clock.now()
        for room_id, undecryptable, was_asked in waiting:
            if room_id in busy:
                continue
            when = self._when(room_id, undecryptable, was_asked=was_asked)
            turn = turns.setdefault(room_id, Turn(room_id=room_id, retry_at=when))
            turn.retry_at = min(turn.retry_at, when)
            turn.waiting.append((undecryptable, was_asked))
        self._asked_twice &= {_key_of(undecryptable) for _, undecryptable, _ in waiting}
        self._later = {key: at for key, at in self._later.items() if at > now}
        # The others are taken from here next: all that waits is not read anew for each room.
        self._due = {turn.room_id: turn for turn in turns.values() if turn.retry_at <= now}
        first = min(turns.values(), key=lambda turn: turn.retry_at, default=None)
        if first is not None:
            self._due.pop(first.room_id, None)
        return first

    async def go_through(self, turn: Turn) -> str | None:
        """Do what can be done for a room's messages; return why one is put off, if one is."""
        room_id, reason = turn.room_id, None
        # One key opens many messages: it is asked for once while any of them waits.
        asked = {_key_of(undecryptable) for undecryptable, was_asked in turn.waiting if was_asked}
        for undecryptable, was_asked in turn.waiting:
            now = self._clock.now()
            if self._when(room_id, undecryptable, was_asked=was_asked) > now:
                continue
            # Should it be this one that takes too long, the others come first.
            self._later[room_id, undecryptable.event_id] = now + WITHIN + ASK_AFTER
            try:
                await self._look_at(room_id, undecryptable, asked, was_asked=was_asked)
            except OutcomeError as error:
                too_late = self._clock.now() >= undecryptable.read_at + MEET_WITHIN
                if not (too_late or isinstance(error.outcome, Forbidden)):
                    reason = describe(error.outcome)
                    self._later[room_id, undecryptable.event_id] = self._clock.now() + ASK_AFTER
                    continue
                await self._give_up(room_id, undecryptable)
            except TokenRejectedError:
                raise
            except Exception as error:  # noqa: BLE001 - it is on the disk, and would come again
                log.warning("a late message is given up (%s)", type(error).__name__)
                await self._give_up(room_id, undecryptable)
            self._later.pop((room_id, undecryptable.event_id), None)
        return reason

    async def _put_off(self, _: Turn, outcome: Outcome) -> str:
        """The message that took too long is put off already."""
        return describe(outcome)

    def _when(self, room_id: RoomID, undecryptable: Undecryptable, *, was_asked: bool) -> Millis:
        """Return when there is something to be done for a message."""
        at = undecryptable.read_at + (ASK_AGAIN_AFTER if was_asked else ASK_AFTER)
        if was_asked and not self._may_ask_again(undecryptable):
            at = undecryptable.read_at + GIVE_UP_AFTER
        if self._homeserver.has_key(room_id, undecryptable.session_id):
            at = 0
        # No longer than that: the clock may have been set back meanwhile.
        latest = self._clock.now() + WITHIN + ASK_AFTER
        return max(at, min(self._later.get((room_id, undecryptable.event_id), 0), latest))

    async def _look_at(
        self,
        room_id: RoomID,
        undecryptable: Undecryptable,
        asked: set[tuple[str, str]],
        *,
        was_asked: bool,
    ) -> None:
        """Do what it is time for with one message."""
        if self._homeserver.has_key(room_id, undecryptable.session_id):
            await self._read(room_id, undecryptable)
        elif self._clock.now() >= undecryptable.read_at + GIVE_UP_AFTER:
            await self._give_up(room_id, undecryptable)
        elif was_asked:
            await self._once_more(room_id, undecryptable)
        else:
            if _key_of(undecryptable) not in asked:
                asked.add(_key_of(undecryptable))
                await self._ask(room_id, undecryptable)
            await self._store.keys.key_requested(room_id, undecryptable.event_id)

    async def _once_more(self, room_id: RoomID, undecryptable: Undecryptable) -> None:
        """Ask a second time for a key that does not come."""
        if self._may_ask_again(undecryptable):
            self._asked_twice.add(_key_of(undecryptable))
            await self._ask(room_id, undecryptable, again=True)

    def _may_ask_again(self, undecryptable: Undecryptable) -> bool:
        asked = self._asked_twice
        return _key_of(undecryptable) not in asked and len(asked) < MOST_ASKED_TWICE

    async def _read(self, room_id: RoomID, undecryptable: Undecryptable) -> None:
        """The key is there: do what the message says, from its own place on."""
        event = await self._homeserver.event(room_id, undecryptable.event_id)
        items: list[Item] = []
        if event is not None and self._went(event):
            # Its lifetime was over before the key came: nobody knows whether it was a command.
            await self._give_up(room_id, undecryptable)
            return
        if event is not None:
            now = self._clock.now()
            items = await self._reader.items(
                room_id,
                [event],
                encrypted=True,
                live=False,
                since=undecryptable.read_at,
                now=now,
                meet=True,
            )
        await self._timeline.read_late(room_id, undecryptable, items, self._clock.now())

    def _went(self, event: Event) -> bool:
        """Whether the bot itself has redacted the message."""
        redaction = inside(event, "unsigned", "redacted_because")
        return isinstance(redaction, dict) and self._reader.is_own(redaction)

    async def _ask(
        self, room_id: RoomID, undecryptable: Undecryptable, *, again: bool = False
    ) -> None:
        event = await self._homeserver.event(room_id, undecryptable.event_id)
        if event is None:
            return
        root = thread_of(as_object(event.get("content")), None)
        if root is not None:
            if len(self._threads) >= MOST_ASKED_TWICE:
                self._threads.clear()
            self._threads[_key_of(undecryptable)] = root
        await self._homeserver.ask_for_key(room_id, event, again=again)

    async def _give_up(self, room_id: RoomID, undecryptable: Undecryptable) -> None:
        """Ask for the message again, once for each key: nobody knows whether it was a command.

        What is certainly none is given up in silence: only a file that it shows may stay.
        """
        digest = self._reader.digest(f"key never came:{undecryptable.session_id}")
        if undecryptable.not_a_command or not self._told.admits(
            undecryptable.sender, digest, self._clock.now()
        ):
            await self._timeline.read_late(room_id, undecryptable, [], self._clock.now())
            return
        root = self._threads.pop(_key_of(undecryptable), None)
        command = Command(
            digest=digest,
            sender=undecryptable.sender,
            effect=KeyNeverCame(sender=undecryptable.sender),
            thread=root or "",
        )
        await self._timeline.read_late(room_id, undecryptable, [command], self._clock.now())


def _key_of(undecryptable: Undecryptable) -> tuple[str, str]:
    """Return what names a key: anybody can write another's session id into a message."""
    return undecryptable.sender, undecryptable.session_id
