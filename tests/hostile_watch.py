"""Looks at what a hostile artefact does while a door of the package reads it: files, processes, sockets, memory.

Python tells an audit hook of each of these before it happens, whichever thread and library asks (PEP 578). While the
watch is armed the hook notes what nobody here has reason to do, and stops it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recllm.base.errors import RecllmError

MAX_MIB = 512
"""What reading one artefact may add to the memory of the process at its peak, in MiB."""
NEVER_ENDS = 30
"""Seconds after which something counts as never ending. No time is tested: this only keeps a run from hanging."""

_FORBIDDEN = frozenset({
    "pickle.find_class", "marshal.loads", "ctypes.dlopen", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
    "os.fork", "os.forkpty", "pty.spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo",
    "socket.gethostbyname", "socket.sendto", "socket.sendmsg", "urllib.Request", "webbrowser.open",
})  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset({
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "shutil.rmtree", "shutil.move", "shutil.copyfile",
})  # fmt: skip


class _Stopped(BaseException):
    """What the alarm raises in something that never ends."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one artefact. It is harmless when there are no effects."""

    name: str
    refusal: str
    """Class and message of the error by which it was refused; empty when it was read as plain data."""
    effects: tuple[str, ...]
    """What should not have happened, one sentence each."""
    seconds: float
    peak_mib: float


@dataclass
class _Watch:
    armed: bool = False
    inside: tuple[str, ...] = ()
    """Below these folders files may be written."""
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in _FORBIDDEN:
            if event == "pickle.find_class" and str(arguments[0]).startswith("babel."):
                return  # how babel keeps the calendars and numbers of a language in its own package
            # libraries load their own parts late: an import is no effect, and what it unmarshals is its cached code
            if event in ("marshal.loads", "ctypes.dlopen") and _importing():
                return
            self._stop(f"{event} {str(arguments)[:120]}")
        if event == "open" and isinstance(arguments[0], str | bytes):
            flags = arguments[2]
            if isinstance(flags, int) and flags & _WRITES and not flags & getattr(os, "O_NOFOLLOW", 0):
                self._check(event, arguments[0], os.path.realpath(os.fsdecode(arguments[0])))
        elif event in _CHANGES:
            for name in arguments:
                if isinstance(name, str | bytes):  # of a link the link itself is removed or renamed
                    folder, last = os.path.split(os.fsdecode(name))
                    self._check(event, name, os.path.join(os.path.realpath(folder), last))  # noqa: PTH118

    def _check(self, event: str, name: str | bytes, path: str) -> None:
        if any(path == folder or path.startswith(folder + os.sep) for folder in (*self.inside, "/dev", "/proc")):
            return
        if "__pycache__" in path or (event != "open" and not Path(os.fsdecode(name)).is_absolute()):
            return  # names below a descriptor, as `shutil.rmtree` gives them, were looked at when it was opened
        self._stop(f"{event} {path}")

    def _stop(self, what: str) -> None:
        self.seen.append(what)
        raise PermissionError(f"stopped by the test: {what}")


def _importing() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


_watch = _Watch()
_hooked = False


@contextmanager
def _armed(inside: Path, also: Path | None) -> Iterator[list[str]]:
    global _hooked
    if not _hooked:
        sys.addaudithook(_watch)
        _hooked = True
    _watch.inside = tuple(str(folder.resolve()) for folder in (inside, also) if folder is not None)
    _watch.seen = []
    before, tempfile.tempdir = tempfile.tempdir, str(inside / "tmp")
    (inside / "tmp").mkdir(exist_ok=True)
    _watch.armed = True
    try:
        yield _watch.seen
    finally:
        _watch.armed = False
        tempfile.tempdir = before


def snapshot(folder: Path, *, leave_out: Path) -> dict[str, str]:
    """Path -> what it is, of everything below a folder but for one part of it."""
    states = {}
    for path in sorted(folder.rglob("*")):
        if path == leave_out or path.is_relative_to(leave_out):
            continue
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            states[name] = f"link to {path.readlink()}"
        elif path.is_file():
            states[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            states[name] = f"{path.stat().st_mode:o}"
    return states


def look(
    name: str, inside: Path, secret: str, door: Callable[[], object], *, inert: bool = False, also: Path | None = None
) -> Outcome:
    """What comes of calling `door`, which may write below `inside` and not beside it.

    Its call is to end with a `RecllmError`, or with `inert` also with an answer, in which `secret` is not. `inert`: the
    artefact may be read, as data without effect. also: another folder that may be written, of something that is shared.
    """
    around, effects, refusal = inside.parent, [], ""
    before = snapshot(around, leave_out=inside)
    base = _reset_peak()
    started = time.monotonic()
    said = ""
    old = signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(NEVER_ENDS)
    try:
        with _armed(inside, also) as seen:
            said = str(door())
        if not inert:
            effects.append(f"it was accepted: {said[:200]}")
    except RecllmError as error:
        refusal = said = f"{type(error).__name__}: {error}"
    except _Stopped:
        effects.append("it never ended")
    except BaseException as error:  # pyo3's panics are no Exception
        said = f"{type(error).__name__}: {error}"
        where = traceback.extract_tb(error.__traceback__)[-1]
        effects.append(f"it raised {said[:200]} in {Path(where.filename).name}, line {where.lineno}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    seconds, peak = time.monotonic() - started, _peak_mib() - base
    effects += seen
    after = snapshot(around, leave_out=inside)
    effects += [
        f"{path} was changed" for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)
    ]
    if secret in said:
        effects.append("it told what stands in a file outside")
    if len(said) > 20_000:
        effects.append(f"its message has {len(said):,} characters")
    if peak > MAX_MIB:
        effects.append(f"it took {peak:,.0f} MiB of memory")
    return Outcome(name=name, refusal=refusal, effects=tuple(effects), seconds=seconds, peak_mib=peak)


def _alarm(*_: object) -> None:
    raise _Stopped


def _reset_peak() -> float:
    """Forgets the peak of the memory so far, where the system can; the present use in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak_mib()
    return _peak_mib()


def _peak_mib() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
