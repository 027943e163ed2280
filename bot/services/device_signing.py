"""Has the bot's device signed: some clients trust no other."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Final, NoReturn

from bot.chat.notices import Fingerprints
from bot.core.outcome_text import describe
from bot.core.outcomes import OutcomeError
from bot.core.ports.homeserver import CrossSigning
from bot.core.retry import POSTPONE_CEILING, backoff
from bot.core.topics import Topic, Topics
from bot.services.clock import Clock

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
REMEDIES: Final = {
    "lost": "give encryption.recovery_key_file and restart the bot, or: ephemeral-bot identity"
    " reset",
    "replaced": "restore cross_signing.json from a backup, or: ephemeral-bot identity reset",
    "unproven": "move device.json out of data_dir and restart the bot: it becomes a new device",
    "refused": "ephemeral-bot identity reset",
    "unsigned": "start the bot, and look at its log",
}
"""What the operator can do about it."""


class DeviceSigning:
    """Knows how the bot's device stands, and tries until it is signed or cannot be."""

    def __init__(
        self, signing: CrossSigning, topics: Topics, clock: Clock, *, random: Random
    ) -> None:
        self._signing = signing
        self._lost = topics.listen(Topic.DEVICE_KEYS)
        self._clock = clock
        self._random = random
        self.signing_state = ""
        """Empty while it is not known yet."""

    @property
    def trouble(self) -> str:
        """What to tell people, if anything."""
        return WORDS.get(self.signing_state, "")

    @property
    def fingerprints(self) -> Fingerprints:
        """The keys that people can compare."""
        signing = self._signing
        return Fingerprints(
            master=signing.master if self.signing_state == SIGNED else "",
            device_id=signing.device_id,
            device=signing.fingerprint,
        )

    async def run(self) -> NoReturn:
        """Have the device signed, and again when its signature was lost, until cancelled."""
        while True:
            self._lost.clear()
            await self.sign()
            await self._lost.wait()

    async def sign(self) -> None:
        """Have the device signed; expiry never waits for it."""
        failures = 0
        never = asyncio.Event()
        while True:
            try:
                self.signing_state = await self._signing.ensure_signed()
            except (OutcomeError, OSError) as error:
                why = type(error).__name__
                if isinstance(error, OutcomeError):
                    why = describe(error.outcome)
                log.info("cross-signing waits (%s)", why)
                chance = self._random.random()
                wait = backoff(failures, ceiling=POSTPONE_CEILING, chance=chance)
                failures += 1
                until = self._clock.elapsed() + wait
                while (left := until - self._clock.elapsed()) > 0:
                    await self._clock.wait(never, self._clock.now() + left)
                continue
            if self.trouble:
                log.warning("%s (%s)", self.trouble, REMEDIES[self.signing_state])
            else:
                log.info("the device is signed: clients that trust signed devices only trust it")
            return
