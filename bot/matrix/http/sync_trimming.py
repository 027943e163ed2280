"""Leaves too long to-device events out of an answer to a sync, while it is being read.

Anybody can send one to the bot, of any length that the homeserver takes, and a hundred come with
one sync. Whatever they are together, the sync has to be read: else it comes again for ever.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 64 << 10
"""Bytes of a to-device event: as many as a room's event may have. A room key has about 1,000."""
TRIMS_FROM: Final = 1 << 20
"""Bytes of an answer that are read as they come; more than this is looked through."""
EVENT: Final = 4
"""How deep a to-device event stands: answer, `to_device`, `events`, event."""

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[\[{]++|[\]}]++', re.DOTALL)
"""A string, and whether it ends here; or brackets side by side."""
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
        self._key = bytearray()
        """The answer's own key that was read last."""
        self._began: int | None = None
        """Where in `kept` the to-device event begins that is being read."""
        self._skips = False
        self._copied = 0
        """How much of the piece in hand was dealt with."""

    def take(self, piece: bytes) -> None:
        """Take the next piece of the answer, which is not empty."""
        self._copied = place = 0
        if self._in_text and (rest := _REST.match(piece, int(self._escapes))):
            place = self._text(piece, rest)
        for token in _TOKEN.finditer(piece, place):
            at, end = token.span()
            size = end - at
            if piece[at] in b'"':
                if self._depth == 1:
                    self._key.clear()
                self._text(piece, token)
            elif piece[at] in b"[{":
                if self._depth < EVENT <= self._depth + size and self._key == b'"to_device"':
                    self._copy(piece, at + EVENT - 1 - self._depth)
                    self._began = len(self.kept)
                self._depth += size
            else:
                if self._depth - size < EVENT <= self._depth and self._began is not None:
                    self._copy(piece, at + 1 + self._depth - EVENT)
                    self._end()
                self._depth -= size
        self._copy(piece, len(piece))

    def _text(self, piece: bytes, found: re.Match[bytes]) -> int:
        """Take what there is of a string; return where that ends."""
        self._in_text = not found[1]
        # An escape that the piece breaks off was not matched.
        self._escapes = self._in_text and found.end() < len(piece)
        if self._depth == 1 and len(self._key) < LONGEST:
            self._key += found[0]
        return len(piece) if self._in_text else found.end()

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
