"""Messages of another homeserver: they go on both, also those that the bot's own had to ask for.

A homeserver that was out of reach for long is told of a room's newest event alone. It asks for ten
before that, and for the rest only when somebody reads the room's history: those never come in a
sync, and stand at their depth in the graph, which may be far below what was read last.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from bot.core.timeline import is_gone
from bot.core.types import Event, EventID, RoomID
from bot.services.sync import LIVE
from tests.support.bot_process import BotProcess
from tests.support.federation import Federation
from tests.support.people import ApiError, Person, wait_until

pytestmark = pytest.mark.synapse


@pytest.fixture(scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("federation"))
    try:
        await made.start()
        yield made
    finally:
        await made.close()


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A room of A with alice and the bot on A, and ben on B."""

    room: RoomID
    alice: Person
    ben: Person
    bot: BotProcess


async def share(federation: Federation, lifetime: str, default: str | None = None) -> Shared:
    """Make a room on A where messages disappear, and let ben join it from B.

    With a `default`, nobody says so in the room.
    """
    alice, ben = await federation.on_a("alice"), await federation.on_b("ben")
    bot = await federation.bots(lifetime={"min": "1s", "default": default})
    room = await alice.create_room(invite=[bot.user_id, ben])
    await alice.until_notice(room, bot.user_id, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await ben.join(room)
    await alice.until_joined(room, ben)
    if default is None:
        await alice.send(room, f"!expire {lifetime}")
        await alice.until_notice(room, bot.user_id, "set disappearing messages")
    return Shared(room=room, alice=alice, ben=ben, bot=bot)


async def say(person: Person, room: RoomID, count: int) -> list[EventID]:
    return [await person.send(room, f"{person.user_id} {number}") for number in range(count)]


async def look(person: Person, room: RoomID, event_id: EventID) -> Event | None:
    """Return an event if the homeserver has it. This does not make it ask others for it."""
    try:
        return await person.event(room, event_id)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


async def until_there(person: Person, room: RoomID, event_id: EventID) -> None:
    await wait_until(lambda: look(person, room, event_id), 15, f"{event_id} to arrive")


async def account(shared: Shared, event_ids: list[EventID]) -> Counter[str]:
    """Count what became of events on A. Reading /messages would make A ask for what it lacks."""
    counts: Counter[str] = Counter()
    for event_id in event_ids:
        event = await look(shared.alice, shared.room, event_id)
        counts["never came" if event is None else "gone" if is_gone(event) else "there"] += 1
    return counts


async def assert_all_go(shared: Shared, event_ids: list[EventID], within: float) -> None:
    """All messages must be redacted on A, with never more than so many seconds between two.

    How long all of them take is up to the machine. And then on B.
    """
    found, missing = Counter[str](), len(event_ids)

    async def one_more() -> bool:
        found.update(await account(shared, event_ids) - found)
        return found["gone"] > len(event_ids) - missing

    while missing:
        await wait_until(one_more, within, f"more to be gone on A than {found}")
        missing = len(event_ids) - found["gone"]

    async def left_on_b() -> set[EventID]:
        history = await shared.ben.messages(shared.room)
        return set(event_ids) - {event["event_id"] for event in history if is_gone(event)}

    async def none_left() -> bool:
        return not await left_on_b()

    await wait_until(none_left, 10, "what is gone on A to be gone on B")


# --- what comes with the sync --------------------------------------------------------------------


async def test_messages_of_another_homeserver_and_their_edits_go_on_both(
    federation: Federation,
) -> None:
    shared = await share(federation, "1s")
    said = await say(shared.ben, shared.room, 3)
    edit = {
        "msgtype": "m.text",
        "body": "* other words",
        "m.new_content": {"msgtype": "m.text", "body": "other words"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": said[0]},
    }
    said.append(await shared.ben.send(shared.room, edit))
    await assert_all_go(shared, said, 10)


async def test_a_lifetime_can_be_set_from_another_homeserver(federation: Federation) -> None:
    shared = await share(federation, "1h")
    await shared.alice.set_power(shared.room, shared.ben, 50)

    async def may_set() -> bool:
        levels = await shared.ben.get_state(shared.room, "m.room.power_levels")
        return bool(levels["users"].get(shared.ben.user_id) == 50)

    await wait_until(may_set)
    # The notice goes as well: it must be seen before that, on a loaded machine too.
    command = await shared.ben.send(shared.room, "!expire 8s")
    said = "set disappearing messages"
    await shared.ben.until_notice(shared.room, shared.bot.user_id, said, 20)
    sent = await say(shared.ben, shared.room, 1)
    await assert_all_go(shared, [command, *sent], 30)


async def test_a_message_before_a_change_elsewhere_has_the_lifetime_here(
    federation: Federation,
) -> None:
    """Its homeserver did not know of the change: Synapse shows the older state beside it."""
    shared = await share(federation, "1h")
    async with federation.outage():
        sent = await say(shared.ben, shared.room, 1)
        await shared.alice.send(shared.room, "!expire 4s")
        said = "to 4 seconds"
        await shared.alice.until_notice(shared.room, shared.bot.user_id, said, 20)
    sent += await say(shared.ben, shared.room, 1)
    await until_there(shared.alice, shared.room, sent[-1])
    await assert_all_go(shared, sent, 15)


async def test_a_message_that_arrives_late_counts_from_its_arrival(federation: Federation) -> None:
    shared = await share(federation, "2s")
    async with federation.outage():
        [late] = await say(shared.ben, shared.room, 1)
        await asyncio.sleep(2.5)
        healed = time.time()
    await until_there(shared.alice, shared.room, late)
    await assert_all_go(shared, [late], 10)
    event = await shared.alice.event(shared.room, late)
    redacted = event["unsigned"]["redacted_because"]["origin_server_ts"] / 1000
    assert event["origin_server_ts"] / 1000 < healed - 2
    assert redacted - healed >= 2


# --- what only the history shows -----------------------------------------------------------------


async def test_messages_sent_elsewhere_while_the_homeserver_was_down_go(
    federation: Federation,
) -> None:
    shared = await share(federation, "1s")
    async with federation.outage():
        await federation.a.stop()
        said = await say(shared.ben, shared.room, 60)
        await federation.a.start()
    said += await say(shared.ben, shared.room, 1)
    await assert_all_go(shared, said, 20)


async def test_messages_sent_elsewhere_while_the_bot_was_down_too_go(
    federation: Federation,
) -> None:
    shared = await share(federation, "1s")
    await shared.bot.stop()
    async with federation.outage():
        said = await say(shared.alice, shared.room, 10)
        said += await say(shared.ben, shared.room, 25)
    said += await say(shared.ben, shared.room, 1)
    await until_there(shared.alice, shared.room, said[-1])
    await shared.bot.start()
    await assert_all_go(shared, said, 15)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        pytest.param(20, 15, id="below what the bot read last"),
        pytest.param(130, 120, id="and more than one page of history brings"),
    ],
)
async def test_messages_sent_on_both_sides_of_a_cut_go(
    federation: Federation, here: int, there: int
) -> None:
    """With as many on the bot's own side, all that is missing stands below what it read last."""
    shared = await share(federation, "1s")
    async with federation.outage():
        ours, theirs = await asyncio.gather(
            say(shared.alice, shared.room, here), say(shared.ben, shared.room, there)
        )
    theirs += await say(shared.ben, shared.room, 1)
    await assert_all_go(shared, ours + theirs, 30)


async def test_messages_on_both_sides_of_a_cut_go_under_a_default_alone(
    federation: Federation,
) -> None:
    shared = await share(federation, "", default="2s")
    for one, other in ((shared.alice, shared.ben), (shared.ben, shared.alice)):
        [greeting] = await say(one, shared.room, 1)
        await until_there(other, shared.room, greeting)
    async with federation.outage():
        ours, theirs = await asyncio.gather(
            say(shared.alice, shared.room, 20), say(shared.ben, shared.room, 15)
        )
    theirs += await say(shared.ben, shared.room, 1)
    await assert_all_go(shared, ours + theirs, 60)


async def test_a_command_said_twice_keeps_no_message_from_being_found(
    federation: Federation,
) -> None:
    shared = await share(federation, "1s")
    await shared.alice.send(shared.room, "!expire 1s")
    await shared.alice.until_notice(shared.room, shared.bot.user_id, "after 1 second already")
    async with federation.outage():
        ours, theirs = await asyncio.gather(
            say(shared.alice, shared.room, 20), say(shared.ben, shared.room, 15)
        )
    theirs += await say(shared.ben, shared.room, 1)
    await assert_all_go(shared, ours + theirs, 60)


async def test_messages_that_cannot_be_had_when_the_bot_reads_back_go_later(
    federation: Federation,
) -> None:
    """The page comes without them and without an error. Somebody's client pulls them in later."""
    shared = await share(federation, "1s")
    await shared.bot.stop()
    async with federation.outage():
        theirs = await say(shared.ben, shared.room, 30)
    theirs += await say(shared.ben, shared.room, 1)
    await until_there(shared.alice, shared.room, theirs[-1])
    async with federation.outage():
        await shared.bot.start()

        async def has_read_back() -> bool:
            return "events of a gap" in shared.bot.words()

        await wait_until(has_read_back)
        found = await account(shared, theirs)
        assert found["never came"], "the homeserver has all of them: nothing is tried here"
    theirs += await say(shared.ben, shared.room, 1)
    await until_there(shared.alice, shared.room, theirs[-1])
    assert len(await shared.alice.messages(shared.room)) > len(theirs)
    await assert_all_go(shared, theirs, 60)


async def test_what_is_said_after_off_stays_though_the_room_is_swept(
    federation: Federation,
) -> None:
    shared = await share(federation, "2s")
    await asyncio.sleep(1)  # it has read all that
    await shared.bot.stop()
    await shared.alice.send(shared.room, "!expire off")
    kept = await say(shared.alice, shared.room, 110)  # more than a sync shows
    await asyncio.sleep(LIVE / 1000)
    await shared.bot.start()
    await shared.alice.until_notice(shared.room, shared.bot.user_id, "turned disappearing")

    async def swept() -> bool:
        with closing(sqlite3.connect(shared.bot.data_dir / "timers.db")) as db:
            return bool(db.execute("SELECT 1 FROM sweeps WHERE events_read > 110").fetchall())

    await wait_until(swept, 30)
    await asyncio.sleep(2)
    assert not any([await shared.alice.is_redacted(shared.room, one) for one in kept])
