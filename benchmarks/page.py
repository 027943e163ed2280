"""Makes docs/benchmarks.md and its plots from the results, so that no number is typed by hand.

.venv/bin/python -m benchmarks.page
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.bench import RESULTS, SCENARIOS
from benchmarks.contestants.contestant import ROOT
from benchmarks.figures import OURS, Figure, Row, load, rows
from benchmarks.scenarios import lateness
from benchmarks.table import number, show

PAGE = ROOT / "docs" / "benchmarks.md"
INTRODUCTION = """\
# Benchmarks

How this bot does beside others on the same work: on one real Synapse with its rate limits lifted,
on one machine, one after the other in fresh rooms. This page is made by `benchmarks/page.py` from
what `scripts/bench` measured; no number in it was typed.

- **ours** is this bot, as an operator starts it.
- **ideal** is told when each message is due, and does nothing but redact over plain HTTP, with so
  many requests in flight. It keeps nothing, and reads nothing. **polite** is the same, and lets
  everything wait when it is told to wait.
- **burn-bot's algorithm**, **maubot-expiringmessages' algorithm** and **a bridge's algorithm** are
  written here from the published behaviour of these projects; they are not their code.
- **APScheduler** (with its SQLite store) and **a task each** (one asyncio task for a message) are
  what a Python engineer would write first.

All databases are in memory (`/dev/shm`), so that no disk is measured. Where a run was repeated, a
number is the median, and behind it stand the least and the most of ours. What stands under "ideal"
is the best of its widths.

## What falls short

"""
PLOTS = {
    "lateness": "![The share of messages gone, by lateness, for each contestant](lateness.svg)",
    "backlog": "![How a backlog of 1,000 messages goes, for each contestant](backlog.svg)",
}


def page(results: Path) -> str:
    """Return the page, and draw the plots beside it."""
    found = [
        (name, *load(path)) for name in SCENARIOS if (path := results / f"{name}.json").exists()
    ]
    missed: list[str] = []
    parts: list[str] = []
    for name, figures, goals, about in found:
        scenario = import_module(f"benchmarks.scenarios.{name}")
        heading, _, rest = (scenario.__doc__ or "").partition("\n")
        told = "\n".join(line for line in rest.strip().splitlines() if not line.startswith("    "))
        table = rows(figures, goals)
        missed += [_short(row) for row in table if row.met is False]
        parts += [f"## {heading.rstrip('.')}\n", told.strip() + "\n" if told.strip() else ""]
        parts += [PLOTS[name] + "\n" if name in PLOTS else ""]
        parts += [(show(table) if table else grid(figures)) + "\n", _run(about) + "\n"]
    _plots({name: figures for name, figures, _, _ in found})
    short = "\n".join(missed) if missed else "Nothing: every goal is met."
    return INTRODUCTION + short + "\n\n" + "\n".join(part for part in parts if part)


def grid(figures: Sequence[Figure]) -> str:
    """Return a table without ours: each contestant a line."""
    measures = list(dict.fromkeys((one.measure, one.unit) for one in figures))
    lines: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for one in figures:
        line = lines.setdefault((one.work, one.contestant), {})
        line[one.measure, one.unit] = one.value
    head = [
        "work",
        "contestant",
        *(f"{measure}, {unit}".rstrip(", ") for measure, unit in measures),
    ]
    body = [
        [work, name, *(number(line[key]) if key in line else "" for key in measures)]
        for (work, name), line in lines.items()
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def _short(row: Row) -> str:
    assert row.goal is not None
    value = f"{row.ratio:.2f} times the ideal" if row.goal.beside_ideal else number(row.ours)
    unit = "" if row.goal.beside_ideal or not row.unit else f" {row.unit}"
    goal = f"{row.goal.bound} {row.goal.limit:g}"
    return (
        f"- {row.goal.scenario}, {row.work}, {row.measure}: {value}{unit} where the goal is {goal}"
    )


def _run(about: Any) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"`{about['command'].strip()}`, {about['date']}; {about['cores']} cores of"
        f" {about['processor']}, {about['memory']}, {about['system']};"
        f" load before: {about['load before']}; {versions}."
    )


def _plots(found: dict[str, list[Figure]]) -> None:
    for name, work, draw in (
        ("lateness", str(lateness.USUAL), plot.lateness),
        ("backlog", "1,000 in 1 room", plot.backlog),
    ):
        figures = [one for one in found.get(name, []) if one.work == work and one.samples]
        if any(one.contestant == OURS for one in figures):
            draw(figures, PAGE.parent / f"{name}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    PAGE.write_text(page(options.results))


if __name__ == "__main__":
    main()
