"""Looks things up on the homeserver: a room's state, its members, an event and its relations."""

from __future__ import annotations

from typing import Final

from bot.core.json_shape import as_object, objects
from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Done, Failed, NotFound, Outcome, OutcomeError, Refused
from bot.core.power_levels import Power
from bot.core.timeline import belongs_to, descendants, is_gone, is_state
from bot.core.types import Event, EventID, RoomID, UserID
from bot.matrix.device_trust import is_cross_signed
from bot.matrix.http.endpoints import BASE_V1, path
from bot.matrix.http.requests import Requests

RELATED: Final = 100
RELATED_PAGES: Final = 50
"""Should there be more, the rest is found when these are gone."""


class Lookups(Requests):
    """The questions that change nothing."""

    own_id: UserID

    async def is_signed(self, user_id: UserID, device_id: str, device_key: str) -> bool:
        """Whether a person's device is signed by its owner. Raises `OutcomeError`."""
        body = {"device_keys": {user_id: [device_id]}}
        answer = await self.must("POST", path("keys", "query"), body)
        return is_cross_signed(answer, user_id, device_id, device_key)

    async def answers(self) -> bool:
        """Whether the homeserver answers what concerns no room; from its database and no cache."""
        return isinstance(await self.request("GET", path("devices")), Done)

    async def joined_rooms(self) -> set[RoomID]:
        """Return the rooms the bot is in. Raises `OutcomeError`."""
        body = await self.must("GET", path("joined_rooms"))
        found = body.get("joined_rooms")
        if not isinstance(found, list):
            raise OutcomeError(Failed(status=200))
        return {RoomID(room) for room in found if isinstance(room, str)}

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
        where = path("rooms", room_id, "state", kind, key, query={"format": "event"})
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
        """Return the display name that a person has chosen in the room; empty where none is known.

        Anybody can choose any: it never stands for the id.
        """
        try:
            event = await self.state(room_id, "m.room.member", user_id)
        except OutcomeError:
            return ""
        name = event["content"].get("displayname") if event is not None else None
        return name if isinstance(name, str) else ""

    async def is_shared(self, room_id: RoomID) -> bool:
        """Whether people of other homeservers are in the room. Raises `OutcomeError`."""
        body = await self.must("GET", path("rooms", room_id, "joined_members"))
        own = self.own_id.partition(":")[2]
        return any(one.partition(":")[2] != own for one in as_object(body.get("joined")))

    async def others(self, room_id: RoomID) -> tuple[int, int]:
        """Return how many others are in a room, and how many are invited. Raises `OutcomeError`.

        A list without the bot itself is not believed.
        spec: client-server API v1.13, 10.5.2 getting the members of a room.
        """
        where = path("rooms", room_id, "members", query={"not_membership": "leave"})
        chunk = (await self.must("GET", where)).get("chunk")
        members = {
            str(event.get("state_key")): str((event.get("content") or {}).get("membership"))
            for event in objects(chunk)
            if isinstance(event.get("content") or {}, dict)
        }
        if not isinstance(chunk, list) or members.pop(self.own_id, "") != "join":
            raise OutcomeError(Failed(status=200))
        found = list(members.values())
        return found.count("join"), found.count("invite")

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        """Return an event; `None` when the homeserver does not have it. Raises `OutcomeError`."""
        outcome = await self.request("GET", path("rooms", room_id, "event", event_id))
        if isinstance(outcome, NotFound):
            return None
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        return outcome.body

    async def relations(self, room_id: RoomID, event_id: EventID) -> tuple[list[EventID], bool]:
        """Return what belongs to an event and still stands: edits, reactions, votes, and theirs.

        The second says whether that is all. Of an event that the homeserver does not have, nothing
        is known; nor of any, where it does not know this request. Raises `OutcomeError`.
        spec: client-server API v1.13, 11.30.2 relationships API.
        """
        found: dict[EventID, EventID] = {}
        query: dict[str, str | int] = {"recurse": "true", "limit": RELATED}
        for _ in range(RELATED_PAGES):
            where = path("rooms", room_id, "relations", event_id, query=query, base=BASE_V1)
            outcome = await self.request("GET", where)
            if _nothing_there(outcome):
                break
            if not isinstance(outcome, Done):
                raise OutcomeError(outcome)
            body = outcome.body
            for event in objects(body.get("chunk")):
                parent, child = belongs_to(event), event.get("event_id")
                if parent and isinstance(child, str) and not is_state(event) and not is_gone(event):
                    found[EventID(child)] = parent
            if not isinstance(body.get("next_batch"), str):
                break
            query["from"] = body["next_batch"]
        else:
            return descendants(event_id, found), False
        return descendants(event_id, found), True

    async def is_gone(self, room_id: RoomID, event_id: EventID) -> bool:
        """Whether the homeserver serves the event as redacted, or not at all.

        Raises `OutcomeError` when it cannot be told.
        """
        event = await self.event(room_id, event_id)
        return event is None or is_gone(event)


def _nothing_there(outcome: Outcome) -> bool:
    """Whether a homeserver says of relations that it does not know the event, or the request.

    Synapse says of an unknown event: 404 `M_UNKNOWN`.
    """
    if isinstance(outcome, Failed | Refused):
        return bool(outcome.errcode) and outcome.status in {404, 405, 501}
    return isinstance(outcome, NotFound)
