"""What an event is: state, a redaction, gone already, and when its lifetime began."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.timeline import began, is_gone, is_state, redacts

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
EVENTS = st.dictionaries(
    st.sampled_from(["type", "content", "unsigned", "redacts", "state_key", "origin_server_ts"]),
    JSON,
)
TIMES = st.integers(0, 2**53)


@given(event=EVENTS)
def test_any_json_can_be_asked_what_it_is(event: dict[str, Any]) -> None:
    assert isinstance(is_state(event), bool)
    assert isinstance(is_gone(event), bool)
    assert redacts(event) is None or redacts(event)
    assert isinstance(began(event, since=0, now=1), int)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"state_key": ""}, True),
        ({"state_key": "@alice:x"}, True),
        ({"state_key": None}, True),
        ({"content": {"state_key": ""}}, False),
        ({}, False),
    ],
)
def test_state_is_what_has_a_state_key(event: dict[str, Any], expected: bool) -> None:
    assert is_state(event) == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"unsigned": {"redacted_because": {"event_id": "$r"}}}, True),
        ({"unsigned": {"redacted_because": {}}}, False),
        ({"unsigned": {"redacted_because": None}}, False),
        ({"unsigned": {}}, False),
        ({"unsigned": None}, False),
        ({"unsigned": "redacted_because"}, False),
        ({"content": {}}, False),
        ({"content": {"redacted_because": {"event_id": "$r"}}}, False),
        ({"redacted_because": {"event_id": "$r"}}, False),
    ],
)
def test_only_the_homeserver_says_that_an_event_is_gone(
    event: dict[str, Any], expected: bool
) -> None:
    assert is_gone(event) == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"redacts": "$a"}, "$a"),
        ({"content": {"redacts": "$a"}}, "$a"),
        ({"content": {"redacts": "$a"}, "redacts": "$b"}, None),
        ({"content": {"redacts": ""}, "redacts": "$b"}, "$b"),
        ({"content": {"redacts": 7}, "redacts": "$b"}, "$b"),
        ({"content": None, "redacts": "$b"}, "$b"),
        ({"content": {}, "redacts": ["$b"]}, None),
        ({"content": {}, "redacts": ""}, None),
        ({}, None),
    ],
)
def test_a_redaction_names_its_target_in_either_place(
    event: dict[str, Any], expected: str | None
) -> None:
    assert redacts(event) == expected


@given(timestamp=JSON | TIMES, now=TIMES)
def test_what_did_not_wait_began_now_whatever_it_says(timestamp: Any, now: int) -> None:
    assert began({"origin_server_ts": timestamp}, since=now, now=now) == now


@given(timestamp=JSON | st.integers(), times=st.tuples(TIMES, TIMES).map(sorted))
def test_an_event_that_waited_began_between_the_last_sync_and_now(
    timestamp: Any, times: list[int]
) -> None:
    since, now = times
    at = began({"origin_server_ts": timestamp}, since=since, now=now)
    assert since <= at <= now
    if type(timestamp) is int and since <= timestamp <= now:
        assert at == timestamp


@given(one=st.integers(), other=st.integers(), times=st.tuples(TIMES, TIMES).map(sorted))
def test_what_was_sent_first_began_first(one: int, other: int, times: list[int]) -> None:
    since, now = times
    first, second = (
        began({"origin_server_ts": timestamp}, since=since, now=now)
        for timestamp in sorted((one, other))
    )
    assert first <= second


@pytest.mark.parametrize("timestamp", [None, "1000", 1000.0, True, [1000]])
def test_a_timestamp_that_is_none_counts_as_now(timestamp: Any) -> None:
    assert began({"origin_server_ts": timestamp}, since=0, now=5_000) == 5_000


def test_a_clock_set_back_never_makes_a_beginning_in_the_future() -> None:
    assert began({"origin_server_ts": 7}, since=9, now=5) == 5
