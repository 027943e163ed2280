"""Which files a message shows: those of one server, wherever in the content they stand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.media_addresses import DEEPEST, MOST, media_ids

SERVER = "example.org:8448"
IDS = st.from_regex(r"[A-Za-z0-9_-]{8,60}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["url", "info", "file", "x"]) | st.text(), inner)
    ),
    max_leaves=20,
)


def mxc(media_id: str, server: str = SERVER) -> str:
    return f"mxc://{server}/{media_id}"


@pytest.mark.parametrize(
    "content",
    [
        {"url": mxc("abcdefgh")},
        {"info": {"thumbnail_url": mxc("abcdefgh")}},
        {"file": {"url": mxc("abcdefgh"), "key": {"k": "secret"}}},
        {"info": {"thumbnail_file": {"url": mxc("abcdefgh")}}},
        {"m.file": {"url": mxc("abcdefgh")}},
        {"m.new_content": {"file": {"url": mxc("abcdefgh")}}, "url": mxc("abcdefgh")},
        {"itemtypes": [{"x": 1}, {"file": {"url": mxc("abcdefgh")}}]},
    ],
)
def test_an_address_is_found_wherever_clients_put_it(content: dict[str, Any]) -> None:
    assert media_ids("m.room.message", content, SERVER) == ["abcdefgh"]


@pytest.mark.parametrize(
    "content",
    [
        {"url": mxc("abcdefgh", "other.org")},
        {"url": mxc("abcdefgh", SERVER + "0")},
        {"url": mxc("abcdefgh/../x")},
        {"url": mxc("abcdefgh?x=1")},
        {"url": mxc("abcdefgh\n")},
        {"url": mxc("äbcdefgh")},
        {"url": mxc("delete")},
        {"url": mxc("a" * 256)},
        {"url": f"https://{SERVER}/abcdefgh"},
        {"url": [mxc("abcdefgh")]},
        {"body": mxc("abcdefgh"), "formatted_body": f"<img src='{mxc('abcdefgh')}'>"},
        {"avatar_url": mxc("abcdefgh")},
        {"avatar_file": {"url": mxc("abcdefgh")}},
        {"com.beeper.per_message_profile": {"avatar_file": {"url": mxc("abcdefgh")}}},
        None,
        "url",
        [[[]]],
    ],
)
def test_what_is_no_file_of_the_message_is_left_alone(content: object) -> None:
    assert media_ids("m.room.message", content, SERVER) == []


def test_a_sticker_shows_the_file_of_a_pack() -> None:
    assert media_ids("m.sticker", {"url": mxc("abcdefgh")}, SERVER) == []
    assert media_ids("m.room.message", {"url": mxc("abcdefgh")}, SERVER) == ["abcdefgh"]


def test_the_walk_has_bounds() -> None:
    many = {"list": [{"url": mxc(f"file-{number:04}")} for number in range(MOST * 2)]}
    assert len(media_ids("x", many, SERVER)) == MOST
    deep: dict[str, Any] = {"url": mxc("abcdefgh")}
    for _ in range(DEEPEST - 1):
        deep = {"inner": deep}
    assert media_ids("x", deep, SERVER) == ["abcdefgh"]
    assert media_ids("x", {"inner": deep}, SERVER) == []


@given(
    content=JSON, media_id=IDS, at=st.lists(st.sampled_from(["info", "file", "m.x"]), max_size=6)
)
def test_any_content_can_be_walked_and_hides_no_address(
    content: Any, media_id: str, at: list[str]
) -> None:
    part: Any = {"url": mxc(media_id)}
    for key in at:
        part = {"other": content, key: part}
    found = media_ids("m.room.message", part, SERVER)
    assert media_id in found
    assert len(found) == len(set(found)) <= MOST
