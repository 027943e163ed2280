"""Writes nio's crypto store in pieces: one transaction each, however many keys are in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from nio.crypto import OlmAccount, OlmDevice, Session
from nio.store import DeviceKeys, Keys, OlmSessions, SqliteStore
from peewee import SqliteDatabase

PRAGMAS: Final = {"foreign_keys": 1, "secure_delete": 1}
"""nio's own."""
ROWS: Final = 500
"""Rows of one statement; SQLite takes 32,766 values."""


class Bound(SqliteDatabase):  # type: ignore[misc]
    """nio binds its tables to the database for every statement, which takes longer than that."""

    bound = False

    def bind_ctx(self, *arguments: Any, **options: Any) -> Any:
        """Bind tables for a time; within a piece they are bound."""
        return nullcontext() if self.bound else super().bind_ctx(*arguments, **options)


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

    def _create_database(self) -> Bound:
        return Bound(self.database_path, pragmas=PRAGMAS)

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
