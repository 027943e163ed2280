"""After its time, no API of a real homeserver gives anything of a message away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.on_synapse.test_lifecycle import settle_in
from tests.support.bot_process import Bots
from tests.support.encrypted_person import EncryptedPerson
from tests.support.event_kinds import Kind, all_kinds
from tests.support.people import People, Person, wait_until
from tests.support.remains import APIS, Remains, Sent, remains, send_all, send_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from bot.core.types import RoomID
    from bot.demo.homeserver import Homeserver
    from tests.support.bot_process import BotProcess

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


def family(*names: str) -> list[Kind]:
    """Return some kinds, with the words of one and the same set."""
    return [kind for kind in all_kinds() if kind.name in names]


async def send_children(
    alice: Person, room: str, kinds: list[Kind], parents: list[Sent]
) -> list[Sent]:
    """Send children of messages that were sent before."""
    ids = {one.name: one.event_id for one in parents}
    return [await send_kind(alice, room, kind, ids.get(kind.parent, "")) for kind in kinds]


# --- The scenes: each is played in a room of its own, and returns what was found at its end.


async def every_kind(
    people: People, alice: Person, room: str, *, searchable: bool
) -> tuple[Remains, Remains]:
    """Some that stay are sent before the lifetime is set; return what is left of both."""
    stays = await send_all(alice, room, family("text", "edit", "reaction"))
    await set_lifetime(alice, room, 4)
    sent = await send_all(alice, room, all_kinds())
    await until_redacted(alice, room, sent, 30)
    left = await look_everywhere(people, alice, room, sent, searchable=searchable)
    found = await look_everywhere(people, alice, room, stays, searchable=searchable)
    return left, found


async def late_children(people: People, alice: Person, room: str, *, searchable: bool) -> Remains:
    await set_lifetime(alice, room, 7)
    parents = await send_all(alice, room, family("text", "poll", "emote", "location"))
    await asyncio.sleep(4)
    kinds = family(
        *("edit", "second edit", "reaction", "reference", "poll vote", "poll end", "beacon")
    )
    children = await send_children(alice, room, kinds, parents)
    await until_redacted(alice, room, parents, 20)
    return await look_everywhere(people, alice, room, parents + children, searchable=searchable)


async def grandchildren(people: People, alice: Person, room: str) -> Remains:
    await set_lifetime(alice, room, 7)
    parents = await send_all(alice, room, family("text", "edit"))
    await asyncio.sleep(4)
    kinds = family("edit of the edit", "reaction to the edit")
    children = await send_children(alice, room, kinds, parents)
    await until_redacted(alice, room, parents, 20)
    return await look_everywhere(people, alice, room, parents + children)


async def children_without_lifetime(
    people: People, alice: Person, room: str
) -> tuple[Remains, bool]:
    """Return what is left, and whether a message that belongs to nothing stayed."""
    await set_lifetime(alice, room, 5)
    parents = await send_all(alice, room, family("text", "poll", "emote"))
    await set_lifetime(alice, room, 0)
    kinds = family("edit", "reaction", "reference", "poll vote", "poll end")
    children = await send_children(alice, room, kinds, parents)
    other = await alice.send(room, "this stays: no lifetime was set")
    await until_redacted(alice, room, parents, 20)
    left = await look_everywhere(people, alice, room, parents + children)
    return left, not await alice.is_redacted(room, other)


async def orphans(people: People, alice: Person, room: str) -> Remains:
    await set_lifetime(alice, room, 2)
    parents = await send_all(alice, room, family("text", "poll"))
    await until_redacted(alice, room, parents, 20)
    await set_lifetime(alice, room, 3600)
    children = await send_children(alice, room, family("edit", "reaction", "poll vote"), parents)
    await until_redacted(alice, room, children, 10)
    return await look_everywhere(people, alice, room, parents + children)


async def replies(people: People, alice: Person, room: str) -> tuple[list[bool], Remains]:
    """Return whether each reply had its own lifetime, and what is left at last."""
    await set_lifetime(alice, room, 6)
    parents = await send_all(alice, room, family("text", "notice"))
    await asyncio.sleep(4)
    answers = await send_children(alice, room, family("reply", "thread reply"), parents)
    await until_redacted(alice, room, parents, 20)
    await until_redacted(alice, room, answers, 20)
    shown = [await alice.event(room, one.event_id) for one in answers]
    there = [
        one["unsigned"]["redacted_because"]["origin_server_ts"] - one["origin_server_ts"] >= 6_000
        for one in shown
    ]
    return there, await look_everywhere(people, alice, room, parents + answers)


Play = dict[str, asyncio.Task[Any]]


@pytest.fixture(scope="module")
async def play(
    homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Play]:
    """Play all scenes at the same time, with one bot: most of a scene is waiting."""
    folder = tmp_path_factory.mktemp("scenes")
    people, bots = People(homeserver, folder), Bots(homeserver, folder)
    bot = await bots()

    async def plain(scene: Callable[..., Awaitable[Any]], **more: bool) -> Any:
        return await scene(people, *await plain_room(people, bot), **more)

    async def encrypted(scene: Callable[..., Awaitable[Any]]) -> Any:
        return await scene(people, *await encrypted_room(people, bot), searchable=False)

    scenes = {
        "every kind, plain": plain(every_kind, searchable=True),
        "every kind, encrypted": encrypted(every_kind),
        "late children, plain": plain(late_children, searchable=True),
        "late children, encrypted": encrypted(late_children),
        "grandchildren": plain(grandchildren),
        "children without lifetime": plain(children_without_lifetime),
        "orphans": plain(orphans),
        "replies": plain(replies),
    }
    tasks = {name: asyncio.create_task(scene) for name, scene in scenes.items()}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    await bots.close()
    await people.close()


@pytest.mark.parametrize("where", ["plain", "encrypted"])
async def test_nothing_is_left_of_any_kind(play: Play, where: str) -> None:
    left, found = await play[f"every kind, {where}"]
    assert left.everything == set()
    # What stays is found everywhere: the search for the others was one.
    for api in (api for api in APIS if api != "/search" or where == "plain"):
        missing = {"/search": {"reaction"}, "/relations": {"text"}}.get(api, set())
        assert found.found[api] == {"text", "edit", "reaction"} - missing, api


@pytest.mark.parametrize("where", ["plain", "encrypted"])
async def test_children_go_with_their_parent(play: Play, where: str) -> None:
    """They were sent 4 s later. They go first: the parent has gone, and nothing is there."""
    assert (await play[f"late children, {where}"]).everything == set()


async def test_children_of_children_go_with_the_first(play: Play) -> None:
    assert (await play["grandchildren"]).everything == set()


async def test_children_sent_while_the_lifetime_was_off_go_with_their_parent(play: Play) -> None:
    left, other_stayed = await play["children without lifetime"]
    assert left.everything == set()
    assert other_stayed


async def test_a_child_of_a_message_that_has_gone_goes_at_once(play: Play) -> None:
    assert (await play["orphans"]).everything == set()


async def test_replies_and_thread_replies_have_a_time_of_their_own(play: Play) -> None:
    """They are messages in their own right; what is quoted in them goes with them."""
    there, left = await play["replies"]
    assert there == [True, True]
    assert left.everything == set()
