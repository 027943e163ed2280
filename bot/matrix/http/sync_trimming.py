"""Leaves too long to-device events out of an answer to a sync, while it is being read.

Anybody can send one to the bot, of any length that the homeserver takes, and a hundred come with
one sync. Whatever they are together, the sync has to be read: else it comes again for ever.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 64 << 10
"""Bytes of a to-device event: as many as a room's event may have. A room key has about 1,000."""
TRIMS_FROM: Final = 4 << 20
"""Bytes of an answer that are read as they come; more than this is looked through."""
EVENT: Final = 4
"""How deep a to-device event stands: answer, `to_device`, `events`, event."""

KEY: Final = b'"to_device"'
MOST_BEFORE: Final = 100
"""Bytes before an object that are kept to find its key; homeservers write no more than a colon."""

_TOKEN: Final = re.compile(
    rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")++'
    rb'|("[^"\\]*+(?:\\.[^"\\]*+)*+)|[\[{]++|[\]}]++',
    re.DOTALL,
)
"""All that stands between two brackets; a string that does not end here; brackets side by side."""
_REST: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
"""The rest of a string."""


class Trimmer:
    """Takes an answer piece by piece; keeps all of it but those events, which become null."""

    def __init__(self) -> None:
        self.kept = bytearray()
        self.cut = 0
        self._depth = 0
        self._in_text = False
        self._escapes = False
        """The last piece ended with a backslash."""
        self._before = bytearray()
        """What stands before the answer's part that is being read: the end of it, with its key."""
        self._began: int | None = None
        """Where in `kept` the to-device event begins that is being read."""
        self._skips = False
        self._copied = 0
        """How much of the piece in hand was dealt with."""

    def take(self, piece: bytes) -> None:
        """Take the next piece of the answer, which is not empty."""
        self._copied = place = 0
        if self._in_text and (rest := _REST.match(piece, int(self._escapes))):
            place = self._text(piece, rest, unfinished=not rest[1])
        for token in _TOKEN.finditer(piece, place):
            at, end = token.span()
            size = end - at
            if piece[at] in b"[{":
                if self._depth < EVENT <= self._depth + size and self._is_to_device():
                    self._copy(piece, at + EVENT - 1 - self._depth)
                    self._began = len(self.kept)
                self._depth += size
            elif piece[at] in b"]}":
                if self._depth - size < EVENT <= self._depth and self._began is not None:
                    self._copy(piece, at + 1 + self._depth - EVENT)
                    self._end()
                self._depth -= size
                if self._depth <= 1:
                    self._before.clear()
            elif self._text(piece, token, unfinished=token[1] is not None) == len(piece):
                break
        self._copy(piece, len(piece))

    def _text(self, piece: bytes, found: re.Match[bytes], *, unfinished: bool) -> int:
        """Take what stands between two brackets; return where it ends."""
        self._in_text = unfinished
        # An escape that the piece breaks off was not matched.
        self._escapes = unfinished and found.end() < len(piece)
        if self._depth == 1:
            self._before += found[0][-MOST_BEFORE:]
            del self._before[:-MOST_BEFORE]
        return len(piece) if unfinished else found.end()

    def _is_to_device(self) -> bool:
        """Whether the answer's part that is being read holds the to-device events."""
        return self._before.rstrip(b" \t\r\n:").endswith(KEY)

    def _copy(self, piece: bytes, end: int) -> None:
        """Keep the piece up to `end`, unless it belongs to what is left out."""
        begin, self._copied = self._copied, end
        if self._skips:
            return
        self.kept += piece[begin:end]
        if self._began is not None and len(self.kept) - self._began > LONGEST:
            del self.kept[self._began :]
            self._skips = True

    def _end(self) -> None:
        """A to-device event is over."""
        if self._skips:
            self.kept += b"null"
            self.cut += 1
        self._began, self._skips = None, False
