from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

import bot
from bot.core.types import EventID, UserID
from bot.demo import recording, view
from bot.demo.homeserver import Account, Homeserver
from bot.demo.message import Message, remaining, summary
from bot.demo.people import Device
from bot.demo.run import INTERRUPTED
from bot.demo.screen import PlainScreen
from bot.demo.script import SCRIPT
from tests.support.person import SLOWEST

if TYPE_CHECKING:
    from collections.abc import Iterator

BOT = UserID("@bot:demo.localhost")


class Run:
    """The demo in a process of its own, piped, with a folder of its own for temporary files."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self.out = ""

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def read_until(self, words: str) -> None:
        while words not in self.out:
            line = self._stdout.readline()
            assert line, self.out
            self.out += line

    def interrupt(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, within: float) -> int:
        """Return the exit status, having read what was left to read."""
        out, err = self._process.communicate(timeout=within * SLOWEST)
        self.out += out
        assert err == ""
        return self._process.returncode

    def leftovers(self) -> list[str]:
        """Return the files it left, and the processes that it started and that still run."""
        running = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                running.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        mine = [line for line in running if str(self._folder) in line]
        return [*mine, *(str(file) for file in self._folder.iterdir())]


@contextmanager
def demo(tmp_path: Path, *arguments: str) -> Iterator[Run]:
    folder = tmp_path / "demo"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "bot", "demo", *arguments],
        cwd=Path(bot.__file__).parent.parent,
        env={**os.environ, "TMPDIR": str(folder), "EPHEMERAL_BOT_LIFETIME__MIN": "1h"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Run(process, folder)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.mark.synapse
def test_the_demo_shows_every_kind_of_message_go_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with demo(tmp_path) as run:
        assert run.ended(120) == 0
    said = len(SCRIPT) + 2  # the bot answers two commands
    last = run.out.splitlines()[-1]
    assert re.fullmatch(
        rf"{said} of {said} messages are gone; "
        r"median \d+\.\d\d s late, worst \d+\.\d\d s\.",
        last,
    )
    gone = [line for line in run.out.splitlines() if line.startswith("gone")]
    assert len(gone) == said
    assert {line.what for line in SCRIPT} <= {line.split()[2] for line in gone}
    assert all(line.endswith("the server returns {}, redacted by bot") for line in gone)
    assert run.out.replace("\n", "").isprintable()
    assert run.leftovers() == []


@pytest.mark.synapse
@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, "sent  bob"),
        (signal.SIGINT, "Starting a homeserver"),
        (signal.SIGTERM, "Starting the bot"),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, after: str
) -> None:
    with demo(tmp_path) as run:
        run.read_until(after)
        run.interrupt(number)
        assert run.ended(10) == INTERRUPTED
    assert run.leftovers() == []


@pytest.mark.synapse
async def test_a_kept_demo_lets_people_in_until_it_is_interrupted(tmp_path: Path) -> None:
    with demo(tmp_path, "--keep") as run:
        run.read_until("!expire help")
        found = re.search(r"homeserver +(\S+)\n +alice +(\S+) +password (\S+)", run.out)
        room = re.search(r"room .*\((!\S+)\)", run.out)
        assert found is not None
        assert room is not None
        url, alice, password = found.groups()
        async with Device(url, await log_in(url, alice, password), tmp_path / "alice") as device:
            content = {"msgtype": "m.text", "body": "!expire 1m"}
            await device.send(room[1], "m.room.message", content)
            await device.until_heard(room[1], "set disappearing messages to 1 minute.")
        run.interrupt(signal.SIGINT)
        assert run.ended(10) == INTERRUPTED
    assert run.leftovers() == []


async def log_in(url: str, user_id: str, password: str) -> Account:
    """Log in as any client does."""
    server = Homeserver(Path("unused"))
    server._port = int(url.rpartition(":")[2])
    return await server.login(user_id, password)


def a_message(*, gone: int | None = None, due: int | None = 6_000, text: str = "hello") -> Message:
    return Message(
        event_id=EventID("$1"),
        sender="alice",
        what="text",
        text=text,
        sent=1_000,
        due=due,
        returned="ciphertext: AwgA",
        gone=gone,
    )


def test_the_summary_counts_only_what_was_to_go() -> None:
    messages = [a_message(gone=6_040), a_message(gone=6_100), a_message(due=None)]
    assert summary(messages) == "2 of 2 messages are gone; median 0.07 s late, worst 0.10 s."
    assert remaining(messages) == []


def test_the_summary_owns_up_to_what_remained() -> None:
    messages = [a_message(gone=6_040), a_message(text="still here")]
    assert summary(messages).startswith("1 of 2 messages are gone; ")
    assert remaining(messages) == ["still there: alice: text 'still here' ($1)"]
    assert summary(messages[1:]) == "0 of 1 messages are gone."


@pytest.mark.parametrize(
    ("content", "because", "gone"),
    [
        ({}, {"sender": BOT, "origin_server_ts": 6_100}, 6_100),
        ({}, {"sender": "@alice:demo.localhost", "origin_server_ts": 6_100}, None),
        ({"body": "hello"}, {"sender": BOT, "origin_server_ts": 6_100}, None),
        ({}, None, None),
    ],
)
def test_only_a_redaction_by_the_bot_counts(
    content: dict[str, str], because: dict[str, object] | None, gone: int | None
) -> None:
    message = a_message()
    unsigned = {"redacted_because": because} if because else {}
    assert message.look({"content": content, "unsigned": unsigned}, BOT) is (gone is not None)
    assert message.gone == gone


def test_a_message_counts_down_and_then_tells_how_late_it_went() -> None:
    assert view.countdown(a_message(), 1_000).plain == "━━━━━━━━ 5.0 s"
    assert view.countdown(a_message(), 3_600).plain == "━━━━     2.4 s"
    assert view.countdown(a_message(), 9_000).plain == "         0.0 s"
    assert view.countdown(a_message(gone=6_040), 9_000).plain == "0.04 s late"
    assert view.countdown(a_message(due=None), 9_000).plain == "stays"


@pytest.mark.parametrize("width", [40, 80, 100])
def test_the_picture_fits_the_terminal(width: int) -> None:
    console = Console(width=width, force_terminal=True)
    messages = [a_message(text="long " * 50), a_message(gone=6_040)]
    with console.capture() as captured:
        console.print(view.picture(messages, view.done("Done.", well=True), now=2_000))
    lines = re.sub(r"\x1b\[[\d;]*m", "", captured.get()).splitlines()
    assert len(lines) == len(messages) + view.AROUND - 1
    assert all(len(line) <= width for line in lines)


def test_what_somebody_wrote_cannot_style_the_picture() -> None:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(view.table([a_message(text="[red]brackets[/red]")], now=2_000))
    assert "[red]brackets[/red]" in captured.get()


def test_plain_lines_say_that_it_did_not_work(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainScreen() as screen:
        screen.doing("Starting the bot")
        screen.finish("1 of 2 messages are gone.", well=False)
    assert capsys.readouterr().out == "Starting the bot…\nFAILED: 1 of 2 messages are gone.\n"


def test_a_recording_is_one_picture_that_asks_nobody_for_a_font() -> None:
    recorder = recording.Recorder()
    with recorder:
        recorder.doing("talking")
        recorder.said(a_message(text="<hello> & goodbye"))
        time.sleep(0.6)
        recorder.finish("1 of 1 messages are gone.", well=True)
    drawn = recording.svg(recorder.frames)
    texts = ["".join(node.itertext()).replace("\xa0", " ") for node in ET.fromstring(drawn).iter()]
    assert "<hello> & goodbye" in texts
    assert "✓ 1 of 1 messages are gone." in texts
    assert drawn.count("http") == 1  # the name of the format
    assert "@font-face" not in drawn
