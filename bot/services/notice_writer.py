"""Writes the text of a notice: looks up what it has to tell, and leaves the words to `chat`."""

from __future__ import annotations

from typing import Protocol, assert_never

from bot.chat import notices, status
from bot.chat.notices import Fingerprints, Permission
from bot.chat.status import Files, Load
from bot.core.lifetimes import LifetimeLimits
from bot.core.outbox import (
    Announce,
    AnnounceChange,
    Answer,
    AnswerFingerprint,
    AnswerHelp,
    AnswerInvalid,
    AnswerOutsideLimits,
    AnswerStatus,
    BotNotAllowed,
    DeviceUnverified,
    Failure,
    KeyNeverCame,
    MessagesMissed,
    MovedHere,
    News,
    Notice,
    Overtaken,
    PowerNeededHere,
    RedactionsRefused,
    Resumed,
    RightUnknown,
    RoomReplaced,
    SenderNotAllowed,
    Suspended,
    TooManyCommands,
    Welcome,
    WriteRefused,
)
from bot.core.policy import Room, lifetime
from bot.core.ports.homeserver import RoomRights
from bot.core.ports.reading import GapStore
from bot.core.ports.rooms import ReviewStore
from bot.core.ports.timers import TimerStore
from bot.core.types import RoomID, UserID
from bot.services.clock import Clock


class NoticeStore(TimerStore, ReviewStore, Protocol):
    """What this service asks of the store."""

    @property
    def gaps(self) -> GapStore:
        """Parts of timelines still to be read."""


class Identity(Protocol):
    """What is told of the bot's identity."""

    @property
    def trouble(self) -> str: ...  # noqa: D102
    @property
    def fingerprints(self) -> Fingerprints: ...  # noqa: D102


class NoticeWriter:
    """Knows the words for each kind of notice."""

    def __init__(
        self,
        homeserver: RoomRights,
        store: NoticeStore,
        clock: Clock,
        *,
        prefix: str,
        limits: LifetimeLimits,
        identity: Identity | None = None,
        files: Files | None = None,
        load: Load | None = None,
    ) -> None:
        self._homeserver = homeserver
        self._store = store
        self._clock = clock
        self._prefix = prefix
        self._limits = limits
        self._identity = identity
        self._files = files
        self._load = load

    async def text(self, notice: Notice, room: Room) -> str:
        """Return the text of a notice; empty: there is nothing to say. Raises `OutcomeError`."""
        if isinstance(notice, Answer):
            return await self._answer(notice, room)
        if isinstance(notice, Failure):
            return await self._failure(notice, room)
        return await self._news(notice, room)

    async def _answer(self, answer: Answer, room: Room) -> str:
        match answer:
            case Announce():
                return await self._announce(answer, room)
            case AnswerHelp():
                return notices.help_text(self._prefix, self._limits)
            case AnswerStatus():
                return await self._status(room)
            case AnswerFingerprint():
                if self._identity is None:
                    return ""
                return notices.fingerprint(self._identity.fingerprints, self._identity.trouble)
            case AnswerInvalid(reason=reason):
                return notices.invalid(self._prefix, self._limits, reason)
            case AnswerOutsideLimits():
                return notices.outside(self._prefix, self._limits)
            case _:
                assert_never(answer)

    async def _failure(self, failure: Failure, room: Room) -> str:
        match failure:
            case SenderNotAllowed(sender=sender, need=need, have=have):
                return notices.refused(await self._name(room, sender), need, have)
            case BotNotAllowed(need=need, have=have):
                return notices.powerless(need, have)
            case DeviceUnverified(sender=sender):
                return notices.unsigned(await self._name(room, sender))
            case TooManyCommands(sender=sender):
                return notices.too_many_commands(await self._name(room, sender))
            case KeyNeverCame(sender=sender):
                return notices.key_never_came(await self._name(room, sender))
            case RightUnknown(sender=sender):
                return notices.right_unknown(await self._name(room, sender))
            case Overtaken(sender=sender):
                return notices.overtaken(await self._name(room, sender))
            case WriteRefused():
                return notices.write_refused()
            case _:
                assert_never(failure)

    async def _news(self, news: News, room: Room) -> str:
        match news:
            case AnnounceChange():
                return await self._announcement(news, room)
            case Welcome(back=back):
                now = lifetime(room.setting, self._limits)
                permission = await self._permission(room.room_id)
                return notices.welcome(self._prefix, permission, now, back)
            case Suspended(need=need, have=have):
                return notices.suspended(Permission(need=need, have=have))
            case Resumed():
                return notices.resumed(await self._pending(room))
            case RedactionsRefused(older_than=older_than):
                return notices.redactions_refused(older_than)
            case MessagesMissed():
                return notices.missed()
            case RoomReplaced():
                return notices.room_replaced()
            case MovedHere(setting=setting):
                permission = await self._permission(room.room_id)
                return notices.moved(lifetime(setting, self._limits), permission)
            case PowerNeededHere(setting=setting, need=need, have=have):
                permission = Permission(need=need, have=have)
                return notices.needs(lifetime(setting, self._limits), permission)
            case _:
                assert_never(news)

    async def _announce(self, notice: Announce, room: Room) -> str:
        if lifetime(notice.setting, self._limits) == notice.was:
            return notices.unchanged(notice.setting)
        return await self._announcement(notice, room)

    async def _announcement(self, notice: Announce | AnnounceChange, room: Room) -> str:
        after = lifetime(notice.setting, self._limits)
        return notices.announcement(
            await self._name(room, notice.sender),
            notice.setting,
            self._limits,
            pending=0 if after else await self._pending(room),
            permission=await self._permission(room.room_id),
            note=notice.note if isinstance(notice, AnnounceChange) else "",
        )

    async def _pending(self, room: Room) -> int:
        return (await self._store.pending(room.room_id))[0]

    async def _status(self, room: Room) -> str:
        pending, due = await self._store.pending(room.room_id)
        return status.status(
            lifetime(room.setting, self._limits),
            pending=pending,
            next_in=None if due is None else due - self._clock.now(),
            permission=await self._permission(room.room_id),
            reading=await self._store.gaps.has_gap(room.room_id),
            refused=(await self._store.refusals(room.room_id))[0],
            trouble="" if self._identity is None else self._identity.trouble,
            files=self._told_of_files(),
            slow=self._told_of_limit(),
        )

    def _told_of_limit(self) -> str:
        behind = None if self._load is None else self._load.behind
        return "" if behind is None else status.slow(behind.late, behind.interval)

    def _told_of_files(self) -> str:
        if self._files is None:
            return status.files_stay()
        return status.files_wait() if self._files.trouble else status.files_go(self._files.server)

    async def _name(self, room: Room, sender: str) -> str:
        name = await self._homeserver.name_of(room.room_id, UserID(sender))
        return notices.person(name, sender)

    async def _permission(self, room_id: RoomID) -> Permission:
        power = await self._homeserver.power(room_id)
        return Permission(have=power.of(self._homeserver.own_id), need=power.to_redact)
