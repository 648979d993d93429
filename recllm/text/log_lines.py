"""How the log reads on standard error: an entry a line, at a time in UTC, with its fields behind it.

    2026-03-01T09:00:00.123Z WARNING recllm.doors.service.app refused operation=recommend status=403

Nothing that is logged can begin an entry of its own: control characters are written as `\\n` or `\\x1b`, and each line
of a traceback begins with a bar.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

from recllm.text.personal_data import PersonalDataKind, scrub

TRACEBACK_MARK = "  | "

_MASKED = frozenset(
    {
        PersonalDataKind.EMAIL,
        PersonalDataKind.PHONE,
        PersonalDataKind.CARD,
        PersonalDataKind.IBAN,
        PersonalDataKind.RESIDENT_ID,
    }
)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
"""What every record has, and what uvicorn adds for terminals; all else came as `extra`."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What ends a line, moves a terminal's cursor or turns a line's direction round."""
_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')


class LogFormatter(logging.Formatter):
    """Writes a record so; without mails, phones and numbers of cards, accounts and people, if an error quotes one."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # what begins with _ was put there by a library for itself
        extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD and name[0] != "_"}
        texts = {name: str(value) for name, value in extra.items()}
        fields = [
            f"{name}={json.dumps(text, ensure_ascii=False) if _NEEDS_QUOTES.search(text) else text}"
            for name, text in texts.items()
        ]
        entry = " ".join([f"{record.levelname} {record.name} {record.getMessage()}", *fields])
        lines = [f"{at} {one_line(scrub(entry, _MASKED)[0])}"]
        if record.exc_info:
            traceback = scrub(self.formatException(record.exc_info), _MASKED)[0]
            lines += [f"{TRACEBACK_MARK}{one_line(line)}" for line in traceback.splitlines()]
        return "\n".join(lines)


def one_line(text: str) -> str:
    """The text with every control character written out."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def warn_in_this_form() -> None:
    """From now on what Python writes to standard error where no handler was set, warnings and worse, has this form."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LogFormatter())


def log_to_stderr() -> None:
    """From now on the log of this process, libraries included, goes to standard error in this form, once."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler.formatter, LogFormatter)]:
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    root.addHandler(handler)
