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
async def room(house: Harness) -> RoomID:
    """A room without encryption, which the bot knows."""
    room = house.homeserver.make_room()
    async with house.running(house.intake):
        pass
    return room


def chat(house: Harness, room: RoomID, count: int) -> None:
    for number in range(count):
        house.homeserver.send(room, f"chat {number}")


def encrypt(house: Harness, room: RoomID) -> None:
    house.homeserver.set_state(room, "m.room.encryption", MEGOLM)


async def catch_up(house: Harness) -> None:
    async with house.running(*house.everything):
        await house.rest()


async def encryption(house: Harness, room: RoomID) -> bool:
    known = await house.store.room(room)
    assert known is not None
    return known.encrypted


CUTS = [(0, 0, 0), (1, 1, 1), (3, 9, 20), (20, 3, 9), (9, 20, 0), (9, 0, 3), (0, 9, 3)]
"""Messages before, between and after a command and the encryption; a sync shows 4, a page 5."""


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_command_in_clear_before_encryption_counts_wherever_the_sync_is_cut(
    house: Harness, room: RoomID, cut: tuple[int, int, int], *, restarts: bool
) -> None:
    house.homeserver.limit = 4
    chat(house, room, cut[0])
    house.homeserver.send(room, "!expire 5m")
    chat(house, room, cut[1])
    encrypt(house, room)
    chat(house, room, cut[2])
    if restarts:
        async with house.running(house.intake):
            pass
        await house.restart()
    await catch_up(house)
    assert await setting(house, room) == 5 * MINUTE
    assert await encryption(house, room)
    assert house.homeserver.heard(room) == [f"{A} set disappearing messages to 5 minutes."]


@pytest.mark.parametrize("cut", CUTS)
async def test_a_command_in_clear_after_encryption_never_counts(
    house: Harness, room: RoomID, cut: tuple[int, int, int]
) -> None:
    house.homeserver.limit = 4
    chat(house, room, cut[0])
    encrypt(house, room)
    chat(house, room, cut[1])
    house.homeserver.send(room, "!expire 5m")
    chat(house, room, cut[2])
    await catch_up(house)
    assert await setting(house, room) is None
    assert house.homeserver.heard(room) == []


async def test_encrypted_commands_in_the_same_gap_count_as_well(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.limit = 4
    house.homeserver.send(room, "!expire 5m")
    chat(house, room, 7)
    encrypt(house, room)
    chat(house, room, 7)
    house.homeserver.send_encrypted(room, "!expire 1m")
    house.homeserver.send(room, "!expire 2m")
    chat(house, room, 7)
    await catch_up(house)
    assert await setting(house, room) == MINUTE


async def test_encryption_that_is_turned_on_again_is_not_turned_on_late(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.limit = 4
    encrypt(house, room)
    chat(house, room, 7)
    house.homeserver.send(room, "!expire 5m")
    chat(house, room, 7)
    encrypt(house, room)
    chat(house, room, 7)
    await catch_up(house)
    assert await setting(house, room) is None


@pytest.mark.parametrize("where", ["page_back", "sync"])
@pytest.mark.parametrize("before", [False, True])
async def test_a_homeserver_that_withholds_encryption_gets_no_command_through(
    house: Harness, room: RoomID, where: str, *, before: bool
) -> None:
    """Withheld from the pages: it may have been before the command. From the sync: seen in them."""
    house.homeserver.limit = 4
    if before:
        encrypt(house, room)
    house.homeserver.send(room, "!expire 5m")
    if not before:
        encrypt(house, room)
    chat(house, room, 9)
    answer = getattr(house.homeserver, where)

    async def withhold(*args: Any) -> Any:
        found = await answer(*args)
        if where == "page_back":
            return [one for one in found[0] if not _is_encryption(one)], found[1]
        for batch in found.joined:
            batch.state[:] = [one for one in batch.state if not _is_encryption(one)]
        return found

    setattr(house.homeserver, where, withhold)
    await catch_up(house)
    counts = where == "sync" and not before
    assert await setting(house, room) == (5 * MINUTE if counts else None)
    assert await encryption(house, room)
    house.homeserver.send(room, "!expire 1m")
    await catch_up(house)
    assert await setting(house, room) == (5 * MINUTE if counts else None)


def _is_encryption(event: Event) -> bool:
    return event.get("type") == "m.room.encryption"


async def test_what_waits_behind_a_gap_in_which_encryption_is_found_does_not_count(
    house: Harness, room: RoomID
) -> None:
    """The sync does not tell of it: what follows the gap was read as clear."""
    house.homeserver.limit = 4
    encrypt(house, room)
    chat(house, room, 9)
    house.homeserver.send(room, "!expire 5m")
    answer = house.homeserver.sync

    async def withhold(*args: Any) -> Any:
        found = await answer(*args)
        for batch in found.joined:
            batch.state[:] = [one for one in batch.state if not _is_encryption(one)]
        return found

    house.homeserver.sync = withhold  # type: ignore[method-assign, assignment]
    await catch_up(house)
    assert await setting(house, room) is None


async def test_a_homeserver_that_tells_the_timelines_state_twice_loses_no_command(
    house: Harness, room: RoomID
) -> None:
    house.homeserver.send(room, "!expire 5m")
    encrypt(house, room)
    answer = house.homeserver.sync

    async def twice(*args: Any) -> Any:
        found = await answer(*args)
        for batch in found.joined:
            batch.state.extend(one for one in batch.timeline if "state_key" in one)
        return found

    house.homeserver.sync = twice  # type: ignore[method-assign, assignment]
    await catch_up(house)
    assert await setting(house, room) == 5 * MINUTE


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
