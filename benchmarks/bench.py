"""Runs the contestants beside each other on a real Synapse, and says which goals are met.

    scripts/bench
    scripts/bench --quick
    scripts/bench --only lateness,backlog --repeat 3

The results go as JSON into a folder, from which `benchmarks.page` makes docs/benchmarks.md. Exit
status 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from importlib import import_module
from pathlib import Path
from typing import cast

from benchmarks.figures import RESULTS, SCENARIOS, Figure, rows, save
from benchmarks.machine import about
from benchmarks.scenarios.scenario import Options, Scenario
from benchmarks.table import everybody, show


async def measure(scenario: Scenario, options: Options, repeat: int) -> list[Figure]:
    """Run one scenario so many times, and print each figure when it is known."""
    figures = []
    for turn in range(repeat):
        again = Options(
            quick=options.quick,
            whole=options.whole,
            seed=options.seed + turn,
            contestants=options.contestants,
        )
        async for one in scenario.run(again):
            figures.append(one)
            shown = f"{one.value:>10,.2f} {one.unit}"
            print(f"  {one.work:<32} {one.contestant:<34} {one.measure:<28} {shown}", flush=True)
    return figures


def run(names: list[str], options: Options, repeat: int, out: Path) -> bool:
    """Run scenarios one after the other; return whether all goals are met."""
    good = True
    for name in names:
        scenario = cast("Scenario", import_module(f"benchmarks.scenarios.{name}"))
        text = (scenario.__doc__ or "").strip()
        print(f"{name}: {text.splitlines()[0]}", flush=True)
        told = about("scripts/bench " + " ".join(sys.argv[1:])) | {"text": text}
        figures = asyncio.run(measure(scenario, options, repeat))
        save(out / f"{name}.json", figures, scenario.GOALS, told)
        table = rows(figures, scenario.GOALS)
        print(show(table) if table else everybody(figures), flush=True)
        good = good and all(row.met is not False for row in table)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, with commas")
    parser.add_argument("--contestants", default="", help="those whose names contain this")
    parser.add_argument("--quick", action="store_true", help="less of all")
    parser.add_argument("--whole", action="store_true", help="with the largest numbers")
    parser.add_argument("--repeat", type=int, default=1, help="how often, with other seeds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for the results")
    given = parser.parse_args()
    options = Options(
        quick=given.quick, whole=given.whole, seed=given.seed, contestants=given.contestants
    )
    names = given.only.split(",")
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"no scenario is named {', '.join(unknown)}; known: {', '.join(SCENARIOS)}")
    sys.exit(0 if run(names, options, given.repeat, given.out) else 1)


if __name__ == "__main__":
    main()
