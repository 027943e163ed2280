"""Durations: what people write is understood, or refused with a reason, and is written back."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.durations import (
    DAY,
    HOUR,
    LONGEST,
    MINUTE,
    SECOND,
    WEEK,
    YEAR,
    DurationError,
    compact,
    parse,
    words,
)

SECONDS = st.integers(1, LONGEST // SECOND).map(lambda count: count * SECOND) | st.builds(
    lambda count, unit: count * unit,
    st.integers(1, 500),
    st.sampled_from([MINUTE, HOUR, DAY, WEEK, YEAR]),
)
"""Whole seconds of every size, with the even ones that years and weeks are written for."""

NEARLY = st.text(alphabet="0123456789smhdwyYan .-+\t\u00a0\u0663\u017f\u212a", max_size=30)
"""Texts of the characters that lengths of time are made of, and of some that look like them."""


def test_the_units_are_milliseconds_and_build_on_each_other() -> None:
    assert (SECOND, MINUTE, HOUR) == (1_000, 60_000, 3_600_000)
    assert (DAY, WEEK, YEAR) == (86_400_000, 604_800_000, 31_536_000_000)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("30s", 30_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("7d", 604_800_000),
        ("4w", 2_419_200_000),
        ("1y", 31_536_000_000),
        ("1d2h30m", 95_400_000),
        ("1h 30m", 5_400_000),
        ("30m1h", 5_400_000),
        ("1h0m", 3_600_000),
        ("007s", 7_000),
        ("90 seconds", 90_000),
        ("1 day 2 hours", 93_600_000),
        ("1 hour and 30 minutes", 5_400_000),
        ("1h and 30m", 5_400_000),
        ("2 weeks and 1 day and 5 secs", 1_296_005_000),
        ("1 year", 31_536_000_000),
        ("1second", 1_000),
        (" 30s\n", 30_000),
        ("\t1\u00a0hour   30\u2009min ", 5_400_000),
    ],
)
def test_what_people_write_is_understood(text: str, ms: int) -> None:
    assert parse(text) == ms


@pytest.mark.parametrize(
    ("names", "ms"),
    [
        ("s sec secs second seconds", 1_000),
        ("m min mins minute minutes", 60_000),
        ("h hr hrs hour hours", 3_600_000),
        ("d day days", 86_400_000),
        ("w wk wks week weeks", 604_800_000),
        ("y yr yrs year years", 31_536_000_000),
    ],
)
def test_every_spelling_of_a_unit_means_the_same(names: str, ms: int) -> None:
    assert {parse(f"3{name}") for name in names.split()} == {3 * ms}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Write numbers and units"),
        (" \t\n", "Write numbers and units"),
        ("soon", "Write numbers and units"),
        ("s30", "needs a unit"),
        ("h", "Write numbers and units"),
        ("+5m", "Write numbers and units"),
        ("1h-30m", "Write numbers and units"),
        ("1h, 30m", "Write numbers and units"),
        ("1h and", "Write numbers and units"),
        ("and 1h", "Write numbers and units"),
        ("1h and and 30m", "Write numbers and units"),
        ("1hand30m", "The units are"),
        ("1h!", "Write numbers and units"),
        ("30s 💥", "Write numbers and units"),
        ("⏳", "Write numbers and units"),
        ("\u0663\u0660s", "Write numbers and units"),  # Arabic-Indic digits
        ("\uff15m", "Write numbers and units"),  # a full-width digit
        ("\u00b2h", "Write numbers and units"),  # a superscript: isdigit(), yet int() fails
        ("5\u017f", "Write numbers and units"),  # a long s, which case-folds to s
        ("5wee\u212a", "Write numbers and units"),  # the Kelvin sign, which lower-cases to k
        ("30", "needs a unit"),
        ("1h30", "needs a unit"),
        ("-5m", "negative"),
        ("-5", "negative"),
        ("1.5h", "whole numbers"),
        ("1,5h", "whole numbers"),
        ("1 month", "The units are"),
        ("5 mo", "The units are"),
        ("100ms", "The units are"),
        ("1e3s", "The units are"),
        ("0x1fs", "The units are"),
        ("1h1h", "only once"),
        ("1h 5m 1 hour", "only once"),
        ("0s", "longer than nothing"),
        ("0h 0m", "longer than nothing"),
        ("1000000000d", "longer than can be counted"),
        (f"{'9' * 99}y", "longer than can be counted"),
    ],
)
def test_what_is_no_length_of_time_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(DurationError, match=reason):
        parse(text)


def test_a_refusal_does_not_repeat_what_was_written() -> None:
    for text in ("5 <b>minutes</b>", "7 fortnights", "-98765m", "98765", "9.8765h", "9m 98765m"):
        with pytest.raises(DurationError) as refusal:
            parse(text)
        message = str(refusal.value)
        assert not any(piece in message for piece in (text, "98765", "fortnight", "<"))
        assert message.endswith(".")
        assert "\n" not in message


def test_a_refusal_is_a_value_error() -> None:
    assert issubclass(DurationError, ValueError)


def test_the_longest_length_fits_a_rooms_state_and_one_second_more_fails() -> None:
    longest = LONGEST // SECOND
    assert parse(f"{longest}s") == longest * SECOND <= 2**53 - 1
    with pytest.raises(DurationError, match="longer than can be counted"):
        parse(f"{longest + 1}s")


def test_a_hundred_characters_are_read_and_one_more_is_not() -> None:
    assert parse("5s".rjust(100, "0")) == parse("5s".rjust(100)) == 5 * SECOND
    for filler in "0", " ":
        with pytest.raises(DurationError, match="too much text"):
            parse("5s".rjust(101, filler))


def test_a_line_as_long_as_an_event_is_refused_unread() -> None:
    class Unread(str):
        __slots__ = ()

        def split(self, *_: object, **__: object) -> NoReturn:
            raise AssertionError("the line was read")

    for unit in "1", "1s", "1 and ", " ":
        with pytest.raises(DurationError, match="too much text"):
            parse(Unread(unit * (65_536 // len(unit))))


@given(st.text() | NEARLY)
def test_any_text_is_a_length_of_time_or_a_duration_error(text: str) -> None:
    try:
        ms = parse(text)
    except DurationError:
        return
    assert SECOND <= ms <= LONGEST
    assert ms % SECOND == 0


@given(SECONDS)
def test_what_is_written_compactly_is_read_back(ms: int) -> None:
    assert parse(compact(ms)) == ms


@given(SECONDS)
def test_what_is_written_in_words_is_read_back(ms: int) -> None:
    assert parse(words(ms)) == ms


@given(SECONDS)
def test_upper_and_lower_case_mean_the_same(ms: int) -> None:
    spoken = " and ".join(re.findall("[0-9]+ [a-z]+", words(ms)))
    for text in (compact(ms).upper(), spoken.upper(), spoken.title()):
        assert text != text.lower()
        assert parse(text) == ms


@given(SECONDS, st.text(" \t\n\r\u00a0\u3000", max_size=20))
def test_white_space_around_or_between_means_nothing(ms: int, space: str) -> None:
    assert parse(space + compact(ms) + space) == ms
    assert parse(words(ms).replace(" ", f" {space[:3]}")) == ms


@pytest.mark.parametrize(
    ("ms", "short", "long"),
    [
        (SECOND, "1s", "1 second"),
        (30 * SECOND, "30s", "30 seconds"),
        (90 * SECOND, "1m30s", "1 minute 30 seconds"),
        (HOUR, "1h", "1 hour"),
        (DAY + 2 * HOUR + 30 * MINUTE, "1d2h30m", "1 day 2 hours 30 minutes"),
        (7 * DAY, "1w", "1 week"),
        (8 * DAY, "8d", "8 days"),
        (28 * DAY, "4w", "4 weeks"),
        (28 * DAY + SECOND, "28d1s", "28 days 1 second"),
        (364 * DAY, "52w", "52 weeks"),
        (365 * DAY, "1y", "1 year"),
        (366 * DAY, "366d", "366 days"),
        (7 * YEAR, "7y", "7 years"),
        (100 * SECOND * 60, "1h40m", "1 hour 40 minutes"),
        (10 * DAY + 10 * SECOND, "10d10s", "10 days 10 seconds"),
    ],
)
def test_a_length_is_written_as_people_would_say_it(ms: int, short: str, long: str) -> None:
    assert compact(ms) == short
    assert words(ms) == long


@pytest.mark.parametrize(
    ("ms", "long"),
    [
        (1, "0.001 seconds"),
        (500, "0.5 seconds"),
        (999, "0.999 seconds"),
        (1_001, "1.001 seconds"),
        (1_010, "1.01 seconds"),
        (10_100, "10.1 seconds"),
        (90_500, "1 minute 30.5 seconds"),
        (60_020, "1 minute 0.02 seconds"),
        (WEEK + 1, "7 days 0.001 seconds"),
    ],
)
def test_words_are_exact_to_the_millisecond(ms: int, long: str) -> None:
    assert words(ms) == long


@given(st.integers(min_value=1) | st.integers(1, YEAR))
def test_the_words_of_any_length_add_up_to_it(ms: int) -> None:
    units = {"year": YEAR, "week": WEEK, "day": DAY, "hour": HOUR, "minute": MINUTE}
    said = words(ms).split(" ")
    total = Fraction(0)
    for number, name in zip(said[::2], said[1::2], strict=True):
        assert name.endswith("s") == (number != "1")
        total += Fraction(number) * units.get(name.removesuffix("s"), SECOND)
    assert total == ms


@pytest.mark.parametrize("ms", [0, -1, -SECOND, -WEEK])
def test_no_length_and_negative_lengths_cannot_be_written(ms: int) -> None:
    with pytest.raises(ValueError, match="not a"):
        compact(ms)
    with pytest.raises(ValueError, match="not a positive"):
        words(ms)


@pytest.mark.parametrize("ms", [1, 999, 1_500, WEEK + 1])
def test_fractions_of_a_second_have_no_compact_form(ms: int) -> None:
    with pytest.raises(ValueError, match="not a whole number of seconds"):
        compact(ms)
