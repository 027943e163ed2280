"""What an answer means for a timer, and how long to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.outcome_text import Reasons, describe
from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    RateLimited,
    Refused,
    Unreachable,
)
from bot.core.redaction import (
    CONFIRM_AFTER,
    Inspect,
    Pause,
    Postpone,
    Sent,
    Step,
    next_step,
    transaction_id,
)
from bot.core.retry import FIRST_BACKOFF, PAUSE_CEILING, POSTPONE_CEILING, backoff, retry_in
from bot.core.sync_token import ANEW_EVERY, SyncRestart, went_back
from bot.core.timers import Timer
from bot.core.types import EventID, Millis, RoomID

NOW = 1_800_000_000_000
CHANCES = st.floats(0, 1, exclude_max=True)
ROOM = RoomID("!room:example.org")


def timer(number: int = 1, room: str = ROOM, attempts: int = 0) -> Timer:
    return Timer(
        id=number,
        room_id=RoomID(room),
        event_id=EventID(f"${number}"),
        due=NOW,
        attempts=attempts,
    )


# --- the next step --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "attempts", "failures", "expected"),
    [
        (Done(), 5, 5, Sent(check_at=NOW + CONFIRM_AFTER)),
        (RateLimited(retry_after=0), 0, 0, Pause(until=NOW + 1)),
        (RateLimited(retry_after=1), 9, 9, Pause(until=NOW + 1)),
        (RateLimited(retry_after=123_456), 0, 0, Pause(until=NOW + 123_456)),
        (Unreachable(reason="x", retry_after=123_456), 9, 9, Pause(until=NOW + 123_456)),
        (Unreachable(reason="reset"), 9, 0, Pause(until=NOW + 500)),
        (Unreachable(reason="reset"), 0, 3, Pause(until=NOW + 4_000)),
        (Unreachable(reason="reset"), 0, 99, Pause(until=NOW + PAUSE_CEILING // 2)),
        (Failed(status=500), 0, 9, Postpone(until=NOW + 500)),
        (Failed(status=500), 3, 0, Postpone(until=NOW + 4_000)),
        (Failed(status=500), 99, 0, Postpone(until=NOW + POSTPONE_CEILING // 2)),
        (Failed(status=502, errcode="M_UNKNOWN"), 3, 0, Postpone(until=NOW + 4_000)),
        (Failed(status=502, errcode="M_UNKNOWN"), 99, 0, Postpone(until=NOW + PAUSE_CEILING // 2)),
        (Forbidden(), 0, 9, Inspect(until=NOW + 500)),
        (NotFound(), 1, 0, Inspect(until=NOW + 1_000)),
        (Refused(status=400), 2, 0, Inspect(until=NOW + 2_000)),
    ],
)
def test_what_follows_from_an_answer(
    outcome: Outcome, attempts: int, failures: int, expected: Step
) -> None:
    step = next_step(outcome, timer(attempts=attempts), now=NOW, failures=failures, chance=0)
    assert step == expected


OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Done()),
    st.builds(RateLimited, retry_after=st.integers(0, 10**9)),
    st.just(Forbidden()),
    st.just(NotFound()),
    st.builds(Refused, status=st.integers(400, 499)),
    st.builds(Failed, status=st.integers(200, 599)),
    st.just(Unreachable(reason="reset")),
)


@given(
    outcome=OUTCOMES,
    attempts=st.integers(0, 10**6),
    failures=st.integers(0, 10**6),
    chance=CHANCES,
)
def test_no_answer_alone_ends_a_timer_and_every_retry_has_a_pause(
    outcome: Outcome, attempts: int, failures: int, chance: float
) -> None:
    step = next_step(outcome, timer(attempts=attempts), now=NOW, failures=failures, chance=chance)
    match step:
        case Sent(check_at=until) | Pause(until=until) | Postpone(until=until):
            assert until > NOW
        case Inspect(until=until):
            assert until > NOW
    if not isinstance(outcome, RateLimited):
        assert until <= NOW + POSTPONE_CEILING


# --- backoff -------------------------------------------------------------------------------------


@given(
    attempts=st.integers(0, 10**9),
    ceiling=st.integers(FIRST_BACKOFF, 10**7),
    chance=CHANCES,
)
def test_a_wait_lies_between_half_a_step_and_a_step(
    attempts: int, ceiling: Millis, chance: float
) -> None:
    step = min(ceiling, FIRST_BACKOFF * 2 ** min(attempts, 20))
    assert step // 2 <= backoff(attempts, ceiling=ceiling, chance=chance) <= step


@given(attempts=st.integers(0, 50), chance=CHANCES)
def test_more_failures_never_make_a_shorter_step(attempts: int, chance: float) -> None:
    first = backoff(attempts, ceiling=POSTPONE_CEILING, chance=chance)
    assert backoff(attempts + 1, ceiling=POSTPONE_CEILING, chance=chance) >= first


@given(st.integers(0, 200), CHANCES, st.integers(0, 10 * PAUSE_CEILING))
def test_the_pause_a_homeserver_asks_for_is_kept_never_less_than_usual(
    attempts: int, chance: float, asked: Millis
) -> None:
    alone = backoff(attempts, ceiling=PAUSE_CEILING, chance=chance)
    limited = RateLimited(retry_after=asked)
    assert retry_in(limited, attempts, chance=chance) == max(asked, alone)
    assert retry_in(Failed(status=500), attempts, chance=chance) == alone


def test_the_waits_differ_by_chance() -> None:
    waits = {backoff(4, ceiling=PAUSE_CEILING, chance=chance / 10) for chance in range(10)}
    assert len(waits) == 10


# --- transaction ids -----------------------------------------------------------------------------

EVENT_IDS = st.text(min_size=1, max_size=60).map(EventID)


@given(first=EVENT_IDS, second=EVENT_IDS, one=st.integers(0, 99), other=st.integers(0, 99))
def test_two_redactions_have_one_transaction_id_only_when_they_are_the_same(
    first: EventID, second: EventID, one: int, other: int
) -> None:
    same = (first, one) == (second, other)
    assert (transaction_id(first, one) == transaction_id(second, other)) == same


@given(event_id=EVENT_IDS, redaction_round=st.integers(0, 99))
def test_a_transaction_id_fits_a_path_and_shows_nothing_of_the_event(
    event_id: EventID, redaction_round: int
) -> None:
    txn = transaction_id(event_id, redaction_round)
    assert txn.isascii()
    assert txn.replace("-", "").isalnum()
    assert len(txn) <= 64


def test_transaction_ids_stay_the_same_across_versions() -> None:
    """An upgrade in the middle of a redaction must not make a second one."""
    assert transaction_id(EventID("$event:example.org"), 0) == KNOWN


KNOWN = "redact-858a780c97cf3b98f0a851303d775c9b31f3"


# --- describe ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Done(), "status 200"),
        (Unreachable(reason="status 502"), "status 502"),
        (Unreachable(reason="ClientConnectorError"), "ClientConnectorError"),
        (Unreachable(reason=""), "no answer"),
        (RateLimited(retry_after=1_234), "status 429"),
        (NotFound(), "status 404 M_NOT_FOUND"),
        (Forbidden(reason="M_FORBIDDEN"), "status 403 M_FORBIDDEN"),
        (Failed(status=404, errcode="M_UNRECOGNIZED"), "status 404 M_UNRECOGNIZED"),
        (Failed(status=500), "status 500"),
        (Failed(status=0, errcode="KeyError"), "KeyError"),
        (Failed(status=0), "no answer that makes sense"),
        (Refused(status=400, errcode="M_UNKNOWN"), "status 400 M_UNKNOWN"),
        (Refused(status=400, errcode="meet me at eight"), "status 400"),
        (Forbidden(reason="M" * 65), "status 403"),
    ],
)
def test_an_answer_is_described_by_its_status_and_name(outcome: Outcome, expected: str) -> None:
    assert describe(outcome) == expected


def test_a_reason_is_news_when_it_changes_and_once_a_minute() -> None:
    reasons = Reasons()
    bad, worse = Failed(status=500), Unreachable(reason="status 502")
    heard: list[tuple[Outcome, Millis]] = [
        (bad, 0),
        (bad, 59_999),
        (worse, 60_000),
        (bad, 60_001),
        (bad, 120_001),
    ]
    said = [reasons.news(outcome, NOW + at) for outcome, at in heard]
    assert said == ["status 500", "", "status 502", "status 500", "status 500"]


# --- reading anew --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "after", "back"),
    [
        ("s123_4_0_1", "s122_9_9_9", True),
        ("s123_4_0_1", "s123_4_0_1", False),
        ("s99_4_0_1", "s100_4_0_1", False),
        ("m56~1.58_4_0", "m55~1.70~3.71_4_0", True),
        ("m56~1.58_4_0", "s57_4_0", False),
        ("s123_m4~1.6_0", "s3_m4~1.6_0", True),
        (None, "s1_2", False),
        ("s123", "s122", False),
        ("123", "122", False),
        ("t57-1_0", "t56-1_0", False),
        ("s9abc_0", "s1abc_0", False),
        ("SGVsbG8_1", "SGFsbG8_1", False),
        ("s123_4 OR 1=1", "s1_4", False),
    ],
)
def test_a_timeline_that_goes_back_shows_in_tokens_that_count(
    since: str | None, after: str, back: bool
) -> None:
    assert went_back(since, after) is back


@given(st.text(), st.text())
def test_two_tokens_of_any_kind_are_compared_without_error(since: str, after: str) -> None:
    assert not (went_back(since, after) and went_back(after, since))


def test_a_token_that_is_refused_twice_in_a_row_is_given_up() -> None:
    anew, refused = SyncRestart(), Refused(status=400, errcode="M_UNKNOWN")
    other = Unreachable(reason="reset")
    assert [anew.refused(one) for one in (refused, other, refused)] == [False] * 3
    assert anew.refused(refused)
    assert anew.wanted
    assert not anew.refused(other), "the sync without it has to be answered"
    assert anew.wanted
    assert not anew.refused(refused), "so the token was not the reason"
    assert not anew.wanted


def test_a_timeline_that_goes_back_again_soon_is_not_read_anew_again() -> None:
    anew = SyncRestart()
    assert anew.went_back(5)
    anew.answered()
    assert not anew.went_back(5 + ANEW_EVERY - 1)
    assert anew.went_back(5 + ANEW_EVERY)
