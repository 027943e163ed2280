"""Whatever a client writes as the room's lifetime, only what says `off` is off."""

from __future__ import annotations

from typing import Any

import pytest

from bot.core.events import read_event
from bot.core.lifetimes import POLICY_EVENT
from tests.services.test_sweeps import lose_disk
from tests.support.harness import DAY, MINUTE, SECOND, Harness

HOUR = 60 * MINUTE


@pytest.mark.parametrize(
    ("content", "lifetime", "note"),
    [
        (
            {"type": "after_read_by_recipient", "timer": HOUR},
            HOUR,
            "I count from sending, not from reading.",
        ),
        ({"type": "com.example.new", "timer": HOUR}, HOUR, "I do not know this kind of timer"),
        ({"timer": HOUR}, HOUR, "I do not know this kind of timer"),
        ({"type": "after_send", "timer": str(HOUR)}, HOUR, "set disappearing messages to 1 hour."),
        ({"type": "after_send", "timer": float(HOUR)}, HOUR, "messages to 1 hour."),
        ({"type": "after_send", "timer": "soon"}, DAY, "I cannot read. Messages disappear as"),
        ({"type": "after_read"}, DAY, "I cannot read. Messages disappear as before: after 1 day."),
    ],
)
async def test_no_lifetime_of_another_client_is_read_as_off(
    harness: Harness, content: dict[str, Any], lifetime: int, note: str
) -> None:
    room = harness.homeserver.make_room()
    async with harness.running(*harness.everything):
        harness.homeserver.set_lifetime(room, DAY)
        await harness.rest()
        harness.homeserver.set_state(room, POLICY_EVENT, content)
        sent = await harness.said_in(room, "hello")
        assert (await harness.timers())[sent] == harness.clock.now() + lifetime
    assert note in harness.homeserver.heard(room)[-1]


async def test_an_unreadable_lifetime_holds_though_the_disk_is_lost(
    harness: Harness,
) -> None:
    room = harness.homeserver.make_room()
    harness.homeserver.set_lifetime(room, MINUTE)
    sent = [harness.homeserver.send(room, "before")]
    harness.homeserver.set_state(room, POLICY_EVENT, {"type": "after_send", "timer": -1})
    sent.append(harness.homeserver.send(room, "after"))
    await lose_disk(harness)
    async with harness.running(*harness.everything):
        sent.append(await harness.said_in(room, "now"))
        await harness.advance(2 * MINUTE)
        await harness.advance(2 * MINUTE)
    assert [harness.homeserver.is_redacted(room, one) for one in sent] == [True] * 3


async def test_off_ends_what_could_not_be_read(harness: Harness) -> None:
    room = harness.homeserver.make_room()
    async with harness.running(*harness.everything):
        harness.homeserver.set_lifetime(room, DAY)
        harness.homeserver.set_state(room, POLICY_EVENT, {"type": "after_send", "timer": []})
        await harness.rest()
        await harness.said_in(room, "!expire off")
        await harness.advance(SECOND)
        stays = await harness.said_in(room, "hello")
        assert stays not in await harness.timers()
    content = harness.homeserver.lifetime_of(room)
    assert content is not None
    assert not {"type", "timer"} & set(content)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"content": {"timer": []}}, None),
        ({"content": {"timer": []}, "unsigned": []}, None),
        ({"content": {"timer": []}, "unsigned": {"prev_content": []}}, None),
        ({"content": {"timer": []}, "unsigned": {"prev_content": {}}}, 0),
        ({"content": {"timer": []}, "unsigned": {"prev_content": {"timer": 7}}}, 7),
        ({"unsigned": {"prev_content": {"timer": 7}}}, 7),
        ({"content": {"timer": 5}, "unsigned": {"prev_content": {"timer": 7}}}, 5),
        ({"content": {}, "unsigned": {"prev_content": {"timer": 7}}}, 0),
    ],
)
def test_a_state_event_that_cannot_be_read_says_what_it_replaced(
    event: dict[str, Any], expected: int | None
) -> None:
    assert read_event(event)[0] == expected
