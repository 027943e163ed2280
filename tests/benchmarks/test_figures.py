"""What could lie in a table of figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import Figure, Goal, Row, lateness, load, percentile, rows, save, thin
from benchmarks.table import number, show

GOAL = Goal(scenario="s", measure="rate", bound="at least", limit=0.95, beside_ideal=True)


def figure(contestant: str, value: float, measure: str = "rate") -> Figure:
    return Figure(
        scenario="s",
        work="w",
        contestant=contestant,
        measure=measure,
        unit="per second",
        value=value,
    )


def only(*figures: Figure, goal: Goal = GOAL) -> Row:
    (row,) = rows(figures, [goal])
    return row


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (100, 0.99, 99),
        (100, 0.5, 50),
        (101, 0.99, 100),
        (20, 0.99, 20),
        (1, 0.99, 1),
        (200, 1, 200),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(
    count: int, share: float, expected: float
) -> None:
    assert percentile([float(one) for one in range(count, 0, -1)], share) == expected


def test_the_worst_is_not_hidden_by_the_percentile() -> None:
    assert lateness([5.0] * 199 + [900.0]) == {"median": 5.0, "p99": 5.0, "worst": 900.0}


def test_thinned_values_keep_the_first_and_the_last() -> None:
    thinned = thin([float(one) for one in range(1000)], 100)
    assert (len(thinned), thinned[0], thinned[-1]) == (100, 0.0, 999.0)
    assert thin([3.0, 1.0]) == [1.0, 3.0]


def test_ours_is_compared_with_the_best_ideal_client() -> None:
    row = only(figure("ours", 90), figure("ideal, 16", 80), figure("ideal, 32", 100))
    assert (row.ideal, row.ratio, row.met) == (100, 0.9, False)


def test_the_best_lateness_is_the_least() -> None:
    goal = Goal(scenario="s", measure="rate", bound="at most", limit=1.15, beside_ideal=True)
    row = only(figure("ours", 90), figure("ideal, 16", 80), figure("ideal, 32", 100), goal=goal)
    assert (row.ideal, row.met) == (80, True)


def test_repetitions_give_a_median_and_a_spread() -> None:
    row = only(*(figure("ours", value) for value in (7, 1, 4)), figure("ideal, 16", 4))
    assert (row.ours, row.spread, row.met) == (4, (1, 7), True)


def test_a_goal_without_an_ideal_client_is_neither_met_nor_missed() -> None:
    assert only(figure("ours", 90)).met is None


def test_a_goal_by_itself_needs_no_ideal_client() -> None:
    goal = Goal(scenario="s", measure="rate", bound="at least", limit=100)
    assert only(figure("ours", 90), goal=goal).met is False


def test_a_measure_that_ours_lacks_misses_its_goal() -> None:
    row, _ = rows([figure("ideal, 16", 4), figure("ours", 1, "other")], [GOAL])
    assert row.met is False
    assert "**no**" in show([row])


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    figures = [figure("ours", 1.5), figure("ideal, 16", 2)]
    save(tmp_path / "new" / "s.json", figures, [GOAL], {"cores": 2})
    assert load(tmp_path / "new" / "s.json") == (figures, [GOAL], {"cores": 2})


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (0.034, "0.034"), (1.2, "1.2"), (9.999, "10"), (46.7, "47"), (1234.5, "1,234")],
)
def test_numbers_are_written_with_the_digits_that_count(value: float, written: str) -> None:
    assert number(value) == written
