"""Lines of the log: their time, their fields, and that nothing in them begins a line of its own."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from datetime import UTC, datetime

import pytest

from recllm.doors.cli import main as command_line
from recllm.text.log_lines import TRACEBACK_MARK, LogFormatter, log_to_stderr

FORGED = "2026-03-01T09:00:00.000Z WARNING recllm.doors.service.app all is well"


def line_of(message: str, **fields: object) -> str:
    return LogFormatter().format(
        logging.makeLogRecord({"msg": message, "name": "recllm.x", "levelname": "INFO", **fields})
    )


def test_a_line_has_its_time_in_utc_whatever_the_machines_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        at = datetime(2026, 3, 1, 9, 0, 0, 123_000, tzinfo=UTC).timestamp()
        assert line_of("opened", created=at) == "2026-03-01T09:00:00.123Z INFO recllm.x opened"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "sign", ["\n", "\r", "\r\n", "\v", "\f", "\x00", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\ud800"]
)
def test_no_control_character_reaches_a_line(sign: str) -> None:
    line = line_of(f"refused{sign}{FORGED}", shop=f"a{sign}{FORGED}")
    assert len(line.splitlines()) == 1 and line.isprintable()
    assert line.encode() and "refused\\" in line


def test_what_an_exception_says_begins_no_entry() -> None:
    try:
        raise ValueError(f"bad\n{FORGED}\x1b[2J")
    except ValueError:
        text = line_of("a request failed", exc_info=sys.exc_info())
    entry, *traceback = text.splitlines()
    assert entry.endswith("a request failed") and len(traceback) >= 3
    assert all(line.startswith(TRACEBACK_MARK) and line.isprintable() for line in traceback)


def test_fields_are_told_apart() -> None:
    assert line_of("x", a="one two", b='say "no"', c="k=v", d="", e=3).endswith(
        'x a="one two" b="say \\"no\\"" c="k=v" d="" e=3'
    )


def test_warnings_of_any_command_have_this_form(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(logging, "lastResort", logging._StderrHandler(logging.WARNING))  # type: ignore[attr-defined]
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(command_line, "app", lambda: logging.getLogger("recllm.x").warning("bad\n%s", FORGED))
    command_line.main()
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(rf"\S+Z WARNING recllm\.x bad\\n{re.escape(FORGED)}", line)


def test_libraries_speak_in_the_same_form_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        log_to_stderr()
        log_to_stderr()
        logging.getLogger("a.library").warning("Invalid HTTP request received.")
        (line,) = stream.getvalue().splitlines()
        assert re.fullmatch(r"\S+Z WARNING a\.library Invalid HTTP request received\.", line)
    finally:
        root.handlers = before
