"""With libolm, which shares no code with the bot's crypto: commands, answers and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.people import wait_until

if TYPE_CHECKING:
    from tests.interop.jsclient import JsPeople
    from tests.support.bot_process import BotProcess

pytestmark = pytest.mark.synapse


async def test_what_is_said_with_libolm_disappears(js_people: JsPeople, bot: BotProcess) -> None:
    alice = await js_people.on_libolm("alice")
    assert alice.crypto == "Olm 3.2.15"
    room = await alice.create_room(bot.user_id)
    await alice.until_joined(room, bot.user_id)
    await alice.server.set_power(room, bot.user_id, 50)
    command = await alice.say(room, "!expire 3s")
    notice = await alice.until_heard(room, bot.user_id, "set disappearing messages to 3 seconds.")
    assert notice.encrypted
    said = [command] + [await alice.say(room, f"secret {number}") for number in range(3)]

    async def gone() -> bool:
        timeline = await alice.timeline(room)
        return all(one in timeline and timeline[one].redacted for one in said)

    await wait_until(gone, 15, "everything to be gone")
    for event_id in said:
        assert await alice.server.is_redacted(room, event_id)
