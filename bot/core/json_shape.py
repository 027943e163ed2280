"""Reads JSON that strangers wrote: what has not the shape it should counts as if it were not there.

Nothing here raises anything.
"""

from __future__ import annotations

from typing import Any


def inside(value: Any, *keys: str) -> Any:
    """Return what stands under these keys, one in another; `None` where there is no such place."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def as_object(value: Any) -> dict[str, Any]:
    """Return an object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return a list, or an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list."""
    return [one for one in as_list(value) if isinstance(one, dict)]


def texts(value: Any) -> frozenset[str]:
    """Return the texts in a list."""
    return frozenset(one for one in as_list(value) if isinstance(one, str))
