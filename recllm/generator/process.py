"""A generator in a process of its own: it may hang, crash or talk nonsense, and nothing here hangs or crashes with it.

    with ProcessGenerator(child_command(folder), name="SmolLM2", deadline=10) as generator:
        generator.generate("Say hello.", n=4)        # texts, or GenerationError within ten seconds

One JSON object a line goes each way, so that nothing which the child says can be more than text. The child gets no
secrets of the environment, may not look anything up on a hub, and ends when its input does. It is started when first
asked, killed when it misses a deadline or says what is no answer, and started again by the next request, unless the
circuit breaker is open.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from recllm.errors import GenerationError, UsageError
from recllm.generator.breaker import Breaker
from recllm.generator.constraint import Constraint

_MAX_LINE = 1 << 20
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "PROXY")
_MAX_TEXT = 4_000
_MAX_AHEAD = 4


class ProcessGenerator:
    """`command` starts a child that speaks the protocol of `recllm.generator.child`; see the module.

    `deadline` bounds one `generate` in seconds, `start_deadline` the loading of the model, which is waited for at the
    first request after a start and does not count as its own time. `languages`, `tuned` and `takes_constraints` are
    told to whoever asks, as by `LocalGenerator`; `fingerprint` is the child's own word, once it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        languages: Collection[str] | None = None,
        tuned: bool = False,
        deadline: float = 30.0,
        start_deadline: float = 120.0,
        breaker: Breaker | None = None,
    ) -> None:
        if deadline <= 0 or start_deadline <= 0:
            raise UsageError("a deadline is a number of seconds above 0")
        self.name, self.tuned = name, tuned
        self.languages = None if languages is None else frozenset(languages)
        self.takes_constraints = True
        self.breaker = breaker or Breaker()
        self._command, self._deadline, self._start_deadline = list(command), deadline, start_deadline
        self._child: _Child | None = None
        self._asked = 0
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> ProcessGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ProcessGenerator({self.name!r}, {'running' if self._child else 'not running'}, {self.breaker.state})"

    @property
    def fingerprint(self) -> str:
        """As `LocalGenerator.fingerprint`; starts the child. Raises `GenerationError` when that fails."""
        return str(self._said("fingerprint"))

    @property
    def decoding(self) -> str:
        """How the child keeps lines in bounds, as `LocalGenerator.decoding`; starts the child."""
        return str(self._said("decoding"))

    def generate(
        self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0, constraint: Constraint | None = None
    ) -> list[str]:
        """Up to `n` texts. Raises `GenerationError` when the child fails, misses the deadline or may not be asked."""
        request: dict[str, Any] = {"prompt": prompt, "n": n, "max_tokens": max_tokens, "seed": seed}
        request["constraint"] = asdict(constraint) if constraint else None
        with self._lock:
            child = self._running()
            self._asked += 1
            try:
                answer = child.ask({"id": self._asked, **request}, self._deadline)
                texts = _texts(answer, self._asked, n)
            except GenerationError as error:
                self._drop()
                self.breaker.failed()
                raise GenerationError(f"{self.name} {error}; its process was ended") from None
            self.breaker.succeeded()
        if isinstance(texts, str):  # the model said no, and lives: its process is sound
            raise GenerationError(f"{self.name}: {texts}")
        return texts

    def close(self) -> None:
        """Ends the child at once, whatever it is doing; nothing can be asked afterwards."""
        self._closed = True
        self._drop()

    def _said(self, name: str) -> object:
        with self._lock:
            return self._running().told.get(name, "")

    def _running(self) -> _Child:
        """The child, started where there is none. Raises `GenerationError` when it may not or does not start."""
        if self._closed:
            raise GenerationError(f"{self.name} was closed")
        if self._child is not None and self._child.alive():
            return self._child
        self._drop()
        if self.breaker.state == "open":
            raise GenerationError(f"{self.name} failed again and again; it is left alone for {self.breaker.wait:.0f} s")
        try:
            self._child = _Child(self._command, self._start_deadline)
        except GenerationError as error:
            self.breaker.failed()
            raise GenerationError(f"{self.name} {error}") from None
        return self._child

    def _drop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


class _Child:
    """A running child, and a thread that reads its lines."""

    def __init__(self, command: Sequence[str], deadline: float) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours or the caller's own
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(os.environ),
            )
        except OSError as error:
            raise GenerationError(f"cannot be started: {error.strerror}") from None
        self._lines: Queue[bytes | None] = Queue()
        self._end = weakref.finalize(self, _kill, self._process)
        threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
        try:
            self.told = self._line(deadline)
            if "error" in self.told:
                raise GenerationError(f"did not start: {str(self.told['error'])[:300]}")
        except GenerationError:
            self.end()
            raise

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], deadline: float) -> Mapping[str, Any]:
        writer = threading.Thread(target=_write, args=(self._process, request), daemon=True)
        began = time.monotonic()
        writer.start()  # a child that reads nothing would hold us at the pipe
        writer.join(deadline)
        return self._line(max(0.0, deadline - (time.monotonic() - began)))

    def end(self) -> None:
        self._end()

    def _line(self, deadline: float) -> Mapping[str, Any]:
        """The child's next line. Raises `GenerationError` when there is none in time, or it is no JSON object."""
        try:
            line = self._lines.get(timeout=deadline)
        except Empty:
            raise GenerationError(f"did not answer within {deadline:.0f} s") from None
        if line is None:
            raise GenerationError("died")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise GenerationError("said what is no answer")
        return found


def child_command(
    folder: str | Path,
    *,
    name: str,
    adapter: str | Path | None = None,
    decoding: str = "grammar",
    max_time: float = 30.0,
) -> list[str]:
    """The command that serves a folder with a causal language model, as `LocalGenerator` takes it."""
    told = {
        "folder": str(Path(folder).absolute()),
        "name": name,
        "adapter": str(Path(adapter).absolute()) if adapter else None,
        "decoding": decoding,
        "max_time": max_time,
    }
    return [sys.executable, "-P", "-m", "recllm.generator.child", json.dumps(told)]


def _texts(answer: Mapping[str, Any], asked: int, n: int) -> list[str] | str:
    """The texts of an answer, or the model's reason why there are none. Raises `GenerationError` for no answer."""
    if answer.get("id") != asked:
        raise GenerationError("answered something that was not asked")
    if isinstance(reason := answer.get("error"), str):
        return reason[:300]
    texts = answer.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts):
        raise GenerationError("said what is no answer")
    return texts[:n]


def _read(process: subprocess.Popen[bytes], lines: Queue[bytes | None]) -> None:
    """Hands on the child's lines; None when there are no more, or one is longer than any answer."""
    assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
    with process.stdout as stream:
        while (line := stream.readline(_MAX_LINE)) and len(line) < _MAX_LINE:
            if lines.qsize() > _MAX_AHEAD:  # a child that talks unasked would fill the memory
                process.kill()
                break
            lines.put(line)
    lines.put(None)


def _write(process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101 - it was opened as a pipe
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
    except (OSError, ValueError):
        return  # it died; the reader says so


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process at once and collects it; safe to call when it is gone."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        try:
            process.stdin.close()
        except OSError:
            return  # what was not yet written is of no use to anybody


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment without what looks like a secret; the package's own place is told, as `-P` leaves it out."""
    kept = {name: value for name, value in given.items() if not any(part in name.upper() for part in _SECRET)}
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
