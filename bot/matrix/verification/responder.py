"""Answers people who verify the bot by emoji, over to-device messages or in a room.

The bot confirms by itself, and shows in its log what is to be compared: so it is of use to whoever
can see the log. It signs nobody's keys, and trusts nobody more or less than before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeGuard

from bot.core.outcome_text import describe
from bot.core.outcomes import OutcomeError, TokenRejectedError
from bot.core.types import Event, Millis, RoomID, UserID
from bot.matrix.client import Matrix
from bot.matrix.verification.conversation import PREFIX, Conversation, ConversationRunner, Key
from bot.matrix.verification.sas import LONGEST

log = logging.getLogger(__name__)

REQUEST: Final = PREFIX + "request"
KINDS: Final = frozenset({"ready", "start", "accept", "key", "mac", "done", "cancel"})
"""What can follow a request."""

LASTS: Final[Millis] = 600_000
"""A verification, and how old a request may be when it comes."""
AHEAD: Final[Millis] = 300_000
"""How far in the future a request may be dated."""
AT_ONCE: Final = 20
PER_USER: Final = 5
"""Verifications that one account may begin while one may last."""


class Verification:
    """Takes requests from anybody, within bounds, and answers each in a task of its own."""

    def __init__(
        self,
        matrix: Matrix,
        *,
        master: Callable[[], str],
        now: Callable[[], Millis],
        lasts: Millis = LASTS,
    ) -> None:
        self._matrix = matrix
        self._runner = ConversationRunner(matrix, master, lasts)
        self._now = now
        self._lasts = lasts
        self._group: asyncio.TaskGroup | None = None
        self._talks: dict[Key, Conversation] = {}
        self._ended: deque[Key] = deque(maxlen=200)
        self._begun: deque[tuple[UserID, Millis]] = deque(maxlen=1_000)
        self._strays = 0

    async def run(self) -> None:
        """Answer until cancelled. Raises `TokenRejectedError`, in an exception group."""
        async with asyncio.TaskGroup() as self._group:
            while True:
                self.hear_device(await self._matrix.crypto.verification_events.get())

    # --- what comes in: a stranger's, so nothing here raises --------------------------------

    def hear_device(self, event: Event) -> None:
        """Take a to-device event."""
        kind, sender, content = event.get("type"), event.get("sender"), event.get("content")
        if not isinstance(kind, str) or not isinstance(content, dict):
            return
        ident = content.get("transaction_id")
        if not _is_id(sender) or not _is_id(ident):
            return
        if kind == REQUEST:
            self._asked(UserID(sender), None, ident, content, content.get("timestamp"))
        else:
            self._told(UserID(sender), None, ident, kind, content)

    def hear_room(self, room_id: RoomID, event: Event, *, encrypted: bool) -> None:
        """Take a room event, in clear; `encrypted`: it came encrypted, and so go the answers."""
        kind, sender, content = event.get("type"), event.get("sender"), event.get("content")
        if not isinstance(kind, str) or not isinstance(content, dict) or not _is_id(sender):
            return
        if kind == "m.room.message":
            ident, at = event.get("event_id"), event.get("origin_server_ts")
            mine = content.get("to") == self._matrix.own_id
            if content.get("msgtype") == REQUEST and mine and _is_id(ident):
                self._asked(UserID(sender), room_id, ident, content, at, encrypted=encrypted)
            return
        relation = content.get("m.relates_to")
        if isinstance(relation, dict) and relation.get("rel_type") == "m.reference":
            ident = relation.get("event_id")
            if _is_id(ident):
                self._told(UserID(sender), room_id, ident, kind, content)

    def _asked(
        self,
        user_id: UserID,
        room_id: RoomID | None,
        ident: str,
        content: Event,
        at: Any,
        *,
        encrypted: bool = False,
    ) -> None:
        """Begin a verification, if it is new, of now, and not one too many."""
        device_id, now, key = content.get("from_device"), self._now(), (user_id, room_id, ident)
        if self._group is None or user_id == self._matrix.own_id or not _is_id(device_id):
            return
        if type(at) is not int or not now - self._lasts <= at <= now + AHEAD:
            return
        if key in self._talks or key in self._ended:
            return  # a sync that was cut off brings the same again
        while self._begun and self._begun[0][1] < now - self._lasts:
            self._begun.popleft()
        often = sum(who == user_id for who, _ in self._begun)
        if len(self._talks) >= AT_ONCE or often >= PER_USER:
            log.debug("a request to verify the bot was passed over: there are too many")
            return
        self._begun.append((user_id, now))
        conversation = Conversation(
            user_id=user_id, device_id=device_id, id=ident, room_id=room_id, encrypted=encrypted
        )
        rivals = [other for other in self._talks.values() if other.user_id == user_id]
        # Two at once are cancelled both (spec: 11.12.2.2.1, error and exception handling).
        for one in (*rivals, conversation) if rivals else ():
            one.tell("rival", {})
        conversation.tell("request", content)
        self._talks[key] = conversation
        self._group.create_task(self._hold(conversation))

    def _told(
        self, user_id: UserID, room_id: RoomID | None, ident: str, kind: str, content: Event
    ) -> None:
        """Hand on what belongs to a verification; say so when there is none."""
        kind, key = kind.removeprefix(PREFIX), (user_id, room_id, ident)
        conversation = self._talks.get(key)
        if kind not in KINDS:
            return
        if conversation is not None:
            conversation.tell(kind, content)
        # In a room it is between others; and neither a `start` nor what ends it is answered.
        elif room_id is None and kind in {"key", "mac"} and key not in self._ended:
            self._stray(Conversation(user_id=user_id, device_id="*", id=ident))

    def _stray(self, conversation: Conversation) -> None:
        if (
            self._group is None
            or self._strays >= AT_ONCE
            or conversation.user_id == self._matrix.own_id
        ):
            return
        self._strays += 1
        self._ended.append(conversation.key)
        self._group.create_task(self._turn_away(conversation))

    # --- what goes out ----------------------------------------------------------------------

    async def _turn_away(self, conversation: Conversation) -> None:
        try:
            await self._runner.turn_away(conversation)
        except OutcomeError as error:
            log.info("a verification was not answered (%s)", describe(error.outcome))
        finally:
            self._strays -= 1

    async def _hold(self, conversation: Conversation) -> None:
        """See one verification through, to whatever end."""
        end = ""
        try:
            end = await self._runner.converse(conversation)
        except TokenRejectedError:
            raise
        except OutcomeError as error:
            end = f"was given up ({describe(error.outcome)})"
        except Exception as error:  # noqa: BLE001 - made of a stranger's input
            end = f"was given up ({type(error).__name__})"
        finally:
            del self._talks[conversation.key]
            self._ended.append(conversation.key)
        log.info("the verification by %s %s", conversation.user_id, end)


def _is_id(found: object) -> TypeGuard[str]:
    """Whether it may name a user, a device, or a verification."""
    return isinstance(found, str) and 0 < len(found) <= LONGEST
