"""After its time, no API of a real homeserver gives anything of a message away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.encrypted_person import EncryptedPerson
from tests.kinds import Kind, all_kinds
from tests.peers import People, Person, wait_until
from tests.remains import APIS, Remains, Sent, remains, send_all, send_kind
from tests.test_lifecycle import settle_in

if TYPE_CHECKING:
    from bot.model import RoomID
    from tests.process import BotProcess, Bots

pytestmark = pytest.mark.synapse

TIMER = "com.beeper.disappearing_timer"


async def set_lifetime(alice: Person, room: str, seconds: float) -> None:
    """Set the lifetime through the room's state; 0 turns it off."""
    timer = {"type": "after_send", "timer": int(seconds * 1000)} if seconds else {}
    await alice.state(room, TIMER, timer)


async def plain_room(people: People, bot: BotProcess) -> tuple[Person, RoomID]:
    alice = await people("alice")
    return alice, await settle_in(alice, bot)


async def encrypted_room(people: People, bot: BotProcess) -> tuple[EncryptedPerson, RoomID]:
    alice = await people.encrypted("alice")
    room = await alice.create_room(encrypted=True, invite=[bot.user_id])
    await alice.until_heard(room, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await alice.send_text(room, "now everybody has the key")
    return alice, room


async def until_redacted(alice: Person, room: str, sent: list[Sent], within: float) -> None:
    """Wait until the room's timeline shows nothing of the messages."""
    __tracebackhide__ = True
    ids = {one.event_id: one.name for one in sent}
    left: list[str] = []

    async def gone() -> bool:
        events = await alice.messages(room)
        left[:] = [ids[e["event_id"]] for e in events if e["event_id"] in ids and e["content"]]
        await asyncio.sleep(0.2)
        return not left

    try:
        await wait_until(gone, within)
    except AssertionError:
        assert left == []


async def look_everywhere(
    people: People, alice: Person, room: str, sent: list[Sent], *, searchable: bool = True
) -> Remains:
    """Ask every API, as a member and as somebody who has just joined."""
    newcomer = await people("newcomer")
    await alice.invite(room, newcomer)
    await newcomer.join(room)
    return await remains(alice, newcomer, room, sent, searchable=searchable)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_nothing_is_left_of_any_kind(people: People, bots: Bots, encrypted: bool) -> None:
    bot = await bots()
    make = encrypted_room if encrypted else plain_room
    alice, room = await make(people, bot)
    stays = await send_all(alice, room, family("text", "edit", "reaction"))
    await set_lifetime(alice, room, 4)
    sent = await send_all(alice, room, all_kinds())
    await until_redacted(alice, room, sent, 20)
    left = await look_everywhere(people, alice, room, sent, searchable=not encrypted)
    assert left.everything == set()
    # What stays is found everywhere: the search for the others was one.
    found = await look_everywhere(people, alice, room, stays, searchable=not encrypted)
    apis = [api for api in APIS if api != "/search" or not encrypted]
    for api in apis:
        shown = {"text", "edit", "reaction"}
        if api == "/search":
            shown -= {"reaction"}
        assert found.found[api] == shown, api


def family(*names: str) -> list[Kind]:
    """Return some kinds, with the words of one and the same set."""
    return [kind for kind in all_kinds() if kind.name in names]


async def send_children(
    alice: Person, room: str, kinds: list[Kind], parents: list[Sent]
) -> list[Sent]:
    """Send children of messages that were sent before."""
    ids = {one.name: one.event_id for one in parents}
    return [await send_kind(alice, room, kind, ids.get(kind.parent, "")) for kind in kinds]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_children_go_with_their_parent(people: People, bots: Bots, encrypted: bool) -> None:
    """An edit made 3 s after its message goes when the message goes, and not 3 s later."""
    bot = await bots()
    make = encrypted_room if encrypted else plain_room
    alice, room = await make(people, bot)
    await set_lifetime(alice, room, 6)
    parents = await send_all(alice, room, family("text", "poll", "emote", "location"))
    await asyncio.sleep(3)
    kinds = family(
        "edit",
        "second edit",
        "reaction",
        "reference",
        "poll vote",
        "poll end",
        "beacon",
    )
    children = await send_children(alice, room, kinds, parents)
    await until_redacted(alice, room, parents, 12)
    # Children first: when the parent has gone, nothing else of it is there.
    left = await look_everywhere(people, alice, room, parents + children, searchable=not encrypted)
    assert left.everything == set()


async def test_children_of_children_go_with_the_first(people: People, bots: Bots) -> None:
    bot = await bots()
    alice, room = await plain_room(people, bot)
    await set_lifetime(alice, room, 6)
    parents = await send_all(alice, room, family("text", "edit"))
    await asyncio.sleep(3)
    kinds = family("edit of the edit", "reaction to the edit")
    children = await send_children(alice, room, kinds, parents)
    await until_redacted(alice, room, parents, 12)
    left = await look_everywhere(people, alice, room, parents + children)
    assert left.everything == set()


async def test_children_sent_while_the_lifetime_was_off_go_with_their_parent(
    people: People, bots: Bots
) -> None:
    bot = await bots()
    alice, room = await plain_room(people, bot)
    await set_lifetime(alice, room, 4)
    parents = await send_all(alice, room, family("text", "poll", "emote"))
    await set_lifetime(alice, room, 0)
    kinds = family("edit", "reaction", "reference", "poll vote", "poll end")
    children = await send_children(alice, room, kinds, parents)
    stays = await alice.send(room, "this stays: no lifetime was set")
    await until_redacted(alice, room, parents, 12)
    left = await look_everywhere(people, alice, room, parents + children)
    assert left.everything == set()
    assert not await alice.is_redacted(room, stays)


async def test_a_child_of_a_message_that_has_gone_goes_at_once(people: People, bots: Bots) -> None:
    bot = await bots()
    alice, room = await plain_room(people, bot)
    await set_lifetime(alice, room, 2)
    parents = await send_all(alice, room, family("text", "poll"))
    await until_redacted(alice, room, parents, 10)
    await set_lifetime(alice, room, 60)
    children = await send_children(alice, room, family("edit", "reaction", "poll vote"), parents)
    await until_redacted(alice, room, children, 5)
    left = await look_everywhere(people, alice, room, parents + children)
    assert left.everything == set()


async def test_replies_and_thread_replies_have_a_time_of_their_own(
    people: People, bots: Bots
) -> None:
    """They are messages in their own right; what is quoted in them goes with them."""
    bot = await bots()
    alice, room = await plain_room(people, bot)
    await set_lifetime(alice, room, 4)
    parents = await send_all(alice, room, family("text", "notice"))
    await asyncio.sleep(2.5)
    replies = await send_children(alice, room, family("reply", "thread reply"), parents)
    await until_redacted(alice, room, parents, 10)
    for one in replies:
        assert not await alice.is_redacted(room, one.event_id)
    await until_redacted(alice, room, replies, 10)
    left = await look_everywhere(people, alice, room, parents + replies)
    assert left.everything == set()
