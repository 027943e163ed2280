from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING

import pytest

from bot.config.logs import configure

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = "the words of a message"
LOGGERS = ("", "bot", "nio")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    handlers = logging.getLogger().handlers[:]
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_a_text_line_holds_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    logging.getLogger("bot.services.redactor").info("redacted %d messages", 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    redacted 3 messages\n", err
    )


def test_a_json_line_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    logging.getLogger("bot.services.redactor").warning("two\nlines")
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "bot.services.redactor", "message": "two\nlines"}


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_every_record_is_one_line(capsys: pytest.CaptureFixture[str], fmt: str) -> None:
    configure("info", "json" if fmt == "json" else "text")
    # Past pytest's own handlers: half a surrogate pair cannot be handed on between processes.
    [own] = [one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler]
    record = {"name": "bot", "levelno": logging.INFO, "levelname": "INFO"}
    own.handle(logging.makeLogRecord(record | {"msg": "a\nb\r\x1b[31m\u2028\ud800"}))
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert err.rstrip("\n").isprintable()


def test_records_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning", "text")
    logging.getLogger("bot.services.sync").info("read a batch")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["peewee", "aiohttp.client", "aiosqlite", "asyncio"])
def test_libraries_are_heard_from_warnings_on_even_when_debugging(name: str) -> None:
    configure("debug", "text")
    assert logging.getLogger("bot.services.sync").getEffectiveLevel() == logging.DEBUG
    assert logging.getLogger(name).getEffectiveLevel() == logging.WARNING


def test_nio_is_heard_from_errors_on_and_from_warnings_on_when_debugging() -> None:
    configure("info", "text")
    assert logging.getLogger("nio.crypto.log").getEffectiveLevel() == logging.ERROR
    configure("debug", "text")
    assert logging.getLogger("nio.crypto.log").getEffectiveLevel() == logging.WARNING


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_no_line_holds_the_body_of_an_event(capsys: pytest.CaptureFixture[str], fmt: str) -> None:
    configure("debug", "json" if fmt == "json" else "text")
    logging.getLogger("nio.events.misc").error("Error validating event: %r", BODY)
    logging.getLogger("asyncio").error("Task failed\nfuture: <Task exception=KeyError(%r)>", BODY)
    logging.getLogger("bot.services.sync").info("%d events", BODY)  # a mistake of ours
    event: dict[str, str] = {}
    try:
        event.pop(BODY)
    except KeyError:
        logging.getLogger("bot.services.sync").exception("could not read a batch")
    err = capsys.readouterr().err
    assert "matrix-nio complains at test_logs:" in err
    assert "Task failed" in err
    assert re.search(r"could not read a batch.*KeyError < test_logs\.py:\d+", err)
    assert BODY not in err


def test_configuring_again_replaces_only_what_was_set_up_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = len(logging.getLogger().handlers)
    configure("info", "text")
    configure("info", "json")
    assert len(logging.getLogger().handlers) == before + 1
    logging.getLogger("bot").info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
