"""The limits that benchmarks lay before a homeserver."""

from __future__ import annotations

import json

from benchmarks.limits_proxy import TOLD, TokenBucket, at_random, broken_at_random, limited


def test_a_burst_passes_and_the_next_is_told_when() -> None:
    bucket = TokenBucket(0.2, 10, 100.0)
    assert [bucket.take(100.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(100.0) == 5.0


def test_a_refused_attempt_takes_nothing() -> None:
    bucket = TokenBucket(0.5, 1, 0.0)
    assert bucket.take(0.0) == 0.0
    assert [bucket.take(1.0) for _ in range(5)] == [1.0] * 5
    assert bucket.take(2.0) == 0.0


def test_who_waits_as_told_is_let_through() -> None:
    bucket, now, passed = TokenBucket(3.0, 2, 0.0), 0.0, 0
    while now < 100:
        wait = bucket.take(now)
        passed += wait == 0
        now += wait + 1e-9
    assert 300 <= passed <= 303


def test_no_more_than_a_burst_is_saved_up() -> None:
    bucket = TokenBucket(1.0, 3, 0.0)
    assert [bucket.take(1000.0) == 0 for _ in range(5)] == [True, True, True, False, False]


def test_a_refusal_says_the_time_in_both_forms() -> None:
    answer = limited(1_500)
    assert answer.status == 429
    assert answer.headers["Retry-After"] == "2"
    assert json.loads(answer.body)["retry_after_ms"] == 1_500


def test_refusals_at_random_come_as_often_as_asked_for() -> None:
    refuse = at_random(0.2, 7)
    answers = [refuse() for _ in range(5_000)]
    refused = [answer for answer in answers if answer is not None]
    assert 0.18 < len(refused) / len(answers) < 0.22
    assert json.loads(refused[0].body)["retry_after_ms"] == TOLD


def test_the_same_seed_refuses_the_same_requests() -> None:
    one, same, other = (broken_at_random(0.2, seed) for seed in (1, 1, 2))
    outcomes = [[refuse() is None for _ in range(200)] for refuse in (one, same, other)]
    assert outcomes[0] == outcomes[1] != outcomes[2]
