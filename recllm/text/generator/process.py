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
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from recllm.base.errors import GenerationError, UsageError
from recllm.base.schema import Purpose
from recllm.text.generator.constraint import Constraint

_log = logging.getLogger(__name__)

_MAX_LINE = 1 << 20
"""Bytes of one answer."""
_MAX_TEXT = 4_000
_MAX_AHEAD = 4
"""Most unasked lines that wait to be read."""
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "PROXY")
_NO_ANSWER = "said what is no answer"


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """A circuit breaker (Nygard, Release It!, 2007): after some failures within a time requests are refused.

    Closed: all may pass. Open, after `failures` of them within `window` seconds: none, for `rest_seconds`. Then half
    open: one may try; a success closes it, a failure opens it again. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        window: float = 60.0,
        rest_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._window, self._rest_seconds, self._clock = failures, window, rest_seconds, clock
        self._failures: deque[float] = deque(maxlen=failures)
        self._open_since: float | None = None

    @property
    def state(self) -> BreakerState:
        if self._open_since is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self.wait > 0 else BreakerState.HALF_OPEN

    @property
    def wait(self) -> float:
        """Seconds until the next try is allowed; 0 when it is allowed now."""
        return 0.0 if self._open_since is None else max(0.0, self._open_since + self._rest_seconds - self._clock())

    def succeeded(self) -> None:
        self._failures.clear()
        self._open_since = None

    def failed(self) -> None:
        now, half_open = self._clock(), self.state is BreakerState.HALF_OPEN
        self._failures.append(now)
        if half_open or (len(self._failures) == self._limit and now - self._failures[0] <= self._window):
            self._open_since = now


class ProcessGenerator:
    """`command` starts a child that speaks the protocol of `recllm.text.generator.child`; see the module.

    `deadline` bounds one `generate` in seconds, `start_deadline` the loading of the model, which is waited for at the
    first request after a start and does not count as its own time. `languages`, `tuned` and `takes_constraints` are
    those of `LocalGenerator`; `fingerprint` is the child's own word, once it runs. `purpose` is what
    people must have agreed to: another one than `llm_local` where the child asks a third party.
    """

    takes_constraints = True

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
        purpose: Purpose = Purpose.LLM_LOCAL,
    ) -> None:
        if deadline <= 0 or start_deadline <= 0:
            raise UsageError("a deadline is a number of seconds above 0")
        self.name, self.tuned, self.purpose = name, tuned, purpose
        self.languages = None if languages is None else frozenset(languages)
        self.breaker = breaker or Breaker()
        self._command, self._deadline, self._start_deadline = list(command), deadline, start_deadline
        self._child: _Child | None = None
        self._requests = self._starts = 0
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
        with self._lock:
            return str(self._running().properties.get("fingerprint", ""))

    def generate(
        self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0, constraint: Constraint | None = None
    ) -> list[str]:
        """Up to `n` texts. Raises `GenerationError` when the child fails, misses the deadline or may not be asked."""
        request: dict[str, Any] = {"prompt": prompt, "n": n, "max_tokens": max_tokens, "seed": seed}
        request["constraint"] = asdict(constraint) if constraint else None
        with self._lock:
            child = self._running()
            self._requests += 1
            try:
                answer = child.ask({"id": self._requests, **request}, self._deadline)
                texts, refusal = answer.get("texts"), answer.get("error")
                if answer.get("id") != self._requests:
                    raise GenerationError("answered something that was not asked")
                are_texts = isinstance(texts, list) and all(isinstance(t, str) and len(t) <= _MAX_TEXT for t in texts)
                if not isinstance(refusal, str) and not are_texts:
                    raise GenerationError(_NO_ANSWER)
            except GenerationError as error:
                self._end_child()
                self._count_failure("ended the process, since it", error)
                raise GenerationError(f"{self.name} {error}; its process was ended") from None
            self.breaker.succeeded()
        if isinstance(refusal, str):  # the model said no, and lives: its process is sound
            raise GenerationError(f"{self.name}: {refusal[:300]}")
        return list(texts or [])[:n]

    def close(self) -> None:
        """Ends the child at once, whatever it is doing; nothing can be asked afterwards."""
        self._closed = True
        self._end_child()

    def _running(self) -> _Child:
        """The child, started where there is none. Raises `GenerationError` when it may not or does not start."""
        if self._closed:
            raise GenerationError(f"{self.name} was closed")
        if self._child is not None and self._child.alive():
            return self._child
        self._end_child()
        if self.breaker.state is BreakerState.OPEN:
            _log.info("generator %s refused: failed again and again", self.name, extra={"generator": self.name})
            raise GenerationError(f"{self.name} failed again and again; it is left alone for {self.breaker.wait:.0f} s")
        try:
            self._child = _Child(self._command, self._start_deadline)
        except GenerationError as error:
            self._count_failure("could not start the process: it", error)
            raise GenerationError(f"{self.name} {error}") from None
        self._starts += 1
        event = "started" if self._starts == 1 else "started again"
        _log.info("generator %s %s", self.name, event, extra={"generator": self.name, "starts": self._starts})
        return self._child

    def _count_failure(self, event: str, error: GenerationError) -> None:
        self.breaker.failed()
        state = self.breaker.state
        fields = {"generator": self.name, "breaker": state.value}
        _log.warning("generator %s %s %s; breaker %s", self.name, event, error, state, extra=fields)

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


class _Child:
    """A running child, and a thread that reads its lines."""

    def __init__(self, command: Sequence[str], deadline: float) -> None:
        # without what looks like a secret, and with the package's own folder, which `-P` leaves out
        environment = {k: v for k, v in os.environ.items() if not any(word in k.upper() for word in _SECRET)}
        package = str(Path(__file__).resolve().parents[3])
        paths = [package, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours or the caller's own
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            raise GenerationError(f"cannot be started: {error.strerror}") from None
        self._lines: Queue[bytes | None] = Queue()
        self.end = weakref.finalize(self, _kill, self._process)
        """Ends the process at once; called too when this child is garbage."""
        threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
        try:
            self.properties = self._line(deadline)
            if "error" in self.properties:
                raise GenerationError(f"did not start: {str(self.properties['error'])[:300]}")
        except GenerationError:
            self.end()
            raise

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], deadline: float) -> Mapping[str, Any]:
        pipe: Any = self._process.stdin

        def write() -> None:
            with suppress(OSError, ValueError):  # it died; the reader says so
                pipe.write(json.dumps(request).encode() + b"\n")
                pipe.flush()

        writer, began = threading.Thread(target=write, daemon=True), time.monotonic()
        writer.start()  # a child that reads nothing would hold us at the pipe
        writer.join(deadline)
        return self._line(max(0.0, deadline - (time.monotonic() - began)))

    def _line(self, deadline: float) -> Mapping[str, Any]:
        """The child's next line. Raises `GenerationError` when there is none in time, or it is no JSON object."""
        try:
            line = self._lines.get(timeout=deadline)
        except Empty:
            raise GenerationError(f"did not answer within {deadline:.0f} s") from None
        if line is None:
            raise GenerationError("died")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise GenerationError(_NO_ANSWER)
        return answer


def child_command(folder: Path, *, name: str, adapter: str | Path | None, max_time: float) -> list[str]:
    """The command that serves a folder with a causal language model, as `LocalGenerator` takes it."""
    arguments = {
        "folder": str(folder.absolute()),
        "name": name,
        "adapter": str(Path(adapter).absolute()) if adapter else None,
        "max_time": max_time,
    }
    return [sys.executable, "-P", "-m", "recllm.text.generator.child", json.dumps(arguments)]


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


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process at once and collects it; safe to call when it is gone."""
    process.kill()
    process.wait()
    with suppress(OSError):  # what was not yet written is of no use to anybody
        if process.stdin is not None:
            process.stdin.close()
