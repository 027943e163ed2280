"""Asks every API of a homeserver what is left of messages."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.person import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bot.core.types import Event, EventID
    from tests.support.encrypted_person import EncryptedPerson
    from tests.support.event_kinds import Kind
    from tests.support.person import Person

V1 = "/_matrix/client/v1"
APIS = ("/messages", "/context", "/relations", "GET event", "/search", "fresh /sync")


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A message, and what may not be found of it anywhere."""

    name: str
    event_id: EventID
    words: frozenset[str]
    """Every text of it is or contains one of these, in clear or encrypted."""


@dataclass(kw_only=True)
class Remains:
    """What an API still returned of each message: `found[api]` are names of messages."""

    found: dict[str, set[str]] = field(default_factory=lambda: {api: set() for api in APIS})
    asked: set[str] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    """Of all messages that were asked for."""
    counted: set[str] = field(default_factory=set)
    """Whom the search does not show and yet counts: members can guess their words."""

    def look(self, api: str, answer: Any, sent: Iterable[Sent]) -> None:
        """Search an answer for the words, and for events of ours that have any content."""
        self.asked.add(api)
        text = json.dumps(answer, ensure_ascii=False)
        full = {event["event_id"] for event in _events(answer) if _says_something(event)}
        for one in sent:
            if one.event_id in full or any(word in text for word in one.words):
                self.found[api].add(one.name)

    def add(self, other: Remains) -> None:
        """Add what was found of other messages."""
        self.asked |= other.asked
        self.names += other.names
        self.counted |= other.counted
        for api, names in other.found.items():
            self.found[api] |= names

    @property
    def everything(self) -> set[tuple[str, str]]:
        """Return who was found where."""
        return {(name, api) for api, names in self.found.items() for name in names}


def _events(answer: Any) -> Iterable[Event]:
    """Yield everything in an answer that looks like an event."""
    if isinstance(answer, dict):
        if "event_id" in answer and "content" in answer:
            yield answer
        for value in answer.values():
            yield from _events(value)
    elif isinstance(answer, list):
        for value in answer:
            yield from _events(value)


def _says_something(event: Event) -> bool:
    return event["type"] != "m.room.redaction" and bool(event["content"])


async def send_kind(
    person: EncryptedPerson | Person, room: str, kind: Kind, parent: str = ""
) -> Sent:
    """Send an event of a kind as a client does; encrypted if the person's device encrypts."""
    content = kind.filled(parent)
    encrypt = getattr(person, "encrypt", None)
    if encrypt is None or kind.clear:
        event_id = await person.send(room, content, kind.type)
        return Sent(name=kind.name, event_id=event_id, words=frozenset({kind.word}))
    secret = await encrypt(room, kind.type, content)
    event_id = await person.send(room, secret, "m.room.encrypted")
    words = frozenset({kind.word, secret["ciphertext"]})
    return Sent(name=kind.name, event_id=event_id, words=words)


async def send_all(person: EncryptedPerson | Person, room: str, kinds: list[Kind]) -> list[Sent]:
    """Send one of each kind, parents before their children."""
    ids: dict[str, str] = {}
    sent: list[Sent] = []
    for kind in kinds:
        sent.append(await send_kind(person, room, kind, ids.get(kind.parent, "")))
        ids[kind.name] = sent[-1].event_id
    return sent


async def remains(
    member: Person, newcomer: Person, room: str, sent: list[Sent], *, searchable: bool
) -> Remains:
    """Ask every API about messages: `member` was there, `newcomer` has just joined."""
    left = Remains(names=[one.name for one in sent])
    left.look("/messages", await member.messages(room), sent)
    for one in sent:
        left.look("GET event", await _ask(member, "event", room, one), sent)
        left.look("/context", await _ask(member, "context", room, one), sent)
        for more in ({}, {"recurse": "true"}):
            left.look("/relations", await _ask(member, "relations", room, one, **more), sent)
        if searchable:
            for word in one.words:
                results, count = await search(newcomer, word)
                left.look("/search", results, [one])
                if count and not results:
                    left.counted.add(one.name)
    threads = await member.call("GET", "rooms", room, "threads", root=V1, include="all")
    left.look("/relations", threads, sent)
    left.look("fresh /sync", await fresh_sync(newcomer, room), sent)
    return left


async def _ask(member: Person, what: str, room: str, one: Sent, **query: str) -> Any:
    """Ask about one event; what is refused shows nothing."""
    root = {"root": V1} if what == "relations" else {}
    query |= {} if what == "event" else {"limit": "100"}
    try:
        return await member.call("GET", "rooms", room, what, one.event_id, **root, **query)
    except ApiError as error:
        if error.status != 404:
            raise
        return {}


async def search(who: Person, word: str) -> tuple[list[Any], int]:
    """Return what the full-text search shows, and how much it says there is."""
    asked = {"room_events": {"search_term": word, "event_context": {}}}
    answer = await who.call("POST", "search", body={"search_categories": asked})
    # It repeats the words that were asked for, found or not.
    found = answer["search_categories"]["room_events"]
    return found["results"], found["count"]


async def fresh_sync(newcomer: Person, room: str) -> list[Any]:
    """Return a whole room as clients get it that have just been logged in: the old, the new."""
    only = json.dumps({"room": {"rooms": [room], "timeline": {"limit": 100}}})
    answer = await newcomer.call("GET", "sync", filter=only, timeout="0")
    sliding = {"ranges": [[0, 99]], "timeline_limit": 100, "required_state": []}
    root, lists = "/_matrix/client/unstable/org.matrix.simplified_msc3575", {"all": sliding}
    got = [answer, await newcomer.call("POST", "sync", root=root, body={"lists": lists})]
    assert room in got[1]["rooms"]
    token = answer["rooms"]["join"][room]["timeline"].get("prev_batch")
    while token:
        query = {"dir": "b", "limit": "1000", "from": token}
        page = await newcomer.call("GET", "rooms", room, "messages", **query)
        got.append(page["chunk"])
        token = page.get("end")
    return got
