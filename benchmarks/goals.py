"""Prints figures beside goals: what, figure, goal, met."""

from __future__ import annotations


class Table:
    """Remembers whether all goals were met."""

    def __init__(self) -> None:
        self.met = True
        self._line("what", "figure", "goal", "met")

    def at_least(self, what: str, figure: float, goal: float, unit: str = "") -> None:
        """The figure should not be less than the goal."""
        self._judge(what, figure, "at least", goal, unit, met=figure >= goal)

    def at_most(self, what: str, figure: float, goal: float, unit: str = "") -> None:
        """The figure should not be more than the goal."""
        self._judge(what, figure, "at most", goal, unit, met=figure <= goal)

    def tell(self, what: str, figure: float, unit: str = "") -> None:
        """There is no goal for this one."""
        self._line(what, _shown(figure, unit), "", "")

    def _judge(
        self, what: str, figure: float, word: str, goal: float, unit: str, *, met: bool
    ) -> None:
        self.met = self.met and met
        self._line(what, _shown(figure, unit), f"{word} {goal:,g}", "yes" if met else "NO")

    def _line(self, *columns: str) -> None:
        what, figure, goal, met = columns
        print(f"{what:<58} {figure:>16}   {goal:<16} {met}".rstrip(), flush=True)


def _shown(figure: float, unit: str) -> str:
    if isinstance(figure, int) or abs(figure) >= 1_000:
        text = f"{figure:,.0f}"
    else:
        text = f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.3g}"
    return f"{text} {unit}".rstrip()
