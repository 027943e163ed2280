"""The timers and all else that must outlive the process, in local SQLite."""

from bot.store.database import Database
from bot.store.errors import StoreError
from bot.store.store import Store

__all__ = ["Database", "Store", "StoreError"]
