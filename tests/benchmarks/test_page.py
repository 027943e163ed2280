"""The page of figures is what was measured."""

from __future__ import annotations

from benchmarks.figures import RESULTS, SCENARIOS
from benchmarks.page import PAGE, page


def test_the_page_is_made_from_the_results() -> None:
    assert page(RESULTS) == PAGE.read_text(), "renew it: python -m benchmarks.page"


def test_every_scenario_has_results() -> None:
    assert {path.stem for path in RESULTS.glob("*.json")} == set(SCENARIOS)
