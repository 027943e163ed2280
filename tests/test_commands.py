"""What people may type: which lines are commands, what they mean, and what is never one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import durations
from bot.commands import LONGEST_ARGUMENT, TABLE, Parsed, parse, text_of, usage
from bot.timeline import OFF

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


def kind(text: str, prefix: str = "!expire") -> str | None:
    found = parse(text, prefix)
    return None if found is None else found.kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!expire 30s", 30 * SECOND),
        ("!expire 5m", 5 * MINUTE),
        ("!expire 1d 12h", 36 * HOUR),
        ("!expire 1d12h", 36 * HOUR),
        ("!expire 90 seconds", 90 * SECOND),
        ("!expire 1 hour and 30 minutes", 90 * MINUTE),
        ("!expire set 5m", 5 * MINUTE),
        ("!expire SET 5M", 5 * MINUTE),
        ("!EXPIRE 5m", 5 * MINUTE),
        ("!ExPiRe Set  1W", 7 * DAY),
        ("  !expire   5m  ", 5 * MINUTE),
        ("!expire\t5m", 5 * MINUTE),
        ("!expire\n5m\n", 5 * MINUTE),
        ("!expire\u00a05m", 5 * MINUTE),
        ("!expire 1y", 365 * DAY),
        ("!expire 005m", 5 * MINUTE),
    ],
)
def test_a_lifetime_is_set(text: str, expected: int) -> None:
    assert parse(text, "!expire") == Parsed(kind="set", setting=expected)


@pytest.mark.parametrize("text", ["!expire off", "!expire unset", "!Expire OFF", "!expire  off "])
def test_the_lifetime_is_turned_off(text: str) -> None:
    assert parse(text, "!expire") == Parsed(kind="off", setting=OFF)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!expire", "status"),
        ("!expire ", "status"),
        ("!expire status", "status"),
        ("!expire Show", "status"),
        ("!expire help", "help"),
        ("!EXPIRE HELP", "help"),
    ],
)
def test_a_question_is_asked(text: str, expected: str) -> None:
    assert parse(text, "!expire") == Parsed(kind=expected)


@pytest.mark.parametrize(
    "rest",
    [
        "0s",
        "0",
        "-5m",
        "30",
        "1.5h",
        "1,5h",
        "1000000000d",
        "9" * 99 + "d",
        "5m 5m",
        "5 parsecs",
        "s",
        "m5",
        "5m!",
        "🔥",
        "5🕐",
        "٣s",
        "5\u017f",
        "1h\u202e30m",
        "soon",
        "set",
        "set off",
        "set set 5m",
        "off please",
        "off 5m",
        "help me",
        "status now",
        "5m # and what",
        "null",
        "NaN",
        "1e3s",
        "0x10s",
        "+5m",
        "5m\x00",
        "x" * LONGEST_ARGUMENT,
        "5m" + " " * 64 * 1024 + "x",
        "5" * 64 * 1024,
    ],
)
def test_a_line_that_means_nothing_is_answered_and_sets_nothing(rest: str) -> None:
    found = parse(f"!expire {rest}", "!expire")
    assert found is not None
    assert found.kind == "invalid"
    assert found.setting is None


@pytest.mark.parametrize("rest", ["secret words", "<b>5m</b>", "🔥" * 40, "x" * 9_999])
def test_an_answer_repeats_nothing_of_what_was_typed(rest: str) -> None:
    found = parse(f"!expire {rest}", "!expire")
    assert found is not None
    assert rest not in str(found.args)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "!",
        "!expir",
        "!expirefoo",
        "!expire5m",
        "!expire: 5m",
        "!expire-5m",
        "expire 5m",
        "/expire 5m",
        "please !expire 5m",
        "> !expire 5m",
        "> <@alice:x> !expire 5m\n\n!expire 5m",
        "`!expire 5m`",
        "!!expire 5m",
        "\u200b!expire 5m",
        "x" * 64 * 1024,
    ],
)
def test_what_does_not_begin_with_the_prefix_is_no_command(text: str) -> None:
    assert parse(text, "!expire") is None


def test_another_prefix_is_another_prefix() -> None:
    assert kind("!timer 5m", "!timer") == "set"
    assert kind("!expire 5m", "!timer") is None
    assert kind("⏳ 5m", "⏳") == "set"
    assert kind("!STRASSE 5m", "!strasse") == "set"


@given(text=st.text() | st.text().map(lambda rest: "!expire " + rest), prefix=st.text(min_size=1))
def test_any_text_is_a_command_or_none_and_raises_nothing(text: str, prefix: str) -> None:
    for found in (parse(text, "!expire"), parse(text, prefix)):
        assert found is None or found.kind in {"invalid", *(row.kind for row in TABLE)}


@given(lifetime=st.integers(1, durations.LONGEST // SECOND).map(lambda count: count * SECOND))
def test_every_lifetime_can_be_typed_as_it_is_said(lifetime: int) -> None:
    for text in (durations.compact(lifetime), durations.words(lifetime)):
        assert parse(f"!expire {text}", "!expire") == Parsed(kind="set", setting=lifetime)
        assert parse(f"!expire set {text}", "!expire") == Parsed(kind="set", setting=lifetime)


@pytest.mark.parametrize("text", ["!expire " + "5m " * 30_000, " " * 65_536, "!expire" * 9_000])
def test_a_wall_of_text_costs_no_time(text: str) -> None:
    began = time.process_time()
    for _ in range(100):
        parse(text, "!expire")
    assert time.process_time() - began < 20  # a second look at every sign would take an hour


# --- which messages may be commands --------------------------------------------------------------

TEXT: dict[str, Any] = {"msgtype": "m.text", "body": "!expire 5m"}
THREAD = {"rel_type": "m.thread", "event_id": "$root"}
REPLY = {"m.in_reply_to": {"event_id": "$other"}}


@pytest.mark.parametrize(
    "relation",
    [None, {}, THREAD, THREAD | REPLY | {"is_falling_back": True}, {"key": "value"}],
)
@pytest.mark.parametrize("outside", [True, False])
def test_a_persons_text_may_be_a_command(relation: Any, outside: bool) -> None:
    content = TEXT if outside or relation is None else TEXT | {"m.relates_to": relation}
    assert text_of(content, relation if outside else None) == "!expire 5m"


@pytest.mark.parametrize(
    "relation",
    [
        REPLY,
        THREAD | REPLY,
        THREAD | REPLY | {"is_falling_back": False},
        {"rel_type": "m.replace", "event_id": "$other"},
        {"rel_type": "m.annotation", "event_id": "$other"},
        {"rel_type": None},
        {"m.in_reply_to": None},
        "m.thread",
        [],
        7,
    ],
)
@pytest.mark.parametrize("outside", [True, False])
def test_a_message_about_another_is_no_command(relation: Any, outside: bool) -> None:
    content = TEXT if outside else TEXT | {"m.relates_to": relation}
    assert text_of(content, relation if outside else None) is None


@pytest.mark.parametrize(
    "content",
    [
        TEXT | {"msgtype": "m.notice"},
        TEXT | {"msgtype": "m.emote"},
        TEXT | {"msgtype": "m.image"},
        TEXT | {"msgtype": None},
        TEXT | {"msgtype": ["m.text"]},
        TEXT | {"m.new_content": TEXT},
        TEXT | {"m.new_content": None},
        TEXT | {"body": None},
        TEXT | {"body": 5},
        TEXT | {"body": ["!expire 5m"]},
        {"msgtype": "m.text"},
        {"body": "!expire 5m"},
        {},
    ],
)
def test_what_is_no_text_of_a_person_is_no_command(content: dict[str, Any]) -> None:
    assert text_of(content, None) is None


# --- the table -----------------------------------------------------------------------------------


def test_every_command_can_be_called_by_every_name() -> None:
    for row in TABLE:
        for name in row.names:
            argument = "5m" if row.argument else ""
            found = parse(" ".join(filter(None, ("!expire", name, argument))), "!expire")
            assert found is not None
            assert found.kind == row.kind


def test_every_command_says_how_it_is_written() -> None:
    for row in TABLE:
        assert row.help
        assert usage(row, "!x").startswith("!x")
        assert all(name in usage(row, "!x") for name in row.names)
