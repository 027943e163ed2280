"""The sync loop: reads each batch, and stores what it means together with the sync token."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Final, Protocol

from bot.core.events import (
    is_creation,
    is_echo,
    is_encryption,
    is_joined,
    policies_to_check,
    seems_alone,
    wants_review,
)
from bot.core.missing_events import gap_before, since_arrival, sweep_of
from bot.core.outcome_text import Reasons
from bot.core.outcomes import Failed, OutcomeError, RateLimited, Unreachable
from bot.core.policy import Room
from bot.core.ports.homeserver import RoomState, SyncStream
from bot.core.ports.rooms import RoomStore
from bot.core.retry import PAUSE_CEILING, backoff
from bot.core.sync_batch import RoomBatch, SyncBatch
from bot.core.sync_token import SyncRestart, went_back
from bot.core.timeline import Change, Encrypted, Item, RoomUpdate, is_state
from bot.core.types import Millis
from bot.services.clock import Clock
from bot.services.event_reader import ASK_WITHIN, EventReader
from bot.services.missing_state import MissingState
from bot.services.timeline_writer import TimelineWriter

log = logging.getLogger(__name__)

LONG_POLL: Final[Millis] = 30_000
LIVE: Final[Millis] = 5_000
"""A sync asked for this soon after the last one brings what has only just happened, in ms."""
GATHER: Final[Millis] = 100
"""How long nothing is asked for after a sync that brought the bot's own redactions and no more.

Each redaction would end a long poll of its own; so those that follow come together. A message may
have waited for as long, or for an answer that takes its time: within this, its own time counts.
"""
AT_ONCE: Final[Millis] = 1_000
"""A long poll answered sooner than this has something new to say, in ms."""


class SyncHomeserver(SyncStream, RoomState, Protocol):
    """What this service asks of the homeserver."""


class Sync:
    """Reads on, for ever. Nothing is acknowledged to the homeserver before it is stored."""

    def __init__(
        self,
        homeserver: SyncHomeserver,
        store: RoomStore,
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
        self._random = random
        self._stop = asyncio.Event()
        self._timeout: asyncio.Timeout | None = None
        self._restart = SyncRestart()
        self._missing_state = MissingState(homeserver)
        self._read: tuple[str | None, Millis] | None = None
        """How far was read, and when, once the store was asked."""
        self._gathering = False
        """Whether nothing is to be asked for a moment."""
        self._wait: Millis = 0  # the first answer comes at once, and says how many keys are left

    def stop(self) -> None:
        """End after the batch in hand; a long poll is broken off at once."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Follow the sync until `stop`. Raises `TokenRejectedError`."""
        self._read, failures, reasons = None, 0, Reasons()
        self._store.note_synced(synced=False)
        while not self._stop.is_set():
            try:
                if not await self.once():
                    return
                if failures > 1:
                    log.info("the homeserver answers again")
                failures, reasons = 0, Reasons()
            except OutcomeError as error:
                now = self._clock.now()
                if self._restart.refused(error.outcome):
                    log.warning("the homeserver does not know how far the bot has read")
                if reason := reasons.news(error.outcome, now):
                    log.warning("waiting for the homeserver (%s)", reason)
                self._store.note_synced(synced=False)
                wait = backoff(failures, ceiling=PAUSE_CEILING, chance=self._random.random())
                if isinstance(error.outcome, RateLimited | Unreachable):
                    wait = error.outcome.retry_after or wait
                failures += 1
                await self._clock.wait(self._stop, now + wait)

    async def once(self) -> bool:
        """Fetch one batch and remember it; `False` when it was time to stop."""
        since, synced_at = self._read or await self._store.position()
        if self._restart.wanted:
            since = None
        if self._gathering:
            await self._clock.wait(self._stop, self._clock.now() + GATHER)
        asked_at, wait, begun = self._clock.now(), self._wait, self._clock.elapsed()
        batch = await self._poll(since)
        if batch is None:
            return False
        behind = went_back(since, batch.next_batch)
        if behind and self._restart.went_back(self._clock.elapsed()):
            log.warning("the homeserver knows less than before, as after a restored backup")
            return True
        # An answer that took longer than it may was there, while this machine slept.
        slept = self._clock.elapsed() - begun > LONG_POLL + LIVE
        live = 0 <= asked_at - synced_at <= LIVE and not slept
        await self.take(batch, live=live, first=since is None, synced_at=synced_at)
        if slept:  # and what came later has waited as well: the next answer comes at once
            self._read, self._wait = (batch.next_batch, asked_at), 0
            self._store.note_synced(synced=False)
        if wait and batch.next_batch == since and self._clock.now() - asked_at < AT_ONCE:
            # Somebody repeats himself, and would again at once.
            raise OutcomeError(Failed(status=200))
        return True

    async def _poll(self, since: str | None) -> SyncBatch | None:
        """Wait for a batch; `None` when `stop` broke it off."""
        try:
            async with asyncio.timeout(None) as self._timeout:
                if self._stop.is_set():
                    return None
                batch = await self._homeserver.sync(since, self._wait)
                self._wait = LONG_POLL
                return batch
        except TimeoutError:
            return None
        finally:
            self._timeout = None

    async def take(self, batch: SyncBatch, *, live: bool, first: bool, synced_at: Millis) -> None:
        """Read one batch and remember it as a whole; `live`: it holds what has just happened."""
        now = self._clock.now()
        since = min(synced_at or now, now)
        left = batch.left
        if first:
            there = {room.room_id for room in batch.joined}
            left = left + [r.room_id for r in await self._store.rooms() if r.room_id not in there]
        # However many rooms it does not answer for: what cannot be decided waits by itself.
        until = asyncio.get_running_loop().time() + ASK_WITHIN
        known = await self._store.rooms_of([room.room_id for room in batch.joined])
        updates = [
            await self._update(
                room,
                known.get(room.room_id),
                live=live,
                first=first,
                since=since,
                seen_since=now - GATHER if live else since,
                now=now,
                until=until,
            )
            for room in batch.joined
        ]
        sweeps = sum(update.sweep is not None for update in updates)
        if first and sweeps:
            why = "reading anew" if synced_at else "a new database"
            log.warning("%s: reading back in %d rooms for what has no timer", why, sweeps)
        self._read = None  # should the disk not take it
        if first:
            await self._store.not_all_seen()
        await self._timeline.commit(batch.next_batch, now, updates, batch.invited, left)
        self._read = batch.next_batch, now
        self._store.note_synced(synced=True)
        self._restart.answered()
        self._gathering = self._is_echo(batch)

    async def _update(
        self,
        batch: RoomBatch,
        known: Room | None,
        *,
        live: bool,
        first: bool,
        since: Millis,
        seen_since: Millis,
        now: Millis,
        until: float,
    ) -> RoomUpdate:
        before, timeline, entered = batch.state, batch.timeline, False
        if known is None or first:
            before, timeline, entered = since_arrival(batch, self._homeserver.own_id, first=first)
            if not first and not any(map(is_creation, batch.state + batch.timeline)):
                before = before + await self._missing_state.state(batch.room_id)
        encrypted = known is not None and known.encrypted
        # Some homeservers tell the timeline's own state here as well: that is not before it.
        shown = [event.get("event_id") for event in timeline if is_state(event)]
        turned_on = [e for e in before if is_encryption(e) and e.get("event_id") not in shown]
        sealed: list[Item] = [Encrypted()] if turned_on and not encrypted else []
        found = [
            item
            for event in before
            for item in self._reader.state_change(event, unannounced=known is None or first)
        ]
        if known is not None and not first and not batch.limited:
            # Nothing was left out, so this is the older state of a fork (Synapse shows that).
            found = []
        if first and known is not None and known.policy_digest and not found:
            # The state event that the lifetime came from is not there any more.
            own = self._homeserver.own_id
            found = [Change(setting=None, sender=own, digest="", unannounced=True)]
        gap = None if entered or first else gap_before(batch, known, since=since, now=now)
        items = await self._reader.items(
            batch.room_id,
            timeline,
            encrypted=encrypted or bool(turned_on),
            live=live,
            since=seen_since,
            now=now,
            until=until,
        )
        # A known room's state was read before; what changed since holds at the timeline's start.
        # Encryption may have been turned on anywhere in the gap: nothing in clear counts there.
        early = [*(found if known is None else []), *sealed] if gap is not None else []
        tail = [item for item in [*found, *sealed] if item not in early]
        told = before if known is None else [e for e in before if not is_joined(e)]
        own_id = self._homeserver.own_id
        policies = policies_to_check(batch, own_id)
        review = any(wants_review(event, own_id) for event in told + timeline)
        return RoomUpdate(
            room_id=batch.room_id,
            items=tail + items,
            found=early,
            gap=gap,
            sweep=sweep_of(batch, known, found, live=live, first=first, since=since, now=now),
            encrypted=encrypted or any(is_encryption(e) for e in before + timeline),
            review=review or known is None or first,
            check_policy=known is not None
            and any(self._reader.digest(one) != known.policy_digest for one in policies),
            entered=known is None and not first,
            alone=seems_alone(batch, own_id, new=known is None),
            last_event_digest=self._last(batch),
        )

    def _is_echo(self, batch: SyncBatch) -> bool:
        """Whether it brings redactions of the bot's own, and nothing else."""
        events = [event for room in batch.joined for event in room.state + room.timeline]
        others = bool(batch.invited or batch.left)
        own_id = self._homeserver.own_id
        return bool(events) and not others and all(is_echo(event, own_id) for event in events)

    def _last(self, batch: RoomBatch) -> str:
        ids = [event.get("event_id") for event in batch.timeline]
        last = next((one for one in reversed(ids) if isinstance(one, str)), None)
        return "" if last is None else self._reader.digest(last)
