"""Finds which files of one server a message shows: the ids of their addresses, no keys."""

from __future__ import annotations

import re
from typing import Any, Final

MOST: Final = 64
"""Files of one message that are remembered; a gallery of thirty pictures and their thumbnails."""
DEEPEST: Final = 8
"""How deep within the content an address may stand."""
ADDRESS_KEYS: Final = frozenset({"url", "thumbnail_url"})
SHARED: Final = frozenset(
    {
        "avatar_file",
        "com.beeper.per_message_profile",
        "m.per_message_profile",
    }
)
"""Parts of a content whose pictures belong to a person and not to the message."""
PACKED: Final = "m.sticker"
"""Its picture belongs to a pack, which everybody who has the pack shows."""

# Eight signs at least: shorter words may be names within the homeserver's own API.
_ADDRESS: Final = re.compile(r"mxc://([^/]{1,255})/([A-Za-z0-9_-]{8,255})")


def media_ids(kind: object, content: Any, server: str) -> list[str]:
    """Return the ids of the files on `server` that an event of this type shows, each once.

    `content` is the content in clear. An address in its text (`formatted_body`) does not count:
    what stands there, small pictures of a pack, belongs to many messages.
    spec: client-server API v1.13, 11.6 content repository, 11.11.2.2 sending encrypted attachments.
    """
    if kind == PACKED:
        return []
    found: dict[str, None] = {}
    level = [content]
    for _ in range(DEEPEST):
        level = [inner for part in level for inner in _look(part, server, found)]
    return list(found)[:MOST]


def _look(part: Any, server: str, found: dict[str, None]) -> list[Any]:
    """Note the addresses that stand right in `part`; return what is to be looked into next."""
    if isinstance(part, list):
        return part
    if not isinstance(part, dict):
        return []
    for key in ADDRESS_KEYS & part.keys():
        match = _ADDRESS.fullmatch(part[key]) if isinstance(part[key], str) else None
        if match is not None and match[1] == server:
            found[match[2]] = None
    return [inner for key, inner in part.items() if key not in SHARED]
