"""Puts the services together: for the running bot, for `rebuild`, and for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from bot.config import Settings
from bot.core.ports.homeserver import Homeserver, KeyRing, MediaRepository, VerificationInbox
from bot.core.types import Millis
from bot.services.backfill import Backfill
from bot.services.clock import Clock
from bot.services.clock_watch import ClockWatch
from bot.services.database_maintenance import DatabaseMaintenance
from bot.services.deferred_authorization import DeferredAuthorization
from bot.services.empty_rooms import EmptyRooms
from bot.services.event_reader import EventReader
from bot.services.invitations import Invitations
from bot.services.key_expiry import KeyExpiry
from bot.services.late_keys import LateKeys
from bot.services.media_deletion import MediaDeletion
from bot.services.notice_writer import Identity
from bot.services.outbox import OutboxDelivery
from bot.services.pending_relations import PendingRelations
from bot.services.permissions import Permissions
from bot.services.policy_check import PolicyCheck
from bot.services.redactor import Redactor
from bot.services.room_upgrades import RoomUpgrades
from bot.services.sweeps import AGAIN, Sweeper
from bot.services.sync import Sync
from bot.services.timeline_writer import TimelineWriter
from bot.store import Store


class Service(Protocol):
    """What runs beside others until it is cancelled."""

    async def run(self) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The services of one bot: each has `run`, and ends when it is cancelled."""

    reader: EventReader
    timeline: TimelineWriter
    sync: Sync
    redactor: Redactor
    backfill: Backfill
    sweeps: Sweeper
    late_keys: LateKeys
    deferred_authorization: DeferredAuthorization
    relations: PendingRelations
    outbox: OutboxDelivery
    permissions: Permissions
    policy_check: PolicyCheck
    invitations: Invitations
    empty_rooms: EmptyRooms
    room_upgrades: RoomUpgrades
    database_maintenance: DatabaseMaintenance
    clock_watch: ClockWatch
    key_expiry: KeyExpiry | None
    """Only where the bot can decrypt."""
    media_deletion: MediaDeletion | None
    """Only where it may delete files."""

    @property
    def beside(self) -> list[Service]:
        """All but those two that end by themselves, when they are told to: sync and redactor."""
        other = (
            self.backfill,
            self.sweeps,
            self.late_keys,
            self.deferred_authorization,
            self.relations,
            self.outbox,
            self.permissions,
            self.policy_check,
            self.invitations,
            self.empty_rooms,
            self.room_upgrades,
            self.database_maintenance,
            self.clock_watch,
            self.key_expiry,
            self.media_deletion,
        )
        return [service for service in other if service is not None]


def build(
    settings: Settings,
    homeserver: Homeserver,
    store: Store,
    clock: Clock,
    random: Random,
    *,
    crypto: KeyRing | None = None,
    media: MediaRepository | None = None,
    media_server: str | None = None,
    sweep_again: Sequence[Millis] = AGAIN,
    identity: Identity | None = None,
    verification: VerificationInbox | None = None,
) -> Services:
    """Return the services over one homeserver and one store.

    `crypto`: whose room keys are to be moved on; `media`: where files can be deleted, and
    `media_server`: the server whose files are noted for that; `sweep_again`: as of `Sweeper`;
    `identity`: what is told of the bot's own keys; `verification`: who takes what people send
    to verify the bot in a room.
    """
    limits = settings.limits
    reader = EventReader(
        homeserver,
        prefix=settings.command_prefix,
        limits=limits,
        digest=store.digest,
        verification=verification,
        signed_only=settings.commands.require_signed_devices,
        media_server=media_server,
        per_minute=settings.commands.per_minute,
        rest=clock.rest,
    )
    timeline = TimelineWriter(store, limits=limits, own_id=homeserver.own_id)
    deletion = MediaDeletion(media, store, clock, random=random) if media else None
    redactions = Redactor(homeserver, store, clock, random=random)
    admission = Invitations(
        homeserver, store, clock, invite_policy=settings.invite_policy, random=random
    )
    upgrades = RoomUpgrades(homeserver, store, clock, admission=admission, random=random)
    return Services(
        reader=reader,
        timeline=timeline,
        sync=Sync(homeserver, store, timeline, reader, clock, random=random),
        redactor=redactions,
        backfill=Backfill(homeserver, store, timeline, reader, clock, random=random),
        sweeps=Sweeper(
            homeserver, store, reader, clock, limits=limits, random=random, again=sweep_again
        ),
        late_keys=LateKeys(homeserver, store, timeline, reader, clock),
        deferred_authorization=DeferredAuthorization(
            store, timeline, reader.authorizer, clock, random=random
        ),
        relations=PendingRelations(homeserver, store, clock, random=random),
        outbox=OutboxDelivery(
            homeserver,
            store,
            clock,
            prefix=settings.command_prefix,
            limits=limits,
            random=random,
            identity=identity,
            files=deletion,
            load=redactions,
        ),
        permissions=Permissions(
            homeserver, store, clock, limits=limits, random=random, follow=upgrades.reviewed
        ),
        policy_check=PolicyCheck(
            homeserver, store, timeline, clock, read=reader.state_change, random=random
        ),
        invitations=admission,
        empty_rooms=EmptyRooms(homeserver, store, clock),
        room_upgrades=upgrades,
        database_maintenance=DatabaseMaintenance(store, clock),
        clock_watch=ClockWatch(clock, store),
        key_expiry=KeyExpiry(crypto, store, clock, grace=settings.encryption.grace, limits=limits)
        if crypto
        else None,
        media_deletion=deletion,
    )
