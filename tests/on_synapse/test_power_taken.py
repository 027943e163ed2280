"""Everything that can be taken from the bot on a real Synapse: what it says, keeps and does."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from bot.core.lifetimes import POLICY_EVENT
from bot.demo.homeserver import Homeserver
from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import Bots
from tests.support.people import People
from tests.support.person import Person, wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from bot.core.types import RoomID
    from tests.support.bot_process import BotProcess

    Scenes = tuple[BotProcess, dict[str, "Scene"]]

pytestmark = pytest.mark.synapse

LIFETIME = 15
"""Seconds; what is taken is taken well before."""

PAUSED = "I can no longer remove messages: that needs power level"
RESUMED = "I can remove messages again."
LEFT = "no longer in a room: "
BY_ADMIN = "the room, by an administrator"
STILL_GOES = "What waited when I was removed still goes:"


@dataclass(kw_only=True)
class Stage:
    """A room, who rules it, and the bot in it."""

    alice: Person
    admin: Person
    bot: BotProcess
    room: RoomID

    async def level(self, level: int) -> None:
        await self.alice.set_power(self.room, self.bot.user_id, level)

    async def levels(self, **changed: Any) -> None:
        levels = await self.alice.get_state(self.room, "m.room.power_levels")
        await self.alice.state(self.room, "m.room.power_levels", levels | changed)

    async def kick(self) -> None:
        await self.alice.kick(self.room, self.bot.user_id)

    async def ban(self) -> None:
        await self.alice.ban(self.room, self.bot.user_id)

    async def invite(self) -> None:
        await self.alice.invite(self.room, self.bot.user_id)

    async def pardon(self) -> None:
        body = {"user_id": self.bot.user_id}
        await self.alice.call("POST", "rooms", self.room, "unban", body=body)
        await self.invite()

    async def delete(self) -> None:
        path, body = ("rooms", self.room), {"purge": True, "block": True}
        await self.admin.call("DELETE", *path, root="/_synapse/admin/v2", body=body)


Deed = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is taken, what is heard of it, and how it comes back."""

    take: Deed
    told: str = ""
    """In the room; empty: the bot cannot speak there."""
    logged: str = ""
    kept: bool = True
    """Whether the timers are still waiting; else they are put by, or gone."""
    give: Deed | None = None
    """How it comes back; `None`: never."""
    told_then: str = ""


CASES = {
    "its level": Case(
        take=lambda scene: scene.level(0),
        told=f"{PAUSED} 50, and I have 0. Until then they stay; nothing is forgotten.",
        logged="a room is suspended",
        give=lambda scene: scene.level(50),
        told_then=RESUMED,
    ),
    "the level to redact": Case(
        take=lambda scene: scene.levels(redact=75),
        told=f"{PAUSED} 75, and I have 50.",
        logged="a room is suspended",
        give=lambda scene: scene.level(75),
        told_then=RESUMED,
    ),
    "the level of redaction events": Case(
        take=lambda scene: scene.levels(events={"m.room.redaction": 80}),
        told=f"{PAUSED} 80, and I have 50.",
        logged="a room is suspended",
        give=lambda scene: scene.levels(events={}),
        told_then=RESUMED,
    ),
    "the level to say anything": Case(
        take=lambda scene: scene.levels(events_default=60),
        logged="a notice could not be sent (status 403 M_FORBIDDEN)",
        give=lambda scene: scene.levels(events_default=0),
        told_then=RESUMED,
    ),
    "its place, by a kick": Case(
        take=Stage.kick, logged=LEFT, kept=False, give=Stage.invite, told_then=STILL_GOES
    ),
    "its place, by a ban": Case(
        take=Stage.ban, logged=LEFT, kept=False, give=Stage.pardon, told_then=STILL_GOES
    ),
    BY_ADMIN: Case(take=Stage.delete, logged=LEFT, kept=False),
}


FROM_AFAR = ["its level", "its place, by a kick", "its place, by a ban", BY_ADMIN]
"""Of these the bot finds out in other ways when it was away meanwhile."""


@dataclass(kw_only=True)
class Scene(Stage):
    """A case, and the messages that wait in its room."""

    case: Case
    sent: list[str] = field(default_factory=list)
    due: float = 0
    """By `time.monotonic`."""

    def waiting(self) -> int:
        with closing(sqlite3.connect(self.bot.data_dir / "timers.db")) as db:
            here = "SELECT event_id FROM timers JOIN rooms r ON r.id = room WHERE r.left_at IS NULL"
            found = {row[0] for row in db.execute(here)}
        return len(found.intersection(self.sent))

    async def talk(self) -> None:
        self.sent.extend([await self.alice.send(self.room, f"message {n}") for n in range(3)])
        self.due = time.monotonic() + LIFETIME
        await wait_until(self.is_read, 10, "the bot to have read all")

    async def is_read(self) -> bool:
        return self.waiting() == len(self.sent)

    async def is_done(self) -> bool:
        return self.waiting() == 0

    async def look(self) -> None:
        """What was said of it, what stays in the room, and what is kept."""
        alice, case = self.alice, self.case
        if case.told:
            await alice.until_notice(self.room, self.bot.user_id, case.told)
        await wait_until(lambda: logged(self.bot, case.logged), 20, case.logged)
        await asyncio.sleep(max(0, self.due - time.monotonic() + 1))
        if not case.kept:
            await wait_until(self.is_done, 10, "the room to be forgotten")
        elif not await self.is_read():
            raise AssertionError("timers were lost")
        if case.give is not None:
            assert not any([await alice.is_redacted(self.room, one) for one in self.sent])

    async def give_back(self) -> None:
        if self.case.give is None:
            return
        await self.case.give(self)
        for event_id in self.sent:
            await self.alice.until_redacted(self.room, event_id)
        await self.alice.until_notice(self.room, self.bot.user_id, self.case.told_then)
        await wait_until(self.is_done, 10, "the timers to end")


async def logged(bot: BotProcess, text: str) -> bool:
    return text in bot.words()


async def of_all(scenes: dict[str, Scene], act: Callable[[Scene], Awaitable[None]]) -> None:
    """Do the same in all rooms at once."""

    async def named(name: str) -> None:
        try:
            await act(scenes[name])
        except Exception as error:
            error.add_note(f"what was taken: {name}")
            raise

    await asyncio.gather(*map(named, scenes))


@pytest.fixture
async def warden(homeserver: Homeserver) -> AsyncIterator[Person]:
    """An administrator of the homeserver."""
    account = await homeserver.register(f"warden-{secrets.token_hex(4)}", admin=True)
    made = Person(homeserver.url, account)
    yield made
    await made.close()


@pytest.fixture
async def scenes(
    request: pytest.FixtureRequest, people: People, bots: Bots, warden: Person
) -> Scenes:
    """One bot in a room for each case, with messages that wait to be removed."""
    bot, alice = await bots(), await people("alice")

    async def arrange(name: str) -> tuple[str, Scene]:
        room = await settle_in(alice, bot)
        content = {"type": "after_send", "timer": LIFETIME * 1000}
        await alice.state(room, POLICY_EVENT, content)
        await alice.until_notice(room, bot.user_id, f"{LIFETIME} seconds")
        return name, Scene(alice=alice, admin=warden, bot=bot, room=room, case=CASES[name])

    rooms = dict(await asyncio.gather(*map(arrange, request.param)))
    await of_all(rooms, Scene.talk)
    return bot, rooms


@pytest.mark.parametrize(
    ("scenes", "away"),
    [(list(CASES), False), (FROM_AFAR, True)],
    ids=["while it runs", "while it is away"],
    indirect=["scenes"],
)
async def test_whatever_is_taken_is_told_and_all_goes_once_given_back(
    scenes: Scenes, away: bool
) -> None:
    bot, rooms = scenes
    if away:
        assert await bot.stop() == 0
    await of_all(rooms, lambda scene: scene.case.take(scene))
    if away:
        await bot.start()
    await of_all(rooms, Scene.look)
    await of_all(rooms, Scene.give_back)
    left = sum(one.case.logged == LEFT for one in rooms.values())

    async def all_told() -> bool:  # a room that is not in the list is looked for twice
        return bot.words().count(LEFT) >= left

    await wait_until(all_told, 40, "every lost room to be told in the log")
    assert bot.words().count(LEFT) == left
    assert bot.words().count("ready as") == 1 + away
    assert "Traceback" not in bot.words()


# --- what the room's state does not show ---------------------------------------------------------


@pytest.fixture
async def brief(tmp_path: Path) -> AsyncIterator[Homeserver]:
    """A Synapse on which nobody may redact a text message that is older than four seconds."""
    folder = tmp_path / "brief"
    extra = {"redaction_allowed_period": "4s"}
    async with Homeserver(folder, server_name="brief.localhost", extra=extra) as server:
        yield server


async def test_messages_too_old_for_the_homeserver_are_told_and_go_once_allowed(
    brief: Homeserver, tmp_path: Path
) -> None:
    people, bots = People(brief, tmp_path), Bots(brief, tmp_path)
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 2s")
    await alice.until_notice(room, bot.user_id, "2 seconds")
    await alice.until_redacted(room, await alice.send(room, "soon enough"))
    await alice.send(room, "!expire 5s")
    await alice.until_notice(room, bot.user_id, "5 seconds")
    clear = await alice.send(room, "too late")
    sealed = await alice.send(room, {"algorithm": "m.megolm.v1.aes-sha2"}, "m.room.encrypted")
    await alice.until_notice(room, bot.user_id, "remove messages older than 4 seconds here.")
    await alice.until_redacted(room, sealed)  # Synapse asks for the age of the others only
    await asyncio.sleep(2)
    assert not await alice.is_redacted(room, clear)
    assert bot.words().count("make redaction_allowed_period") == 1
    told = [one for one in await alice.bodies(room, bot.user_id) if "older than" in one]
    assert len(told) == 1
    await alice.send(room, "!expire status")
    await alice.until_notice(room, bot.user_id, "The server does not let me remove")
    # The operator mends it, and an hour passes.
    assert await bot.stop() == 0
    await brief.stop()
    brief._extra.clear()
    await brief.start()
    with closing(sqlite3.connect(bot.data_dir / "timers.db")) as db, db:
        db.execute("UPDATE timers SET retry_at = due WHERE event_id = ?", [clear])
    await bot.start()
    await alice.until_redacted(room, clear)
    for one in (bots, people):
        await one.close()


async def test_a_suspended_account_waits_and_goes_on_when_it_is_free_again(
    people: People, bots: Bots, warden: Person
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.state(room, POLICY_EVENT, {"type": "after_send", "timer": 1000})
    await alice.until_notice(room, bot.user_id, "1 second")

    async def suspend(yes: bool) -> None:
        body = {"suspend": yes}
        path = ("suspend", bot.user_id)
        await warden.call("PUT", *path, root="/_synapse/admin/v1", body=body)

    await suspend(True)
    sent = await alice.send(room, "this one waits")
    await wait_until(lambda: logged(bot, "messages stay in a room that should go"), 20)
    refused = "a notice could not be sent (status 403 M_USER_SUSPENDED)"
    await wait_until(lambda: logged(bot, refused), 30)
    await suspend(False)
    await alice.until_redacted(room, sent, 30)


async def test_a_deactivated_account_ends_the_bot_with_status_3_keeping_what_waits(
    people: People, bots: Bots, warden: Person
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.state(room, POLICY_EVENT, {"type": "after_send", "timer": 600_000})
    await alice.until_notice(room, bot.user_id, "10 minutes")
    await alice.send(room, "this one stays")

    async def timers() -> int:
        with closing(sqlite3.connect(bot.data_dir / "timers.db")) as db:
            return int(db.execute("SELECT count(*) FROM timers").fetchone()[0])

    async def remembered() -> bool:
        return await timers() >= 2

    await wait_until(remembered, 20)
    path = ("deactivate", bot.user_id)
    await warden.call("POST", *path, root="/_synapse/admin/v1", body={"erase": False})
    assert await bot.ended(30) == 3
    assert "Traceback" not in bot.words()
    assert await timers() >= 2


# --- invitations ----------------------------------------------------------------------------------


async def test_an_invitation_that_is_withdrawn_or_leads_nowhere_holds_up_no_other(
    people: People, bots: Bots, warden: Person
) -> None:
    alice, bot = await people("alice"), await bots()
    withdrawn, banned, deleted, good = [await alice.create_room() for _ in range(4)]
    bot.signal(signal.SIGSTOP)
    for room in (withdrawn, banned, deleted, good):
        await alice.invite(room, bot.user_id)
    bot.signal(signal.SIGCONT)
    bot.signal(signal.SIGSTOP)
    await alice.kick(withdrawn, bot.user_id)
    await alice.ban(banned, bot.user_id)
    body = {"purge": True, "block": True}
    await warden.call("DELETE", "rooms", deleted, root="/_synapse/admin/v2", body=body)
    await asyncio.sleep(1)
    bot.signal(signal.SIGCONT)
    await alice.until_notice(good, bot.user_id, "I make messages disappear", 20)
    with closing(sqlite3.connect(bot.data_dir / "timers.db")) as db:
        waiting = [row[0] for row in db.execute("SELECT room_id FROM invitations")]
    assert set(waiting) <= {deleted}  # of which nobody tells the bot: it is tried for a day
    assert "Traceback" not in bot.words()
