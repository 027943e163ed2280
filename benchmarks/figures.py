"""What is measured, what it must be, and how both are written down between two programs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

OURS, IDEAL = "ours", "ideal"
SCENARIOS = ("lateness", "backlog", "costs", "in_flight", "limits", "at_rest", "faulty")
RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measure of one contestant at one work."""

    scenario: str
    work: str
    contestant: str
    measure: str
    unit: str
    value: float
    samples: list[float] = field(default_factory=list)
    """What it was computed from, thinned, where a plot shows that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a measure of ours must be: by itself, or as a multiple of the ideal client's."""

    scenario: str
    measure: str
    bound: Literal["at most", "at least"]
    limit: float
    beside_ideal: bool = False
    works: str = ""
    """Only the works that begin so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: medians over the repetitions."""

    work: str
    measure: str
    unit: str
    goal: Goal | None
    values: dict[str, float]
    """By contestant."""
    spread: tuple[float, float]
    """The least and the most of ours over the repetitions."""

    @property
    def ours(self) -> float | None:
        """What ours reached; `None` where it has nothing to show."""
        return self.values.get(OURS)

    @property
    def ideal(self) -> float | None:
        """The best of the ideal clients, of which there may be several widths."""
        known = [value for name, value in self.values.items() if name.startswith(IDEAL)]
        if not known:
            return None
        return max(known) if self.goal and self.goal.bound == "at least" else min(known)

    @property
    def ratio(self) -> float | None:
        """How many times the ideal client's value ours is."""
        return None if self.ours is None or not self.ideal else self.ours / self.ideal

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; `None` where there is none, or nobody to compare with."""
        if self.goal is None:
            return None
        if OURS not in self.values:
            return False
        value = self.ratio if self.goal.beside_ideal else self.ours
        if value is None:
            return None
        if self.goal.bound == "at most":
            return value <= self.goal.limit
        return value >= self.goal.limit


def rows(figures: Iterable[Figure], goals: Sequence[Goal]) -> list[Row]:
    """Put the figures of one scenario side by side.

    What ours has nothing to show for stands there where there is a goal; where ours took no part at
    all, nothing does.
    """
    table: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for one in figures:
        row = table.setdefault((one.work, one.measure, one.unit), {})
        row.setdefault(one.contestant, []).append(one.value)
    if not any(OURS in found for found in table.values()):
        return []
    made = []
    for (work, measure, unit), found in table.items():
        fitting = (one for one in goals if one.measure == measure and work.startswith(one.works))
        goal, ours = next(fitting, None), found.get(OURS, [0.0])
        if goal or OURS in found:
            values = {name: statistics.median(values) for name, values in found.items()}
            spread = min(ours), max(ours)
            made.append(
                Row(work=work, measure=measure, unit=unit, goal=goal, values=values, spread=spread)
            )
    return made


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def thin(values: Sequence[float], most: int = 60) -> list[float]:
    """Return at most so many of the values, in order, the first and the last among them."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(turn * last / (most - 1))] for turn in range(most)]


def lateness(values: Sequence[float]) -> dict[str, float]:
    """Return the three measures of lateness."""
    return {
        "median": statistics.median(values),
        "p99": percentile(values, 0.99),
        "worst": max(values),
    }


def save(path: Path, figures: Sequence[Figure], goals: Sequence[Goal], about: Any) -> None:
    """Write the results of one scenario."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "about": about,
        "goals": [asdict(goal) for goal in goals],
        "figures": [asdict(figure) for figure in figures],
    }
    # One line for each figure, so that a change can be read.
    path.write_text(json.dumps(content).replace('{"scenario"', '\n{"scenario"') + "\n")


def load(path: Path) -> tuple[list[Figure], list[Goal], Any]:
    """Read them again: figures, goals, and what is told about the run."""
    content = json.loads(path.read_text())
    figures = [Figure(**one) for one in content["figures"]]
    return figures, [Goal(**one) for one in content["goals"]], content["about"]
