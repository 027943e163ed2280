"""JSON of any shape is read as far as it has the one that is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.json_shape import as_list, as_object, inside, objects, texts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=1), inner),
)


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ((), {"a": {"b": 1, "c": None}, "d": [{"b": 1}]}),
        (("a",), {"b": 1, "c": None}),
        (("a", "b"), 1),
        (("a", "b", "b"), None),
        (("a", "c", "b"), None),
        (("d", "b"), None),
        (("x", "b"), None),
    ],
)
def test_a_place_is_found_or_there_is_none(keys: tuple[str, ...], found: Any) -> None:
    assert inside({"a": {"b": 1, "c": None}, "d": [{"b": 1}]}, *keys) == found


def test_of_a_list_only_what_has_the_wanted_shape_counts() -> None:
    mixed = [{"a": 1}, "text", None, ["text"], 1, {}]
    assert objects(mixed) == [{"a": 1}, {}]
    assert texts(mixed) == {"text"}


@given(value=JSON, keys=st.lists(st.text(max_size=1), max_size=3))
def test_no_shape_raises_anything(value: Any, keys: list[str]) -> None:
    inside(value, *keys)
    assert as_object(value) in (value, {})
    assert as_list(value) in (value, [])
    assert all(isinstance(one, dict) for one in objects(value))
    assert all(isinstance(one, str) for one in texts(value))
