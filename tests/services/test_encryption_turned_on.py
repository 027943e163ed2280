"""What was in clear when it was said counts; what came in clear after encryption does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bot.core.types import Event, RoomID
from tests.on_synapse.test_lifecycle import settle_in
from tests.services.test_outbox import setting
from tests.support.harness import MINUTE, Harness

if TYPE_CHECKING:
    from tests.support.bot_process import Bots
    from tests.support.people import People

A = "“alice” (@alice:example.org)"
MEGOLM = {"algorithm": "m.megolm.v1.aes-sha2"}


@pytest.fixture
async def room(harness: Harness) -> RoomID:
    """A room without encryption, which the bot knows."""
    room = harness.homeserver.make_room()
    async with harness.running(harness.sync):
        pass
    return room


def chat(harness: Harness, room: RoomID, count: int) -> None:
    for number in range(count):
        harness.homeserver.send(room, f"chat {number}")


def encrypt(harness: Harness, room: RoomID) -> None:
    harness.homeserver.set_state(room, "m.room.encryption", MEGOLM)


async def catch_up(harness: Harness) -> None:
    async with harness.running(*harness.everything):
        await harness.rest()


async def encryption(harness: Harness, room: RoomID) -> bool:
    known = await harness.store.room(room)
    assert known is not None
    return known.encrypted


CUTS = [(0, 0, 0), (1, 1, 1), (3, 9, 20), (20, 3, 9), (9, 20, 0), (9, 0, 3), (0, 9, 3)]
"""Messages before, between and after a command and the encryption; a sync shows 4, a page 5."""


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_command_in_clear_before_encryption_counts_wherever_the_sync_is_cut(
    harness: Harness, room: RoomID, cut: tuple[int, int, int], *, restarts: bool
) -> None:
    harness.homeserver.limit = 4
    chat(harness, room, cut[0])
    harness.homeserver.send(room, "!expire 5m")
    chat(harness, room, cut[1])
    encrypt(harness, room)
    chat(harness, room, cut[2])
    if restarts:
        async with harness.running(harness.sync):
            pass
        await harness.restart()
    await catch_up(harness)
    assert await setting(harness, room) == 5 * MINUTE
    assert await encryption(harness, room)
    assert harness.homeserver.heard(room) == [f"{A} set disappearing messages to 5 minutes."]


@pytest.mark.parametrize("cut", CUTS)
async def test_a_command_in_clear_after_encryption_never_counts(
    harness: Harness, room: RoomID, cut: tuple[int, int, int]
) -> None:
    harness.homeserver.limit = 4
    chat(harness, room, cut[0])
    encrypt(harness, room)
    chat(harness, room, cut[1])
    harness.homeserver.send(room, "!expire 5m")
    chat(harness, room, cut[2])
    await catch_up(harness)
    assert await setting(harness, room) is None
    assert harness.homeserver.heard(room) == []


async def test_encrypted_commands_in_the_same_gap_count_as_well(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.limit = 4
    harness.homeserver.send(room, "!expire 5m")
    chat(harness, room, 7)
    encrypt(harness, room)
    chat(harness, room, 7)
    harness.homeserver.send_encrypted(room, "!expire 1m")
    harness.homeserver.send(room, "!expire 2m")
    chat(harness, room, 7)
    await catch_up(harness)
    assert await setting(harness, room) == MINUTE


async def test_encryption_that_is_turned_on_again_is_not_turned_on_late(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.limit = 4
    encrypt(harness, room)
    chat(harness, room, 7)
    harness.homeserver.send(room, "!expire 5m")
    chat(harness, room, 7)
    encrypt(harness, room)
    chat(harness, room, 7)
    await catch_up(harness)
    assert await setting(harness, room) is None


@pytest.mark.parametrize("where", ["page_back", "sync"])
@pytest.mark.parametrize("before", [False, True])
async def test_a_homeserver_that_withholds_encryption_gets_no_command_through(
    harness: Harness, room: RoomID, where: str, *, before: bool
) -> None:
    """Withheld from the pages: it may have been before the command. From the sync: seen in them."""
    harness.homeserver.limit = 4
    if before:
        encrypt(harness, room)
    harness.homeserver.send(room, "!expire 5m")
    if not before:
        encrypt(harness, room)
    chat(harness, room, 9)
    answer = getattr(harness.homeserver, where)

    async def withhold(*args: Any) -> Any:
        found = await answer(*args)
        if where == "page_back":
            return [one for one in found[0] if not _is_encryption(one)], found[1]
        for batch in found.joined:
            batch.state[:] = [one for one in batch.state if not _is_encryption(one)]
        return found

    setattr(harness.homeserver, where, withhold)
    await catch_up(harness)
    counts = where == "sync" and not before
    assert await setting(harness, room) == (5 * MINUTE if counts else None)
    assert await encryption(harness, room)
    harness.homeserver.send(room, "!expire 1m")
    await catch_up(harness)
    assert await setting(harness, room) == (5 * MINUTE if counts else None)


def _is_encryption(event: Event) -> bool:
    return event.get("type") == "m.room.encryption"


async def test_what_waits_behind_a_gap_with_encryption_in_it_does_not_count(
    harness: Harness, room: RoomID
) -> None:
    """The sync does not tell of it: what follows the gap was read as clear."""
    harness.homeserver.limit = 4
    encrypt(harness, room)
    chat(harness, room, 9)
    harness.homeserver.send(room, "!expire 5m")
    answer = harness.homeserver.sync

    async def withhold(*args: Any) -> Any:
        found = await answer(*args)
        for batch in found.joined:
            batch.state[:] = [one for one in batch.state if not _is_encryption(one)]
        return found

    harness.homeserver.sync = withhold  # type: ignore[method-assign, assignment]
    await catch_up(harness)
    assert await setting(harness, room) is None


async def test_a_homeserver_that_tells_the_timelines_state_twice_loses_no_command(
    harness: Harness, room: RoomID
) -> None:
    harness.homeserver.send(room, "!expire 5m")
    encrypt(harness, room)
    answer = harness.homeserver.sync

    async def twice(*args: Any) -> Any:
        found = await answer(*args)
        for batch in found.joined:
            batch.state.extend(one for one in batch.timeline if "state_key" in one)
        return found

    harness.homeserver.sync = twice  # type: ignore[method-assign, assignment]
    await catch_up(harness)
    assert await setting(harness, room) == 5 * MINUTE


@pytest.mark.synapse
async def test_a_command_before_encryption_counts_though_the_bot_was_away(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await bot.stop()
    stays = await alice.send(room, "stays")
    command = await alice.send(room, "!expire 3s")
    await alice.state(room, "m.room.encryption", MEGOLM)
    late = [await alice.send(room, f"after {number}") for number in range(110)]
    await alice.send(room, "!expire off")
    await bot.start()
    for event_id in [command, late[0], late[-1]]:
        await alice.until_redacted(room, event_id, 60)
    assert not await alice.is_redacted(room, stays)
    assert (await alice.get_state(room, "com.beeper.disappearing_timer"))["timer"] == 3_000
