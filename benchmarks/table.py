"""Writes rows as a table in Markdown: ratios first."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import IDEAL, OURS, Row

HEAD = ("work", "measure", "ours / ideal", "ours", "ideal", "others", "goal", "met")


def show(rows: Sequence[Row]) -> str:
    """Return the table, those with a goal first."""
    ordered = sorted(rows, key=lambda row: row.goal is None)
    lines = [HEAD, tuple("---" for _ in HEAD), *map(_cells, ordered)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Write three digits that count."""
    if value and abs(value) < 10:
        return f"{value:.2g}" if abs(value) < 1 else f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}"


def _cells(row: Row) -> tuple[str, ...]:
    unit = f" {row.unit}" if row.unit and row.unit != "/s" else row.unit
    others = [
        f"{name}: {number(value)}{unit}"
        for name, value in row.values.items()
        if name != OURS and not name.startswith(IDEAL)
    ]
    least, most = row.spread
    spread = f" ({number(least)} to {number(most)})" if least != most else ""
    return (
        row.work,
        row.measure,
        "" if row.ratio is None else f"{row.ratio:.2f}",
        number(row.ours) + unit + spread,
        "" if row.ideal is None else number(row.ideal) + unit,
        "; ".join(others),
        _goal(row),
        {True: "yes", False: "**no**", None: ""}[row.met],
    )


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    what = " of the ideal" if row.goal.beside_ideal else f" {row.unit}".rstrip()
    return f"{row.goal.bound} {row.goal.limit:g}{what}"
