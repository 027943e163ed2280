"""Draws what `benchmarks/soak.py` wrote: memory, descriptors, lateness and database over time.

    python -m benchmarks.soak_plot soak.csv docs/soak.png

It needs matplotlib: the extra `bench`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

INK, FAINT, LINE, OTHER = "#333333", "#dddddd", "#1f5fa8", "#c0504d"


def column(rows: list[dict[str, str]], name: str, scale: float = 1) -> list[float]:
    return [float(row[name]) * scale if row[name] else float("nan") for row in rows]


def draw(rows: list[dict[str, str]], out: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": INK, "text.color": INK})
    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(8, 8.2), facecolor="white")
    minutes = column(rows, "seconds", 1 / 60)
    memory, descriptors, lateness, database = axes
    memory.plot(minutes, column(rows, "rss_mb"), color=LINE)
    memory.set(ylabel="MB", title="Resident memory of the bot")
    descriptors.step(minutes, column(rows, "descriptors"), color=LINE, where="post")
    descriptors.set(ylabel="open", title="File descriptors of the bot")
    lateness.plot(minutes, column(rows, "late_median_ms", 1e-3), color=LINE, label="median")
    lateness.plot(minutes, column(rows, "late_worst_ms", 1e-3), color=OTHER, label="worst")
    lateness.set(ylabel="s", yscale="log", title="Lateness, as another client sees it")
    lateness.yaxis.set_major_formatter("{x:g}")
    busy = lateness.twinx()
    busy.plot(minutes, column(rows, "load"), color="#999999", linestyle=":", label="load average")
    busy.set(ylabel="load average")
    busy.set_ylim(0, 1.2 * max(column(rows, "load")))
    handles = [*lateness.get_lines(), *busy.get_lines()]
    lateness.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 0.97), ncols=3, frameon=False
    )
    database.plot(minutes, column(rows, "database_kb", 1 / 1024), color=LINE)
    database.set(ylabel="MB", title="Database and its write-ahead log", xlabel="minutes")
    for panel in (memory, descriptors, database):
        panel.set_ylim(0, 1.2 * panel.dataLim.ymax)
    for panel in axes:
        panel.grid(color=FAINT, linewidth=0.6)
        panel.set_xlim(0, minutes[-1])
        panel.title.set(fontsize=10, horizontalalignment="left", position=(0, 1))
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path)
    parser.add_argument("png", type=Path)
    options = parser.parse_args()
    with options.csv.open(newline="") as lines:
        draw(list(csv.DictReader(lines)), options.png)


if __name__ == "__main__":
    main()
