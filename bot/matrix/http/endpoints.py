"""Names the endpoints of the client-server API."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

BASE: Final = "/_matrix/client/v3"
BASE_V1: Final = "/_matrix/client/v1"


def path(*parts: str, query: dict[str, str | int] | None = None, base: str = BASE) -> str:
    """Return a path with every part quoted: ids hold any sign."""
    joined = "/".join(quote(part, safe="") for part in parts)
    return f"{base}/{joined}" + (f"?{urlencode(query)}" if query else "")
