"""The homeserver as the bot knows it: every request it makes, every answer with its name."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final

from bot.core.default_lifetime import DEFAULT_EVENT
from bot.core.json_shape import objects
from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcome_text import describe
from bot.core.outcomes import Done, Failed, Outcome, OutcomeError, TokenRejectedError, Unreachable
from bot.core.sync_batch import MissingRoomKey, SyncBatch
from bot.core.timeline import PAGE
from bot.core.topics import Topics
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from bot.matrix.encryption.crypto import Crypto
from bot.matrix.encryption.megolm import Decrypted
from bot.matrix.http import responses
from bot.matrix.http.endpoints import path
from bot.matrix.http.nio_client import Client
from bot.matrix.http.requests import ANSWER_WITHIN
from bot.matrix.http.response_body import LARGE
from bot.matrix.lookups import Lookups

log = logging.getLogger(__name__)

SEND_WITHIN: Final = 120.0
"""Seconds for one try at an encrypted message; keys that were given by then stay given."""

SYNC_FILTER: Final = json.dumps(
    {
        "presence": {"types": []},
        "account_data": {"types": []},
        "room": {
            "account_data": {"types": []},
            "ephemeral": {"types": []},
            "state": {"lazy_load_members": True},
            # No filter by type: it would lose changes of the room's settings.
            "timeline": {"limit": responses.TIMELINE},
        },
    },
    separators=(",", ":"),
)
SHORT_FILTER: Final = SYNC_FILTER.replace(f'"limit":{responses.TIMELINE}', '"limit":5')
SHORT_PAGE: Final = 100
"""Events of the greatest size that fit into a page that is still read."""
PAGE_BYTES: Final = LARGE // 4
"""Bytes read of a page; those of several rooms are read at once."""


MOST_PARTS: Final = 1_000_000
"""Objects and lists of a sync: each takes some 200 bytes of memory, and three of the answer."""


class Matrix(Lookups):
    """One device of the bot's account on its homeserver."""

    def __init__(self, client: Client, topics: Topics | None = None) -> None:
        """`topics`: where to tell of keys that came."""
        super().__init__(client)
        self.crypto = Crypto(client, self.request, topics=topics)
        self.own_id = UserID(client.user_id)

    @property
    def fingerprint(self) -> str:
        """The Ed25519 key of this device."""
        return str(self._client.olm.account.identity_keys["ed25519"])

    def use_token(self, token: str) -> None:
        """Make requests as the device that `token` belongs to."""
        self._client.access_token = token

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    # --- reading -------------------------------------------------------------------------

    async def sync(self, since: str | None, wait: Millis) -> SyncBatch:
        """Wait up to `wait` milliseconds for what is new; keep the encryption fed.

        Raises `OutcomeError` when there was no answer to use.
        spec: client-server API v1.13, 6.4 syncing.
        """
        query: dict[str, str | int] = {"filter": SYNC_FILTER, "set_presence": "offline"}
        if since is not None:
            query |= {"since": since, "timeout": wait}
        within = ANSWER_WITHIN + wait / 1000
        if since is None:
            within *= 10  # the first sync of an account in many rooms takes its time
        where = path("sync", query=query)
        outcome = await self.request(
            "GET", where, within=within, most=LARGE, trim=True, parts=MOST_PARTS
        )
        if outcome is responses.TOO_LARGE:
            # Whoever fills rooms may not stop the sync: less of each room; the rest is a gap.
            where = path("sync", query=query | {"filter": SHORT_FILTER})
            outcome = await self.request("GET", where, within=within, most=2 * LARGE, trim=True)
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        if not isinstance(outcome.body.get("next_batch"), str):
            raise OutcomeError(Failed(status=200))
        await self.crypto.feed_by_slices(outcome.body)
        self.crypto.wake.set()
        return responses.read_sync(outcome.body, self.own_id)

    async def page_back(
        self, room_id: RoomID, token: str, size: int | None = None
    ) -> tuple[list[Event], str | None]:
        """Return a page of events before `token`, newest first, and the token before them.

        `size`: how many at most. There is no `to`: with it, Synapse leaves out what federation
        filled in later. Raises `OutcomeError`.
        """
        query: dict[str, str | int] = {"dir": "b", "from": token, "limit": size or PAGE}
        try:
            body = await self._page(room_id, query)
        except OutcomeError as error:
            if error.outcome is not responses.TOO_LARGE or (size or PAGE) <= SHORT_PAGE:
                raise
            body = await self._page(room_id, query | {"limit": SHORT_PAGE})
        end = body.get("end")
        return objects(body.get("chunk")), end if isinstance(end, str) else None

    async def _page(self, room_id: RoomID, query: dict[str, str | int]) -> Event:
        where = path("rooms", room_id, "messages", query=query)
        return await self.must("GET", where, most=min(PAGE_BYTES, LARGE))

    async def decrypt(
        self, room_id: RoomID, event: Event, *, meet: bool
    ) -> Decrypted | MissingRoomKey | None:
        """Return an encrypted event in clear, if it is readable; see `Crypto.decrypt`."""
        return await self.crypto.decrypt(room_id, event, meet=meet)

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        """Whether a room key has come."""
        return self.crypto.has_key(room_id, session_id)

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool = False) -> None:
        """Have the sender's device asked for the key of an event; other servers may delay that."""
        self.crypto.ask_for_key(room_id, event, again=again)
        self.crypto.wake.set()

    # --- writing -------------------------------------------------------------------------

    async def redact(self, room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        """Redact an event. spec: client-server API v1.13, 8.3 redactions."""
        return await self.request("PUT", path("rooms", room_id, "redact", event_id, txn), {})

    async def set_policy(self, room_id: RoomID, content: dict[str, Any]) -> Outcome:
        """Set the room's lifetime for everybody to read."""
        return await self.request("PUT", path("rooms", room_id, "state", POLICY_EVENT, ""), content)

    async def set_defaults(self, room_id: RoomID, content: dict[str, Any]) -> Outcome:
        """Write down, for the bot itself, since when the operator's default holds in a room."""
        where = path("rooms", room_id, "state", DEFAULT_EVENT, "")
        return await self.request("PUT", where, content)

    async def join(self, room_id: RoomID, via: str = "") -> Outcome:
        """Accept an invitation, or enter an open room, which the server `via` knows."""
        # `server_name` is what `via` was called before v1.12.
        query: dict[str, str | int] = {"via": via, "server_name": via} if via else {}
        return await self.request("POST", path("join", room_id, query=query), {})

    async def leave(self, room_id: RoomID) -> Outcome:
        """Decline an invitation."""
        return await self.request("POST", path("rooms", room_id, "leave"), {})

    async def say(
        self, room_id: RoomID, content: dict[str, Any], txn: str, *, encrypted: bool
    ) -> Outcome:
        """Send a message, encrypted to all members where the room is encrypted."""
        return await self.send(room_id, "m.room.message", content, txn, encrypted=encrypted)

    async def send(
        self, room_id: RoomID, kind: str, content: dict[str, Any], txn: str, *, encrypted: bool
    ) -> Outcome:
        """Send an event of any type; `encrypted`: encrypt it to all members.

        Several rooms may be written to at once; one room's messages go one after the other. A
        call that is cancelled, or takes too long, is gone on with by the next one. `RateLimited`
        may also say that a big room has had too many keys: its words wait, and go together.
        """
        if not encrypted:
            where = path("rooms", room_id, "send", kind, txn)
            return await self.request("PUT", where, content)
        try:
            async with asyncio.timeout(SEND_WITHIN), self.crypto.room_keys.turn_of(room_id):
                return await self._send_encrypted(room_id, kind, content, txn)
        except TimeoutError:
            done, of = self.crypto.room_keys.progress(room_id)
            log.warning(
                "an encrypted message takes longer than %d s: %d of %d devices have its key;"
                " the next try goes on",
                SEND_WITHIN,
                done,
                of,
            )
            return Unreachable(reason="TimeoutError")

    async def _send_encrypted(
        self, room_id: RoomID, kind: str, content: dict[str, Any], txn: str
    ) -> Outcome:
        keys = self.crypto.room_keys
        try:
            outbound = await keys.share(room_id)
            sealed = keys.encrypt(room_id, outbound, kind, content)
        except OutcomeError as error:
            why = describe(error.outcome)
            log.info("%d of %d devices have a room's key (%s)", *keys.progress(room_id), why)
            return error.outcome
        except (TokenRejectedError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 - made of the members' keys, of any shape
            log.warning("could not encrypt (%s)", type(error).__name__)
            return Failed(status=0, errcode=type(error).__name__)
        where = path("rooms", room_id, "send", "m.room.encrypted", txn)
        return await self.request("PUT", where, sealed)
