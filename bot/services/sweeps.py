"""Walks back through rooms and gives timers to what has none: after a lost disk, or a lost link."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from bot.core.default_lifetime import Defaults, began
from bot.core.events import is_own_join
from bot.core.lifetimes import LifetimeLimits
from bot.core.outcome_text import describe
from bot.core.outcomes import Forbidden, NotFound, Outcome, OutcomeError, Refused
from bot.core.policy_backward import PolicyBackward
from bot.core.ports.homeserver import History
from bot.core.ports.reading import SweepStore
from bot.core.ports.rooms import ReviewStore, Wakeups
from bot.core.retry import POSTPONE_CEILING
from bot.core.timeline import RedactedEvent, Sweep
from bot.core.topics import Topic
from bot.core.types import Event, Millis
from bot.services.clock import Clock
from bot.services.event_reader import EventReader
from bot.services.history_pages import AWAY, HistoryPages
from bot.services.worker import Worker, room_of

log = logging.getLogger(__name__)

TRIES: Final = 60
"""How often a page is asked for that the homeserver refuses; one that it fails on, for ever."""

WITHIN: Final[Millis] = 180_000
"""How long one page may take."""
WIDTH: Final = 2
SLOW: Final = 3
"""Pages asked for at once; they are large, and those of slow rooms mostly wait."""

REACH: Final[Millis] = 30 * 86_400_000
"""How long two homeservers may have been apart for their messages to be found afterwards."""

AGAIN: Final[tuple[Millis, ...]] = (5_000, 30_000, 300_000, 1_200_000, 3_600_000)
"""When to sweep again after no, one, two… sweeps without a find: homeservers fetch what they lack
from others a hundred events at a time, in the background, because somebody has asked; and from one
that was away, not before it is known to be back."""


class SweepingStore(Wakeups, ReviewStore, Protocol):
    """What this service asks of the store."""

    @property
    def sweeps(self) -> SweepStore:
        """Rooms that are read backwards."""


@dataclass(slots=True)
class Tally:
    """What this process has read and found."""

    events: int = 0
    found: int = 0


class Sweeper:
    """Works through the sweeps, pages of several rooms in turn. What is said meanwhile goes on."""

    def __init__(
        self,
        homeserver: History,
        store: SweepingStore,
        reader: EventReader,
        clock: Clock,
        *,
        limits: LifetimeLimits,
        random: Random,
        again: Sequence[Millis] = AGAIN,
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._reader = reader
        self._clock = clock
        self._limits = limits
        self._again = again
        self._pages = HistoryPages(homeserver, clock, random=random)
        self.tally = Tally()
        self._wake = store.listen(Topic.SWEEPS, Topic.GAPS, Topic.ACCESS, Topic.POLICY)

    async def run(self) -> None:
        """Sweep until cancelled. Raises `TokenRejectedError`."""
        await Worker(
            self._clock,
            self._wake,
            self._store.sweeps.next,
            self.step,
            lane=room_of,
            put_off=self._put_off,
            within=WITHIN,
            what="pages of sweeps",
            width=WIDTH,
            slow=SLOW,
        ).run()

    async def step(self, sweep: Sweep) -> str | None:
        """Read one page of a sweep and remember it; return why it is put off, if it is."""
        assert sweep.token is not None
        if (until := self._pages.away_until) is not None:
            await self._store.sweeps.later(sweep, until, counts=False)
            return AWAY
        try:
            if not sweep.whole_room and not await self._worth_it(sweep):
                await self._store.sweeps.end(sweep)
                return None
            events, token = await self._homeserver.page_back(sweep.room_id, sweep.token, sweep.size)
            shown, reached = self._up_to_arrival(events)
            items = self._reader.outline(shown, since=sweep.since, now=sweep.until)
            back = PolicyBackward(
                setting=sweep.setting, until=list(sweep.earlier_settings), defaults=sweep.defaults
            )
            new_timers, files = back.decide(items, limits=self._limits)
            unset = back.setting is None and _never_held(back.defaults, events)
            over = reached or unset or token in {None, sweep.token} or self._far(events, sweep)
            # Asked before anything is remembered: what lies beyond the end is not to be read.
            more = over and await self._may_bring_more(sweep)
            fresh = await self._store.sweeps.read_on(
                sweep,
                new_timers,
                files,
                self._clock.now(),
                token=None if over else token,
                way=back,
                events=len(shown),
            )
            self.tally.events += len(shown)
            self.tally.found += fresh
            if over:
                await self._walked(sweep, fresh, len(shown), more=more)
            else:
                log.info("sweeping a room: %d events so far", sweep.events_read + len(shown))
        except OutcomeError as error:
            return await self._put_off(sweep, error.outcome)
        return None

    async def _worth_it(self, sweep: Sweep) -> bool:
        """Whether another homeserver may keep something back where messages disappear."""
        if sweep.events_read:
            return True
        some = sweep.setting is not None or began(sweep.defaults) is not None
        return some and await self._homeserver.is_shared(sweep.room_id)

    def _up_to_arrival(self, events: list[Event]) -> tuple[list[Event], bool]:
        """Return the events since the bot came, newest first, and whether that was reached."""
        for place, event in enumerate(events):
            if is_own_join(event, self._homeserver.own_id):
                return events[:place], True
        return events, False

    def _far(self, events: list[Event], sweep: Sweep) -> bool:
        """Whether the sweep has come to where nothing can be missing any more."""
        if not events:
            return False
        reach = (
            self._clock.now() - self._limits.maximum if sweep.whole_room else sweep.since - REACH
        )
        new_timers = [event.get("origin_server_ts") for event in events]
        if not all(isinstance(at, int) and at < reach for at in new_timers):
            return False
        # What nobody knows may be overdue for years: on, until there is only what was removed.
        items = self._reader.outline(events, since=0, now=0)
        return not sweep.whole_room or all(isinstance(item, RedactedEvent) for item in items)

    async def _may_bring_more(self, sweep: Sweep) -> bool:
        """Whether another sweep may find what other homeservers have not handed over yet."""
        return bool(self._again) and await self._homeserver.is_shared(sweep.room_id)

    async def _walked(self, sweep: Sweep, fresh: int, events: int, *, more: bool) -> None:
        """A sweep has come to its end: whether another one is to follow."""
        fresh += sweep.found_this_walk
        empty = 0 if fresh else sweep.empty_walks + 1
        # Nothing was known of the room: what other homeservers keep back has no bearing on that.
        again = self._again[:2] if sweep.whole_room else self._again
        if empty >= len(again) or not more:
            await self._store.sweeps.end(sweep)
            log.info(
                "swept a room: %d messages had no timer, in %d events read",
                sweep.found + fresh - sweep.found_this_walk,
                sweep.events_read + events,
            )
            return
        await self._store.sweeps.again(sweep, self._clock.now() + again[empty])

    async def _put_off(self, sweep: Sweep, outcome: Outcome) -> str:
        """Put the page off, or give the sweep up; return why."""
        if isinstance(outcome, Forbidden | NotFound):
            await self._store.ask_review(sweep.room_id)
        again = await self._pages.again(
            outcome, attempts=sweep.attempts, size=sweep.size, ceiling=POSTPONE_CEILING
        )
        if isinstance(outcome, Refused | Forbidden | NotFound) and sweep.attempts >= TRIES:
            log.error("a room's sweep is given up: messages in it may stay")
            await self._store.sweeps.give_up(sweep)
        else:
            size, counts = again.size, again.counts
            await self._store.sweeps.later(sweep, again.at, size=size, counts=counts)
        return describe(outcome) if again.counts else AWAY


def _never_held(defaults: Defaults, events: list[Event]) -> bool:
    """Whether messages stay that stand before these, by the operator's defaults."""
    first = began(defaults)
    if first is None:
        return True
    times = [event.get("origin_server_ts") for event in events]
    return bool(times) and all(isinstance(at, int) and at < first for at in times)
