"""Draws the figures of a run, as SVG: the lateness distribution, and the backlog over time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.figures import IDEAL, OURS, Figure

INK, FAINT, LINE, BEST = "#333333", "#dddddd", "#1f5fa8", "#c0504d"
OTHERS = ("#8a8a8a", "#6aa84f", "#b8860b", "#8e63a8", "#4aa3a3")
STYLE = {
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # Text stays text, which is small and can be searched.
    "svg.hashsalt": "the same bytes for the same figures",
}


def lateness(figures: Sequence[Figure], out: Path) -> None:
    """Draw which share of the messages is gone so many ms after its time."""

    def one(axes: Any, figure: Figure, **style: Any) -> None:
        late = sorted(max(1.0, value) for value in figure.samples)
        share = [100 * (turn + 1) / len(late) for turn in range(len(late))]
        axes.plot(late, share, **style)

    _draw(
        figures,
        out,
        one,
        {
            "title": "How late messages go",
            "xlabel": "seen to be gone by another client, so long after its time",
            "ylabel": "% of the messages",
            "xscale": "log",
        },
        ticks={10: "10 ms", 100: "0.1 s", 1_000: "1 s", 10_000: "10 s", 60_000: "1 min"},
    )


def backlog(figures: Sequence[Figure], out: Path) -> None:
    """Draw how many of the messages that were due at once are left as time passes."""

    def one(axes: Any, figure: Figure, **style: Any) -> None:
        seconds = [0.0, *(value / 1000 for value in figure.samples)]
        left = [100 * (1 - turn / (len(seconds) - 1)) for turn in range(len(seconds))]
        axes.plot(seconds, left, **style)

    _draw(
        figures,
        out,
        one,
        {
            "title": "1,000 messages of one room, due at once",
            "xlabel": "seconds since all were due",
            "ylabel": "% left of those that ever go",
            "xscale": "symlog",
        },
        ticks={0: "0", 1: "1", 3: "3", 10: "10", 30: "30", 100: "100"},
    )


def _draw(
    figures: Sequence[Figure],
    out: Path,
    one: Callable[..., None],
    about: dict[str, str],
    ticks: dict[int, str],
) -> None:
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(figsize=(7.5, 3.4))
    others, lines = iter(OTHERS * 2), iter(("-", "--", ":"))
    drawn = {figure.contestant: figure for figure in figures if figure.samples}
    for name, found in drawn.items():
        ours, ideal = name == OURS, name.startswith(IDEAL)
        colour = LINE if ours else BEST if ideal else next(others)
        width, order = (2.2, 3) if ours else (1.6, 2) if ideal else (1.1, 1)
        line = next(lines) if ideal else "-"
        style = {"color": colour, "linewidth": width, "linestyle": line, "zorder": order}
        one(axes, found, label=name, **style)
    axes.set(**about)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.grid(color=FAINT, linewidth=0.6)
    axes.title.set(fontsize=10, horizontalalignment="left", position=(0, 1))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None, "Creator": None})
    # A hundredth of a pixel is enough.
    drawing = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", out.read_text())
    out.write_text("\n".join(line.rstrip() for line in drawing.splitlines()) + "\n")
    plt.close(figure)
