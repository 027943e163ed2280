"""Sets up the log: one line for each record on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Final, Literal

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_FRAMES: Final = 8


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = f"{_time(record)} {record.levelname:<7} {_message(record)}"
        if failure := _failure(record):
            text += f" [{failure}]"
        # Whatever could end the line, or steer a terminal, is written out.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if failure := _failure(record):
            line["failure"] = failure
        return json.dumps(line)


_FORMATTERS: Final = {"text": _TextFormatter, "json": _JSONFormatter}


def configure(level: LogLevel, fmt: LogFormat) -> None:
    """Log the bot's own records from `level` on, and those of its libraries from WARNING on.

    matrix-nio's are heard from ERROR on, or from WARNING when `level` is debug. Calling it again
    replaces what the last call set up, and leaves handlers of others alone.
    """
    # A record that cannot be formatted would else be printed raw, with all its arguments.
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[fmt]())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, _TextFormatter | _JSONFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    # Every library inherits this, so none has to be named but the one that says too much.
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("bot").setLevel(number)
    logging.getLogger("nio").setLevel(logging.WARNING if level == "debug" else logging.ERROR)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    library = record.name.partition(".")[0]
    if library == "bot":
        return record.getMessage()
    if library == "nio":
        # Its lines quote the events that they complain about, whole.
        place = f"{record.module}:{record.lineno}"
        return f"matrix-nio complains at {place} (its words may quote an event: left out)"
    # asyncio puts the failed task, and with it the exception's text, in the lines that follow.
    return record.getMessage().partition("\n")[0]


def _failure(record: logging.LogRecord) -> str:
    """Return the exception's type and where it came from, innermost first.

    Not its text: the text of a KeyError or of a failed decoding is a piece of the event.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames)]
    return " < ".join([type(error).__name__, *places])
