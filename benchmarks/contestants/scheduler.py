"""What a Python engineer would reach for first: APScheduler 3 with its SQLite store.

Each message is a job that redacts it. A job that fails is logged, and gone.
"""

from __future__ import annotations

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from benchmarks.contestants.client import Client, serve
from benchmarks.contestants.contestant import Message

_clients: list[Client] = []
"""The one client: a job that is stored can only name a function and plain arguments."""


async def redact(room: str, event_id: str) -> None:
    """Redact a message; the job of the scheduler."""
    told = await _clients[0].redact(Message(room=room, event_id=event_id, due=0))
    if told is not None:
        raise RuntimeError("the redaction was refused")


async def run(client: Client) -> None:
    _clients.append(client)
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # It logs each failure at length.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        store = SQLAlchemyJobStore(url=f"sqlite:///{Path(folder) / 'jobs.db'}")
        jobs = AsyncIOScheduler(jobstores={"default": store}, timezone=UTC)
        jobs.start()
        async for found in client.messages():
            for one in found:
                jobs.add_job(
                    f"{__name__}:redact",
                    "date",
                    run_date=datetime.fromtimestamp(one.due / 1000, UTC),
                    args=(one.room, one.event_id),
                    misfire_grace_time=None,
                )


if __name__ == "__main__":
    serve(run)
