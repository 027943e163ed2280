"""Reads what a message says to the bot: whom it is said to, and which command it is."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html import unescape
from typing import Any, Final, TypeGuard
from urllib.parse import unquote

from bot.chat.commands import read_command
from bot.core.commands import Right, SetLifetime
from bot.core.outbox import Answer, AnswerInvalid
from bot.core.types import EventID

LONGEST_ARGUMENT: Final = 100
"""Characters after the prefix that can still be a command; an event may carry 64 KiB."""
LONGEST_TEXT: Final = 4 * LONGEST_ARGUMENT
"""Characters of a message that are looked at."""
LONGEST_HTML: Final = 1_000
LONGEST_ID: Final = 255

_PILL: Final = re.compile(
    r'\s*(?:<p>)?\s*<a\s[^>]*?href="https://matrix\.to/#/([^"?/]+)(?:\?[^"]*)?"[^>]*>([^<]{1,100})</a>'
)
"""A link to somebody at the beginning of a formatted message: whom, and what it says."""
_LINK: Final = re.compile(r"\[[^\]]{1,100}\]\(<?https://matrix\.to/#/([^)>?/]+)>?\)")
"""The same as people or clients write it in plain text."""
_QUOTED: Final = re.compile(r"(?:>[^\n]*\n)*")
_AUTHOR: Final = re.compile(r"> (?:\* )?<(@[^>\n]{1,255})>")
_CALLED: Final = re.compile(r"([^\n:,]{1,100})[:,]\s*(.*)", re.DOTALL)
MOST_WORDS: Final = 3
"""Words of a name that the bot may be called by in a message that mentions it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCommand:
    """A line that begins with the prefix: what it asks for, and whom it is said to."""

    right: Right
    """What it takes to be allowed that."""
    effect: SetLifetime | Answer
    replies_to: EventID | None = None
    """A message that it replies to: it counts only if that one is the bot's own."""
    called: str = ""
    """Whom it is said to: it counts only if the bot has this name in the room."""


def command_of(
    content: dict[str, Any], relates_to: Any, *, own_id: str, prefix: str
) -> ParsedCommand | None:
    """Return the command that a message says to the bot, or `None` when it says none.

    Notices, emotes and edits are none, and nothing that is quoted: it must not run again.
    `relates_to` is the relation in clear, which encrypted events carry outside.
    """
    if not _has(content.get("body"), prefix):
        return None
    named, replies_to = _mentions(content, own_id), None
    text = text_of(content, relates_to)
    if text is None:
        replies_to = _replies_to(relates_to, content.get("m.relates_to"))
        text = text_of(content | {"m.relates_to": None}, None)
        if text is None or replies_to is None:
            return None
        text, author = _without_quotation(text)
        named = named or author == own_id
        if author and not named:
            return None
    about = None if named else replies_to
    found = parse(text, prefix) or parse(_after_name(text, content, own_id), prefix)
    if found is not None:
        return replace(found, replies_to=about)
    called, rest = _called(text)
    found = parse(rest, prefix)
    if named:
        return found if called.count(" ") < MOST_WORDS else None
    return found and replace(found, replies_to=about, called=called)


def _has(text: Any, prefix: str) -> bool:
    """Whether the prefix stands anywhere in a text, as in hardly any: that is quick to see."""
    return isinstance(text, str) and prefix.casefold() in text.casefold()


def text_of(content: dict[str, Any], relates_to: Any) -> str | None:
    """Return the text of a message that stands for itself; that is no reply, and no edit."""
    relations = [part for part in (relates_to, content.get("m.relates_to")) if part is not None]
    if content.get("msgtype") != "m.text" or "m.new_content" in content:
        return None
    if any(not _harmless(relation) for relation in relations):
        return None
    body = content.get("body")
    return body if isinstance(body, str) else None


def _harmless(relation: Any) -> bool:
    """Whether a message with this relation is still a message of its own."""
    if not isinstance(relation, dict):
        return False
    if relation.get("rel_type") == "m.thread":
        return "m.in_reply_to" not in relation or relation.get("is_falling_back") is True
    return "rel_type" not in relation and "m.in_reply_to" not in relation


def _replies_to(*relations: Any) -> EventID | None:
    """Return the message that one with these relations replies to, be it in a thread or not."""
    found: set[EventID] = set()
    for relation in relations:
        if relation is None or _harmless(relation):
            continue
        if not isinstance(relation, dict) or relation.get("rel_type", "m.thread") != "m.thread":
            return None
        about = relation.get("m.in_reply_to")
        event_id = about.get("event_id") if isinstance(about, dict) else None
        if not is_event_id(event_id):
            return None
        found.add(EventID(event_id))
    return found.pop() if len(found) == 1 else None


def is_event_id(found: object) -> TypeGuard[str]:
    """Whether it may name an event (spec: appendices v1.16, identifier grammar)."""
    return isinstance(found, str) and found.startswith("$") and len(found) <= LONGEST_ID


def thread_of(content: dict[str, Any], relates_to: Any) -> EventID | None:
    """Return the root of the thread that a message stands in; the relation in clear comes first."""
    for relation in (relates_to, content.get("m.relates_to")):
        if isinstance(relation, dict) and relation.get("rel_type") == "m.thread":
            root = relation.get("event_id")
            return EventID(root) if is_event_id(root) else None
    return None


def in_thread(root: str) -> dict[str, Any]:
    """Return what puts a notice into a thread; older clients show it as a reply to the root.

    spec: client-server API v1.13, 11.31 threading.
    """
    about = {"rel_type": "m.thread", "event_id": root, "is_falling_back": True}
    return {"m.relates_to": about | {"m.in_reply_to": {"event_id": root}}}


def _without_quotation(text: str) -> tuple[str, str]:
    """Return a reply without what it quotes, as older clients do, and whom it quotes, if it says.

    spec: client-server API v1.12, 11.3.2 fallbacks for rich replies.
    """
    author, quoted = _AUTHOR.match(text), _QUOTED.match(text)
    return text[quoted.end() if quoted else 0 :], author[1] if author else ""


def _mentions(content: dict[str, Any], own_id: str) -> bool:
    """Whether the bot is mentioned (spec: client-server API v1.13, 11.34 user mentions)."""
    mentions = content.get("m.mentions")
    named = mentions.get("user_ids") if isinstance(mentions, dict) else None
    return isinstance(named, list) and own_id in named


def _called(text: str) -> tuple[str, str]:
    """Return the name before a colon or comma at the beginning, and what follows it."""
    found = _CALLED.match(text[:LONGEST_TEXT].lstrip())
    return (found[1].strip(), found[2]) if found else ("", "")


def _after_name(text: str, content: dict[str, Any], own_id: str) -> str:
    """Return what follows the bot's name at the beginning; empty where it does not stand there.

    It is called by its id, by the id's first part, or by what a link to it says.
    """
    text = text[:LONGEST_TEXT].lstrip()
    names = [own_id, own_id.partition(":")[0], own_id[1:].partition(":")[0]]
    html, link = str(content.get("formatted_body")), _LINK.match(text)
    pill = _PILL.match(html.rpartition("</mx-reply>")[2][:LONGEST_HTML])
    if pill and unquote(pill[1]) == own_id:
        names += [unescape(pill[2]).strip(), "@" + unescape(pill[2]).strip()]
    if link and unquote(link[1]) == own_id:
        names.append(link[0])
    for name in names:
        rest = text[len(name) :]
        called = name and text[: len(name)].casefold() == name.casefold()
        if called and rest[:1] and (rest[0] in ":," or rest[0].isspace()):
            return rest.lstrip().lstrip(":,").lstrip()
    return ""


def parse(text: str, prefix: str) -> ParsedCommand | None:
    """Return the command that `text` is, or `None` when it does not begin with the prefix.

    The whole of it may stand between backticks. Total and quick for any text, however long.
    """
    start = _unquoted(text[: len(prefix) + LONGEST_TEXT].lstrip())
    if start[: len(prefix)].casefold() != prefix.casefold():
        return None
    rest = start[len(prefix) :]
    if rest and rest[0] != ":" and not rest[0].isspace():
        return None
    rest = rest.removeprefix(":").strip().removesuffix(".").strip()
    if len(rest) > LONGEST_ARGUMENT or len(text) > len(prefix) + LONGEST_TEXT:
        return ParsedCommand(right=Right.ANYBODY, effect=AnswerInvalid())
    right, effect = read_command(" ".join(rest.split()))
    return ParsedCommand(right=right, effect=effect)


def _unquoted(text: str) -> str:
    """Return what stands between backticks, if they are around all of it."""
    inner = text.strip().removesuffix(".").strip("`")
    return text if inner == text.strip() or "`" in inner else inner.strip()
