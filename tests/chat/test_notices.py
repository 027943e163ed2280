"""What the bot says: exact sentences, whatever the numbers, and names that stay in their place."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chat import notices, status
from bot.chat.command_text import parse
from bot.chat.commands import TABLE
from bot.chat.notices import LONGEST_NAME, Permission
from bot.core.commands import SetLifetime
from bot.core.durations import LONGEST
from bot.core.lifetimes import OFF, LifetimeLimits, Setting
from bot.core.types import Millis

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
LIMITS = LifetimeLimits(minimum=MINUTE, maximum=7 * DAY)
WEAK, STRONG = Permission(have=0, need=50), Permission(have=50, need=50)

SECONDS = st.integers(1, LONGEST // SECOND).map(lambda count: count * SECOND)
ALL_BOUNDS = st.tuples(SECONDS, SECONDS).map(
    lambda pair: LifetimeLimits(minimum=min(pair), maximum=max(pair))
)
SETTINGS = st.none() | st.just(OFF) | st.integers(1, LONGEST)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alice", "alice"),
        ("  alice \n\n b ", "alice b"),
        ("al\u202eice", "alice"),
        ("al\u2066ice\u2069", "alice"),
        ("a\x00b\x1bc\u200bd", "abcd"),
        ("a\u2028b", "a b"),
        ("\ud800alice", "alice"),
        ("", ""),
        ("x" * LONGEST_NAME, "x" * LONGEST_NAME),
        ("x" * 9_999, "x" * LONGEST_NAME + "…"),
        ("Zoë 🦊 李", "Zoë 🦊 李"),
    ],
)
def test_a_name_is_tamed(name: str, expected: str) -> None:
    assert notices.plain_name(name) == expected


@given(name=st.text())
def test_a_tame_name_stays_on_its_line_and_short(name: str) -> None:
    tamed = notices.plain_name(name)
    assert len(tamed) <= LONGEST_NAME + 1
    assert len(tamed.splitlines()) <= 1
    assert not any(unicodedata.category(sign).startswith("C") for sign in tamed)
    assert notices.plain_name(tamed) == tamed or tamed.endswith("…")


FORGED = "Messages stay from now on: Alice turned disappearing messages off."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alice", "“alice” (@a:x)"),
        ("", "@a:x"),
        ("\u200b\n", "@a:x"),
        (FORGED, "“Messages stay from now on: Alice…” (@a:x)"),
        ("” (@bob:x) said \u202e“no", "“' (@bob:x) said 'no” (@a:x)"),
        ('"a"\n\n"b"', "“'a' 'b'” (@a:x)"),
        ("@bob:x", "“@bob:x” (@a:x)"),
    ],
)
def test_a_name_is_set_apart_from_what_the_bot_says(name: str, expected: str) -> None:
    assert notices.person(name, "@a:x") == expected


@given(name=st.text(), user_id=st.text())
def test_no_name_passes_for_words_of_the_bot(name: str, user_id: str) -> None:
    said = notices.refused(notices.person(name, user_id), 50, 0)
    who, _, rest = said.rpartition(", changing this needs")
    assert rest == " power level 50 here, and you have 0."
    assert len(said.splitlines()) == 1
    assert not any(unicodedata.category(sign).startswith("C") for sign in said)
    if who.startswith("“") and who != notices.clean(user_id):
        inner, _, after = who[1:].partition("”")
        assert len(inner) <= LONGEST_NAME + 1
        assert after == f" ({notices.clean(user_id)})"


# --- announcements -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "more", "expected"),
    [
        (HOUR, {}, "alice set disappearing messages to 1 hour."),
        (7 * DAY, {"permission": STRONG}, "alice set disappearing messages to 1 week."),
        (
            SECOND,
            {},
            (
                "alice set disappearing messages to 1 second."
                " The shortest I am allowed is 1 minute, so I use that."
            ),
        ),
        (
            30 * DAY,
            {},
            (
                "alice set disappearing messages to 30 days. The longest I am allowed is 1 week,"
                " so I use that."
            ),
        ),
        (
            HOUR,
            {"note": "after_read"},
            "alice set disappearing messages to 1 hour. I count from sending, not from reading.",
        ),
        (
            HOUR,
            {"permission": WEAK},
            (
                "alice set disappearing messages to 1 hour. But I cannot remove messages:"
                " that needs power level 50, and I have 0. I begin as soon as I have it."
            ),
        ),
        (OFF, {}, "alice turned disappearing messages off: new messages stay."),
        (None, {}, "alice turned disappearing messages off: new messages stay."),
        (
            OFF,
            {"pending": 1},
            (
                "alice turned disappearing messages off: new messages stay."
                " 1 message sent before still goes."
            ),
        ),
        (
            OFF,
            {"pending": 2_345, "permission": WEAK},
            (
                "alice turned disappearing messages off: new messages stay."
                " 2,345 messages sent before still go."
            ),
        ),
        (
            HOUR,
            {"note": "unknown"},
            (
                "alice set disappearing messages to 1 hour."
                " I do not know this kind of timer, and count from sending."
            ),
        ),
        (
            OFF,
            {"note": "unreadable"},
            "alice set a lifetime that I cannot read. New messages stay, as before.",
        ),
        (
            None,
            {"note": "unreadable", "pending": 3},
            "alice set a lifetime that I cannot read. New messages stay, as before.",
        ),
        (
            30 * DAY,
            {"note": "unreadable"},
            (
                "alice set a lifetime that I cannot read."
                " Messages disappear as before: after 1 week."
            ),
        ),
    ],
)
def test_a_change_is_announced(setting: Setting, more: dict[str, object], expected: str) -> None:
    assert notices.announcement("alice", setting, LIMITS, **more) == expected  # type: ignore[arg-type]


@given(setting=SETTINGS, limits=ALL_BOUNDS, pending=st.integers(0, 10**9))
def test_any_change_can_be_announced(
    setting: Setting, limits: LifetimeLimits, pending: int
) -> None:
    for permission in (None, WEAK, STRONG):
        said = notices.announcement(
            "alice", setting, limits, pending=pending, permission=permission
        )
        assert said.endswith(".")
        assert "  " not in said
    assert notices.unchanged(setting)


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lifetime", "pending", "next_in", "expected"),
    [
        (None, 0, None, "Messages stay: no lifetime is set."),
        (HOUR, 0, None, "Messages disappear after 1 hour. Their files stay on the server."),
        (
            HOUR,
            1,
            90_500,
            (
                "Messages disappear after 1 hour. 1 is waiting; the next goes in 1 minute 30"
                " seconds. Their files stay on the server."
            ),
        ),
        (
            HOUR,
            1_234,
            999,
            (
                "Messages disappear after 1 hour. 1,234 are waiting; the next goes now."
                " Their files stay on the server."
            ),
        ),
        (
            HOUR,
            2,
            -DAY,
            (
                "Messages disappear after 1 hour. 2 are waiting; the next goes now."
                " Their files stay on the server."
            ),
        ),
        (
            None,
            2,
            5_000,
            (
                "Messages stay: no lifetime is set. 2 are waiting; the next goes in 5 seconds."
                " Their files stay on the server."
            ),
        ),
    ],
)
def test_the_status(
    lifetime: Millis | None, pending: int, next_in: Millis | None, expected: str
) -> None:
    said = status.status(
        lifetime, pending=pending, next_in=next_in, permission=STRONG, reading=False
    )
    assert said == expected


def test_the_status_says_what_is_in_the_way() -> None:
    said = status.status(
        HOUR, pending=0, next_in=None, permission=WEAK, reading=True, trouble="it is lost"
    )
    assert "I am still reading" in said
    assert "that needs power level 50, and I have 0" in said
    assert "it is lost" in said


@pytest.mark.parametrize(
    "files", [status.files_stay(), status.files_wait(), status.files_go("example.org")]
)
def test_the_status_says_what_becomes_of_files(files: str) -> None:
    said = status.status(
        HOUR, pending=0, next_in=None, permission=STRONG, reading=False, files=files
    )
    assert said == f"Messages disappear after 1 hour. {files}"
    none = status.status(
        None, pending=0, next_in=None, permission=STRONG, reading=False, files=files
    )
    assert files not in none


@given(
    lifetime=st.none() | st.integers(1, LONGEST),
    pending=st.integers(0, 10**9),
    next_in=st.none() | st.integers(-LONGEST, LONGEST),
)
def test_any_status_can_be_said(
    lifetime: Millis | None, pending: int, next_in: Millis | None
) -> None:
    said = status.status(lifetime, pending=pending, next_in=next_in, permission=None, reading=False)
    assert said


@given(limits=ALL_BOUNDS)
def test_the_example_that_is_given_would_be_accepted(limits: LifetimeLimits) -> None:
    assert limits.allows(notices.example(limits))
    for said in (notices.outside("!expire", limits), notices.invalid("!expire", limits)):
        [_, rest] = said.split("!expire ", 1)
        line = "!expire " + rest.split(",", 1)[0]
        found = parse(line, "!expire")
        assert found is not None
        assert found.effect == SetLifetime(setting=notices.example(limits))


def test_an_answer_to_nonsense_gives_the_reason_and_a_way_out() -> None:
    said = notices.invalid("!expire", LIMITS, "A number needs a unit.")
    assert said.startswith("A number needs a unit. Try !expire 1d")
    assert "between 1 minute and 1 week" in said


@pytest.mark.parametrize(("pending", "tail"), [(0, ""), (1, " 1 message is"), (9, " 9 mess")])
def test_a_resumed_room_hears_what_is_waiting(pending: int, tail: str) -> None:
    assert notices.resumed(pending).startswith(f"I can remove messages again.{tail}")


@pytest.mark.parametrize(("count", "counted"), [(1, "1 message"), (1_234, "1,234 messages")])
def test_what_stays_or_comes_back_is_counted(count: int, counted: str) -> None:
    back = notices.welcome("!expire", STRONG, DAY, count)
    assert back.endswith(f"\nWhat waited when I was removed still goes: {counted}.")
    said = status.status(
        DAY, pending=count + 1, next_in=DAY, permission=STRONG, reading=False, refused=count
    )
    assert " 1 is waiting; the next goes in 1 day." in said
    assert f"The server does not let me remove {counted} that should be gone." in said


def test_who_cannot_be_helped_is_told_the_age_if_known() -> None:
    assert "messages older than 3 days here" in notices.redactions_refused(3 * DAY)
    assert "some messages here" in notices.redactions_refused(0)


def test_a_bot_that_lacks_a_right_names_the_level_and_its_own() -> None:
    for said in (notices.suspended(WEAK), notices.paused(WEAK), notices.powerless(50, 0)):
        assert "power level 50, and I have 0" in said
    assert "does not hold" in notices.write_refused()
    assert notices.refused("bob\n", 50, 0) == (
        "bob, changing this needs power level 50 here, and you have 0."
    )


@pytest.mark.parametrize(
    ("permission", "lifetime", "expected"),
    [
        (None, None, "say !expire 1d, and every new message goes after a day."),
        (WEAK, HOUR, "(power level 50; I have 0)"),
        (STRONG, HOUR, "here, every new one goes after 1 hour."),
        (STRONG, None, "I need the right to remove messages, which I have."),
    ],
)
def test_the_welcome_says_what_the_bot_does_and_needs(
    permission: Permission | None, lifetime: Millis | None, expected: str
) -> None:
    assert expected in notices.welcome("!expire", permission, lifetime)


def test_the_help_names_every_command() -> None:
    said = notices.help_text("!bye", LIMITS)
    assert len(said.splitlines()) == len(TABLE) + 1
    for row in TABLE:
        assert row.help in said
        assert all(f"!bye {name}".rstrip() in said or name in said for name in row.names)


HELP = "!expire help says more."
EVERY = "every new message goes after a day."
HERE = "I make messages disappear: here, every new one goes after 1 hour."


@pytest.mark.parametrize(
    ("permission", "lifetime", "back", "rows"),
    [
        (None, None, 0, [f"I make messages disappear: say !expire 1d, and {EVERY}", HELP]),
        (None, HOUR, 1, [HERE, HELP, "What waited when I was removed still goes: 1 message."]),
        (STRONG, HOUR, 0, [HERE, HELP]),
        (WEAK, HOUR, 2, [HERE, HELP, "What waited when I was removed still goes: 2 messages."]),
    ],
)
def test_the_welcome_word_for_word(
    permission: Permission | None, lifetime: Millis | None, back: int, rows: list[str]
) -> None:
    tail = {None: "", STRONG: ", which I have", WEAK: " (power level 50; I have 0)"}[permission]
    first, last, *more = rows
    needs = f"I need the right to remove messages{tail}. {last}"
    said = notices.welcome("!expire", permission, lifetime, back)
    assert said == "\n".join([first, needs, *more])


def test_the_new_room_hears_how_it_goes_on() -> None:
    assert notices.moved(None, STRONG) == "Messages stay here as in the old room."
    moved = "Messages disappear here as in the old room: after 1 hour."
    assert notices.moved(HOUR, None) == notices.moved(HOUR, STRONG) == moved
    assert notices.moved(HOUR, WEAK) == f"{moved} {notices.paused(WEAK)}"
