"""What a real homeserver does when a redaction is redacted: its words go, its target stays gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.people import ApiError, People
from tests.support.remains import fresh_sync

if TYPE_CHECKING:
    from tests.support.person import Person

pytestmark = pytest.mark.synapse


async def redact_saying(who: Person, room: str, target: str, words: str) -> str:
    """Redact something with a reason, and with more beside it."""
    body = {"reason": words, "body": words, "org.example.more": {"deep": [words]}}
    where = ("rooms", room, "redact", target, "redaction-with-words")
    return str((await who.call("PUT", *where, body=body))["event_id"])


@pytest.mark.parametrize("version", ["1", "6", "9", "10", "11", "12"])
async def test_a_redacted_redaction_says_nothing_and_its_target_stays_gone(
    people: People, version: str
) -> None:
    alice, newcomer = await people("alice"), await people("newcomer")
    room = await alice.create_room(version, invite=[newcomer])
    target = await alice.send(room, "a message")
    redaction = await redact_saying(alice, room, target, "wordy")
    assert "wordy" in json.dumps(await alice.event(room, target))
    await alice.redact(room, redaction)
    await newcomer.join(room)
    answers = [
        await alice.messages(room),
        await alice.event(room, target),
        await alice.event(room, redaction),
        await alice.call("GET", "rooms", room, "context", target),
        await alice.call("GET", "rooms", room, "context", redaction),
        await fresh_sync(newcomer, room),
    ]
    assert "wordy" not in json.dumps(answers)
    assert await alice.is_redacted(room, target)


async def test_a_redaction_of_nothing_is_shown_to_nobody(people: People) -> None:
    alice = await people("alice")
    room = await alice.create_room()
    redaction = await redact_saying(alice, room, "$nowhere", "unseen")
    assert "unseen" not in json.dumps(await alice.messages(room))
    with pytest.raises(ApiError) as refused:
        await alice.event(room, redaction)
    assert refused.value.status == 404
