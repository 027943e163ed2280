"""Deletes the files of messages that are gone, where the homeserver's administrator lets it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from random import Random
from typing import Final, Protocol

from bot.core.outcome_text import describe
from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    OutcomeError,
    Refused,
    TokenRejectedError,
)
from bot.core.ports.homeserver import MediaRepository
from bot.core.ports.rooms import Digests, Wakeups
from bot.core.ports.timers import MediaStore
from bot.core.retry import POSTPONE_CEILING, backoff, nobody_answered, retry_in
from bot.core.timers import UnusedMedia
from bot.core.topics import Topic
from bot.core.types import Millis
from bot.services.clock import Clock
from bot.services.worker import Worker

log = logging.getLogger(__name__)

LOOK_EVERY: Final[Millis] = 60_000
"""A message that was found gone by asking for it wakes nobody: look at least this often."""
SUMMARY_EVERY: Final[Millis] = 60_000
WITHIN: Final[Millis] = 90_000
"""How long the deletion of one file may take: two requests."""
WIDTH: Final = 2
SLOW: Final = 4

REJECTED: Final = "the homeserver does not accept the token in media.admin_token_file"
FORBIDDEN: Final = "the token in media.admin_token_file is no server administrator's"
UNKNOWN: Final = (
    "the homeserver does not tell who uploaded a file: that takes Synapse 1.140 or newer, and an"
    " address in homeserver under which /_synapse/admin can be reached"
)


class MediaDeletionStore(Wakeups, Digests, MediaStore, Protocol):
    """What this service asks of the store."""


def trouble_of(outcome: Outcome) -> str:
    """Return what the operator has to mend before any file can be deleted; empty: nothing."""
    match outcome:
        case Refused(status=401):
            return REJECTED
        case Forbidden():
            return FORBIDDEN
        case Refused(status=404 | 405) | Failed(status=404 | 405):
            return UNKNOWN
    return ""


class MediaDeletion:
    """Deletes files; each stays noted until it is gone.

    Anybody can name anybody's file in a message. So a file goes only when the homeserver says
    that the one who sent the message has uploaded it.
    """

    def __init__(
        self,
        homeserver: MediaRepository,
        store: MediaDeletionStore,
        clock: Clock,
        *,
        random: Random,
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._clock = clock
        self._random = random
        self._wake = store.listen(Topic.MEDIA)
        self.trouble = ""
        """Why no file can be deleted, when that is up to the operator."""
        self._paused_until: Millis = 0
        self._failures = 0
        self._deleted = self._kept = 0
        self._said_at: Millis = 0

    @property
    def server(self) -> str:
        """The server whose files are deleted."""
        return self._homeserver.server

    async def run(self) -> None:
        """Delete what is due until cancelled. No answer ends the bot, whatever the token is."""
        self._note(await self._ask(self._homeserver.usable))
        await Worker(
            self._clock,
            self._wake,
            self._next,
            self._see_to,
            lane=lambda file: file.media_id,
            put_off=self._put_off,
            within=WITHIN,
            what="files to be deleted",
            width=WIDTH,
            slow=SLOW,
            every=LOOK_EVERY,
        ).run()

    async def _next(self, busy: Collection[str]) -> UnusedMedia | None:
        """Return the file to be deleted next, and not before the pause is over."""
        file = await self._store.next_media(busy)
        return file and replace(file, retry_at=max(file.retry_at, self._paused_until))

    async def _see_to(self, file: UnusedMedia) -> str | None:
        """Bring one file as far as it goes; return why it is put off, if it is."""
        outcome = await self._ask(lambda: self._delete(file))
        if isinstance(outcome, Done | NotFound):
            await self._store.media_done(file)
        else:
            # Should it be this file that is never answered, others come first.
            await self._put_off(file, outcome)
        self._note(outcome)
        self._summarise()
        troubled = isinstance(outcome, Done | NotFound) or self.trouble
        return None if troubled else describe(outcome)

    async def _put_off(self, file: UnusedMedia, outcome: Outcome) -> str:
        wait = backoff(file.attempts, ceiling=POSTPONE_CEILING, chance=self._random.random())
        await self._store.media_later(file, self._clock.now() + wait)
        return describe(outcome)

    async def _delete(self, file: UnusedMedia) -> Outcome:
        """Delete a file if it is its sender's own; `Done` when there is no more to do."""
        uploader = await self._homeserver.uploader(file.media_id)
        if uploader is None or self._store.digest(uploader) not in file.owners:
            self._kept += 1
            return Done()
        outcome = await self._homeserver.delete(file.media_id)
        self._deleted += isinstance(outcome, Done)
        return outcome

    async def _ask(self, request: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Return what came of a request, whatever it fails with."""
        try:
            return await request()
        except OutcomeError as error:
            return error.outcome
        except TokenRejectedError as error:
            # The administrator's token and not the bot's own: no reason to end.
            return Refused(status=401, errcode=str(error))

    def _note(self, outcome: Outcome) -> None:
        """Pause when it is not this one file that is the reason."""
        now, trouble = self._clock.now(), trouble_of(outcome)
        if trouble and trouble != self.trouble:
            log.warning("files stay for now: %s", trouble)
        if isinstance(outcome, Done | NotFound):
            if self.trouble:
                log.info("files can be deleted again")
            self.trouble, self._failures = "", 0
        elif trouble or nobody_answered(outcome):
            self.trouble = trouble or self.trouble
            wait = retry_in(
                outcome, self._failures, chance=self._random.random(), ceiling=POSTPONE_CEILING
            )
            self._failures += 1
            self._paused_until = now + wait

    def _summarise(self) -> None:
        """Say in the log what was done, in counts only, once a minute at most."""
        now = self._clock.now()
        if self._deleted + self._kept == 0 or now - self._said_at < SUMMARY_EVERY:
            return
        log.info("deleted %d files; left %d that are not their sender's", self._deleted, self._kept)
        self._deleted = self._kept = 0
        self._said_at = now
