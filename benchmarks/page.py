"""Makes docs/benchmarks.md and its plots from the results, so that no number is typed by hand.

.venv/bin/python -m benchmarks.page
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants.contestant import ROOT
from benchmarks.figures import IDEAL, OURS, RESULTS, SCENARIOS, Figure, Row, load, rows
from benchmarks.table import everybody, number, show

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
- **APScheduler** (with its SQLite store) and **a coroutine each** (one for a message) are
  what a Python engineer would write first.

The bot's database and Synapse's SQLite are in memory where there is space (`/dev/shm`), so that no
disk is measured. Where a run was repeated, a
number is the median, and behind it stand the least and the most of ours. What stands under "ideal"
is the best of its widths.

## What falls short

"""
BUSY = 1.5
"""Load of each core, before a run, that is more than the scenario before leaves behind."""
PLOTS = {
    "lateness": "![The share of messages gone, by lateness, for each contestant](lateness.svg)",
    "backlog": "![How a backlog of 1,000 messages goes, for each contestant](backlog.svg)",
}


def page(results: Path) -> str:
    """Return the page."""
    found = [
        (name, *load(path)) for name in SCENARIOS if (path := results / f"{name}.json").exists()
    ]
    missed: list[str] = []
    parts: list[str] = []
    for name, figures, goals, about in found:
        heading, _, rest = about["text"].partition("\n")
        told = "\n".join(line for line in rest.splitlines() if not line.startswith("    ")).strip()
        table = rows(figures, goals)
        missed += [_short(row) for row in table if row.met is False]
        parts += [f"## {heading.rstrip('.')}\n", told + "\n" if told else ""]
        parts += [PLOTS[name] + "\n" if name in PLOTS else ""]
        parts += [*_tables(figures, table), _run(about) + "\n"]
    short = "\n".join(missed) if missed else "Nothing: every goal is met."
    return INTRODUCTION + short + "\n\n" + "\n".join(part for part in parts if part)


def _tables(figures: Sequence[Figure], table: Sequence[Row]) -> list[str]:
    """Ours beside the ideal client, and everybody at the works where others took part."""
    known = {one.work for one in figures if not one.contestant.startswith((OURS, IDEAL))}
    others = [one for one in figures if one.work in known]
    return [
        show(table) + "\n" if table else "",
        everybody(others) + "\n" if others else "",
    ]


def _short(row: Row) -> str:
    assert row.goal is not None
    if row.ours is None:
        value = "not reached"
    elif row.goal.beside_ideal:
        value = f"{row.ratio:.2f} times the ideal"
    else:
        value = f"{number(row.ours)} {row.unit}".strip()
    goal = f"the goal is {row.goal.bound} {row.goal.limit:g}"
    return f"- {row.goal.scenario}, {row.work}, {row.measure}: {value}; {goal}"


def _run(about: Any) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    busy = about["load before"] > BUSY * about["cores"]
    return (
        f"`{about['command'].strip()}`, {about['date']}; {about['cores']} cores of"
        f" {about['processor']}, {about['memory']}, {about['system']};"
        f" load before: {about['load before']}; {versions}."
        + (" **The machine was busy with other work: these ratios say little.**" if busy else "")
    )


def draw(results: Path) -> None:
    """Draw the plots beside the page. They show the first work of each."""
    from benchmarks import plot  # noqa: PLC0415 (matplotlib comes with the extra `bench` only)

    for name, way in (("lateness", plot.lateness), ("backlog", plot.backlog)):
        if (path := results / f"{name}.json").exists():
            figures, _, _ = load(path)
            way(
                [one for one in figures if one.work == figures[0].work], PAGE.parent / f"{name}.svg"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    draw(options.results)
    PAGE.write_text(page(options.results))


if __name__ == "__main__":
    main()
