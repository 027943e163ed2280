"""Writes rows as a table in Markdown: ratios first."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.figures import Figure, Row

HEAD = ("work", "measure", "ours / ideal", "ours", "ideal", "goal", "met")


def show(rows: Sequence[Row]) -> str:
    """Return the table of ours beside the ideal client, those with a goal first."""
    return _table(HEAD, [_cells(row) for row in sorted(rows, key=lambda row: row.goal is None)])


def everybody(figures: Sequence[Figure]) -> str:
    """Return a table with a line for each contestant at each work: medians over repetitions."""
    measures = list(dict.fromkeys((one.measure, one.unit) for one in figures))
    lines: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
    for one in figures:
        line = lines.setdefault((one.work, one.contestant), {})
        line.setdefault((one.measure, one.unit), []).append(one.value)
    head = ["work", "contestant", *(f"{name}, {unit}".rstrip(", ") for name, unit in measures)]
    body = [
        [*who, *(number(median(line[key])) if key in line else "" for key in measures)]
        for who, line in lines.items()
    ]
    return _table(head, body)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Write three digits that count."""
    if value and abs(value) < 10:
        return f"{value:.2g}" if abs(value) < 1 else f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}"


def _ours(row: Row, unit: str) -> str:
    if row.ours is None:
        return "none"
    least, most = row.spread
    spread = f" ({number(least)} to {number(most)})" if least != most else ""
    return number(row.ours) + unit + spread


def _cells(row: Row) -> tuple[str, ...]:
    unit = f" {row.unit}" if row.unit else ""
    return (
        row.work,
        row.measure,
        "" if row.ratio is None else f"{row.ratio:.2f}",
        _ours(row, unit),
        "" if row.ideal is None else number(row.ideal) + unit,
        _goal(row),
        {True: "yes", False: "**no**", None: ""}[row.met],
    )


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    what = " of the ideal" if row.goal.beside_ideal else f" {row.unit}".rstrip()
    return f"{row.goal.bound} {row.goal.limit:g}{what}"
