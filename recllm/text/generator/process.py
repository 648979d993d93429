"""A generator in a process of its own: it may hang, crash or talk nonsense, and nothing here hangs or crashes with it.

    with ProcessGenerator(child_command(folder), name="SmolLM2", deadline=10) as generator:
        generator.generate("Say hello.", n=4)        # texts, or GenerationError within ten seconds

One JSON object a line goes each way, so that nothing which the child says can be more than text. The child gets no
secrets of the environment, may not look anything up on a hub, and ends when its input does. It is started when first
asked, killed when it misses a deadline or says what is no answer, and started again by the next request, unless it
failed again and again: then it rests for a while (a circuit breaker; Nygard, Release It!, 2007).

The child is this module too:

    python -m recllm.text.generator.process '{"folder": "...", "name": "...", "adapter": null, "max_time": 24.0}'

It says `{"ready": true, "fingerprint": ...}` or `{"error": ...}` first, then `{"id": N, "texts": [...]}` or
`{"id": N, "error": ...}` for each `{"id": N, "prompt": ..., "n": ..., "max_tokens": ..., "seed": ...}`.
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
from pathlib import Path
from queue import Empty, Queue
from typing import Any, BinaryIO

from recllm.base.errors import GenerationError, RecllmError, UsageError
from recllm.base.schema import Purpose

_log = logging.getLogger(__name__)

_MAX_LINE = 1 << 20
"""Bytes of one answer."""
_MAX_TEXT = 4_000
_MAX_AHEAD = 4
"""Most unasked lines that wait to be read."""
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "PROXY")
_NO_ANSWER = "said what is no answer"
_FAILURES, _WINDOW_SECONDS, _REST_SECONDS = 3, 60.0, 30.0
"""After that many failures within the window a child is left alone for this long."""


class ProcessGenerator:
    """`command` starts a child that speaks the protocol of the module.

    `deadline` bounds one `generate` in seconds, `start_deadline` the loading of the model, which is waited for at the
    first request after a start and does not count as its own time. `languages` and `tuned` are those of
    `LocalGenerator`; `fingerprint` is the child's own word, once it runs. `clock` gives seconds and never goes back.
    """

    purpose = Purpose.LLM_LOCAL

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        languages: Collection[str] | None = None,
        tuned: bool = False,
        deadline: float = 30.0,
        start_deadline: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if deadline <= 0 or start_deadline <= 0:
            raise UsageError("a deadline is a number of seconds above 0")
        self.name, self.tuned = name, tuned
        self.languages = None if languages is None else frozenset(languages)
        self._command, self._deadline, self._start_deadline = list(command), deadline, start_deadline
        self._clock, self._failures = clock, deque[float](maxlen=_FAILURES)
        self._child: _Child | None = None
        self._requests = self._starts = 0
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> ProcessGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ProcessGenerator({self.name!r}, {'running' if self._child else 'not running'})"

    @property
    def fingerprint(self) -> str:
        """As `LocalGenerator.fingerprint`; starts the child. Raises `GenerationError` when that fails."""
        with self._lock:
            return str(self._running().properties.get("fingerprint", ""))

    def generate(self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0) -> list[str]:
        """Up to `n` texts. Raises `GenerationError` when the child fails, misses the deadline or may not be asked."""
        request = {"prompt": prompt, "n": n, "max_tokens": max_tokens, "seed": seed}
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
            self._failures.clear()
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
        if (pause := self._rest_seconds()) > 0:
            _log.info("generator %s refused: failed again and again", self.name, extra={"generator": self.name})
            raise GenerationError(f"{self.name} failed again and again; it is left alone for {pause:.0f} s")
        try:
            self._child = _Child(self._command, self._start_deadline)
        except GenerationError as error:
            self._count_failure("could not start the process: it", error)
            raise GenerationError(f"{self.name} {error}") from None
        self._starts += 1
        event = "started" if self._starts == 1 else "started again"
        _log.info("generator %s %s", self.name, event, extra={"generator": self.name, "starts": self._starts})
        return self._child

    def _rest_seconds(self) -> float:
        """Seconds until the next start is allowed; 0 when it is allowed now."""
        if len(self._failures) < _FAILURES or self._failures[-1] - self._failures[0] > _WINDOW_SECONDS:
            return 0.0
        return max(0.0, self._failures[-1] + _REST_SECONDS - self._clock())

    def _count_failure(self, event: str, error: GenerationError) -> None:
        self._failures.append(self._clock())
        fields = {"generator": self.name, "failures": len(self._failures)}
        _log.warning("generator %s %s %s", self.name, event, error, extra=fields)

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
    return [sys.executable, "-P", "-m", "recllm.text.generator.process", json.dumps(arguments)]


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


# --- the child -------------------------------------------------------------------------------------------------------


def main() -> int:
    """Loads one model, and answers one request after the other."""
    # the pipe to the parent is for answers alone: whatever else prints gets the null device
    pipe = os.fdopen(os.dup(1), "wb")
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 1)
    os.close(null_device)
    arguments = json.loads(sys.argv[1])
    try:
        from recllm.text.generator.local import LocalGenerator

        generator = LocalGenerator(arguments.pop("folder"), **arguments)
        _say(pipe, {"ready": True, "fingerprint": generator.fingerprint})
    except RecllmError as error:
        _say(pipe, {"error": str(error)})
        return 1
    for line in sys.stdin.buffer:
        request = json.loads(line)
        number = request.pop("id")
        try:
            _say(pipe, {"id": number, "texts": generator.generate(**request)})
        except GenerationError as error:
            _say(pipe, {"id": number, "error": str(error)})
    return 0


def _say(pipe: BinaryIO, answer: Mapping[str, Any]) -> None:
    pipe.write(json.dumps(answer).encode() + b"\n")
    pipe.flush()


if __name__ == "__main__":
    sys.exit(main())
