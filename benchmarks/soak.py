"""Lets people talk for an hour in fifty rooms, and watches what the bot takes and how late it is.

    .venv/bin/python -m benchmarks.soak --duration 3600 --csv soak.csv

Lateness is what another person's client sees: the time from one sync that shows a message to one
that shows its redaction, less the lifetime. An edit or a reaction is due with the message that it
belongs to, if that is earlier. On a busy machine a sync may show a message late, and its redaction
then looks less late than it was, or early; so the server's stamps of both say what was early.
Exit status 0 only when every message is redacted, none before its time, none twice.
`benchmarks/soak_plot.py` draws what was written.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import aiohttp

from bot.demo.homeserver import Homeserver
from tests.support.bot_process import BotProcess, Bots
from tests.support.people import EncryptedPerson, People, Person, wait_until
from tests.support.person import ENCRYPTION, ApiError

EVERY = 15
"""Seconds between two samples."""
WARM = 180
"""Seconds after which memory is compared: by then everything has been used once."""
PATIENCE = 300
"""Seconds that the last messages have to go; the longest lifetime is 60."""
EARLY = -0.05
"""Seconds before its time at which a redaction counts as early."""
SHORTEST, LONGEST = 10, 60
FILTER = {
    "presence": {"types": []},
    "room": {"ephemeral": {"types": []}, "timeline": {"limit": 100}},
}


@dataclass
class Sample:
    """A line of the CSV; lateness is that of the messages that went since the line before."""

    seconds: float
    rss_mb: float
    descriptors: int
    database_kb: float
    cpu_seconds: float
    sent: int
    redacted: int
    pending: int
    late_median_ms: float | None
    late_worst_ms: float | None
    load: float


@dataclass
class Seen:
    """A message as the watching client saw it: on its own clock, and by the server's stamps."""

    due: float
    due_stamp: float
    gone: list[tuple[float, float]] = field(default_factory=list)


class Watcher:
    """Another person's client: sees messages come and go in its sync."""

    def __init__(self, person: Person, lifetimes: dict[str, int], speakers: set[str]) -> None:
        self._person = person
        self._lifetimes = lifetimes
        self._speakers = speakers
        self.seen: dict[str, Seen] = {}
        self.window: list[float] = []
        self.late: list[tuple[float, float]] = []
        self.limited = 0

    async def run(self) -> None:
        query = {"filter": json.dumps(FILTER)}
        batch = await self._person.call("GET", "sync", **query)
        while True:
            query |= {"since": batch["next_batch"], "timeout": "30000"}
            with suppress(aiohttp.ClientError, ApiError, TimeoutError):
                batch = await self._person.call("GET", "sync", **query)
                now = time.monotonic()
                for room, part in batch.get("rooms", {}).get("join", {}).items():
                    self.limited += part["timeline"]["limited"]
                    for event in part["timeline"]["events"]:
                        self._look(room, event, now)

    def _look(self, room: str, event: dict[str, Any], now: float) -> None:
        stamp, content = event["origin_server_ts"] / 1000, event["content"]
        if event["type"] == "m.room.redaction":
            target = self.seen.get(content.get("redacts") or event.get("redacts", ""))
            if target is not None:
                target.gone.append((now, stamp))
                if len(target.gone) == 1:
                    self.window.append(now - target.due)
                    self.late.append((now, now - target.due))
        elif "state_key" not in event and event["sender"] in self._speakers:
            life = self._lifetimes[room]
            seen = Seen(due=now + life, due_stamp=stamp + life)
            relation = content.get("m.relates_to", {})
            parent = self.seen.get(relation.get("event_id", ""))
            if parent is not None:
                # What is said to a message that is already gone is due at once.
                seen.due = min(seen.due, max(parent.due, now))
                seen.due_stamp = min(seen.due_stamp, max(parent.due_stamp, stamp))
            self.seen[event["event_id"]] = seen

    def pending(self) -> int:
        return sum(not one.gone for one in self.seen.values())


class Talk:
    """Messages, edits and reactions in all rooms, at random moments of a steady rate."""

    def __init__(
        self, alice: Person, eve: EncryptedPerson, rooms: list[str], encrypted: set[str], seed: int
    ) -> None:
        self._alice, self._eve = alice, eve
        self._rooms, self._encrypted = rooms, encrypted
        self._chance = random.Random(seed)
        self._recent: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=4))
        self._one_at_a_time = asyncio.Lock()
        self.sent: list[str] = []
        self.refused = 0
        self.kinds: Counter[str] = Counter()

    async def run(self, rate: float, duration: float) -> None:
        end = at = time.monotonic()
        end += duration
        async with asyncio.TaskGroup() as saying:
            while (at := at + self._chance.expovariate(rate)) < end:
                await asyncio.sleep(max(0, at - time.monotonic()))
                saying.create_task(self._say(self._chance.choice(self._rooms)))

    async def _say(self, room: str) -> None:
        kind = self._chance.choices(["message", "edit", "reaction"], [70, 15, 15])[0]
        event_id: str
        recent = self._recent[room]
        if not recent:
            kind = "message"
        content: dict[str, Any] = {
            "msgtype": "m.text",
            "body": f"words {len(self.sent)} " + "x" * 80,
        }
        if kind == "edit":
            content |= {
                "m.new_content": dict(content),
                "m.relates_to": {"rel_type": "m.replace", "event_id": self._chance.choice(recent)},
            }
        try:
            if kind == "reaction":
                key, target = f"{len(self.sent) % 10}", self._chance.choice(recent)
                relation = {"rel_type": "m.annotation", "event_id": target, "key": key}
                sender = self._eve if room in self._encrypted else self._alice
                event_id = await sender.send(room, {"m.relates_to": relation}, "m.reaction")
            elif room in self._encrypted:
                event_id = await self._encrypted_event(room, content)
            else:
                event_id = await self._alice.send(room, content)
        except Exception as error:  # noqa: BLE001 (one message is not worth the hour)
            # The same person reacts twice alike: Synapse refuses that.
            self.refused += 1
            if not isinstance(error, ApiError) or error.errcode != "M_DUPLICATE_ANNOTATION":
                print("not sent:", error, flush=True)
            return
        self.kinds[kind] += 1
        self.sent.append(event_id)
        if kind == "message":
            recent.append(event_id)

    async def _encrypted_event(self, room: str, content: dict[str, Any]) -> str:
        async with self._one_at_a_time:
            if not self._recent[room]:
                return await self._eve.send_text(room, content["body"])
            secret = await self._eve.encrypt(room, "m.room.message", content)
            return await self._eve.send(room, secret, "m.room.encrypted")


class Gauge:
    """Samples the bot's process and its database, and writes the lines of the CSV."""

    def __init__(self, bot: BotProcess, watcher: Watcher, talk: Talk, out: Path) -> None:
        self._bot, self._watcher, self._talk = bot, watcher, talk
        self._file = out.open("w", newline="")
        self._csv = csv.DictWriter(self._file, [one.name for one in fields(Sample)])
        self._csv.writeheader()
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    async def run(self) -> None:
        while True:
            self.take()
            await asyncio.sleep(EVERY - (time.monotonic() - self._began) % EVERY)

    def take(self) -> None:
        process = Path(f"/proc/{self._bot.pid}")
        status = (process / "status").read_text()
        ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        window, self._watcher.window = self._watcher.window, []
        pending = self._watcher.pending()
        sample = Sample(
            seconds=round(time.monotonic() - self._began, 1),
            rss_mb=round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 2),
            descriptors=len(list((process / "fd").iterdir())),
            database_kb=round(database_size(self._bot) / 1024, 1),
            cpu_seconds=sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
            sent=len(self._talk.sent),
            redacted=len(self._watcher.seen) - pending,
            pending=pending,
            late_median_ms=round(statistics.median(window) * 1000) if window else None,
            late_worst_ms=round(max(window) * 1000) if window else None,
            load=round(os.getloadavg()[0], 2),
        )
        self.samples.append(sample)
        self._csv.writerow(asdict(sample))
        self._file.flush()


def database_size(bot: BotProcess) -> int:
    database = bot.data_dir / "timers.db"
    both = [database, database.with_name("timers.db-wal")]
    return sum(path.stat().st_size for path in both if path.exists())


async def make_rooms(
    alice: Person, eve: EncryptedPerson, bob: Person, bot: BotProcess, count: int
) -> tuple[dict[str, int], set[str]]:
    """Make the rooms, every tenth encrypted; return their lifetimes, and which are encrypted."""
    lifetimes: dict[str, int] = {}
    encrypted: set[str] = set()
    for number in range(count):
        life = SHORTEST + round((LONGEST - SHORTEST) * number / max(1, count - 1))
        hidden = number % 10 == 5
        owner = eve if hidden else alice
        timer = {"type": "after_send", "timer": life * 1000}
        state = [{"type": "com.beeper.disappearing_timer", "state_key": "", "content": timer}]
        body = {
            "preset": "private_chat",
            "room_version": "11",
            "invite": [bot.user_id, bob.user_id],
            "initial_state": [*state, ENCRYPTION] if hidden else state,
            "power_level_content_override": {"users": {owner.user_id: 100, bot.user_id: 50}},
        }
        room = (await owner.call("POST", "createRoom", body=body))["room_id"]
        await bob.join(room)
        lifetimes[room] = life
        if hidden:
            encrypted.add(room)

    async def known() -> bool:
        path = f"file:{bot.data_dir / 'timers.db'}?mode=ro"
        with sqlite3.connect(path, uri=True) as store:
            row = store.execute("SELECT count(*) FROM rooms WHERE setting IS NOT NULL").fetchone()
        store.close()
        return bool(row[0] == count)

    for room, owner in ((one, eve if one in encrypted else alice) for one in lifetimes):
        await owner.until_joined(room, bot.user_id, 120)
    await wait_until(known, 60, "the bot to know every room's lifetime")
    return lifetimes, encrypted


def slope(points: list[tuple[float, float]]) -> float:
    """Return how much the second number grows while the first grows by one."""
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def report(
    gauge: Gauge, watcher: Watcher, talk: Talk, *, began: float, duration: float, log: str
) -> bool:
    seen = [watcher.seen.get(event) for event in talk.sent]
    known = [one for one in seen if one is not None]
    gone = [one for one in known if one.gone]
    lost = len(seen) - len(gone)
    twice = sum(len(one.gone) > 1 for one in known)
    early = sum(one.gone[0][1] - one.due_stamp < EARLY for one in gone)
    looked = sum(one.gone[0][0] - one.due < EARLY for one in gone)
    kinds = ", ".join(f"{count} {kind}s" for kind, count in sorted(talk.kinds.items()))
    print(f"{duration:.0f} s, sent {len(seen)} ({kinds}), refused when sent {talk.refused}")
    print(f"redacted {len(gone)}, early {early} (to the watching client {looked})", end="")
    print(f", lost {lost}, twice {twice}, limited syncs of the watcher {watcher.limited}")
    steady = [one for one in gauge.samples if WARM <= one.seconds <= duration]
    if steady:
        first, last = steady[0], steady[-1]
        growth = slope([(one.seconds / 3600, one.rss_mb) for one in steady])
        print(f"memory {first.rss_mb:.1f} MB after {first.seconds:.0f} s", end="")
        print(f", {last.rss_mb:.1f} MB at the end, {growth:+.2f} MB/h")
        print(f"descriptors {first.descriptors} and {last.descriptors}", end="")
        spent = (last.cpu_seconds - first.cpu_seconds) / (last.seconds - first.seconds or 1)
        print(f", {spent:.0%} of a processor")
    part = min(600, duration / 2)
    ends: list[tuple[str, Callable[[float], bool]]] = [
        ("first", lambda at: at < began + part),
        ("last", lambda at: began + duration - part <= at <= began + duration),
    ]
    for name, within in ends:
        late = [much for at, much in watcher.late if within(at)] or [0.0]
        print(f"late in the {name} {part:.0f} s: median {statistics.median(late):.3f} s", end="")
        most = sorted(late)[int(len(late) * 0.99)]
        print(f", 99 of 100 within {most:.2f} s, worst {max(late):.2f} s")
    sizes = [one.database_kb for one in gauge.samples]
    print(f"database {sizes[0]:.0f} KB empty, at most {max(sizes):.0f} KB", end="")
    print(f", {sizes[-1]:.0f} KB when all is gone")
    bad = [line for line in log.splitlines() if " WARNING " in line or " ERROR " in line]
    print(f"warnings and errors in the log: {len(bad)}", *bad[-10:], sep="\n  ")
    return lost == 0 and twice == 0 and early == 0


async def run(options: argparse.Namespace, folder: Path) -> bool:
    (folder / "synapse").mkdir()
    async with Homeserver(folder / "synapse") as homeserver:
        people, bots = People(homeserver, folder), Bots(homeserver, folder)
        try:
            alice, bob, eve = (
                await people("alice"),
                await people("bob"),
                await people.encrypted("eve"),
            )
            bot = await bots(invites={"per_inviter": options.rooms})
            lifetimes, encrypted = await make_rooms(alice, eve, bob, bot, options.rooms)
            watcher = Watcher(bob, lifetimes, {alice.user_id, eve.user_id})
            talk = Talk(alice, eve, list(lifetimes), encrypted, options.seed)
            watching = asyncio.create_task(watcher.run())
            await asyncio.sleep(5)
            gauge = Gauge(bot, watcher, talk, options.csv)
            gauging, began = asyncio.create_task(gauge.run()), time.monotonic()
            print(f"{len(lifetimes)} rooms, {len(encrypted)} of them encrypted", flush=True)
            await talk.run(options.rate, options.duration)
            until = time.monotonic() + PATIENCE
            while len(watcher.seen) < len(talk.sent) or watcher.pending():
                if time.monotonic() > until:
                    break
                await asyncio.sleep(1)
            await asyncio.sleep(2 * EVERY)  # what comes twice, and the last wiping
            for task in (gauging, watching):
                task.cancel()
            await asyncio.wait([gauging, watching])
            gauge.take()
            return report(
                gauge, watcher, talk, began=began, duration=options.duration, log=bot.words()
            )
        finally:
            await bots.close()
            await people.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=3600, help="seconds of talk")
    parser.add_argument("--rate", type=float, default=5, help="messages a second, in all rooms")
    parser.add_argument("--rooms", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        good = asyncio.run(run(options, Path(name)))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
