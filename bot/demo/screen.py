"""Tells the audience: a moving picture on a terminal, a line for each happening anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from bot.demo import view
from bot.demo.message import Message, seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bot.core.types import Millis


class Screen(Protocol):
    """What the demonstration tells. As a context manager it leaves the terminal as it was."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def doing(self, what: str) -> None:
        """Say what is going on now."""

    def said(self, message: Message) -> None:
        """Show a message that somebody has sent."""

    def gone(self, message: Message) -> None:
        """Show that the homeserver no longer has it."""

    def finish(self, summary: str, *, well: bool) -> None:
        """Say how it ended, and hold still."""

    def tell(self, text: str) -> None:
        """Print text, after `finish`."""


class PlainScreen:
    """Lines without any control codes, for a pipe or a file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def doing(self, what: str) -> None:
        """Print what is going on now."""
        self.tell(f"{what}…")

    def said(self, message: Message) -> None:
        """Print the message."""
        stays = "" if message.due is not None else "  (stays: there was no lifetime yet)"
        self._line("sent", message, message.text + stays)

    def gone(self, message: Message) -> None:
        """Print what the homeserver returns instead."""
        late = seconds(message.late or 0)
        self._line(
            "gone", message, f"{late} late; the server returns {message.returned}, redacted by bot"
        )

    def finish(self, summary: str, *, well: bool) -> None:
        """Print how it ended."""
        self.tell(summary if well else f"FAILED: {summary}")

    def tell(self, text: str) -> None:
        """Print text."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _line(self, verb: str, message: Message, text: str) -> None:
        self.tell(f"{verb}  {message.sender:<5}  {message.what:<15}  {text}")


class LiveScreen:
    """One picture, drawn anew all the time."""

    def __init__(self, console: Console, *, a_second: int = 10) -> None:
        self._console = console
        self._messages: list[Message] = []
        self._spinner = Spinner("dots", style="cyan")
        self._status: RenderableType = Text()
        self._whole = False
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=a_second)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def doing(self, what: str) -> None:
        """Show what is going on now."""
        self._status = view.doing(f"{what}…", self._spinner)

    def said(self, message: Message) -> None:
        """Add the message to the picture."""
        self._messages.append(message)

    def gone(self, message: Message) -> None:
        """Do nothing more: the picture shows what has become of each message."""

    def finish(self, summary: str, *, well: bool) -> None:
        """Draw the last picture, with all messages in it."""
        self._status = view.done(summary, well=well)
        self._whole = True
        self._live.stop()

    def tell(self, text: str) -> None:
        """Print text below the picture."""
        self._console.print(Text(text), soft_wrap=True)

    def picture(self, now: Millis) -> RenderableType:
        """Return the picture at the time `now`, in ms since the epoch."""
        room = max(1, self._console.height - view.AROUND)
        shown = self._messages if self._whole else self._messages[-room:]
        return Constrain(view.picture(shown, self._status, now=now), view.WIDTH)

    def _draw(self) -> RenderableType:
        return self.picture(time.time_ns() // 1_000_000)


def screen_for(stdout_console: Console) -> Screen:
    """Return the picture for a terminal that can show it, else lines."""
    if sys.stdout.isatty() and not stdout_console.is_dumb_terminal:
        return LiveScreen(stdout_console)
    return PlainScreen()
