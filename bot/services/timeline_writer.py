"""Decides what was read of the rooms' timelines comes to, and has it stored in one transaction.

The store gives the rows of a transaction, `core` decides on them, and they are written; nothing
that happens meanwhile comes between.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from bot.core.commands import Command, PendingCommand, UndecidedCommand
from bot.core.default_lifetime import (
    DefaultBegins,
    change,
    current,
    first_defaults,
    keeps_longer,
    published_in,
)
from bot.core.invitations import Invite
from bot.core.late_commands import Late, how_it_counts
from bot.core.lifetimes import LifetimeLimits
from bot.core.missing_events import gap_after
from bot.core.outbox import Outgoing, Welcome
from bot.core.policy import RoomState
from bot.core.policy_forward import decide, overtaken
from bot.core.ports.rows import Rows
from bot.core.timeline import Change, Item, MediaReference, Message, RoomUpdate, Undecryptable
from bot.core.types import Millis, RoomID, UserID

T = TypeVar("T")

FORGET_EVERY: Final[Millis] = 3_600_000
"""How often is forgotten what is kept for a time only."""
LOOK_AFTER: Final[Millis] = 30_000
"""How long the bot stays where it seems to be alone, before that is looked at."""
COMPARE_AGAIN: Final[Millis] = 10_000
"""When to compare a room's lifetime with its state, if that cannot be done now."""


class TimelineStore(Protocol):
    """What this service asks of the store."""

    def digest(self, text: str) -> str: ...  # noqa: D102
    async def in_transaction(self, work: Callable[[Rows], Coroutine[Any, Any, T]]) -> T: ...  # noqa: D102


class TimelineWriter:
    """The timelines of all rooms, as far as they were read. Every method is one transaction."""

    def __init__(self, store: TimelineStore, *, limits: LifetimeLimits, own_id: UserID) -> None:
        self._store = store
        self._limits = limits
        self._own_id = own_id
        self._default_begun = False
        self._forgot_at: Millis = 0
        self._last_room = 0
        """The room of which a chunk was decided on last: others come first."""

    async def commit(
        self,
        token: str,
        now: Millis,
        updates: list[RoomUpdate],
        invited: Sequence[Invite] = (),
        left: Sequence[RoomID] = (),
    ) -> None:
        """Remember one sync as a whole: timers, changes, gaps, and the token itself."""
        forgets = now - self._forgot_at >= FORGET_EVERY

        async def work(rows: Rows) -> None:
            for room_id in left:
                await rows.remove(room_id)
            # Synapse shows a room in both lists where an invitation followed within one sync.
            await rows.add_invitations(invited)
            changed = [] if self._default_begun else await self._change_defaults(rows, now)
            for update in updates:
                await self._update(rows, update, now)
            for row in changed:
                await self._begin_default(rows, row)
            await rows.save_position(token, now)
            if forgets:
                await rows.forget_old(now)

        await self._store.in_transaction(work)
        self._default_begun = True
        self._forgot_at = now if forgets else self._forgot_at

    async def take_over(self, now: Millis) -> tuple[RoomID, int] | None:
        """Decide on a chunk of what was read in gaps, in the timeline's order; rooms take turns.

        Returns the room and how many items were taken; `None` when no room is ready. With the
        last chunk the room's gaps are over.
        """

        async def work(rows: Rows) -> tuple[RoomID, int] | None:
            chunk = await rows.next_chunk(self._last_room)
            if chunk is None:
                return None
            self._last_room = chunk.row
            await self._decide(rows, chunk.row, chunk.items, now, reread=chunk.reread)
            await rows.end_chunk(chunk)
            return chunk.room_id, len(chunk.items)

        return await self._store.in_transaction(work)

    async def read_late(
        self, room_id: RoomID, undecryptable: Undecryptable, items: list[Item], now: Millis
    ) -> None:
        """A message that waited for its key was read, or given up: `items` are what it says.

        A lifetime that it sets counts from its own place: what followed is read once more.
        """

        async def work(rows: Rows) -> None:
            row = await _without_gap(rows, room_id)
            if row is None:
                return  # what was said since is not known yet: wait for the gap
            then = await rows.end_undecryptable(row, undecryptable.event_id)
            if then is None:
                return
            await rows.note_key_uses(items)
            files = [item for item in items if isinstance(item, MediaReference)]
            await rows.attach(row, files)
            place = RoomState(revision=then)
            asked = [(one, place) for one in items if isinstance(one, UndecidedCommand)]
            await rows.add_pending_commands(row, asked, now)
            commands = [item for item in items if isinstance(item, Command)]
            sent = undecryptable.read_at if undecryptable.sent is None else undecryptable.sent
            own = Message(event_id=undecryptable.event_id, sent=sent)
            await self._count_late(rows, room_id, row, [*commands, own, *files], then=then, now=now)

        await self._store.in_transaction(work)

    async def command_decided(self, pending: PendingCommand, command: Command, now: Millis) -> None:
        """A command that waited was decided, or given up: `command` is what it comes to."""

        async def work(rows: Rows) -> None:
            row = await _without_gap(rows, pending.room_id)
            then = None if row is None else await rows.end_pending_command(pending.id)
            if row is None or then is None:
                return
            own = Message(event_id=pending.command.event_id, sent=pending.command.sent)
            counts = self._count_late(
                rows, pending.room_id, row, [command, own], then=then, now=now
            )
            if await counts:
                await rows.later_commands_follow(row, pending.id, then)

        await self._store.in_transaction(work)

    async def policy_resolved(
        self, room_id: RoomID, change: Change, now: Millis, *, revision: int
    ) -> bool:
        """Let what the room's state was resolved to hold from now on; return whether it does.

        It does not while the room has a gap, or if the lifetime has changed since `revision`; then
        the two are compared again later.
        """

        async def work(rows: Rows) -> bool:
            row = await rows.row_of(room_id)
            if row is None:
                return False
            if await rows.has_gap(row) or await rows.revision(row) != revision:
                await rows.check_policy_at(room_id, now + COMPARE_AGAIN)
                return False
            await self._decide(rows, row, [change], now)
            await rows.check_policy_at(room_id, None)
            return True

        return await self._store.in_transaction(work)

    # --- a room's part of a sync -------------------------------------------------------------

    async def _update(self, rows: Rows, update: RoomUpdate, now: Millis) -> None:
        back = await rows.come_back(update.room_id, now) if update.entered else 0
        known = await rows.row_of(update.room_id)
        row = await rows.add_room(update.room_id) if known is None else known
        begins = await self._meet_default(rows, row, update, now, fresh=known is None)
        await rows.note_key_uses(update.items)
        await rows.note_sync(
            row,
            encrypted=update.encrypted,
            review=update.review,
            last_event_digest=update.last_event_digest,
        )
        if update.gap:
            await rows.begin_gap(row, update.gap, update.found)
        if await rows.has_gap(row):
            # What a command in the gap sets counts for what follows it: wait for the gap.
            await rows.append(row, begins + update.items)
        else:
            await self._decide(rows, row, begins + update.items, now)
        if update.sweep:
            await rows.begin_sweep(row, update.sweep)
        if known is None or update.entered:
            await rows.publish_defaults(row)
        if update.entered:
            await rows.just_joined(row)
            if not await rows.enter_successor(update.room_id):
                greeting = Outgoing(key=f"welcome:{now}", content=Welcome(back=back))
                await rows.enqueue(row, [greeting])
        await self._note_people(rows, row, update, now)

    async def _note_people(self, rows: Rows, row: int, update: RoomUpdate, now: Millis) -> None:
        """Note who wanted the bot in the room, and whether it may be alone there."""
        inviter = await rows.take_inviter(update.room_id)
        if inviter is not None:
            await rows.save_inviter(row, self._store.digest(inviter))
        if update.check_policy:
            await rows.check_policy(row, now)
        if update.alone is not None:
            await rows.note_members(row, alone=update.alone, look_at=now + LOOK_AFTER)

    # --- the operator's default --------------------------------------------------------------

    async def _change_defaults(self, rows: Rows, now: Millis) -> list[int]:
        """Note in every room that has known another default since when this one holds.

        Returns those rooms: there it begins behind all that was said and is still to be read. One
        under which messages stay longer begins at once.
        """
        default = self._limits.default
        _, synced_at = await rows.position()
        ended = now if synced_at is None else min(synced_at, now)
        changed: list[int] = []
        for row, known in await rows.all_defaults():
            if current(known) == default:
                continue
            await rows.save_defaults(row, change(known, default, ended=ended, now=now))
            if keeps_longer(default, current(known)):
                await rows.save_default_lifetime(row, default)
            changed.append(row)
        return changed

    async def _begin_default(self, rows: Rows, row: int) -> None:
        """The operator's default holds for what comes after all that was said in a room."""
        default = self._limits.default
        if await rows.has_gap(row):
            await rows.append(row, [DefaultBegins(lifetime=default)])
        else:
            await rows.save_default_lifetime(row, default)
        await rows.publish_defaults(row)

    async def _meet_default(
        self, rows: Rows, row: int, update: RoomUpdate, now: Millis, *, fresh: bool
    ) -> list[Item]:
        """Note since when the operator's default holds; return what stands before the new items.

        What waits unread from an earlier time in the room has the default of that time.
        """
        default, published = self._limits.default, published_in(update.found + update.items)
        if not fresh and not update.entered:
            if published is not None:
                await rows.note_published(row, published)
            return []
        defaults = first_defaults(published or (), default, entered=update.entered, now=now)
        await rows.save_defaults(row, defaults, published or ())
        if fresh:
            await rows.save_default_lifetime(row, default)
        return [DefaultBegins(lifetime=default)]

    # --- deciding ----------------------------------------------------------------------------

    async def _decide(
        self, rows: Rows, row: int, items: list[Item], now: Millis, *, reread: bool = False
    ) -> None:
        """Decide on items by the room's setting as it stands, and write down what they come to."""
        items = await rows.not_counted_before(items)
        if not items:
            return
        state, default = await rows.state(row), await rows.default_lifetime(row)
        limits = replace(self._limits, default=default)
        decision = decide(state, items, limits=limits, own_id=self._own_id)
        if decision.state != state or decision.suspends or decision.default != default:
            # The verdict may be old by now: have the bot's power looked at again.
            await rows.save_state(row, decision.state, decision.default, suspends=decision.suspends)
        await rows.save_decision(row, decision, now, reread=reread)

    async def _count_late(
        self, rows: Rows, room_id: RoomID, row: int, items: list[Item], *, then: int, now: Millis
    ) -> bool:
        """Let a command count from its own place, unless something has counted since.

        `then` is the room's revision at its place; `items` are the commands, their message and
        its files. Returns whether a lifetime will be set.
        """
        items = await rows.not_counted_before(items)
        commands = [item for item in items if isinstance(item, Command)]
        match how_it_counts(commands, then=then, now=await rows.revision(row)):
            case Late.SETS_NOTHING:
                await self._decide(rows, row, list(commands), now)
                return False
            case Late.OVERTAKEN:
                await rows.note_handled([one.digest for one in commands], now)
                told = [overtaken(one.digest, one.sender, one.thread) for one in commands]
                await rows.enqueue(row, told)
                return False
        token, _ = await rows.position()
        assert token is not None
        [own] = [item for item in items if isinstance(item, Message)]
        gap = gap_after(room_id, token, self._store.digest(own.event_id), own.sent, now)
        # It was found to count at its place, whatever holds where the room is now.
        found = [replace(one, clear=False) if isinstance(one, Command) else one for one in items]
        await rows.begin_gap(row, gap, found)
        return True


async def _without_gap(rows: Rows, room_id: RoomID) -> int | None:
    """Return the number of a room that is known, and of which nothing is still to be read."""
    row = await rows.row_of(room_id)
    return None if row is None or await rows.has_gap(row) else row
