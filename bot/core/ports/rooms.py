"""What services ask of the store about rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from bot.core.invitations import Invitation, InviteStage
from bot.core.outbox import Outgoing
from bot.core.policy import Room
from bot.core.successors import Stage, Successor
from bot.core.timers import Review
from bot.core.topics import Topic
from bot.core.types import Millis, RoomID, UserID


class Wakeups(Protocol):
    """Who waits for what a commit writes, and for what is not in the database."""

    def listen(self, *topics: Topic) -> asyncio.Event:
        """Return an event that is set when there is news of a topic; see `Topics.listen`."""

    def publish(self, *topics: Topic) -> None:
        """Tell of what is not in the database; see `Topics.publish`."""


class Digests(Protocol):
    """Ids that are told again, and not kept."""

    def digest(self, text: str) -> str:
        """Return a keyed hash of an id, to recognise it without keeping it."""


class RoomStore(Protocol):
    """What is known of rooms, and how far they were read."""

    async def position(self) -> tuple[str | None, Millis]:
        """Return the sync token and when it was received (0: never)."""

    async def room(self, room_id: RoomID) -> Room | None:
        """Return what is known of a room."""

    async def rooms(self) -> list[Room]:
        """Return what is known of every room."""

    async def rooms_of(self, room_ids: Sequence[RoomID]) -> dict[RoomID, Room]:
        """Return what is known of those of some rooms that are known."""

    def note_synced(self, *, synced: bool) -> None:
        """Note whether a sync has shown what came up to now, or that something is missing.

        Until then what belongs to any message may not all be known.
        """

    async def not_all_seen(self) -> None:
        """Something came into any room, maybe, that no sync will show.

        So what belongs to the messages that have timers by now may not all be known.
        """


class ReviewStore(Protocol):
    """Rooms whose state is to be looked at."""

    async def next_review(self, busy: Collection[RoomID] = ()) -> Review | None:
        """Return the room whose state is to be looked at next, none of `busy`."""

    async def review_later(self, room_id: RoomID, until: Millis) -> None:
        """The room's state could not be looked at now."""

    async def ask_review(self, room_id: RoomID) -> None:
        """Have the room's state looked at."""

    async def reviewed(
        self,
        room_id: RoomID,
        *,
        suspended: bool,
        outgoing: list[Outgoing],
        reviews: int = 1,
        refusal_notified: bool = False,
    ) -> None:
        """Remember what the room's state says, and what is to be said of it.

        `reviews` is how many looks had been asked for when it was looked at: what was asked
        for since is still to be done. `refusal_notified`: the room knows that messages stay which
        the homeserver refuses to redact.
        """

    async def refusals(self, room_id: RoomID) -> tuple[int, Millis]:
        """Return how many messages the homeserver refuses to redact, and from which age on.

        As many as `MANY` are counted. 0: it does not say that their age is the reason.
        """

    async def next_policy_check(self, busy: Collection[RoomID] = ()) -> Review | None:
        """Return the room whose lifetime is to be compared with its state next, none of `busy`."""

    async def check_policy_at(self, room_id: RoomID, at: Millis | None) -> None:
        """Compare the room's lifetime with its state then; `None`: they agree."""

    async def next_alone(self, busy: Collection[RoomID] = ()) -> Review | None:
        """Return the room in which the bot may be alone that is to be looked at next."""

    async def look_for_others(self, room_id: RoomID, at: Millis | None) -> None:
        """Look then whether the bot is alone in the room; `None`: it is not."""

    async def has_work(self, room_id: RoomID) -> bool:
        """Whether anything waits in the room that the bot can still do."""


class InvitationStore(Protocol):
    """Rooms that the bot is invited into."""

    async def undecided(self) -> Invitation | None:
        """Return the oldest invitation of which nothing was decided yet."""

    async def to_join(self, busy: Collection[RoomID] = ()) -> Invitation | None:
        """Return the invitation to be accepted next."""

    async def to_decline(self, busy: Collection[RoomID] = ()) -> Invitation | None:
        """Return the invitation to be declined next."""

    async def move(self, one: Invitation, stage: InviteStage, at: Millis) -> None:
        """Go on to a stage, to be seen to at that time."""

    async def later(self, one: Invitation, until: Millis, *, counts: bool) -> None:
        """It could not be answered now; `counts`: that was up to this invitation."""

    async def ended(self, one: Invitation) -> None:
        """Nothing is left to be done."""

    async def rooms_held(self) -> int:
        """Return how many rooms the bot is in, or on its way into."""

    async def held_for(self, inviter: UserID, digest: str) -> int:
        """Return in how many rooms the bot is, or will be, because this account wanted it there."""


class SuccessorStore(Protocol):
    """Rooms that replace others."""

    async def is_known(self, room_id: RoomID, predecessor: RoomID) -> bool:
        """Whether this pair was met before, or the old room has named too many."""

    async def claim(self, found: Successor, *outgoing: Outgoing, now: Millis) -> None:
        """Remember a pair, once, and what the old room is to be told of it."""

    async def next(self, busy: Collection[RoomID] = ()) -> Successor | None:
        """Return the successor that is to be seen to next, not one of `busy` rooms."""

    async def of(self, room_id: RoomID) -> list[Successor]:
        """Return what is still to be done of the claims that this room succeeds another."""

    async def follow(self, one: Successor) -> None:
        """The bot is about to join by itself: should the claim be false, it leaves again."""

    async def move(
        self,
        one: Successor,
        stage: Stage,
        *outgoing: Outgoing,
        where: RoomID,
        needs_announced: bool = False,
    ) -> None:
        """Go on to a stage, and remember what a room is to be told of it, in one transaction."""

    async def later(self, one: Successor, until: Millis) -> None:
        """It could not be seen to now."""

    async def look_again(self, room_id: RoomID) -> bool:
        """The room's state has changed; return whether something had waited for that."""
