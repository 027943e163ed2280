"""What the services ask of the homeserver: small roles, each call with its contract.

`bot/matrix` plays these roles on a real homeserver, and `tests/support` without one:
`tests/matrix/test_contract.py` holds both to the same behaviour.

Calls that return an `Outcome` say with it whatever came of the request and raise nothing but
`TokenRejectedError` and `LoginError`; calls that return anything else raise `OutcomeError` as well
when the homeserver gave no answer to use. Every call has a time limit of its own.
"""

from __future__ import annotations

from typing import Any, Protocol

from bot.core.outcomes import Outcome
from bot.core.power_levels import Power
from bot.core.sync_batch import MissingRoomKey, SyncBatch
from bot.core.types import Event, EventID, Millis, RoomID, UserID


class Account(Protocol):
    """The account that the bot is logged in with."""

    @property
    def own_id(self) -> UserID:
        """The bot's own user id."""

    async def answers(self) -> bool:
        """Whether the homeserver answers what concerns no room. Raises nothing for that."""


class SyncStream(Account, Protocol):
    """What is new in all rooms."""

    async def sync(self, since: str | None, wait: Millis) -> SyncBatch:
        """Wait up to `wait` milliseconds for what is new since the token; `None`: from the start.

        Keys and devices that came with it are taken in before it returns.
        """


class History(Account, Protocol):
    """What was said before."""

    async def page_back(
        self, room_id: RoomID, token: str, size: int
    ) -> tuple[list[Event], str | None]:
        """Return up to `size` events before the token, newest first, and the token before those.

        `None`: there is nothing before them.
        """

    async def is_shared(self, room_id: RoomID) -> bool:
        """Whether people of other homeservers are in the room."""


class Events(Protocol):
    """Single events."""

    async def event(self, room_id: RoomID, event_id: EventID) -> Event | None:
        """Return an event; `None` when the homeserver does not have it."""


class Redactions(Protocol):
    """The one thing that cannot be undone."""

    async def is_gone(self, room_id: RoomID, event_id: EventID) -> bool:
        """Whether the homeserver serves an event as redacted, or not at all."""

    async def relations(self, room_id: RoomID, event_id: EventID) -> tuple[list[EventID], bool]:
        """Return edits, reactions and votes of an event, and theirs; and whether that is all.

        Of an event that the homeserver does not have, there are none.
        """

    async def redact(self, room_id: RoomID, event_id: EventID, txn: str) -> Outcome:
        """Redact an event; the same transaction id does it once, however often it is asked."""


class RoomRights(Protocol):
    """Who may do what in a room, as its state is now, and what people are called there."""

    @property
    def own_id(self) -> UserID:
        """The bot's own user id."""

    async def power(self, room_id: RoomID) -> Power:
        """Return who may do what in the room."""

    async def name_of(self, room_id: RoomID, user_id: UserID) -> str:
        """Return the display name that a person has chosen in the room; empty: none is known."""


class RoomState(Account, RoomRights, Protocol):
    """A room's state as it is now, not as the timeline was read to."""

    async def state(self, room_id: RoomID, kind: str, key: str = "") -> Event | None:
        """Return a state event; `None` when the room has none."""

    async def policy_event(self, room_id: RoomID) -> Event | None:
        """Return the state event that holds the room's lifetime."""


class Membership(Protocol):
    """Who is in which room."""

    async def joined_rooms(self) -> set[RoomID]:
        """Return the rooms that the bot is in."""

    async def others(self, room_id: RoomID) -> tuple[int, int]:
        """Return how many others are in the room, and how many are invited."""

    async def join(self, room_id: RoomID, via: str = "") -> Outcome:
        """Accept an invitation, or enter an open room, which the server `via` knows."""

    async def leave(self, room_id: RoomID) -> Outcome:
        """Leave a room, or decline an invitation."""


class PolicyWriting(Protocol):
    """The room's state event that holds its lifetime."""

    async def set_policy(self, room_id: RoomID, content: dict[str, Any]) -> Outcome:
        """Set the room's lifetime, for every client to read."""


class Speech(PolicyWriting, Protocol):
    """What the bot writes into rooms."""

    async def set_defaults(self, room_id: RoomID, content: dict[str, Any]) -> Outcome:
        """Write down, for the bot itself, since when the operator's default holds in the room."""

    async def say(
        self, room_id: RoomID, content: dict[str, Any], txn: str, *, encrypted: bool
    ) -> Outcome:
        """Send a message; `encrypted`: to all members' devices.

        The same transaction id sends it once. `RateLimited` may also say that a big room has had
        its share of keys for now.
        """


class DecryptedEvent(Protocol):
    """An event in clear, and which key and device it came from."""

    @property
    def type(self) -> str:
        """What it is."""

    @property
    def content(self) -> dict[str, Any]:
        """What it says. It is looked at and forgotten."""

    @property
    def session_id(self) -> str:
        """The room key's name."""

    @property
    def index(self) -> int:
        """Its place among the messages of that key."""

    @property
    def device_id(self) -> str:
        """The device that encrypted it."""

    @property
    def device_key(self) -> str:
        """The Curve25519 key of that device."""

    @property
    def known(self) -> bool:
        """Whether the device is known to be the sender's."""


class Decryption(Protocol):
    """Encrypted events in clear."""

    async def decrypt(
        self, room_id: RoomID, event: Event, *, meet: bool
    ) -> DecryptedEvent | MissingRoomKey | None:
        """Return an event in clear; `None`: it can never be read.

        `meet`: ask the sender's homeserver for devices that are not known. Without it nobody is
        asked, and nothing is raised.
        """


class Devices(Protocol):
    """Other people's devices."""

    async def is_signed(self, user_id: UserID, device_id: str, device_key: str) -> bool:
        """Whether a person's device is signed by its owner."""


class RoomKeys(Events, Protocol):
    """Keys that come after their message."""

    def has_key(self, room_id: RoomID, session_id: str) -> bool:
        """Whether a room key has come."""

    async def ask_for_key(self, room_id: RoomID, event: Event, *, again: bool) -> None:
        """Have the sender's device asked for an event's key; `again`: by a new channel."""


class MediaRepository(Protocol):
    """The homeserver's files, for its administrator."""

    @property
    def server(self) -> str:
        """The server name that stands in the files' addresses."""

    async def usable(self) -> Outcome:
        """Say whether the administrator's token is accepted."""

    async def uploader(self, media_id: str) -> UserID | None:
        """Return who has uploaded a file; `None`: nobody, or it is gone."""

    async def delete(self, media_id: str) -> Outcome:
        """Delete a file, and what was made of it."""


class KeyRing(Protocol):
    """The room keys that were sent to the bot's device. Every call raises `DiskError`.

    What a call does is on the disk when it returns.
    """

    @property
    def sessions(self) -> dict[str, RoomID]:
        """The names of all keys, and the rooms that they are of."""

    async def ratchet(self, read: list[tuple[str, int]]) -> None:
        """Move keys past messages that were read: (name, place), so that they open no older one."""

    async def forget(self, session_ids: list[str]) -> None:
        """Delete keys."""

    async def scrub(self) -> None:
        """Rewrite the store of keys, so that nothing of what was replaced is left in it."""


class CrossSigning(Protocol):
    """What signs the bot's device."""

    @property
    def master(self) -> str:
        """The public master key of the bot's account."""

    @property
    def device_id(self) -> str:
        """The bot's device."""

    @property
    def fingerprint(self) -> str:
        """The device's Ed25519 key."""

    async def ensure_signed(self) -> str:
        """Have the device signed; return how it stands then (`services/device_signing.py`)."""


class VerificationInbox(Protocol):
    """Takes what people send in rooms to verify the bot."""

    def __call__(self, room_id: RoomID, event: Event, *, encrypted: bool) -> None:
        """Take an event in clear; `encrypted`: it came encrypted, and so go the answers."""


class Homeserver(
    SyncStream,
    History,
    Redactions,
    RoomState,
    Membership,
    Speech,
    Decryption,
    Devices,
    RoomKeys,
    Protocol,
):
    """All that is asked of the homeserver by the account itself."""
