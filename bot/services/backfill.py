"""Reads gaps in a room's timeline, back to what is known, so that nothing in them is missed."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from bot.core.events import is_own_join
from bot.core.outcome_text import describe
from bot.core.outcomes import Forbidden, NotFound, Outcome, OutcomeError
from bot.core.ports.homeserver import History
from bot.core.ports.reading import GapStore
from bot.core.ports.rooms import ReviewStore, RoomStore, Wakeups
from bot.core.timeline import Gap
from bot.core.topics import Topic
from bot.core.types import Event, Millis, RoomID
from bot.services.clock import Clock
from bot.services.event_reader import EventReader
from bot.services.history_pages import AWAY, HistoryPages
from bot.services.timeline_writer import TimelineWriter
from bot.services.worker import Worker, run_together

log = logging.getLogger(__name__)


TRIES: Final = 15
"""How often a page is asked for that does not come, while the homeserver answers other requests:
for ten to fifteen minutes, in which the room's later messages wait behind it."""
TRIES_IF_HOPELESS: Final = 6
"""How often where that was waited for already, at another gap of the same room."""
WITHIN: Final[Millis] = 180_000
"""How long one page may take, what is asked about its commands included."""
WIDTH: Final = 3
SLOW: Final = 5
"""Pages asked for at once; they are large, and those of slow rooms mostly wait."""


class BackfillStore(Wakeups, RoomStore, ReviewStore, Protocol):
    """What this service asks of the store."""

    @property
    def gaps(self) -> GapStore:
        """Parts of timelines still to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A gap, and when it is to be read on."""

    gap: Gap
    retry_at: Millis


@dataclass(frozen=True, slots=True)
class Ready:
    """There is a room of which all was read."""

    retry_at: Millis = 0


class Backfill:
    """Works through the gaps, of each room a page after the other.

    Every page is remembered: a crash resumes.
    """

    def __init__(
        self,
        homeserver: History,
        store: BackfillStore,
        timeline: TimelineWriter,
        reader: EventReader,
        clock: Clock,
        *,
        random: Random,
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._timeline = timeline
        self._reader = reader
        self._clock = clock
        self._pages = HistoryPages(homeserver, clock, random=random)
        self._wake = store.listen(Topic.GAPS, Topic.ACCESS)

    async def run(self) -> None:
        """Read gaps until cancelled. Raises `TokenRejectedError`."""
        pages = Worker(
            self._clock,
            self._wake,
            self._next,
            lambda due: self.read(due.gap),
            lane=lambda due: due.gap.room_id,
            put_off=lambda due, outcome: self._put_off(due.gap, outcome),
            within=WITHIN,
            what="pages of gaps",
            width=WIDTH,
            slow=SLOW,
        )
        chunks = Worker(
            self._clock,
            self._wake,
            self._ready,
            self._take_over,
            lane=lambda _: None,
            put_off=self._carry_on,
            within=WITHIN,
            what="what was read in gaps",
        )
        await run_together(self._clock, self._wake, chunks, pages)

    async def _next(self, busy: Collection[RoomID]) -> Due | None:
        found = await self._store.gaps.next_gap(busy)
        return None if found is None else Due(gap=found[0], retry_at=found[1])

    async def _ready(self, busy: Collection[None]) -> Ready | None:
        return Ready() if not busy and await self._store.gaps.is_ready() else None

    async def _take_over(self, _: object) -> None:
        """Give timers to some of what was read of rooms without a gap left."""
        done = await self._timeline.take_over(self._clock.now())
        if done is not None:
            log.info("caught up with %d events of a room", done[1])

    async def _carry_on(self, _: object, outcome: Outcome) -> str:
        """A chunk took too long: what it has not done is next all the same."""
        return describe(outcome)

    async def read(self, gap: Gap) -> str | None:
        """Read one page of a gap and remember it; return why it is put off, if it is."""
        if (until := self._pages.away_until) is not None:
            await self._store.gaps.later(gap, until, counts=False)
            return AWAY
        try:
            events, token = await self._homeserver.page_back(gap.room_id, gap.token, gap.size)
            room = await self._store.room(gap.room_id)
            fresh, reached = self._until_known(events, gap)
            items = await self._reader.items(
                gap.room_id,
                fresh,
                encrypted=room is not None and room.encrypted,
                was_clear=not gap.encrypted,
                live=False,
                since=gap.since,
                now=gap.until,
            )
        except OutcomeError as error:
            return await self._put_off(gap, error.outcome)
        # A homeserver that hands out its own token again has nothing more to give.
        done = reached or token is None or token == gap.token
        log.info("read %d events of a gap%s", len(fresh), "" if done else ", more to come")
        now = self._clock.now()
        await self._store.gaps.read_on(gap, items, token or gap.token, now, done=done)
        return None

    def _until_known(self, events: list[Event], gap: Gap) -> tuple[list[Event], bool]:
        """Return the events after what was known, oldest first, and whether that was reached.

        Known is the last event that was read, and the state event that the room's lifetime
        was read from: it marks the place should the other be purged.
        """
        known = {gap.stop_digest, gap.policy_digest} - {""}
        fresh: list[Event] = []
        for event in events:
            if gap.stop_digest and self._reader.digest(str(event.get("event_id"))) in known:
                return fresh[::-1], True
            if not gap.stop_digest and is_own_join(event, self._homeserver.own_id):
                return fresh[::-1], True
            if self._is_old(event, gap):
                return fresh[::-1], True
            fresh.append(event)
        return fresh[::-1], False

    def _is_old(self, event: Event, gap: Gap) -> bool:
        """Whether the bot itself sent the event, long before the gap.

        It ends the gap should the known event be gone from the server. The time of other
        people's events tells nothing: bridges and other homeservers write what they like.
        """
        sent = event.get("origin_server_ts")
        own = event.get("sender") == self._homeserver.own_id
        return own and isinstance(sent, int) and sent < gap.stop_at

    async def _put_off(self, gap: Gap, outcome: Outcome) -> str:
        """Put the page off, or give the gap up; return why."""
        if isinstance(outcome, Forbidden | NotFound):
            await self._store.ask_review(gap.room_id)
        again = await self._pages.again(outcome, attempts=gap.attempts, size=gap.size)
        tries = TRIES_IF_HOPELESS if gap.another_given_up else TRIES
        if again.counts and gap.attempts >= tries:
            # What was said since waits behind the gap, and may not wait for ever.
            log.error("a gap cannot be read: messages in it stay until the room can be swept")
            await self._store.gaps.give_up(gap, self._clock.now())
        else:
            size, counts = again.size, again.counts
            await self._store.gaps.later(gap, again.at, size=size, counts=counts)
        return describe(outcome) if again.counts else AWAY
