"""Entries of the audit log, sent to where another system collects them: whoever cuts the store does not reach them.

A line is JSON, `{"shop", "log", "number", "at", "actor", "action", "details", "hash"}`; `log` tells the logs of several
shops apart. It does not say whom an entry was about, which nobody could erase there; the hash stands for that as well.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

STDERR = "stderr"
_SYSLOG_PRIORITY = 10 * 8 + 5
"""Facility authpriv, severity notice (RFC 3164)."""
_SYSLOG_SECONDS = 5.0
"""So long a full queue of syslog is waited for."""


def copied_line(shop: str, log: str, number: int, entry: str, digest: str) -> str:
    """An entry, which is JSON, as it is sent."""
    fields = {name: value for name, value in json.loads(entry).items() if name != "subject"}
    return json.dumps({"shop": shop, "log": log, "number": number, **fields, "hash": digest})


def send_copies(copy_to: str, lines: Sequence[str]) -> None:
    """Sends lines to `audit.copy_to`. What cannot be sent is told in the log; the entries are in the store anyhow."""
    try:
        if copy_to == STDERR:
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()
        elif Path(copy_to).is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
                syslog.settimeout(_SYSLOG_SECONDS)
                syslog.connect(copy_to)
                for line in lines:
                    syslog.sendall(f"<{_SYSLOG_PRIORITY}>recllm[{os.getpid()}]: {line}".encode())
        else:
            # not made here: where a name is wrong, or syslog is down, that is to be told
            file = os.open(copy_to, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, "".join(f"{line}\n" for line in lines).encode())
            finally:
                os.close(file)
    except OSError as error:
        logger.error(
            "%d entries of the audit log were not copied (audit.copy_to): %s: %s", len(lines), error.strerror, copy_to
        )


def copied_hashes(lines: Iterable[str], log: str) -> set[tuple[int, str]]:
    """Number and hash of a log's entries in what was collected; what stands before a line, as syslog's time does,
    and lines that are something else are passed over. After a cut two may have one number."""
    hashes = set()
    for line in lines:
        try:
            fields = json.loads(line[line.index("{") :])
            if fields["log"] == log:
                hashes.add((int(fields["number"]), str(fields["hash"])))
        except (ValueError, KeyError, TypeError):
            continue
    return hashes
