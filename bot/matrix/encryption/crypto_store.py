"""Writes nio's crypto store in pieces: one transaction each, however many keys are in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from nio.crypto import (
    DeviceStore,
    GroupSessionStore,
    InboundGroupSession,
    OlmAccount,
    OlmDevice,
    Session,
)
from nio.store import (
    DeviceKeys,
    ForwardedChains,
    Keys,
    MegolmInboundSessions,
    OlmSessions,
    SqliteStore,
)

from bot.matrix.encryption.crypto_database import CryptoDatabase

PRAGMAS: Final = {"foreign_keys": 1, "secure_delete": 1}
"""nio's own."""
ROWS: Final = 500
"""Rows of one statement; SQLite takes 32,766 values."""


class CryptoStore(SqliteStore):  # type: ignore[misc]
    """nio commits once or more for every key; each commit waits for the disk."""

    _row: Any = None
    _depth = 0

    def __post_init__(self) -> None:
        """Open the database; leave no connection open when it cannot be used."""
        self._accounts: list[OlmAccount] = []
        self._channels: dict[str, tuple[str, Session]] = {}
        try:
            super().__post_init__()
        except BaseException:
            self.database.close()
            raise

    def _create_database(self) -> CryptoDatabase:
        return CryptoDatabase(self.database_path, PRAGMAS)

    @contextmanager
    def piece(self) -> Iterator[None]:
        """Keep all that is saved within as a whole, or nothing of it, with one commit.

        The account and the channels are written as they are at its end, once each.
        """
        if self._depth:
            yield
            return
        self._depth = 1
        try:
            with self.database.bind_ctx(self.models), self.database.atomic():
                self.database.bound = True
                yield
                self._write()
        finally:
            self._depth, self.database.bound = 0, False
            self._accounts.clear()
            self._channels.clear()

    @asynccontextmanager
    async def piece_aside(self) -> AsyncIterator[None]:
        """Do the same, and wait for the disk in a thread; others in the event loop go on.

        When it is over, all of it is on the disk: only then may anything be sent that depends on
        it. Nothing is awaited within. Raises `OperationalError`, also where the store was loaded
        again while it waited for its turn.
        """
        await self.database.turn()
        self.database.keeps_open = True
        try:
            with self.piece():
                yield
        finally:
            self.database.keeps_open = False
        await self.database.run_aside("COMMIT")

    async def rewrite(self) -> None:
        """Write the file anew, so that no page of it holds what was written over."""
        await self.database.turn()
        await self.database.run_aside("VACUUM")

    def _write(self) -> None:
        for account in self._accounts:
            super().save_account(account)
        rows = [
            {
                OlmSessions.account: self._get_account(),
                OlmSessions.sender_key: key,
                OlmSessions.session: channel.pickle(self.pickle_key),
                OlmSessions.session_id: channel.id,
                OlmSessions.creation_time: channel.creation_time,
                OlmSessions.last_usage_date: channel.use_time,
            }
            for key, channel in self._channels.values()
        ]
        for at in range(0, len(rows), ROWS):
            OlmSessions.replace_many(rows[at : at + ROWS]).execute()

    def _get_account(self) -> Any:
        """Return the account's row: nio reads all of it again for every key."""
        if self._row is None:
            self._row = super()._get_account()
        return self._row

    def save_account(self, account: OlmAccount) -> None:
        """Save the account, with the piece if there is one."""
        if self._depth:
            self._accounts[:] = [account]
        else:
            super().save_account(account)

    def save_session(self, curve_key: str, session: Session) -> None:
        """Save a channel, with the piece if there is one."""
        if self._depth:
            self._channels[session.id] = (curve_key, session)
        else:
            super().save_session(curve_key, session)

    def drop_sessions(self, sessions: Iterable[Session]) -> None:
        """Delete channels."""
        names = [session.id for session in sessions]
        for name in names:
            self._channels.pop(name, None)
        with self.database.bind_ctx(self.models):
            for at in range(0, len(names), ROWS):
                some = OlmSessions.session_id.in_(names[at : at + ROWS])
                OlmSessions.delete().where(some).execute()

    def load_inbound_group_sessions(self) -> GroupSessionStore:
        """Load the room keys: nio asks the database once more for each of them."""
        found = GroupSessionStore()
        with self.database.bind_ctx(self.models):
            chains: defaultdict[str, list[str]] = defaultdict(list)
            for one in ForwardedChains.select().dicts():
                chains[one["session"]].append(one["sender_key"])
            mine = MegolmInboundSessions.account == self._get_account()
            for row in MegolmInboundSessions.select().where(mine).dicts():
                place = row["fp_key"], row["sender_key"], row["room_id"], self.pickle_key
                chain = chains[row["session_id"]]
                session = InboundGroupSession.from_pickle(row["session"], *place, chain)
                found[session.room_id][session.sender_key][session.id] = session
        return found

    def load_device_keys(self) -> DeviceStore:
        """Load the devices: nio asks for each one's keys, and compares it with all others."""
        found = DeviceStore()
        with self.database.bind_ctx(self.models):
            keys: defaultdict[int, dict[str, str]] = defaultdict(dict)
            for one in Keys.select().dicts():
                keys[one["device"]][one["key_type"]] = one["key"]
            mine = DeviceKeys.account == self._get_account()
            for row in DeviceKeys.select().where(mine).dicts():
                user_id, device_id = row["user_id"], row["device_id"]
                found[user_id][device_id] = OlmDevice(
                    user_id, device_id, keys[row["id"]], row["display_name"], row["deleted"]
                )
        return found

    def save_devices(self, devices: list[OlmDevice]) -> None:
        """Save devices and their keys: nio makes five statements for each."""
        if not devices:
            return
        account = self._get_account()
        with self.piece():
            for at in range(0, len(devices), ROWS):
                part = {(one.user_id, one.device_id): one for one in devices[at : at + ROWS]}
                self._save(account, part)

    def _save(self, account: Any, devices: dict[tuple[str, str], OlmDevice]) -> None:
        rows = [
            {
                "account": account,
                "user_id": one.user_id,
                "device_id": one.device_id,
                "display_name": one.display_name,
                "deleted": one.deleted,
            }
            for one in devices.values()
        ]
        DeviceKeys.insert_many(rows).on_conflict(
            conflict_target=[DeviceKeys.account, DeviceKeys.user_id, DeviceKeys.device_id],
            preserve=[DeviceKeys.display_name, DeviceKeys.deleted],
        ).execute()
        owners = DeviceKeys.user_id.in_(sorted({user_id for user_id, _ in devices}))
        found = DeviceKeys.select().where((DeviceKeys.account == account) & owners)
        keys = [
            {"key_type": kind, "key": key, "device": row.id}
            for row in found
            if (row.user_id, row.device_id) in devices
            for kind, key in devices[row.user_id, row.device_id].keys.items()
        ]
        Keys.replace_many(keys).execute()
