"""Sees to it that clients which trust only signed devices trust the bot's device."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Final, Protocol

from bot.clock import Clock
from bot.model import OutcomeError
from bot.schedule import POSTPONE_CEILING, backoff

log = logging.getLogger(__name__)

SIGNED: Final = "signed"
WORDS: Final = {
    "lost": (
        "the seeds of the bot's cross-signing keys are not here: most clients will not send it"
        " encrypted commands (lifetimes go on; they can be set in the room's state)"
    ),
    "replaced": (
        "somebody made new cross-signing keys for the bot's account: most clients will not send"
        " it encrypted commands (lifetimes go on; they can be set in the room's state)"
    ),
    "unproven": "the homeserver shows other keys for the bot's device: it was not signed",
    "refused": "the homeserver wants the password before it takes cross-signing keys",
}


class CrossSigning(Protocol):
    """What signs the device; returns how the device stands, one of `signed` and `WORDS`."""

    async def settle(self) -> str: ...  # noqa: D102


class Identity:
    """Knows how the bot's device stands, and tries until that is settled."""

    def __init__(self, signing: CrossSigning, clock: Clock, *, random: Random) -> None:
        self._signing = signing
        self._clock = clock
        self._random = random
        self.standing = ""
        """Empty while it is not known yet."""

    @property
    def trouble(self) -> str:
        """What to tell people, if anything."""
        return WORDS.get(self.standing, "")

    async def run(self) -> None:
        """Settle the device's standing; expiry never waits for it."""
        failures = 0
        never = asyncio.Event()
        while True:
            try:
                self.standing = await self._signing.settle()
            except OutcomeError as error:
                log.info("cross-signing waits (%s)", type(error.outcome).__name__)
                chance = self._random.random()
                wait = backoff(failures, ceiling=POSTPONE_CEILING, chance=chance)
                failures += 1
                until = self._clock.now() + wait
                while self._clock.now() < until:
                    await self._clock.wait(never, until)
                continue
            if self.trouble:
                log.warning("%s", self.trouble)
            else:
                log.info("the device is signed: clients that trust signed devices only trust it")
            return
