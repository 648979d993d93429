"""Slates, in processes of their own: Python computes one answer at a time in each, and the service has several cores.

This process owns the HTTP interface, what is written and the jobs. Each of the others opens the same workspaces, reads
histories from the store by key, and answers one request after the other. It opens what is new when this process says
so, and this process waits for it: an acknowledged change is in force in all of them. A process that dies is started
again, and its request is answered here.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from recllm.base import errors
from recllm.base.documents import json_text
from recllm.base.errors import RecllmError
from recllm.base.schema import SlateStatus
from recllm.doors.service.live import LiveShop
from recllm.doors.service.requests import SlateRequest
from recllm.shop.workspace.workspace import Workspace, call_overrides, overridden
from recllm.text.encoder.hardware import usable_cores
from recllm.text.log_lines import log_to_stderr

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 60.0
"""A process that takes longer for one answer is ended."""
UPDATE_SECONDS = 600.0
"""One that takes longer to open what is new is ended."""
MAX_PROCESSES = 4
"""Where the settings say no number."""
CURRENT = b"current"
"""Answer of a process after a complete update."""
RESTART_SECONDS = 5.0
"""Pause between two starts of one process."""


def default_processes() -> int:
    """One for each core, four at most; none where there is one core."""
    cores = usable_cores()
    return 0 if cores == 1 else min(cores, MAX_PROCESSES)


class SlateProcesses:
    """Processes that compute slates, started by the first `update`. folders: workspaces by shop."""

    def __init__(self, folders: Mapping[str, Path], n: int) -> None:
        self._folders = {name: str(folder) for name, folder in folders.items()}
        self._overrides = call_overrides()
        self._processes: list[_SlateProcess | None] = [None] * n
        self._free: SimpleQueue[_SlateProcess] = SimpleQueue()
        self._lock = Lock()
        self._closed = False

    @property
    def n_processes(self) -> int:
        """Slates that are computed at once."""
        return len(self._processes)

    @property
    def n_ready(self) -> int:
        """Processes that answer for every shop, with what is in force."""
        return sum(
            process is not None and process.is_ready and process.is_alive and process.shops >= self._folders.keys()
            for process in self._processes
        )

    def answer(self, shop: LiveShop, body: SlateRequest) -> tuple[SlateStatus, str]:
        """Status and JSON of a slate, computed here where no process is free. Raises as `LiveShop.slate` does."""
        process = self._free_process()
        if process is not None and shop.name in process.shops:
            try:
                header, document = process.ask({"shop": shop.name, "slate": body.model_dump(mode="json")})
            except (OSError, EOFError):  # the next update starts it again
                process.end()
                process = None
                logger.warning("a process of slates ended; its request is answered by this one")
            else:
                self._free.put(process)
                if "error" in header:
                    raise _error(header)
                return SlateStatus(header["status"]), document
        if process is not None:
            self._free.put(process)
        slate = shop.slate(body)
        return slate.status, json_text(slate)

    def _free_process(self) -> _SlateProcess | None:
        with suppress(Empty):
            while True:
                process = self._free.get_nowait()
                if process.is_alive:
                    return process
        return None

    def update(self, shop: str) -> None:
        """Let every process open what is new of a shop, and wait for them; start those that are missing."""
        with self._lock:
            ready = [process for process in self._processes if process and process.is_ready]
            for process in ready:
                process.tell_update(shop)
            for process in ready:
                process.await_update(shop)
            for position, before in enumerate(self._processes):
                if before is not None and before.is_alive:
                    continue
                if self._closed or (before is not None and time.monotonic() - before.started < RESTART_SECONDS):
                    continue
                new = self._processes[position] = _SlateProcess(self._folders, self._overrides)
                Thread(target=self._open, args=(new,), name="open slates", daemon=True).start()

    def close(self) -> None:
        """End all; what they are asked meanwhile is answered here."""
        self._closed = True
        for process in self._processes:
            if process is not None:
                process.end()

    def _open(self, process: _SlateProcess) -> None:
        for shop in self._folders:  # takes seconds, in which updates go on
            process.tell_update(shop)
            process.await_update(shop)
        with self._lock:
            for shop in self._folders:  # what changed since is seen before the first answer
                process.tell_update(shop)
                process.await_update(shop)
            if process.is_alive:
                process.is_ready = True
                self._free.put(process)


class _SlateProcess:
    """One process with one caller at a time; `tell_update` and `await_update` may run during an answer."""

    def __init__(self, folders: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
        self.started = time.monotonic()
        self.is_ready = False
        self.shops = frozenset[str]()
        """Those that it answers for: it opened them, and what was new at the last update."""
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        self._answers, its_answers = context.Pipe()
        self._updates, its_updates = context.Pipe()
        arguments = (dict(folders), dict(overrides), its_answers, its_updates)
        self._process = context.Process(target=_serve, args=arguments, name="recllm slates", daemon=True)
        self._process.start()
        its_answers.close()
        its_updates.close()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Raises `EOFError` or `OSError` when it died or takes too long."""
        self._answers.send_bytes(json.dumps(request).encode())
        if not self._answers.poll(ANSWER_SECONDS):
            raise EOFError
        header, _, document = self._answers.recv_bytes().partition(b"\n")
        return json.loads(header), document.decode()

    def tell_update(self, shop: str) -> None:
        with suppress(OSError):
            self._updates.send_bytes(shop.encode())

    def await_update(self, shop: str) -> None:
        try:
            if self._updates.poll(UPDATE_SECONDS):
                is_current = self._updates.recv_bytes() == CURRENT
                self.shops = self.shops | {shop} if is_current else self.shops - {shop}
                return
        except (OSError, EOFError):
            pass
        self.end()

    def end(self) -> None:
        """At once: it owns nothing that could be lost."""
        self._process.kill()
        self._process.join()


def _error(header: Mapping[str, str]) -> Exception:
    kind = getattr(errors, header["error"], None)
    if isinstance(kind, type) and issubclass(kind, RecllmError):
        error = kind.__new__(kind)
        Exception.__init__(error, header["message"])
        return error
    return RuntimeError(header["message"])


# --- in the other process ---------------------------------------------------------------------------------------------


def _serve(folders: Mapping[str, str], overrides: Mapping[str, Any], answers: Connection, updates: Connection) -> None:
    """Answers until the other side closes or is gone."""
    from threadpoolctl import threadpool_limits

    log_to_stderr()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which the other process answers by ending this one
    with overridden(overrides):
        shops = {name: LiveShop(Workspace.open(folder), name) for name, folder in folders.items()}
    Thread(target=_update, args=(shops, updates), daemon=True).start()
    with threadpool_limits(1, user_api="blas"), suppress(EOFError, OSError):
        while True:
            request = json.loads(answers.recv_bytes())
            answers.send_bytes(_answer(shops[request["shop"]], request["slate"]))


def _answer(shop: LiveShop, body: Mapping[str, Any]) -> bytes:
    try:
        slate = shop.slate(SlateRequest.model_validate(body))
    except RecllmError as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)}).encode()
    except Exception:
        logger.exception("a slate failed", extra={"shop": shop.name})
        return json.dumps({"error": "", "message": "a slate failed in its process; the log has more"}).encode()
    return json.dumps({"status": slate.status}).encode() + b"\n" + json_text(slate).encode(errors="backslashreplace")


def _update(shops: Mapping[str, LiveShop], updates: Connection) -> None:
    with suppress(EOFError, OSError):
        while True:
            shop, answer = shops[updates.recv_bytes().decode()], b""
            try:
                shop.update()
                answer = CURRENT
            except RecllmError as error:  # the other process has the same trouble, and logs it
                logger.info("not opened: %s", error, extra={"shop": shop.name})
            except Exception:
                logger.exception("not opened", extra={"shop": shop.name})
            updates.send_bytes(answer)
