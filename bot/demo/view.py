"""Draws the demonstration: a line for each message, with its countdown and what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bot.core.durations import words
from bot.demo.message import Message, seconds
from bot.demo.script import LIFETIME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bot.core.types import Millis

WIDTH: Final = 112
"""Columns; a narrower terminal gets what it has."""
AROUND: Final = 7
"""Lines that are not messages."""
BAR: Final = 8
"""Cells of a full countdown."""

GONE: Final = "{}  redacted by bot"

PEOPLE: Final = {"alice": "cyan", "bob": "magenta", "bot": "yellow"}


def title() -> Text:
    """Return the line on top."""
    return Text.assemble(
        (" ephemeral-bot ", "bold"),
        (f" an encrypted room where every message lives for {words(LIFETIME)}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def picture(messages: Sequence[Message], status: RenderableType, *, now: Millis) -> Group:
    """Return the whole picture at the time `now`, in ms since the epoch."""
    if not messages:
        return Group("", title(), "", status)
    return Group("", title(), "", table(messages, now=now), "", status)


def doing(text: str, spinner: Spinner) -> Padding:
    """Return the line that says what is going on."""
    spinner.update(text=Text(text, "dim"))
    return Padding(spinner, (0, 0, 0, 1))


def done(text: str, *, well: bool) -> Text:
    """Return the line that says how it ended."""
    mark, style = ("✓", "bold green") if well else ("✗", "bold red")
    return Text.assemble(" ", (f"{mark} {text}", style))


def table(messages: Sequence[Message], *, now: Millis) -> Table:
    """Return the messages as lines of a table."""
    grid = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column(" FROM", width=6, no_wrap=True)
    grid.add_column("WHAT", width=15, no_wrap=True)
    grid.add_column("MESSAGE", ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column("TIME LEFT", width=BAR + 6, no_wrap=True)
    grid.add_column("THE SERVER RETURNS", width=len(GONE), no_wrap=True, overflow="ellipsis")
    for message in messages:
        name = Text(f" {message.sender}", PEOPLE[message.sender])
        what, text = Text(message.what, "blue"), Text(message.text)
        returned = Text(message.returned, "dim")
        if message.gone is not None:
            for faded in (name, what, text):
                faded.style = "dim"
            text.style = "dim strike"
            returned = Text.assemble((GONE[:2], "bold green"), (GONE[2:], "green"))
        grid.add_row(name, what, text, countdown(message, now), returned)
    return grid


def countdown(message: Message, now: Millis) -> Text:
    """Return how long a message still has, or how late it went."""
    if message.due is None:
        return Text("stays", "dim")
    if message.late is not None:
        return Text(f"{seconds(message.late)} late", "green")
    left = max(0, message.due - now)
    full = min(2 * BAR, -(-2 * BAR * left // (message.due - message.sent)))
    bar = "━" * (full // 2) + "╸" * (full % 2)
    style = "green" if left > LIFETIME // 2 else "yellow" if left > LIFETIME // 5 else "red"
    return Text.assemble((f"{bar:<{BAR}}", style), f" {left / 1000:.1f} s")
