"""Rooms of an imaginary homeserver, and what people do in them, by the rules that Synapse keeps."""

from __future__ import annotations

import copy
import itertools
from typing import Any

from bot.core.lifetimes import POLICY_EVENT
from bot.core.outcomes import Forbidden, NotFound, Outcome
from bot.core.policy import SINCE
from bot.core.power_levels import Power
from bot.core.types import Event, EventID, Millis, RoomID, UserID
from tests.support.fake_clock import FakeClock

ALICE = UserID("@alice:example.org")
BOB = UserID("@bob:example.org")
BOT = UserID("@bot:example.org")


class FakeRoom:
    """One room: its timeline, its state, and the transactions of the bot in it."""

    def __init__(self, room_id: RoomID, version: str) -> None:
        self.room_id = room_id
        self.version = version
        self.places: list[int] = []
        """Where each event stands in the homeserver's stream; as many as `events`."""
        self.events: list[Event] = []
        self.transactions: dict[str, EventID] = {}
        self.resolved: dict[tuple[str, str], Event] = {}
        """What the state is resolved to, where that is not what the timeline ends with."""

    def state(self, before: int | None = None) -> dict[tuple[str, str], Event]:
        """Return the state as it is, or as it was before a place in the stream."""
        pairs = zip(self.places, self.events, strict=True)
        return {
            (event["type"], event["state_key"]): event
            for place, event in pairs
            if "state_key" in event and (before is None or place < before)
        }

    def find(self, event_id: str) -> Event | None:
        return next((event for event in self.events if event["event_id"] == event_id), None)

    def power(self) -> Power:
        state = self.state()
        levels = state.get(("m.room.power_levels", ""))
        return Power.read(state.get(("m.room.create", "")), levels and levels["content"])

    def membership(self, user: str, before: int | None = None) -> str:
        event = self.state(before).get(("m.room.member", user))
        return "leave" if event is None else str(event["content"].get("membership", "leave"))

    def is_open(self) -> bool:
        """Whether anybody may join."""
        rules = self.state().get(("m.room.join_rules", ""))
        return rules is not None and rules["content"].get("join_rule") == "public"

    def refusal(self, user: str, target_id: str) -> Outcome | None:
        """Return why this user may not redact that event; `None` when nothing is against it."""
        power, target = self.power(), self.find(target_id)
        if self.membership(user) != "join" or not power.may_send(user, "m.room.redaction"):
            return Forbidden()
        if power.of(user) >= power.redact:
            return None
        if target is None:
            return NotFound()
        return None if target["sender"] == user else Forbidden()

    def between(self, first: int, last: int) -> list[Event]:
        """Return the events at the places from `first` up to and without `last`."""
        pairs = zip(self.places, self.events, strict=True)
        return [event for place, event in pairs if first <= place < last]


class FakeRooms:
    """All rooms of a homeserver; its methods are what people do, and always succeed."""

    def __init__(self, clock: FakeClock, own_id: UserID = BOT) -> None:
        self.clock = clock
        self._own_id = own_id
        self.rooms: dict[RoomID, FakeRoom] = {}
        self.place = 0
        """How long the stream of all events is."""
        self.clear: dict[str, dict[str, Any]] = {}
        self.signers: set[str] = set()
        """People whose devices are cross-signed."""
        """What encrypted events say, by their ciphertext."""
        self.notices: list[tuple[RoomID, str]] = []
        """What the bot has said, also after it disappeared."""
        self._numbers = itertools.count(1)

    def make_room(
        self,
        *,
        power: int = 50,
        joined: bool = True,
        invited: bool = True,
        encrypted: bool = False,
        version: str = "11",
        public: bool = False,
        predecessor: RoomID | None = None,
        **levels: Any,
    ) -> RoomID:
        """Make a room of alice's; the bot has the level `power` and has joined or was invited."""
        number = next(self._numbers)
        room_id = RoomID(f"!room-{number}:example.org")
        self.rooms[room_id] = FakeRoom(room_id, version)
        create: dict[str, Any] = {"room_version": version, "creator": ALICE}
        if predecessor is not None:
            create["predecessor"] = {"room_id": predecessor}
        self.set_state(room_id, "m.room.create", create)
        self.set_member(room_id, ALICE, "join", displayname="alice")
        users = {ALICE: 100} | ({self._own_id: power} if power else {})
        self.set_state(room_id, "m.room.power_levels", {"users": users} | levels)
        if public:
            self.set_state(room_id, "m.room.join_rules", {"join_rule": "public"})
        if encrypted:
            algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
            self.set_state(room_id, "m.room.encryption", algorithm)
        if invited:
            self.set_member(room_id, self._own_id, "invite", sender=ALICE)
        if joined:
            self.set_member(room_id, self._own_id, "join", displayname="Ephemeral")
        return room_id

    def upgrade(
        self, room_id: RoomID, *, power: int = 50, sender: UserID = ALICE, tombstone: bool = True
    ) -> RoomID:
        """Replace a room as Synapse does: levels and join rules are copied, nobody is invited."""
        public = self.rooms[room_id].is_open()
        new = self.make_room(
            power=power, joined=False, invited=False, public=public, predecessor=room_id
        )
        if tombstone:
            self.bury(room_id, new, sender=sender)
        state = self.rooms[room_id].state()[("m.room.power_levels", "")]
        levels = {"events_default": 50, "invite": 50}
        self.set_state(room_id, "m.room.power_levels", state["content"] | levels)
        return new

    def bury(self, room_id: RoomID, replacement: object, *, sender: UserID = ALICE) -> EventID:
        """Send a tombstone, whatever it names."""
        content = {"body": "This room has been replaced", "replacement_room": replacement}
        return self.set_state(room_id, "m.room.tombstone", content, sender=sender)

    def add(self, room_id: RoomID, event: Event) -> EventID:
        """Append an event as it is, but for what a homeserver fills in where it is missing."""
        number = next(self._numbers)
        whole: Event = {
            "event_id": f"$event-{number}:example.org",
            "sender": ALICE,
            "origin_server_ts": self.clock.now(),
            "content": {},
            "unsigned": {},
        } | event
        room = self.rooms[room_id]
        room.places.append(self.place)
        room.events.append(whole)
        self.place += 1
        self.on_event()
        return EventID(whole["event_id"])

    def on_event(self) -> None:
        """Something happened: whoever waits for news may look."""

    def send(
        self,
        room_id: RoomID,
        text: str,
        *,
        sender: UserID = ALICE,
        at: Millis | None = None,
        **content: Any,
    ) -> EventID:
        """Send a text message in clear."""
        stamp = self.clock.now() if at is None else at
        body = {"msgtype": "m.text", "body": text} | content
        event = {"type": "m.room.message", "sender": sender, "content": body}
        return self.add(room_id, event | {"origin_server_ts": stamp})

    def send_encrypted(self, room_id: RoomID, text: str, *, sender: UserID = ALICE) -> EventID:
        """Send a text message that only those can read who may decrypt."""
        return self.add(room_id, self.encrypt({"msgtype": "m.text", "body": text}, sender))

    def encrypt(self, content: dict[str, Any], sender: UserID) -> Event:
        ciphertext = f"ciphertext-{next(self._numbers)}"
        self.clear[ciphertext] = content
        outside = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": ciphertext}
        return {"type": "m.room.encrypted", "sender": sender, "content": outside}

    def set_state(
        self,
        room_id: RoomID,
        kind: str,
        content: dict[str, Any],
        *,
        sender: UserID = ALICE,
        key: str = "",
    ) -> EventID:
        event = {"type": kind, "state_key": key, "sender": sender, "content": content}
        before = self.rooms[room_id].state().get((kind, key))
        if before is not None:
            event["unsigned"] = {"prev_content": before["content"]}
        return self.add(room_id, event)

    def set_lifetime(
        self, room_id: RoomID, lifetime: Millis | None, *, sender: UserID = ALICE
    ) -> EventID:
        """Set the room's lifetime in its state, as another client would."""
        content = {} if lifetime is None else {"type": "after_send", "timer": lifetime}
        return self.set_state(room_id, POLICY_EVENT, content, sender=sender)

    def set_member(
        self,
        room_id: RoomID,
        user: UserID,
        membership: str,
        *,
        sender: UserID | None = None,
        **profile: str,
    ) -> EventID:
        content = {"membership": membership} | profile
        sender = sender or user
        return self.set_state(room_id, "m.room.member", content, sender=sender, key=user)

    def kick(self, room_id: RoomID, user: UserID | None = None) -> EventID:
        return self.set_member(room_id, user or self._own_id, "leave", sender=ALICE)

    def set_power(self, room_id: RoomID, user: UserID, level: int) -> EventID:
        state = self.rooms[room_id].state()[("m.room.power_levels", "")]
        levels = copy.deepcopy(state["content"])
        levels["users"][user] = level
        return self.set_state(room_id, "m.room.power_levels", levels)

    def redact_as(self, room_id: RoomID, event_id: EventID, sender: UserID = ALICE) -> EventID:
        """Redact an event, known or not."""
        room = self.rooms[room_id]
        event: Event = {"type": "m.room.redaction", "sender": sender, "redacts": event_id}
        if int(room.version) >= 11:
            event["content"] = {"redacts": event_id}
        redaction_id = self.add(room_id, event)
        target = room.find(event_id)
        if target is not None and "redacted_because" not in target["unsigned"]:
            target["content"] = {}
            target["unsigned"] = {"redacted_because": copy.deepcopy(room.find(redaction_id))}
        return redaction_id

    def purge(self, room_id: RoomID, event_id: EventID) -> None:
        """Lose an event without a trace, as a homeserver that deletes its history does."""
        room = self.rooms[room_id]
        index = [event["event_id"] for event in room.events].index(event_id)
        del room.events[index], room.places[index]

    # --- for assertions

    def is_redacted(self, room_id: RoomID, event_id: EventID) -> bool:
        event = self.rooms[room_id].find(event_id)
        return event is not None and "redacted_because" in event["unsigned"]

    def redactions(self, room_id: RoomID, event_id: EventID | None = None) -> list[Event]:
        """Return the redactions in a room, of one event or of all."""
        return [
            event
            for event in self.rooms[room_id].events
            if event["type"] == "m.room.redaction" and event_id in {None, event["redacts"]}
        ]

    def heard(self, room_id: RoomID) -> list[str]:
        """Return what the bot has said in a room, also what has disappeared since."""
        return [text for room, text in self.notices if room == room_id]

    def lifetime_of(self, room_id: RoomID) -> dict[str, Any] | None:
        """Return the content of the state event that holds the room's lifetime."""
        event = self.rooms[room_id].state().get((POLICY_EVENT, ""))
        return None if event is None else {k: v for k, v in event["content"].items() if k != SINCE}
