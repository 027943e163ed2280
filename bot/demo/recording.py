"""Records the demonstration as a moving picture: one SVG that needs no script and no font."""

from __future__ import annotations

import io
import sys
import time
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme

from bot.demo import view
from bot.demo.run import show
from bot.demo.screen import LiveScreen

if TYPE_CHECKING:
    from rich.console import RenderableType

FRAMES_A_SECOND: Final = 4
HOLD: Final = 5.0
"""Seconds that the last frame stays before it all begins again."""

CELL, LINE, FONT_SIZE = 8.4, 21.0, 14
PAD, BAR = 18, 36
"""Pixels around the text, and the height of the window's title bar."""

THEME: Final = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [
        (72, 79, 88),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (118, 227, 234),
        (177, 186, 196),
    ],
)

STYLE: Final = """\
text{{font:{size}px ui-monospace,SFMono-Regular,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",\
"Liberation Mono",monospace;fill:{ink}}}
.hide{{visibility:hidden}}
{rules}
@media (prefers-reduced-motion:reduce){{text{{animation:none!important}}}}"""

DOCUMENT: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" \
height="{height:g}" role="img" aria-label="{label}">
<style>
{style}
</style>
<rect x=".5" y=".5" width="{inner_width:g}" height="{inner_height:g}" rx="10" fill="{paper}" \
stroke="#30363d"/>
<circle cx="22" cy="20" r="6" fill="#ff5f57"/><circle cx="42" cy="20" r="6" fill="#febc2e"/>\
<circle cx="62" cy="20" r="6" fill="#28c840"/>
<g transform="translate({pad},{top})">
{texts}
</g>
</svg>
"""
LABEL: Final = (
    "A terminal: messages of every kind appear in an encrypted room, count down from five seconds,"
    " and are then returned empty by the homeserver."
)


class Piece(NamedTuple):
    """A run of characters in one style; lines and columns count from 0."""

    line: int
    column: int
    text: str
    style: Style


class Recorder(LiveScreen):
    """A screen that nobody sees, and that remembers what was on it."""

    def __init__(self) -> None:
        console = Console(
            file=io.StringIO(),
            force_terminal=True,
            color_system="truecolor",
            width=view.WIDTH,
            height=60,
            legacy_windows=False,
        )
        super().__init__(console, a_second=FRAMES_A_SECOND)
        self._stderr = sys.stderr  # while it is live, the picture catches what is printed
        self.frames: list[tuple[float, list[Piece]]] = []

    def doing(self, what: str) -> None:
        """Show it, and tell whoever waits for the recording."""
        super().doing(what)
        self.tell(f"{what}…")

    def tell(self, text: str) -> None:
        """Tell whoever waits for the recording."""
        self._stderr.write(f"{text}\n")

    def _draw(self) -> RenderableType:
        picture = super()._draw()
        if self._messages:
            lines = self._console.render_lines(picture, pad=False)
            pieces = [
                piece
                for number, line in enumerate(lines)
                for piece in _pieces(number, [(s.text, s.style or Style()) for s in line])
            ]
            self.frames.append((time.monotonic(), pieces))
        return picture


def _pieces(number: int, line: list[tuple[str, Style]]) -> list[Piece]:
    """Return what can be seen of a line."""
    pieces = []
    column = 0
    for text, style in line:
        seen = text.strip()
        if seen:
            before = len(text) - len(text.lstrip())
            pieces.append(Piece(number, column + before, seen, style))
        column += cell_len(text)
    return pieces


def svg(frames: list[tuple[float, list[Piece]]]) -> str:
    """Return the frames, each with its time in seconds, as one SVG that plays for ever.

    Where nothing moves, the frame in the middle of the play is seen.
    """
    begin, end = frames[0][0], frames[-1][0]
    length = end - begin + HOLD
    when: dict[Piece, list[int]] = defaultdict(list)
    for number, (_, pieces) in enumerate(frames):
        for piece in pieces:
            when[piece].append(number)
    still = len(frames) * 3 // 5
    rules: dict[str, str] = {}
    starts = [100 * (at - begin) / length for at, _ in frames]
    texts = []
    for piece, numbers in sorted(when.items(), key=lambda item: (item[0][:2], item[1])):
        classes = [_named(rules, "s", _look(piece.style))]
        if len(numbers) < len(frames):
            classes.append(_named(rules, "k", _turns(numbers, starts)))
            classes.extend([] if still in numbers else ["hide"])
        texts.append(_text(piece, " ".join(filter(None, classes))))
    return _document(texts, _rules(rules, length), max(piece.line for piece in when) + 1)


def _named(rules: dict[str, str], prefix: str, rule: str) -> str:
    """Return the short name of a rule, new or known; none for an empty rule."""
    return rules.setdefault(rule, f"{prefix}{len(rules)}") if rule else ""


def _look(style: Style) -> str:
    look = []
    if style.color is not None and not style.color.is_default:
        look.append(f"fill:{style.color.get_truecolor(THEME).hex}")
    if style.bold:
        look.append("font-weight:bold")
    if style.dim:
        look.append("opacity:.55")
    if style.strike:
        look.append("text-decoration:line-through")
    return ";".join(look)


def _turns(numbers: list[int], starts: list[float]) -> str:
    """Return the key frames of what is seen in the frames `numbers`, which begin at `starts` %."""
    turns = [] if numbers[0] == 0 else ["0%{visibility:hidden}"]
    for number in numbers:
        if number - 1 not in numbers:
            turns.append(f"{starts[number]:.2f}%{{visibility:visible}}")
        if number + 1 not in numbers and number + 1 < len(starts):
            turns.append(f"{starts[number + 1]:.2f}%{{visibility:hidden}}")
    return "".join(turns)


def _rules(rules: dict[str, str], length: float) -> str:
    lines = []
    for rule, name in rules.items():
        if name.startswith("s"):
            lines.append(f".{name}{{{rule}}}")
        else:
            lines.append(f"@keyframes {name}{{{rule}}}")
            lines.append(f".{name}{{animation:{name} {length:.2f}s step-end infinite}}")
    return "\n".join(lines)


def _text(piece: Piece, classes: str) -> str:
    x, y = piece.column * CELL, piece.line * LINE
    text = escape(piece.text).replace(" ", "\N{NO-BREAK SPACE}")
    named = f' class="{classes}"' if classes else ""
    length = cell_len(piece.text) * CELL
    return f'<text x="{x:.1f}" y="{y:g}" textLength="{length:.1f}"{named}>{text}</text>'


def _document(texts: list[str], rules: str, lines: int) -> str:
    width, height = view.WIDTH * CELL + 2 * PAD, lines * LINE + BAR + PAD
    return DOCUMENT.format(
        width=width,
        height=height,
        inner_width=width - 1,
        inner_height=height - 1,
        label=LABEL,
        style=STYLE.format(size=FONT_SIZE, ink=THEME.foreground_color.hex, rules=rules),
        paper=THEME.background_color.hex,
        pad=PAD,
        top=BAR,
        texts="\n".join(texts),
    )


def main(arguments: list[str]) -> int:
    """Show the demonstration and write it to the file that the argument names."""
    recorder = Recorder()
    status = show(recorder)
    if status == 0:
        Path(arguments[0]).write_text(svg(recorder.frames), encoding="utf-8")
        sys.stderr.write(f"Wrote {arguments[0]}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
