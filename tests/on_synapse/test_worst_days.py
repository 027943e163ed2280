"""The real bot on bad days: killed, away, limited, stripped of its power, thrown out."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import Bots
from tests.support.people import People, Person, wait_until

if TYPE_CHECKING:
    from bot.core.types import RoomID
    from bot.demo.homeserver import Homeserver

pytestmark = pytest.mark.synapse


async def redactions(alice: Person, room: RoomID) -> Counter[str]:
    """Count the redaction events of each event."""
    found: Counter[str] = Counter()
    for event in await alice.messages(room):
        if event["type"] == "m.room.redaction" and "content" in event:
            found[str(event["content"].get("redacts") or event.get("redacts"))] += 1
    return found


async def test_messages_go_once_though_the_bot_is_killed_again_and_again(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 2s")
    await alice.until_notice(room, bot.user_id, "2 seconds")
    sent: list[str] = []

    async def talk() -> None:
        for number in range(60):
            sent.append(await alice.send(room, f"message {number}"))
            await asyncio.sleep(0.1)

    chance = random.Random(7)
    talking = asyncio.create_task(talk())
    kills = 0
    while not talking.done():
        await asyncio.sleep(chance.uniform(0.0, 1.5))
        await bot.kill()
        kills += 1
        await bot.start(ready=False)
    await talking
    for event_id in sent:
        await alice.until_redacted(room, event_id, 30)
    count = await redactions(alice, room)
    assert kills >= 4
    assert {count[event_id] for event_id in sent} == {1}


async def test_what_was_said_while_the_bot_was_away_goes(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 3s")
    await alice.until_notice(room, bot.user_id, "3 seconds")
    assert await bot.stop() == 0
    sent = [await alice.send(room, f"message {number}") for number in range(300)]
    await bot.start()
    for event_id in sent:
        await alice.until_redacted(room, event_id, 40)


async def test_a_command_said_while_the_bot_was_away_covers_what_follows_it(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.until_notice(room, bot.user_id, "right to remove")
    assert await bot.stop() == 0
    before = [await alice.send(room, f"before {number}") for number in range(120)]
    await alice.send(room, "!expire 2s")
    after = [await alice.send(room, f"after {number}") for number in range(120)]
    await bot.start()
    await alice.until_notice(room, bot.user_id, "set disappearing messages to 2 seconds.")
    for event_id in after:
        await alice.until_redacted(room, event_id, 40)
    assert not any([await alice.is_redacted(room, event_id) for event_id in before])


async def test_lost_power_is_told_once_and_what_waited_goes_when_it_returns(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 2s")
    await alice.until_notice(room, bot.user_id, "2 seconds")
    await alice.set_power(room, bot.user_id, 10)
    await alice.until_notice(room, bot.user_id, "I can no longer remove messages")
    waiting = [await alice.send(room, f"waiting {number}") for number in range(3)]
    await asyncio.sleep(4)
    assert not any([await alice.is_redacted(room, event_id) for event_id in waiting])
    await alice.set_power(room, bot.user_id, 50)
    for event_id in waiting:
        await alice.until_redacted(room, event_id, 10)
    told = [body for body in bot.words().splitlines() if "a room is suspended" in body]
    assert len(told) == 1


async def test_a_bot_without_power_says_so_and_begins_when_it_has_it(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    levels = {"events": {"com.beeper.disappearing_timer": 0}}
    room = await settle_in(alice, bot, power=0, power_levels=levels)
    await alice.send(room, "!expire 2s")
    notice = await alice.until_notice(room, bot.user_id, "But I cannot remove messages")
    assert "power level 50, and I have 0" in notice
    message = await alice.send(room, "said before the power came")
    await alice.set_power(room, bot.user_id, 50)
    await alice.until_redacted(room, message, 10)


async def test_only_who_may_change_the_room_changes_its_lifetime(
    people: People, bots: Bots
) -> None:
    alice, bob, bot = await people("alice"), await people("bob"), await bots()
    room = await settle_in(alice, bot)
    await alice.invite(room, bob)
    await bob.join(room)
    await bob.send(room, "!expire 2s")
    notice = await alice.until_notice(room, bot.user_id, "), changing this")
    assert "needs power level 50 here, and you have 0" in notice
    await alice.set_power(room, bob, 50)
    await bob.send(room, "!expire 1h")
    await alice.until_notice(room, bot.user_id, "set disappearing messages to 1 hour.")
    await alice.set_power(room, bob, 0)
    await bob.send(room, "!expire off")
    await wait_until(lambda: _count(alice, room, bot.user_id, "), changing this", 2))
    assert (await alice.get_state(room, "com.beeper.disappearing_timer"))["timer"] == 3_600_000


async def _count(alice: Person, room: RoomID, who: str, text: str, times: int) -> bool:
    return sum(text in body for body in await alice.bodies(room, who)) == times


async def test_a_lifetime_set_in_the_rooms_state_is_obeyed_and_announced(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    content = {"type": "after_send", "timer": 500}
    await alice.state(room, "com.beeper.disappearing_timer", content)
    notice = await alice.until_notice(room, bot.user_id, "set disappearing messages")
    assert "0.5 seconds. The shortest I am allowed is 1 second, so I use that." in notice
    message = await alice.send(room, "gone in a second")
    await alice.until_redacted(room, message, 10)
    content = {"type": "after_read_by_recipient", "timer": 2000}
    await alice.state(room, "com.beeper.disappearing_timer", content)
    await alice.until_notice(room, bot.user_id, "I count from sending, not from reading.")
    message = await alice.send(room, "gone, read or not")
    await alice.until_redacted(room, message, 10)
    await alice.state(room, "com.beeper.disappearing_timer", {})
    await alice.until_notice(room, bot.user_id, "turned disappearing messages off")


async def test_a_bot_that_was_thrown_out_begins_anew_when_invited_again(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 20s")
    await alice.until_notice(room, bot.user_id, "20 seconds")
    await alice.kick(room, bot.user_id)

    async def forgotten() -> bool:
        return "no longer in a room" in bot.words()

    await wait_until(forgotten)
    await alice.state(room, "com.beeper.disappearing_timer", {"type": "after_send", "timer": 2000})
    await alice.invite(room, bot.user_id)
    await alice.until_notice(room, bot.user_id, "here, every new one goes after 2 seconds")
    message = await alice.send(room, "said after the return")
    await alice.until_redacted(room, message, 10)


async def test_a_room_that_an_admin_deleted_is_forgotten(
    people: People, bots: Bots, homeserver: Homeserver
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 3s")
    await alice.until_notice(room, bot.user_id, "3 seconds")
    admin = Person(homeserver.url, await homeserver.register("administrator", admin=True))
    body = {"purge": True, "block": False}
    await admin.call("DELETE", "rooms", room, root="/_synapse/admin/v2", body=body)
    await admin.close()

    async def forgotten() -> bool:
        return "no longer in a room" in bot.words()

    await wait_until(forgotten, 20)


async def test_commands_count_once_though_the_bot_is_killed_in_the_middle(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    chance = random.Random(11)
    for hours in range(2, 14):
        await alice.send(room, f"!expire {hours}h")
        await asyncio.sleep(chance.uniform(0.0, 0.25))
        await bot.kill()
        await bot.start()
        await alice.until_notice(room, bot.user_id, f"set disappearing messages to {hours} h")
    said = Counter(await alice.bodies(room, bot.user_id))
    assert {body: count for body, count in said.items() if count > 1} == {}
    policies = [
        e for e in await alice.messages(room) if e["type"] == "com.beeper.disappearing_timer"
    ]
    assert [event["content"]["timer"] for event in policies] == [
        h * 3_600_000 for h in range(2, 14)
    ]


async def test_the_default_rate_limit_delays_but_loses_nothing(
    strict_people: People, strict_bots: Bots
) -> None:
    alice, bob = await strict_people("alice"), await strict_people("bob")
    bot = await strict_bots()
    room = await settle_in(alice, bot)
    await alice.invite(room, bob)
    await bob.join(room)
    await alice.send(room, "!expire 1s")
    await alice.until_notice(room, bot.user_id, "1 second")
    sent = [await who.send(room, f"message {n}") for n in range(4) for who in (alice, bob)]
    for event_id in sent:
        await alice.until_redacted(room, event_id, 90)
    count = await redactions(alice, room)
    assert {count[event_id] for event_id in sent} == {1}
    last = [
        (await alice.event(room, event_id))["unsigned"]["redacted_because"] for event_id in sent
    ]
    spread = max(e["origin_server_ts"] for e in last) - min(e["origin_server_ts"] for e in last)
    assert spread > 4_000, "the limit was never met"


async def test_no_event_id_stays_on_the_disk_or_in_the_log(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 1s")
    await alice.until_notice(room, bot.user_id, "1 second")
    for number in range(100):
        await alice.send(room, f"message {number}")
    await alice.send(room, "!expire off")
    await alice.until_notice(room, bot.user_id, "turned disappearing messages off")

    async def nothing_left() -> bool:
        ids = [event["event_id"].encode() for event in await alice.messages(room)]
        files = [path for path in bot.data_dir.rglob("*") if path.is_file()] + [bot.log]
        held = {path.name for path in files for one in ids if one in path.read_bytes()}
        return not held

    await wait_until(nothing_left, 45, "the disk to be free of event ids")
    await bot.stop()
    assert await nothing_left()
    names = {path.name for path in bot.data_dir.iterdir()}
    assert names == {"timers.db", "crypto", "device.json", "cross_signing.json", "lock"}
    modes = {oct(path.stat().st_mode & 0o077) for path in bot.data_dir.rglob("*")}
    assert modes == {"0o0"}
