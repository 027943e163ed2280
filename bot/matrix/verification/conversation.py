"""Carries one verification through: asks for keys, hands events in, and sends the answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import SystemRandom
from typing import Final

from bot.core.json_shape import as_object, inside
from bot.core.outcomes import Done, Failed, Outcome, OutcomeError, RateLimited, Unreachable
from bot.core.retry import PAUSE_CEILING, backoff
from bot.core.types import Event, Millis, RoomID, UserID
from bot.matrix.client import Matrix
from bot.matrix.http.endpoints import path
from bot.matrix.verification.sas import (
    REASONS,
    TIMEOUT,
    UNKNOWN_TRANSACTION,
    Exchange,
    Party,
    Reply,
)

log = logging.getLogger(__name__)

PREFIX: Final = "m.key.verification."
CODES: Final = frozenset({*REASONS, "m.user", "m.accepted", "m.user_mismatch"}) | {
    "m.mismatched_commitment",
    "m.mismatched_sas",
}
"""Codes of a cancellation that are safe to repeat in the log: another may be any text."""
TRIES: Final = 6
"""How often a request is made before a verification is given up."""

Key = tuple[UserID, RoomID | None, str]


@dataclass(slots=True, kw_only=True, eq=False)
class Conversation:
    """What a verification is about, and what was heard of it and not yet answered."""

    user_id: UserID
    device_id: str
    id: str
    room_id: RoomID | None = None
    """`None`: it goes by to-device messages."""
    encrypted: bool = False
    heard: asyncio.Queue[tuple[str, Event]] = field(default_factory=lambda: asyncio.Queue(8))

    @property
    def key(self) -> Key:
        """What the events of this verification have in common."""
        return self.user_id, self.room_id, self.id

    def tell(self, kind: str, content: Event) -> None:
        """Hand an event over; who sends them by the dozen is not listened to."""
        if not self.heard.full():
            self.heard.put_nowait((kind, content))


class ConversationRunner:
    """Speaks for the bot's device. Everything here raises `TokenRejectedError`."""

    def __init__(self, matrix: Matrix, master: Callable[[], str], lasts: Millis) -> None:
        self._matrix = matrix
        self._master = master
        self._lasts = lasts
        self._random = SystemRandom()

    async def turn_away(self, conversation: Conversation) -> None:
        """Answer to a verification that is not known. Raises `OutcomeError`."""
        content = {"code": UNKNOWN_TRANSACTION, "reason": REASONS[UNKNOWN_TRANSACTION]}
        await self._send(conversation, [("cancel", content)])

    async def converse(self, conversation: Conversation) -> str:
        """Answer event by event; return how it ended. Raises `OutcomeError`."""
        exchange = Exchange(conversation.id, self._own(), await self._other(conversation))
        try:
            async with asyncio.timeout(self._lasts / 1000):
                while not exchange.over:
                    kind, content = await conversation.heard.get()
                    unseen = exchange.shown is None
                    replies = exchange.take(kind, content)
                    if exchange.shown is not None and unseen:
                        emoji = ", ".join(exchange.shown.emoji)
                        numbers = " ".join(map(str, exchange.shown.decimals))
                        who = conversation.user_id
                        log.info("%s verifies the bot: compare %s (or %s)", who, emoji, numbers)
                    await self._send(conversation, replies)
        except TimeoutError:
            await self._send(conversation, exchange.cancel(TIMEOUT))
        if exchange.verified:
            return "is done: they have confirmed"
        code = exchange.ended_by
        return f"was cancelled ({code if code in CODES else 'for another reason'})"

    def _own(self) -> Party:
        """Return the bot's device and what is to be verified of it: its own key, and the master."""
        device_id, master = self._matrix.crypto.device_id, self._master()
        keys = {f"ed25519:{device_id}": self._matrix.fingerprint}
        if master:
            keys[f"ed25519:{master}"] = master
        return Party(user_id=self._matrix.own_id, device_id=device_id, keys=keys)

    async def _other(self, conversation: Conversation) -> Party:
        """Return the other's device with its keys, as the homeserver has them."""
        user_id, device_id = conversation.user_id, conversation.device_id
        body = {"device_keys": {user_id: [device_id]}}
        query = partial(self._matrix.request, "POST", path("keys", "query"), body)
        answer = await self._insist(query)
        device = inside(answer.body, "device_keys", user_id, device_id)
        master = inside(answer.body, "master_keys", user_id)
        name = f"ed25519:{device_id}"
        found = {**as_object(inside(master, "keys")), name: inside(device, "keys", name)}
        keys = {key: value for key, value in found.items() if isinstance(value, str)}
        return Party(user_id=user_id, device_id=device_id, keys=keys)

    async def _send(self, conversation: Conversation, replies: list[Reply]) -> None:
        """Send answers, in their order. Raises `OutcomeError`."""
        for kind, content in replies:
            txn = f"verify-{secrets.token_hex(12)}"
            await self._insist(partial(self._send_one, conversation, PREFIX + kind, content, txn))

    async def _send_one(
        self, conversation: Conversation, kind: str, content: Event, txn: str
    ) -> Outcome:
        if conversation.room_id is None:
            message = content | {"transaction_id": conversation.id}
            body = {"messages": {conversation.user_id: {conversation.device_id: message}}}
            return await self._matrix.request("PUT", path("sendToDevice", kind, txn), body)
        relation = {"rel_type": "m.reference", "event_id": conversation.id}
        message = content | {"m.relates_to": relation}
        return await self._matrix.send(
            conversation.room_id, kind, message, txn, encrypted=conversation.encrypted
        )

    async def _insist(self, request: Callable[[], Awaitable[Outcome]]) -> Done:
        """Make a request, a few times if need be. Raises `OutcomeError`."""
        for attempt in range(TRIES):
            outcome = await request()
            if isinstance(outcome, Done):
                return outcome
            wait = backoff(attempt, ceiling=PAUSE_CEILING, chance=self._random.random())
            if isinstance(outcome, RateLimited):
                wait = min(max(wait, outcome.retry_after), PAUSE_CEILING)
            elif not isinstance(outcome, Unreachable | Failed):
                break
            await asyncio.sleep(wait / 1000)
        raise OutcomeError(outcome)
