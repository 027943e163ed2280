"""Which lifetime each message gets: the one at its own place in the timeline, and no other."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.commands import Command, Effect, SetLifetime
from bot.core.lifetimes import OFF, LifetimeLimits, Setting
from bot.core.policy import LARGEST, RoomState, lifetime, policy_content, read_setting
from bot.core.policy_forward import Decision, decide
from bot.core.timeline import Change, Item, Message, Redaction
from bot.core.types import EventID, Millis, UserID

ALICE, BOT = UserID("@alice:example.org"), UserID("@bot:example.org")
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
LIMITS = LifetimeLimits(minimum=10 * SECOND, maximum=HOUR)
DEFAULT = LifetimeLimits(minimum=10 * SECOND, maximum=HOUR, default=5 * MINUTE)
NOW = 1_800_000_000_000


def walk(*items: Item, state: RoomState | None = None, limits: LifetimeLimits = LIMITS) -> Decision:
    return decide(state or RoomState(), list(items), limits=limits, own_id=BOT)


def message(name: object, sent: Millis = NOW) -> Message:
    return Message(event_id=EventID(f"${name}"), sent=sent)


def change(setting: Setting, digest: str, *, sender: UserID = ALICE, **more: Any) -> Change:
    return Change(setting=setting, sender=sender, digest=digest, **more)


def said(
    setting: Setting, digest: str, effect: Effect | None = None, *, suspends: bool = False
) -> Command:
    effect = SetLifetime(setting=setting) if setting is not None else effect
    return Command(digest=digest, sender=ALICE, effect=effect, suspends=suspends)


def redaction(target: str, digest: str = "r") -> Redaction:
    return Redaction(
        target=EventID(target), target_digest=f"digest of {target}", sender=ALICE, digest=digest
    )


def spans(found: Decision) -> dict[str, Millis]:
    return {one.event_id[1:]: one.due - NOW for one in found.timers if one.due is not None}


# --- the lifetime in force -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "limits", "expected"),
    [
        (None, LIMITS, None),
        (None, DEFAULT, 5 * MINUTE),
        (OFF, LIMITS, None),
        (OFF, DEFAULT, None),
        (MINUTE, DEFAULT, MINUTE),
        (1, LIMITS, 10 * SECOND),
        (10 * SECOND, LIMITS, 10 * SECOND),
        (HOUR, LIMITS, HOUR),
        (HOUR + 1, LIMITS, HOUR),
        (LARGEST, LIMITS, HOUR),
    ],
)
def test_the_lifetime_in_force(
    setting: Setting, limits: LifetimeLimits, expected: Millis | None
) -> None:
    assert lifetime(setting, limits) == expected


@given(setting=st.none() | st.integers(min_value=0, max_value=LARGEST))
def test_a_lifetime_in_force_is_always_within_the_bounds(setting: Setting) -> None:
    span = lifetime(setting, DEFAULT)
    assert span is None or DEFAULT.allows(span)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, (OFF, "")),
        ({"type": None, "timer": None}, (OFF, "")),
        ({"type": "after_send", "timer": 5}, (5, "")),
        ({"type": "after_send", "timer": LARGEST}, (LARGEST, "")),
        ({"type": "after_send", "timer": 0}, (OFF, "")),
        ({"timer": 0}, (OFF, "")),
        ({"type": "after_read", "timer": 5}, (5, "after_read")),
        ({"type": "after_read", "timer": 0}, (OFF, "")),
        ({"type": "after_read_by_recipient", "timer": 5}, (5, "after_read")),
        ({"type": "after_read_by_recipient", "timer": 0}, (OFF, "")),
        ({"type": "else", "timer": 5}, (5, "unknown")),
        ({"type": "else", "timer": 0}, (OFF, "")),
        ({"type": "off", "timer": 5}, (5, "unknown")),
        ({"type": ["after_send"], "timer": 5}, (5, "unknown")),
        ({"type": {"after_read": 1}, "timer": 5}, (5, "unknown")),
        ({"type": True, "timer": 5}, (5, "unknown")),
        ({"type": None, "timer": 5}, (5, "unknown")),
        ({"type": "", "timer": 5}, (5, "unknown")),
        ({"timer": 5}, (5, "unknown")),
        ({"type": ""}, (OFF, "")),
        ({"type": "", "timer": None, "else": 5}, (OFF, "")),
        ({"type": "after_send", "timer": "5"}, (5, "")),
        ({"type": "after_send", "timer": "0"}, (OFF, "")),
        ({"type": "after_send", "timer": 30000.0}, (30_000, "")),
        ({"type": "after_send", "timer": 0.25}, (1, "")),
        ({"type": "after_send", "timer": -0.0}, (OFF, "")),
        ({"type": "after_send", "timer": 1e300}, (LARGEST, "")),
        ({"type": "after_send", "timer": LARGEST + 1}, (LARGEST, "")),
        ({"type": "after_send", "timer": "9" * 100}, (LARGEST, "")),
        ({"type": "after_send"}, (None, "unreadable")),
        ({"type": "after_send", "timer": None}, (None, "unreadable")),
        ({"type": "else"}, (None, "unreadable")),
        ({"type": 0}, (None, "unreadable")),
        ({"type": "after_send", "timer": "9" * 101}, (None, "unreadable")),
        ({"type": "after_send", "timer": "a day"}, (None, "unreadable")),
        ({"type": "after_send", "timer": "-5"}, (None, "unreadable")),
        ({"type": "after_send", "timer": "\u0665"}, (None, "unreadable")),
        ({"type": "after_send", "timer": ""}, (None, "unreadable")),
        ({"type": "after_send", "timer": math.inf}, (None, "unreadable")),
        ({"type": "after_send", "timer": math.nan}, (None, "unreadable")),
        ({"type": "after_send", "timer": [5]}, (None, "unreadable")),
        ({"type": "after_send", "timer": True}, (None, "unreadable")),
        ({"type": "after_send", "timer": False}, (None, "unreadable")),
        ({"type": "after_send", "timer": -1}, (None, "unreadable")),
        ({"timer": -1}, (None, "unreadable")),
        (None, (None, "unreadable")),
        ([], (None, "unreadable")),
        ("after_send", (None, "unreadable")),
    ],
)
def test_a_state_event_says(content: Any, expected: tuple[Setting, str]) -> None:
    assert read_setting(content) == expected


ANY_VALUE: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
    | st.sampled_from(["after_send", "after_read", "after_read_by_recipient", "off", "0", "5"])
)


@given(content=st.fixed_dictionaries({}, optional={"type": ANY_VALUE, "timer": ANY_VALUE}))
def test_only_nothing_and_zero_are_off(content: dict[str, Any]) -> None:
    kind, timer = content.get("type"), content.get("timer")
    setting, note = read_setting(content)
    assert setting is None or 0 <= setting <= LARGEST
    zero = type(timer) in {int, float} and timer == 0
    empty = timer is None and kind in (None, "")
    assert (setting == OFF) == (zero or empty or str(timer).strip("0") == "" != timer)
    if type(timer) is int and 0 < timer <= LARGEST:
        assert setting == timer
        assert note or kind == "after_send"


@given(setting=st.integers(min_value=0, max_value=LARGEST))
def test_what_is_written_is_read_back(setting: int) -> None:
    assert read_setting(policy_content(setting)) == (setting, "")


# --- messages ------------------------------------------------------------------------------------


def test_a_message_gets_the_lifetime_at_its_own_place() -> None:
    found = walk(
        message(1),
        change(MINUTE, "a"),
        message(2),
        change(20 * SECOND, "b"),
        message(3),
        change(OFF, "c"),
        message(4),
        said(MINUTE, "d"),
        message(5),
        said(OFF, "e"),
        message(6),
    )
    assert spans(found) == {"2": MINUTE, "3": 20 * SECOND, "5": MINUTE}
    assert found.state.setting == OFF


def test_a_lifetime_outside_the_bounds_counts_as_the_nearest() -> None:
    found = walk(change(1, "a"), message(1), change(LARGEST, "b"), message(2))
    assert spans(found) == {"1": 10 * SECOND, "2": HOUR}


def test_a_default_lifetime_holds_until_the_room_says_otherwise() -> None:
    found = walk(message(1), change(OFF, "a"), message(2), limits=DEFAULT)
    assert spans(found) == {"1": 5 * MINUTE}


def test_a_redacted_message_is_dropped_also_in_the_batch_that_brought_it() -> None:
    found = walk(change(MINUTE, "a"), message(1), redaction("$1"), redaction("$long ago"))
    assert found.dropped == ["$1", "$long ago"]


STEPS = st.lists(
    st.one_of(
        st.sampled_from(["message"]),
        st.tuples(st.sampled_from(["change", "said"]), st.integers(0, 2 * HOUR)),
    ),
    max_size=12,
)


def _items(steps: list[Any]) -> list[Item]:
    made: list[Item] = []
    for number, step in enumerate(steps):
        if step == "message":
            made.append(message(number))
        elif step[0] == "change":
            made.append(change(step[1], f"d{number}"))
        else:
            made.append(said(step[1], f"d{number}"))
    return made


@given(steps=STEPS)
def test_every_message_goes_or_stays_by_the_last_setting_before_it(
    steps: list[Any],
) -> None:
    expected, setting = {}, None
    for number, step in enumerate(steps):
        if step != "message":
            setting = step[1]
        elif (span := lifetime(setting, LIMITS)) is not None:
            expected[str(number)] = span
    assert spans(walk(*_items(steps))) == expected


@given(steps=STEPS, cut=st.integers(0, 12))
def test_it_does_not_matter_where_a_timeline_is_cut(steps: list[Any], cut: int) -> None:
    items = _items(steps)
    whole, first = walk(*items), walk(*items[:cut])
    second = walk(*items[cut:], state=first.state)
    assert first.timers + second.timers == whole.timers
    assert second.state == whole.state


@given(
    setting=st.integers(1, 2 * HOUR),
    sent=st.lists(st.integers(0, 2**45), max_size=9).map(sorted),
)
def test_under_one_lifetime_what_was_sent_first_goes_first(setting: int, sent: list[int]) -> None:
    found = walk(change(setting, "a"), *[message(number, at) for number, at in enumerate(sent)])
    dues = [one.due for one in found.timers if one.due is not None]
    assert len(dues) == len(sent)
    assert dues == sorted(dues)
    assert all(due > at for due, at in zip(dues, sent, strict=True))
