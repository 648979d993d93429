"""The outbox of a campaign: which message left, so that none leaves twice.

campaigns/ID/outbox.jsonl has one line for each change, and the last line of a person counts. `LEAVING` is on the disk
before a message is handed over. Where the process ends before the server's answer is written, the message may have
left: it stays `LEAVING`, is not sent again, and a person decides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from recllm.base.documents import json_value
from recllm.base.errors import DataError
from recllm.market.campaigns.folder import CampaignFolder


class MessageState(StrEnum):
    LEAVING = "leaving"
    """Handed over, and the server's answer is not known."""
    SENT = "sent"
    DEFERRED = "deferred"
    """The server will not take it now; the next run tries again."""
    REFUSED = "refused"
    """The server will never take it."""


FINAL = frozenset({MessageState.LEAVING, MessageState.SENT, MessageState.REFUSED})
"""Messages in these states are not sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    user_id: str
    """A pseudonym."""
    state: MessageState
    code: str = ""
    """The server's reply code, with its enhanced code: "550 5.1.1".
    Never its words, which may hold an address."""
    at: str = ""
    """ISO 8601, UTC."""


class Outbox:
    """The states of a campaign's messages, read once and written at each change.

    An erasure or a rotation of the key rewrites the file and the plan's people in the meantime. Nothing is written, and
    so nothing is sent, of people who are not in the plan any more.
    """

    def __init__(self, folder: CampaignFolder) -> None:
        """Raises `DataError` for a damaged file.
        A line that a killed process left unfinished is removed."""
        self._folder = folder
        self._planned: set[str] | None = None  # the people of the plan, where it was rewritten since
        with folder.locked():
            self._plan_version = version_of(folder.people)
            self._read()

    def _read(self) -> None:
        file = self._folder.outbox
        content = file.read_bytes() if file.exists() else b""
        lines = content[: content.rfind(b"\n") + 1]
        if lines != content:
            os.truncate(file, len(lines))
        try:
            fields = (json_value(line) for line in lines.splitlines())
            entries = [OutboxEntry(**values | {"state": MessageState(values["state"])}) for values in fields]
            self._entries = {entry.user_id: entry for entry in entries}
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{file}: damaged; look into the mail server's log before you send again, as an older copy of the file "
                "does not know what has left since"
            ) from error
        self._version = version_of(file)

    def entry(self, user_id: str) -> OutboxEntry | None:
        """The last line of a person."""
        return self._entries.get(user_id)

    def state(self, user_id: str) -> MessageState | None:
        entry = self._entries.get(user_id)
        return None if entry is None else entry.state

    def entries(self, state: MessageState) -> list[OutboxEntry]:
        """The last lines of the people whose message is in the state."""
        return [entry for entry in self._entries.values() if entry.state is state]

    def record(self, user_ids: Iterable[str], state: MessageState, code: str = "") -> list[str]:
        """Returns the people who are still in the plan. `LEAVING` is on the disk then."""
        file, at = self._folder.outbox, datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._folder.locked():
            if version_of(file) != self._version:
                self._read()
            if version_of(self._folder.people) != self._plan_version:
                self._plan_version = version_of(self._folder.people)
                self._planned = {json_value(line)["user_id"] for line in self._folder.people.read_bytes().splitlines()}
            entries = [
                OutboxEntry(user_id=user_id, state=state, code=code, at=at)
                for user_id in user_ids
                if self._planned is None or user_id in self._planned
            ]
            with file.open("ab") as log:
                log.write("".join(json.dumps(asdict(entry)) + "\n" for entry in entries).encode())
                log.flush()
                if state is MessageState.LEAVING:  # of another state, a power cut leaves a message without its answer
                    os.fsync(log.fileno())
            self._version = version_of(file)
            self._entries |= {entry.user_id: entry for entry in entries}
        return [entry.user_id for entry in entries]


def version_of(file: Path) -> tuple[int, ...]:
    """Differs after each change by another process; empty without the file."""
    if not file.exists():
        return ()
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
