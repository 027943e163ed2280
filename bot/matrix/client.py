"""The homeserver as the bot knows it: every request it makes, every answer with its name."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from nio import AsyncClient, ErrorResponse

from bot.matrix import answers
from bot.matrix.crypto import Crypto, Decrypted
from bot.matrix.trust import is_cross_signed
from bot.model import (
    POLICY_EVENT,
    Done,
    Event,
    EventID,
    Failed,
    Locked,
    Millis,
    NotFound,
    Outcome,
    OutcomeError,
    RoomID,
    SyncBatch,
    Unreachable,
    UserID,
)
from bot.power import Power
from bot.timeline import is_gone

log = logging.getLogger(__name__)

BASE: Final = "/_matrix/client/v3"
ANSWER_WITHIN: Final = 30.0
"""Seconds for one request; a long poll gets its own time on top."""

SEND_WITHIN: Final = 120.0
"""Seconds for an encrypted message, the keys of all members' devices included."""

SYNC_FILTER: Final = json.dumps(
    {
        "presence": {"types": []},
        "account_data": {"types": []},
        "room": {
            "account_data": {"types": []},
            "ephemeral": {"types": []},
            "state": {"lazy_load_members": True},
            # No filter by type: it would lose changes of the room's settings.
            "timeline": {"limit": 100},
        },
    },
    separators=(",", ":"),
)
PAGE: Final = 1000
"""Events asked for at once when reading back; Synapse's own limit."""


def path(*parts: str, **query: str | int) -> str:
    """Return a path under `/_matrix/client/v3` with every part quoted: ids hold any sign."""
    joined = "/".join(quote(part, safe="") for part in parts)
    return f"{BASE}/{joined}" + (f"?{urlencode(query)}" if query else "")


class Matrix:
    """One device of the bot's account on its homeserver."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.crypto = Crypto(client, self.request)
        self.own_id = UserID(client.user_id)
        self._encrypting = asyncio.Lock()

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

    async def request(
        self, method: str, where: str, body: Any = None, *, within: float = ANSWER_WITHIN
    ) -> Outcome:
        """Make one request, once; return the outcome's name.

        Raises `TokenRejectedError` when the access token is no longer accepted.
        """
        headers = {"Content-Type": "application/json"}
        if self._client.access_token:
            headers["Authorization"] = f"Bearer {self._client.access_token}"
        data = None if body is None else json.dumps(body)
        timeout: Any = aiohttp.ClientTimeout(total=within)
        try:
            response = await self._client.send(method, where, data, headers, timeout=timeout)
            async with response:
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Unreachable(reason=type(error).__name__)
        return answers.name(response.status, answers.parse(raw), response.headers)

    async def _must(self, method: str, where: str, body: Any = None) -> Event:
        outcome = await self.request(method, where, body)
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        return outcome.body

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
        outcome = await self.request("GET", path("sync", **query), within=within)
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        if not isinstance(outcome.body.get("next_batch"), str):
            raise OutcomeError(Failed(status=200))
        self.crypto.feed(outcome.body)
        await self.crypto.keep_up()
        batch = answers.read_sync(outcome.body, self.own_id)
        return replace(batch, keys=self.crypto.has_news)

    async def page_back(self, room_id: RoomID, token: str) -> tuple[list[Event], str | None]:
        """Return a page of events before `token`, newest first, and the token before them.

        There is no `to`: with it, Synapse leaves out what federation filled in later.
        Raises `OutcomeError`.
        """
        query: dict[str, str | int] = {"dir": "b", "from": token, "limit": PAGE}
        body = await self._must("GET", path("rooms", room_id, "messages", **query))
        end = body.get("end")
        return answers.events(body.get("chunk")), end if isinstance(end, str) else None

    async def decrypt(self, room_id: RoomID, event: Event) -> Decrypted | Locked | None:
        """Return an encrypted event in clear, if it is readable and its sender's own."""
        return await self.crypto.decrypt(room_id, event)

    async def is_signed(self, user_id: UserID, device_id: str, device_key: str) -> bool:
        """Whether a person's device is signed by its owner. Raises `OutcomeError`."""
        body = {"device_keys": {user_id: [device_id]}}
        answer = await self._must("POST", path("keys", "query"), body)
        return is_cross_signed(answer, user_id, device_id, device_key)

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        """Whether a room key has come."""
        return self.crypto.has_key(room_id, session_id)

    async def ask_for_key(self, room_id: RoomID, event: Event) -> None:
        """Ask the sender's device for the key of an event."""
        self.crypto.ask_for_key(room_id, event)
        await self.crypto.keep_up()

    async def joined_rooms(self) -> set[RoomID]:
        """Return the rooms the bot is in. Raises `OutcomeError`."""
        body = await self._must("GET", path("joined_rooms"))
        found = body.get("joined_rooms")
        if not isinstance(found, list):
            raise OutcomeError(Failed(status=200))
        return {RoomID(room) for room in found}

    async def power(self, room_id: RoomID) -> Power:
        """Return who may do what in a room, from its state as it is now.

        Raises `OutcomeError`.
        """
        events = {"m.room.create": None, "m.room.power_levels": None} | {
            str(event.get("type")): event
            for event in [
                await self.state(room_id, "m.room.create"),
                await self.state(room_id, "m.room.power_levels"),
            ]
            if event is not None
        }
        levels = events["m.room.power_levels"]
        return Power.read(events["m.room.create"], levels["content"] if levels else None)

    async def policy_event(self, room_id: RoomID) -> Event | None:
        """Return the state event that holds the room's lifetime. Raises `OutcomeError`."""
        return await self.state(room_id, POLICY_EVENT)

    async def state(self, room_id: RoomID, kind: str, key: str = "") -> Event | None:
        """Return a state event; `None` when the room has none. Raises `OutcomeError`."""
        where = path("rooms", room_id, "state", kind, key, format="event")
        outcome = await self.request("GET", where)
        if isinstance(outcome, NotFound):
            return None
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        if not isinstance(outcome.body.get("content"), dict):
            # A homeserver that does not know `format=event` gives the content alone.
            return {"type": kind, "content": outcome.body, "sender": "", "event_id": ""}
        return outcome.body

    async def name_of(self, room_id: RoomID, user_id: UserID) -> str:
        """Return the person's display name in the room, with the id where two share it.

        spec: client-server API v1.13, 11.2.2.3 calculating the display name for a user.
        """
        outcome = await self.request("GET", path("rooms", room_id, "joined_members"))
        members = outcome.body.get("joined") if isinstance(outcome, Done) else None
        if not isinstance(members, dict):
            return user_id
        names = {
            member: profile.get("display_name")
            for member, profile in members.items()
            if isinstance(profile, dict)
        }
        name = names.get(user_id)
        if not isinstance(name, str) or not name.strip():
            return user_id
        shared = sum(other == name for other in names.values()) > 1 or name in names
        return f"{name} ({user_id})" if shared else name

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        """Return an event; `None` when the homeserver does not have it. Raises `OutcomeError`."""
        outcome = await self.request("GET", path("rooms", room_id, "event", event_id))
        if isinstance(outcome, NotFound):
            return None
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        return outcome.body

    async def is_gone(self, room_id: RoomID, event_id: EventID) -> bool:
        """Whether the homeserver serves the event as redacted, or not at all.

        Raises `OutcomeError` when it cannot be told.
        """
        event = await self.event(room_id, event_id)
        return event is None or is_gone(event)

    # --- writing -------------------------------------------------------------------------

    async def redact(self, room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        """Redact an event. spec: client-server API v1.13, 8.3 redactions."""
        return await self.request("PUT", path("rooms", room_id, "redact", event_id, txn), {})

    async def set_policy(self, room_id: RoomID, content: dict[str, Any]) -> Outcome:
        """Set the room's lifetime for everybody to read."""
        return await self.request("PUT", path("rooms", room_id, "state", POLICY_EVENT, ""), content)

    async def join(self, room_id: RoomID, via: str = "") -> Outcome:
        """Accept an invitation, or enter an open room, which the server `via` knows."""
        query = {"via": via, "server_name": via} if via else {}  # the latter before v1.12
        return await self.request("POST", path("join", room_id, **query), {})

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
        """Send an event of any type; `encrypted`: encrypt it to all members."""
        if not encrypted:
            where = path("rooms", room_id, "send", kind, txn)
            return await self.request("PUT", where, content)
        # One after the other: nio notes in one place which room's keys are on their way, and a
        # message that fails takes that note away.
        async with self._encrypting:
            return await self._send_encrypted(room_id, kind, content, txn)

    async def _send_encrypted(
        self, room_id: RoomID, kind: str, content: dict[str, Any], txn: str
    ) -> Outcome:
        try:
            await self.crypto.prepare(room_id)
            async with asyncio.timeout(SEND_WITHIN):
                response = await self._client.room_send(
                    room_id, kind, content, txn, ignore_unverified_devices=True
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Unreachable(reason=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - made of the members' keys, of any shape
            log.warning("could not encrypt (%s)", type(error).__name__)
            return Failed(status=0, errcode=type(error).__name__)
        finally:
            # nio leaves this behind when it fails early, and would wait for it for ever.
            unfinished = self._client.sharing_session.pop(room_id, None)
            if unfinished is not None:
                unfinished.set()
        if isinstance(response, ErrorResponse):
            return _named(response)
        return Done()


def _named(response: ErrorResponse) -> Outcome:
    """Return the name of an error that came through nio's own request."""
    body = {"errcode": response.status_code, "retry_after_ms": response.retry_after_ms}
    transport = response.transport_response
    if transport is None:
        return Failed(status=0)
    return answers.name(transport.status, body, transport.headers)
