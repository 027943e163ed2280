"""Sleeps to the earliest due time and redacts, until the homeserver has confirmed each one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from random import Random
from typing import Final, Protocol

from bot.core.in_flight import InFlight, Lane, Lanes
from bot.core.outcome_text import describe
from bot.core.outcomes import (
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    OutcomeError,
    RateLimited,
    Unreachable,
)
from bot.core.ports.homeserver import Redactions
from bot.core.ports.rooms import ReviewStore, Wakeups
from bot.core.ports.timers import RelationStore, TimerStore
from bot.core.redaction import (
    SPARE,
    Inspect,
    Pause,
    Postpone,
    Sent,
    Step,
    may_change,
    next_step,
    transaction_id,
)
from bot.core.retry import POSTPONE_CEILING, backoff
from bot.core.throughput import Behind, Throughput
from bot.core.timers import Timer
from bot.core.topics import Topic
from bot.core.types import Millis
from bot.services.clock import Clock
from bot.services.due_timers import AHEAD, Ahead, next_timers
from bot.services.redaction_log import RedactionLog

log = logging.getLogger(__name__)

FRESH: Final[Millis] = 200
"""What is later than this belongs to the backlog: what is due now goes before it.

Not while a rate limit holds, where nearly everything is later: then the oldest goes first.
"""
WAIT_FOR_CHILDREN: Final[Millis] = 10_000
"""How long a message waits, once it was looked at, for what belongs to it."""
LOOK_EVERY: Final[Millis] = 1_000
AGAIN: Final = 2
"""A message whose request goes unanswered so often may itself be the reason."""

REFUSALS: Final = 3
"""So many refusals in a row are not about a power that was just taken or given."""
REFUSED_AGAIN: Final[Millis] = 3_600_000
"""A room with messages that are too old for the homeserver is tried at least this often."""


class RedactorStore(Wakeups, TimerStore, ReviewStore, Protocol):
    """What this service asks of the store."""

    @property
    def relations(self) -> RelationStore:
        """What belongs to messages."""


class Redactor:
    """The only one that waits for timers, and the only one that redacts."""

    def __init__(
        self, homeserver: Redactions, store: RedactorStore, clock: Clock, *, random: Random
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._clock = clock
        self._random = random
        self._wake = store.listen(Topic.TIMERS, Topic.ACCESS)
        self._clock_set = store.listen(Topic.CLOCK)
        self._stopping = False
        self._in_flight = InFlight()
        self._looked_at: dict[int, Millis] = {}
        """When messages were first looked at that more belongs to than one answer says."""
        self._pace = Throughput()
        self._lanes = Lanes()
        self._last_room = 0
        self._fell_behind_at: Millis = 0
        """When some were late enough to belong to the backlog."""
        self._ahead = Ahead(store)
        self._log = RedactionLog(store, self._pace)

    def stop(self) -> None:
        """Take nothing new; `run` returns when the requests in flight are answered."""
        self._stopping = True
        self._wake.set()

    def _heed_clock(self) -> None:
        """See that no pause by an old clock holds."""
        if not self._clock_set.is_set():
            return
        self._clock_set.clear()
        self._pace.clock_was_set()
        self._in_flight.end_waits()
        self._log.clock_was_set(self._clock.now())

    @property
    def behind(self) -> Behind | None:
        """While the homeserver lets through less than is due: how much."""
        return self._log.behind

    async def run(self) -> None:
        """Redact what is due until `stop`. Raises `TokenRejectedError`."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._wake.clear()
                self._heed_clock()
                until = await self._begin(group)
                await self._log.say(self._clock.now())
                await self._clock.wait(self._wake, until)

    async def _begin(self, group: asyncio.TaskGroup) -> Millis | None:
        """Start as many redactions as may be in flight; return when to look again."""
        now = self._clock.now()
        if now < self._pace.paused_until:
            return self._pace.paused_until
        waits = self._in_flight.end_waits(now)
        first = await self._store.first_due()
        if first is None or first > now + AHEAD:
            return first if first is None else first - AHEAD
        if first > now:
            await self._ahead.look(now, first)
            return first
        late = await self._store.first_due(backlog=True)
        if late is None or late > now:  # else the backlog may have its turn first
            self._start(group, self._ahead.take(now), now, Lane(backlog=False))
        await self._let_late_ones_wait(now)
        busy = self._in_flight.rooms
        for lane in self._lanes.order(limited=self._pace.limited, busy=busy):
            at = await self._store.first_due(backlog=lane.backlog)
            if at is not None and at <= now:
                await self._begin_lane(group, now, lane)
            if now < self._pace.paused_until:
                break  # one that began a moment ago has failed
        # All that is due by now is at work or will be looked at when something finishes.
        if len(self._in_flight) >= self._pace.width + SPARE:
            return None
        following = await self._store.next_due(now, self._in_flight.rooms.values())
        if following is not None and following <= now + AHEAD:
            await self._ahead.look(now, following)
        return min((one for one in (waits, following) if one is not None), default=None)

    async def _let_late_ones_wait(self, now: Millis) -> None:
        """Let what is late belong to the backlog; a portion at a time, however much that is."""
        if self._pace.limited or 0 <= now - self._fell_behind_at < FRESH:
            return
        live = await self._store.first_due(backlog=False)
        if live is not None and live < now - FRESH:
            self._fell_behind_at = now
            await self._store.fall_behind(now - FRESH)

    async def _begin_lane(self, group: asyncio.TaskGroup, now: Millis, lane: Lane) -> None:
        """Start what may begin of the live messages, or of the backlog."""
        vacancy, last = self._in_flight.vacancy(lane, self._pace.width), self._last_room
        async for ready in next_timers(self._store, now, last, vacancy, backlog=lane.backlog):
            if now < self._pace.paused_until:
                return
            lane = self._start(group, ready, now, lane)
            if self._in_flight.vacancy(lane, self._pace.width).space <= 0:
                return

    def _start(self, group: asyncio.TaskGroup, ready: list[Timer], now: Millis, lane: Lane) -> Lane:
        """Start as many of these as may begin; return how many more of the lane may."""
        most = lane.most
        for timer in self._in_flight.begin(ready, now, lane, self._pace.width):
            self._last_room = timer.room
            most -= 1
            if lane.turn:
                self._lanes.begun(timer)
            group.create_task(self._work(timer))
        return replace(lane, most=most)

    async def _work(self, timer: Timer) -> None:
        """See one timer through one request, whatever comes of it."""
        try:
            if timer.redaction_sent_at is not None:
                await self._check(timer)
            elif timer.relations_loaded or await self._look(timer):
                await self._redact(timer)
        finally:
            self._in_flight.end(timer)
            self._wake.set()

    async def _look(self, timer: Timer) -> bool:
        """Find what belongs to the message and has no timer; whether the message goes now.

        Before the redaction: afterwards the homeserver no longer lists its edits, and shows them
        all the same.
        """
        try:
            children, all_of_them = await self._homeserver.relations(timer.room_id, timer.event_id)
        except OutcomeError as error:
            outcome = error.outcome
            if may_change(outcome, timer.attempts):
                await self._later(timer, outcome)
                return False
            log.warning("what belongs to a message is not known (%s)", describe(outcome))
            return True
        now = self._clock.now()
        await self._store.relations.found(timer, children, loaded=all_of_them)
        if not children or all_of_them:
            return not children  # what was found goes first; then nothing is looked up again
        if now - self._looked_at.setdefault(timer.id, now) > WAIT_FOR_CHILDREN:
            return True  # some add for ever
        await self._store.postpone(timer, now + LOOK_EVERY)
        return False

    async def _redact(self, timer: Timer) -> None:
        self._looked_at.pop(timer.id, None)
        txn = transaction_id(timer.event_id, timer.redaction_round)
        outcome = await self._homeserver.redact(timer.room_id, timer.event_id, txn)
        now = self._clock.now()
        match self._next_step(outcome, timer, now):
            case Sent(check_at=check_at):
                self._pace.accepted(now, begun=self._in_flight.begun(timer))
                self._lanes.accepted(timer)
                self._log.redacted(late=now - timer.due)
                await self._store.sent(timer, now, check_at)
            case Pause(until=until):
                self._pause(timer, outcome, until, now)
                if isinstance(outcome, Unreachable):
                    # Should it be this message that is never answered, others come first.
                    await self._store.postpone(timer, until)
            case Postpone(until=until):
                self._log.tally.waited += 1
                log.warning("a redaction failed (%s)", describe(outcome))
                await self._store.postpone(timer, until)
                if isinstance(outcome, Failed):
                    self._pace.failed(now)
            case Inspect(until=until):
                self._log.tally.waited += 1
                await self._inspect(timer, outcome, until)

    async def _later(self, timer: Timer, outcome: Outcome) -> None:
        """A question about the message was not answered: ask again later."""
        now = self._clock.now()
        step = self._next_step(outcome, timer, now)
        if isinstance(step, Pause):
            self._pause(timer, outcome, step.until, now)
        if not isinstance(outcome, RateLimited) and not isinstance(step, Sent):
            await self._store.postpone(timer, step.until)

    async def _inspect(self, timer: Timer, outcome: Outcome, until: Millis) -> None:
        """The event or the room may be the reason: look at both before going on."""
        # First of all it may be the room that is not there, which the review finds out.
        elsewhere = isinstance(outcome, NotFound) and timer.attempts < REFUSALS
        gone = None if elsewhere else await self._gone(timer)
        if gone:
            await self._store.drop(timer)
            return
        older_than = outcome.older_than if isinstance(outcome, Forbidden) else 0
        if gone is False and (older_than or timer.refused or timer.attempts >= REFUSALS):
            # Whether it is for want of power, the review finds out; if not, it tells the room.
            if older_than:
                until = self._clock.now() + int(REFUSED_AGAIN * (0.5 + self._random.random() / 2))
            await self._store.refused(timer, until, older_than)
        else:
            await self._store.postpone(timer, until)
        await self._store.ask_review(timer.room_id)
        if timer.attempts == REFUSALS and not older_than:
            log.warning("a message cannot be redacted (%s)", describe(outcome))

    async def _check(self, timer: Timer) -> None:
        """A redaction was accepted but not seen in the timeline: ask for the event itself."""
        now = self._clock.now()
        tries = max(timer.attempts, timer.redaction_round)
        later = backoff(tries, ceiling=POSTPONE_CEILING, chance=self._random.random())
        gone = await self._gone(timer)
        if gone:
            await self._store.drop(timer)
        elif gone is None:
            await self._store.postpone(timer, now + later)
        else:
            self._log.tally.unconfirmed += 1
            log.warning("a redaction was accepted and did not happen: done anew")
            # At once the first time; who never shows it is not flooded.
            await self._store.unsent(timer, now + later * bool(timer.redaction_round))

    async def _gone(self, timer: Timer) -> bool | None:
        """Whether the event is provably gone; `None` when that cannot be told now."""
        try:
            return await self._homeserver.is_gone(timer.room_id, timer.event_id)
        except OutcomeError as error:
            now = self._clock.now()
            step = self._next_step(error.outcome, timer, now)
            if isinstance(step, Pause):
                self._pause(timer, error.outcome, step.until, now)
            return None

    def _next_step(self, outcome: Outcome, timer: Timer, now: Millis) -> Step:
        others, failures = self._in_flight.note(timer, outcome, now), self._pace.failures
        chance = self._random.random()
        return next_step(outcome, timer, now=now, failures=failures, chance=chance, others=others)

    def _pause(self, timer: Timer, outcome: Outcome, until: Millis, now: Millis) -> None:
        if not isinstance(outcome, RateLimited):
            self._pace.unanswered(now, until, again=timer.attempts >= AGAIN)
        elif self._pace.refused(now, until, waiting=self._in_flight.waiting):
            self._in_flight.wait(timer, until)
        else:
            self._in_flight.end_waits()
