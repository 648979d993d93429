"""Sessions of the console: each a file that exists while a user is signed in.

A browser holds a token of 256 random bits, and the file is named by a keyed hash of it, which reveals no token. The
time of the file is that of the session's latest use. Files, because a load may hold the store's write lock for minutes,
and so that backups hold no sessions. Another pseudonym key ends them all.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recllm.base.errors import StoreError
from recllm.base.files import PRIVATE, sweep_drafts, sync_folder, write_whole
from recllm.shop.workspace.personal_records import PersonalRecords, Removed
from recllm.shop.workspace.workspace import CONSOLE_SESSIONS, Workspace

TOUCH_SECONDS = 30
"""Minimum time between two notes of use."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_SESSION_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleSession:
    """A user who signed in with one browser."""

    session_id: str
    """Hash of the token: it names the session and opens nothing."""
    key_id: str | None
    """Of the API key used to sign in; None for a user of the directory."""
    person: Mapping[str, Any] | None
    """The directory's claims about the user; None for a key."""
    begun_at: float
    """Epoch seconds, as are the next three."""
    proven_at: float
    """When the key was typed, or the directory last confirmed the user."""
    end: float
    """Latest end, whatever its use."""
    used_at: float

    @property
    def is_confirmed(self) -> bool:
        """Whether it goes on with one that was there before."""
        return self.begun_at < self.proven_at


def begin_session(
    workspace: Workspace,
    *,
    key_id: str | None = None,
    person: Mapping[str, Any] | None = None,
    confirmed: ConsoleSession | None = None,
) -> tuple[ConsoleSession, str]:
    """A new session of a key or of a user, and the token for the browser.

    confirmed: the user's previous session, whose end stays. Raises `StoreError` and `OSError` where it cannot be kept.
    """
    end_outdated_sessions(workspace)
    now, token, folder = time.time(), secrets.token_urlsafe(32), workspace.folder(CONSOLE_SESSIONS)
    session = ConsoleSession(
        session_id=_session_id(workspace, token),
        key_id=key_id,
        person=person,
        begun_at=confirmed.begun_at if confirmed else now,
        proven_at=now,
        end=confirmed.end if confirmed else now + workspace.settings.console.session_hours * 3_600,
        used_at=now,
    )
    content = {name: value for name, value in asdict(session).items() if name not in ("session_id", "used_at")}
    folder.mkdir(mode=0o700, exist_ok=True)
    write_whole(folder / session.session_id, json.dumps(content), mode=PRIVATE)
    return session, token


def find_session(workspace: Workspace, token: str, *, is_used: bool) -> ConsoleSession | None:
    """The session of a token, unless it is over. is_used: notes the use.
    Raises `StoreError` for an unreadable file."""
    if not _TOKEN.fullmatch(token):
        return None
    path = workspace.folder(CONSOLE_SESSIONS) / _session_id(workspace, token)
    session = _read(workspace, path)
    if session is not None and is_used and time.time() - session.used_at > TOUCH_SECONDS:
        try:
            os.utime(path)
        except FileNotFoundError:  # it was ended meanwhile
            return None
        except OSError:  # a full disk ends sessions early, but does not lock users out now
            return session
    return session


def list_sessions(workspace: Workspace) -> list[ConsoleSession]:
    """All current ones, the latest first; others are removed.
    Raises `StoreError` as `find_session`."""
    paths = [path for path in workspace.folder(CONSOLE_SESSIONS).glob("*") if _SESSION_ID.fullmatch(path.name)]
    sessions = [session for path in paths if (session := _read(workspace, path)) is not None]
    return sorted(sessions, key=lambda session: session.begun_at, reverse=True)


def end_session(workspace: Workspace, session_id: str) -> bool:
    """Ends a session, also for copies of its token; False where there is none of this name."""
    if not _SESSION_ID.fullmatch(session_id):
        return False
    folder = workspace.folder(CONSOLE_SESSIONS)
    try:
        (folder / session_id).unlink()
    except FileNotFoundError:
        return False
    sync_folder(folder)
    return True


def end_outdated_sessions(workspace: Workspace) -> None:
    """Removes sessions that are over, and drafts."""
    list_sessions(workspace)
    sweep_drafts(workspace.folder(CONSOLE_SESSIONS))


def _outdated(workspace: Workspace, clock: datetime, dry_run: bool) -> Removed:
    """By this machine's clock, not `clock`."""
    if not dry_run:
        end_outdated_sessions(workspace)
    return Removed()


SIGNED_IN = PersonalRecords(name="console sessions", files=(CONSOLE_SESSIONS,), outdated=_outdated)


def _read(workspace: Workspace, path: Path) -> ConsoleSession | None:
    """The session of a file, which is removed where it is over or damaged."""
    try:
        used_at, content = path.stat().st_mtime, json.loads(path.read_bytes())
        session = ConsoleSession(session_id=path.name, used_at=used_at, **content)
        is_over = time.time() > min(session.end, used_at + workspace.settings.console.idle_minutes * 60)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        is_over = True
    except OSError as error:
        raise StoreError(f"the session {path.name[:8]} of the console cannot be read: {error.strerror}") from None
    if is_over:
        with suppress(OSError):
            path.unlink()
        return None
    return session


def _session_id(workspace: Workspace, token: str) -> str:
    return hmac.digest(workspace.signing_key("console session"), token.encode(), "sha256").hex()
