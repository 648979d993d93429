"""Copies of audit entries for another system, out of reach of an attacker who can write the store.

A line is JSON, `{"shop", "log", "number", "at", "actor", "action", "details", "hash"}`; `log` names the log among those
of several shops. The subject is left out, as it could not be erased there; the hash covers it.
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
"""Maximum wait for a full queue of syslog."""


def copied_line(shop: str, log: str, number: int, entry: str, digest: str) -> str:
    """An entry, which is JSON, as it is sent."""
    fields = {name: value for name, value in json.loads(entry).items() if name != "subject"}
    return json.dumps({"shop": shop, "log": log, "number": number, **fields, "hash": digest})


def send_copies(copy_to: str, lines: Sequence[str]) -> None:
    """Sends lines to `audit.copy_to`. A failure is logged; the entries are in the store."""
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
            # never created: a wrong name, or a stopped syslog, is an error
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
    """Number and hash of a log's entries among collected lines; a prefix, such as syslog's time, and other lines are
    skipped. After a cut two may have one number."""
    hashes = set()
    for line in lines:
        try:
            fields = json.loads(line[line.index("{") :])
            if fields["log"] == log:
                hashes.add((int(fields["number"]), str(fields["hash"])))
        except (ValueError, KeyError, TypeError):
            continue
    return hashes
