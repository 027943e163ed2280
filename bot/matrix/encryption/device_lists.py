"""Asks the homeserver for other people's devices, and for the keys that open channels to them.

Both in portions: one answer never holds the event loop for long, and one that does not come
holds up no others.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from nio.crypto import OlmDevice

from bot.core.outcomes import Done, Failed, Outcome, OutcomeError, RateLimited, Unreachable
from bot.core.types import Event, UserID
from bot.matrix.encryption.olm_channels import Channels
from bot.matrix.encryption.time_slices import TimeSlices
from bot.matrix.http.endpoints import path
from bot.matrix.http.requests import ANSWER_WITHIN
from bot.matrix.http.response_body import LARGE, SMALL
from bot.matrix.private_files import disk

log = logging.getLogger(__name__)

T = TypeVar("T")

PEOPLE: Final = 200
"""People whose devices are asked for in one request."""
CLAIMED: Final = 50
"""Devices whose one-time keys are asked for in one request."""
SERVERS_WITHIN: Final = 8_000
"""Milliseconds that the homeserver may wait for others; for their people it has no answer then."""
CLAIM_WITHIN: Final = 20.0
"""Seconds for one request for one-time keys."""
MOST_DEVICES: Final = 200
"""Devices of one person: whoever has more has the rest without keys."""
KEYLESS_FOR: Final = 600.0
"""Seconds in which a device that had no one-time key is not asked for another."""
MOST_KEYLESS: Final = 10_000
SILENT_FOR: Final = 60.0
"""Seconds in which people for whom nobody answered are not asked for before every message."""


class Request(Protocol):
    """Makes a request; raises `TokenRejectedError`."""

    async def __call__(  # noqa: D102
        self,
        method: str,
        where: str,
        body: Any = None,
        /,
        *,
        within: float = ANSWER_WITHIN,
        most: int = SMALL,
    ) -> Outcome: ...


class Devices:
    """Other people's devices, as far as the homeserver tells."""

    def __init__(
        self, engine: Callable[[], Channels], request: Request, slices: TimeSlices
    ) -> None:
        self._engine = engine
        self._request = request
        self._slices = slices
        self._keyless: dict[tuple[str, str], float] = {}
        self._silent: dict[UserID, float] = {}
        self._asking: Counter[UserID] = Counter()
        """Whose devices are being asked for: what is known of them may be out of date."""

    @property
    def _olm(self) -> Channels:
        return self._engine()

    async def query(self, users: Iterable[UserID]) -> None:
        """Fetch the devices of `users`.

        Raises `OutcomeError`: then those who were not answered for are still to be fetched. A
        server that is away answers for nobody; its users are asked for when they matter.
        """
        for portion in portions(sorted(set(users)), PEOPLE):
            self._olm.users_for_key_query.difference_update(portion)
            self._asking.update(portion)
            body = {"device_keys": {user: [] for user in portion}, "timeout": SERVERS_WITHIN}
            done = False
            try:
                found = await self._ask("query", body, "device_keys", ANSWER_WITHIN)
                await self._take(portion, found)
                done = True
            finally:
                self._asking -= Counter(portion)
                if not done:
                    self._olm.users_for_key_query.update(portion)

    async def _ask(self, what: str, body: Event, part: str, within: float) -> Event:
        where = path("keys", what)
        outcome = await self._request("POST", where, body, within=within, most=LARGE)
        if isinstance(outcome, RateLimited | Unreachable):
            raise OutcomeError(outcome)
        if not isinstance(outcome, Done):
            # Whatever is wrong with this question, it says nothing of the message it is for.
            raise OutcomeError(Failed(status=getattr(outcome, "status", 0)))
        found = outcome.body.get(part)
        if not isinstance(found, dict):
            raise OutcomeError(Failed(status=200))
        return found

    async def _take(self, portion: Sequence[UserID], found: Event) -> None:
        """Take an answer, in pieces."""
        waiting = self._taking(portion, found)
        taken: list[OlmDevice] | None = []
        while taken is not None:
            piece, changed = self._slices.piece(), list[OlmDevice]()
            while piece.goes_on() and (taken := next(waiting, None)) is not None:
                changed += taken
            if changed:
                with disk():
                    async with self._olm.store.piece_aside():
                        self._olm.store.save_devices(changed)
            await self._slices.rest(0)

    def _taking(self, portion: Sequence[UserID], found: Event) -> Iterator[list[OlmDevice]]:
        """Take device after device; give those that are to be saved.

        What is not as it should be spoils only its own device.
        """
        bad, until = 0, self._slices.elapsed() + SILENT_FOR
        for user_id in portion:
            devices = found.get(user_id)
            if not isinstance(devices, dict):
                self._silent[user_id] = until
                continue
            known = set(self._olm.device_store[user_id])
            names = sorted(devices, key=lambda name: name not in known)[:MOST_DEVICES]
            if gone := self._olm.drop_devices(user_id, names):
                yield gone
            for name in names:
                try:
                    device = self._olm.take_device(user_id, name, devices[name])
                except Exception:  # noqa: BLE001 - a stranger's keys, of any shape
                    bad, device = bad + 1, None
                yield [] if device is None else [device]
            self._olm.was_queried(user_id)
        if bad:
            log.warning("passed over %d devices: their keys are malformed", bad)

    def unknown(self, users: Iterable[UserID]) -> list[UserID]:
        """Return those of `users` whose devices have to be fetched before they are written to."""
        now, olm = self._slices.elapsed(), self._olm
        self._silent = {who: until for who, until in self._silent.items() if until > now}
        return [
            one
            for one in users
            if one in olm.users_for_key_query
            or one in self._asking
            or (one not in olm.tracked_users and one not in self._silent)
        ]

    # --- channels ------------------------------------------------------------------------

    def without_channel(self, devices: Iterable[OlmDevice]) -> list[OlmDevice]:
        """Return those to which there is no channel, and whose keys may be asked for now."""
        now = self._slices.elapsed()
        if len(self._keyless) > MOST_KEYLESS:
            self._keyless.clear()
        return [
            one
            for one in devices
            if self._olm.channel_to(one) is None
            and self._keyless.get((one.user_id, one.id), now) <= now
        ]

    async def open_channels(self, devices: Sequence[OlmDevice]) -> None:
        """Open channels to `CLAIMED` devices or fewer; passed over is who gives no key.

        Raises `OutcomeError` when the homeserver does not say.
        """
        wanted: dict[str, dict[str, str]] = {}
        for one in devices:
            wanted.setdefault(one.user_id, {})[one.id] = "signed_curve25519"
        body = {"one_time_keys": wanted, "timeout": SERVERS_WITHIN}
        found = await self._ask("claim", body, "one_time_keys", CLAIM_WITHIN)
        waiting = deque(devices)
        while waiting:
            with disk():
                async with self._olm.store.piece_aside():
                    piece = self._slices.piece()
                    while waiting and piece.goes_on():
                        self._open(waiting.popleft(), found)
            await self._slices.rest(0)

    def _open(self, device: OlmDevice, found: Event) -> None:
        try:
            opened = self._olm.open_channel(device, found[device.user_id][device.id])
        except KeyError:
            opened = None
        except Exception as error:  # noqa: BLE001 - a stranger's keys, of any shape
            log.warning("a device's keys make no channel (%s)", type(error).__name__)
            opened = None
        if opened is None:
            until = self._slices.elapsed() + KEYLESS_FOR
            self._keyless[device.user_id, device.id] = until


def portions(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Cut `items` into lists of at most `size`."""
    rest = iter(items)
    while portion := list(islice(rest, size)):
        yield portion
