"""Reads the body of an answer, and never more of it than there is use for."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import aiohttp

from bot.matrix.http.sync_trimming import TRIMS_FROM, Trimmer

log = logging.getLogger(__name__)

LARGE: Final = 64 << 20
"""Bytes read of what brings events or many people's keys."""
SMALL: Final = 8 << 20
"""Bytes read of any other answer; the longest are the members of a big room."""
AT_ONCE: Final = 64 << 10
"""Bytes that are looked through without a turn for others: a few milliseconds."""


async def read(
    response: aiohttp.ClientResponse, most: int, *, trim: bool = False
) -> bytearray | None:
    """Return the whole body; `None`, and nothing more is read, when it is longer than `most`.

    `trim`: it answers a sync, of which to-device events that are too long are left out.
    Raises aiohttp's errors, `TimeoutError` and `OSError`.
    """
    body = bytearray()
    trimmer: Trimmer | None = None
    async for piece in response.content.iter_any():
        if trimmer is not None:
            await _trim(trimmer, piece)
        else:
            body += piece
            if trim and len(body) > TRIMS_FROM:
                trimmer = Trimmer()
                await _trim(trimmer, bytes(body))
                body = trimmer.kept
        if len(body) > most:
            response.close()
            return None
    response.release()
    if trimmer is not None and trimmer.cut:
        log.warning("left out %d too long messages to the device", trimmer.cut)
    return body


async def _trim(trimmer: Trimmer, piece: bytes) -> None:
    """Look through the next piece; others have turns between."""
    for start in range(0, len(piece), AT_ONCE):
        trimmer.take(piece[start : start + AT_ONCE])
        await asyncio.sleep(0)
