"""A homeserver in memory that answers as Synapse does; `test_contract` holds it to that."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bot.core.default_lifetime import DEFAULT_EVENT
from bot.core.invitations import Invite
from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Done, Failed, Forbidden, NotFound, Outcome, OutcomeError, RateLimited
from bot.core.power_levels import Power
from bot.core.sync_batch import RoomBatch, SyncBatch
from bot.core.timeline import belongs_to, descendants, is_gone, is_state
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from tests.support.fake_clock import FakeClock
from tests.support.fake_requests import FakeRequests
from tests.support.fake_rooms import ALICE, BOB, BOT, FakeRoom

__all__ = ["ALICE", "BOB", "BOT", "FakeClock", "FakeHomeserver", "FakeRoom"]


@dataclass(frozen=True, kw_only=True)
class Clear:
    """A decrypted event."""

    type: str
    content: dict[str, Any]
    session_id: str
    index: int = 0
    device_id: str = "DEVICE"
    device_key: str = ""
    known: bool = True


class FakeHomeserver(FakeRequests):
    """The bot's side of it: every method that `bot.matrix.client.Matrix` offers to the services."""

    def __init__(self, clock: FakeClock | None = None, *, limit: int = 100, page: int = 5) -> None:
        super().__init__(clock or FakeClock())
        self.limit = limit
        """Most events of a room in one sync."""
        self.page = page
        """Most events in one page back."""
        self.lying = False
        """While set, redactions are answered with 200 and do not happen."""
        self.counts_members = False
        """Whether a sync says how many are in a room, as it should."""
        self.allowed_period: Millis | None = None
        """Nobody redacts a text message that is older than this."""
        self._news = asyncio.Event()
        self._limit_redactions: Callable[[], Millis] = lambda: 0

    def limit_redactions(self, limit: Callable[[], Millis]) -> None:
        """Ask before each redaction how long it is to wait; 0 lets it through."""
        self._limit_redactions = limit

    @property
    def own_id(self) -> UserID:
        return self._own_id

    def on_event(self) -> None:
        self._news.set()

    # --- reading

    async def sync(self, since: str | None, wait: Millis) -> SyncBatch:
        """Return what is new; with `wait`, not before there is something, however long."""
        async with self.question("sync"):
            while True:
                self._news.clear()
                batch = self._batch(None if since is None else int(since[1:]))
                if since is None or wait == 0 or batch.joined or batch.invited or batch.left:
                    return batch
                await self._news.wait()

    def _batch(self, since: int | None) -> SyncBatch:
        joined, invited, left = [], [], []
        for room in self.rooms.values():
            now = room.membership(self._own_id)
            before = "leave" if since is None else room.membership(self._own_id, since)
            if now == "join":
                part = self._part(room, since if before == "join" else None)
                joined += [part] if part else []
            elif now == "invite" and now != before:
                inviter = room.state()[("m.room.member", self._own_id)]["sender"]
                invited.append(Invite(room_id=room.room_id, inviter=inviter))
            elif since is not None and now not in {before, "invite"}:
                left.append(room.room_id)
        token = f"s{self.place}"
        return SyncBatch(next_batch=token, joined=joined, invited=invited, left=left)

    def _part(self, room: FakeRoom, since: int | None) -> RoomBatch | None:
        """Return what is new in a room; all of it when the bot was not in it before."""
        fresh = [i for i, place in enumerate(room.places) if since is None or place >= since]
        if not fresh:
            return None
        shown = fresh[-self.limit :] if self.limit else []
        first = room.places[shown[0]] if shown else self.place
        limited = since is None or len(shown) < len(fresh)
        known = {} if since is None else room.state(since)
        state = [e for key, e in room.state(first).items() if limited and known.get(key) is not e]
        return RoomBatch(
            room_id=room.room_id,
            state=copy.deepcopy(state),
            timeline=copy.deepcopy([room.events[i] for i in shown]),
            limited=limited,
            full=len(shown) >= self.limit,
            prev_batch=f"s{first}",
            members=self._members(room) if self.counts_members else None,
        )

    def _members(self, room: FakeRoom) -> int:
        users = [user for kind, user in room.state() if kind == "m.room.member"]
        return sum(room.membership(user) == "join" for user in users)

    async def page_back(
        self, room_id: RoomID, token: str, size: int | None = None
    ) -> tuple[list[Event], str | None]:
        async with self.question("page_back", room_id):
            room = self._readable(room_id)
            before = room.between(0, int(token[1:]))
            page = before[-min(self.page, size or self.page) :]
            if not page:
                return [], None
            first = room.places[room.events.index(page[0])]
            return copy.deepcopy(page[::-1]), f"s{first}"

    async def decrypt(self, room_id: RoomID, event: Event, *, meet: bool = False) -> Clear | None:
        content = event.get("content")
        ciphertext = content.get("ciphertext") if isinstance(content, dict) else None
        clear = self.clear.get(ciphertext) if isinstance(ciphertext, str) else None
        if clear is None:
            return None
        return Clear(type="m.room.message", content=clear, session_id=str(ciphertext))

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        return False

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool) -> None:
        pass

    async def is_signed(self, user_id: UserID, device_id: str, device_key: str) -> bool:
        return user_id in self.signers

    async def answers(self) -> bool:
        async with self.request("answers") as failure:
            return failure is None

    async def joined_rooms(self) -> set[RoomID]:
        async with self.question("joined_rooms"):
            return {
                room_id
                for room_id, room in self.rooms.items()
                if room.membership(self._own_id) == "join"
            }

    async def power(self, room_id: RoomID) -> Power:
        async with self.question("power", room_id):
            return self._readable(room_id).power()

    async def policy_event(self, room_id: RoomID) -> Event | None:
        async with self.question("policy_event", room_id):
            event = self._readable(room_id).state().get((POLICY_EVENT, ""))
            return copy.deepcopy(event)

    async def state(self, room_id: RoomID, kind: str, key: str = "") -> Event | None:
        async with self.question("state", room_id):
            room = self._readable(room_id)
            return copy.deepcopy((room.state() | room.resolved).get((kind, key)))

    async def name_of(self, room_id: RoomID, user_id: UserID) -> str:
        async with self.request("name_of", room_id) as failure:
            state = {} if failure else self.rooms[room_id].state()
        member = state.get(("m.room.member", user_id))
        return "" if member is None else str(member["content"].get("displayname", ""))

    async def relations(self, room_id: RoomID, event_id: EventID) -> tuple[list[EventID], bool]:
        async with self.question("relations", room_id):
            standing = {
                event["event_id"]: parent
                for event in self._readable(room_id).events
                if (parent := belongs_to(event)) and not is_state(event) and not is_gone(event)
            }
            return descendants(event_id, standing), True

    async def is_shared(self, room_id: RoomID) -> bool:
        async with self.question("is_shared", room_id):
            state = self._readable(room_id).state()
            return any(
                kind == "m.room.member"
                and event["content"].get("membership") == "join"
                and not user.endswith(":example.org")
                for (kind, user), event in state.items()
            )

    async def others(self, room_id: RoomID) -> tuple[int, int]:
        async with self.question("others", room_id):
            room = self._readable(room_id)
            if room.membership(self._own_id) != "join":
                raise OutcomeError(Failed(status=200))
            state = room.state()
            found = [
                str(event["content"].get("membership"))
                for (kind, user), event in state.items()
                if kind == "m.room.member" and user != self._own_id
            ]
            return found.count("join"), found.count("invite")

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        async with self.question("event", room_id):
            return copy.deepcopy(self._seen(room_id).find(event_id))

    async def is_gone(self, room_id: RoomID, event_id: EventID) -> bool:
        async with self.question("is_gone", room_id):
            event = self._seen(room_id).find(event_id)
            return event is None or is_gone(event)

    def _readable(self, room_id: RoomID) -> FakeRoom:
        """Return a room whose state the bot may see: it is or was in it, and is not banned."""
        room = self._seen(room_id)
        if room.membership(self._own_id) == "ban":
            raise OutcomeError(Forbidden())
        return room

    def _seen(self, room_id: RoomID) -> FakeRoom:
        """Return a room that the bot is or was in: the events that it saw stay readable."""
        room = self.rooms.get(room_id)
        if room is None or not any(
            event.get("state_key") == self._own_id and event["content"].get("membership") == "join"
            for event in room.events
        ):
            raise OutcomeError(Forbidden())
        return room

    # --- writing

    async def redact(self, room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        async with self.request("redact", room_id) as failure:
            room = self.rooms.get(room_id)
            if failure is not None:
                return failure
            if room is None:
                return NotFound()
            if txn in room.transactions:
                return Done(body={"event_id": room.transactions[txn]})
            wait = self._limit_redactions()
            if wait:
                return RateLimited(retry_after=wait)
            refusal = self._too_old(room, event_id) or room.refusal(self._own_id, event_id)
            if refusal is not None:
                return refusal
            said = EventID("$lie") if self.lying else self.redact_as(room_id, event_id, self.own_id)
            room.transactions[txn] = said
            return Done(body={"event_id": said})

    def _too_old(self, room: FakeRoom, event_id: EventID) -> Outcome | None:
        target, period = room.find(event_id), self.allowed_period
        if period is None or target is None or target["type"] != "m.room.message":
            return None
        age = self.clock.now() - target["origin_server_ts"]
        return Forbidden(reason="M_FORBIDDEN", older_than=period) if age > period else None

    async def set_policy(self, room_id: RoomID, content: dict[str, Any]) -> Outcome:
        async with self.request("set_policy", room_id) as failure:
            return failure or self._set_state(room_id, POLICY_EVENT, content)

    async def set_defaults(self, room_id: RoomID, content: dict[str, Any]) -> Outcome:
        async with self.request("set_defaults", room_id) as failure:
            return failure or self._set_state(room_id, DEFAULT_EVENT, content)

    def _set_state(self, room_id: RoomID, kind: str, content: dict[str, Any]) -> Outcome:
        room = self.rooms.get(room_id)
        if room is None or room.membership(self._own_id) != "join":
            return Forbidden()
        if not room.power().may_send_state(self._own_id, kind):
            return Forbidden()
        current = room.state().get((kind, ""))
        if current and current["content"] == content and current["sender"] == self._own_id:
            return Done(body={"event_id": current["event_id"]})
        event_id = self.set_state(room_id, kind, content, sender=self._own_id)
        return Done(body={"event_id": event_id})

    async def say(
        self, room_id: RoomID, content: dict[str, Any], txn: str, *, encrypted: bool
    ) -> Outcome:
        async with self.request("say", room_id) as failure:
            if failure is not None:
                return failure
            room = self.rooms.get(room_id)
            if room is None or room.membership(self._own_id) != "join":
                return Forbidden()
            if not room.power().may_send(self._own_id, "m.room.message"):
                return Forbidden()
            if txn not in room.transactions:
                event: Event = {
                    "type": "m.room.message",
                    "sender": self._own_id,
                    "content": content,
                }
                if encrypted:
                    event = self.encrypt(content, self._own_id)
                room.transactions[txn] = self.add(room_id, event)
                self.notices.append((room_id, content["body"]))
            return Done(body={"event_id": room.transactions[txn]})

    async def join(self, room_id: RoomID, via: str = "") -> Outcome:
        async with self.request("join", room_id) as failure:
            room = self.rooms.get(room_id)
            free = {"leave"} if room is not None and room.is_open() else set()
            return failure or self._move(room_id, "join", {"invite", "join"} | free)

    async def leave(self, room_id: RoomID) -> Outcome:
        async with self.request("leave", room_id) as failure:
            return failure or self._move(room_id, "leave", {"invite", "join"})

    def _move(self, room_id: RoomID, to: str, allowed: set[str]) -> Outcome:
        room = self.rooms.get(room_id)
        if room is None:
            return NotFound()
        if room.membership(self._own_id) not in allowed:
            return Forbidden()
        if room.membership(self._own_id) != to:
            self.set_member(room_id, self._own_id, to, displayname="Ephemeral")
        return Done()
