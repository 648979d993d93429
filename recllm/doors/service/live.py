"""A workspace that answers while it changes: one recommender in memory, exchanged whole when there is a newer one.

A person's events, consent and the present are read from the store for each answer. A thread looks for other changes:
the serving model, the items, neighbours who withdrew. It opens a new recommender and exchanges the two; one of them
computes an answer from its beginning to its end. When the new one cannot be opened, the old one stays, and
`LiveShop.problem` says why.

Slates are computed in further processes, one request at a time each. The first process owns the HTTP interface, what is
written and the jobs. The others open what is new when the first one says so, which waits for them: an acknowledged
change is in force in all of them. A process that dies is started again, and the first one answers its request.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from recllm.base.documents import json_text
from recllm.base.errors import ModelError, RecllmError, StoreError
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Slate, SlateStatus, Table
from recllm.doors.service.everybody import Everybody, ShopMarks
from recllm.doors.service.finder import Finder
from recllm.doors.service.requests import SlateRequest
from recllm.market.experiments.effect import Experiment
from recllm.market.experiments.slates import list_experiments, recommend_in_experiments, running_experiment
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import current
from recllm.recommend.recommender.shop_recommender import open_recommender, usable_version, with_current_offer
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.sessions import session_pseudonyms
from recllm.shop.ingest.workspace_load import record_shown
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, call_overrides, overridden, present
from recllm.text.encoder.hardware import usable_cores
from recllm.text.log_lines import log_to_stderr

Opened = tuple[ShopMarks, Recommender]
"""A recommender, and what it was opened from."""

logger = logging.getLogger(__name__)

T = TypeVar("T")

NEVER = -1
"""No load of consent: of a recommender that is older than the store's consent may be."""


class LiveShop:
    """One workspace, opened for answers. `start` opens it and keeps it up to date until `close`.

    name: of the shop in requests, where a service has several. followers: called with the name after each `update`:
    other processes that answer for the same shop, which are waited for.
    """

    def __init__(self, workspace: Workspace, name: str, followers: Callable[[str], None] | None = None) -> None:
        self.workspace = workspace
        self.name = name
        self.n_swaps = 0
        """Recommenders that were exchanged for a newer one since the start."""
        self.problem: str | None = None
        """Why there is no recommender, or none of the newest state; None when all is well."""
        self.store_problem: str | None = None
        """Why the store could not be read when it was last tried; None when it could."""
        self.finder = Finder()
        self.everybody = Everybody(workspace)
        self._followers = followers
        self._lock = Lock()
        self._opened: Opened | None = None
        self._experiments: list[Experiment] = []
        self._treatments: dict[str, Opened] = {}
        """Of the versions that the running experiment shows besides the serving one."""
        self._figures: dict[tuple[object, ...], tuple[date, Any]] = {}
        """Question -> the day of its answer, and the answer."""
        self._closing = Event()
        self._thread = Thread(target=self._watch, name=f"watch {name}", daemon=True)

    def start(self) -> None:
        """Open the recommender in the background; `ready` becomes true."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the workspace."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self.workspace.close()

    @property
    def ready(self) -> bool:
        """Whether answers can be given."""
        return self._opened is not None and self.store_problem is None

    @property
    def version(self) -> str | None:
        """Version of the model that answers; None without one."""
        return self._opened[0].version if self._opened else None

    def recommender(self) -> Recommender:
        """What answers now, at the present of this moment.
        Raises `StoreError` as long as nothing is open."""
        if self._opened is None:
            raise StoreError(self.problem or f"the shop {self.name} is being opened; try again in a few seconds")
        return self._opened[1].at(present(self.workspace))

    def once_a_day(self, figures: FigureGate, question: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Figures of groups; callers without exact ones get the first answer of the day (UTC)."""
        if figures.is_exact:
            return compute()
        day, answer = self._figures.get(question, (None, None))
        if day != figures.at.date():
            answer = compute()
            self._figures[question] = figures.at.date(), answer
        return answer  # type: ignore[return-value]

    def visitor(self, user_id: str | None, session_id: str | None) -> tuple[Recommender, str]:
        """The recommender that knows a visitor, and the id to ask it with; "" for one without an id."""
        recommender = self.recommender()
        if session_id is not None:
            return recommender.for_ids(lambda ids: session_pseudonyms(self.workspace, ids)), session_id
        return (recommender, user_id) if user_id is not None else (recommender.for_nobody(), "")

    def slate(self, body: SlateRequest) -> Slate:
        """The answer to a request, by the treatment of the customer's variant; recorded as shown where asked."""
        if body.user_id is None:
            recommender, visitor = self.visitor(None, body.session_id)
            (slate,) = recommender.recommend(body.request(visitor))
            if body.record and visitor:
                record_shown(self.workspace, [slate], names=[self.workspace.session_pseudonymiser().one(visitor)])
            return slate
        name = self.workspace.pseudonymiser().one(body.user_id)
        serving, treatments = self._opened, self._treatments

        def recommender_of(version: str | None) -> Recommender | None:
            if version is None or (serving is not None and version == serving[0].version):
                return self.recommender().by_pseudonym()
            of_version = treatments.get(version)
            return None if of_version is None else of_version[1].at(present(self.workspace)).by_pseudonym()

        (slate,) = recommend_in_experiments(
            self.workspace, body.request(name), self._experiments, recommender_of, by_pseudonym=True
        )
        slate = replace(slate, user_id=body.user_id)
        if body.record:
            record_shown(self.workspace, [slate], names=[name])
        return slate

    def update(self) -> bool:
        """Open what changed since the last time; whether there is a new recommender.

        When the serving model cannot be opened and another one answers already, that one stays with current items and
        people, and `problem` says what is wrong; without its own files it stays as it is. Raises the error of opening
        where nothing answers yet, and `StoreError`.
        """
        with self._lock:
            with self.workspace.store().read() as reader:
                load_no = reader.marks().load_no
            self.store_problem = None
            old, problem = self._opened, None
            try:
                version = usable_version(self.workspace)
                none_serves = current(self.workspace.models_dir) is None
                if none_serves and old is not None and old[0].version is not None:
                    raise ModelError("no model is the current one any more; run: recllm models --promote VERSION")
                new = self._open(version, load_no, old)
            except ModelError as error:
                if old is None:
                    raise
                problem = str(error)
                try:
                    new = self._open(old[0].version, load_no, old)
                except ModelError:  # its files are gone too: it stays in memory, with the current items
                    marks = replace(old[0], items=load_no.get(Table.ITEMS, 0), consent=NEVER)
                    new = None if marks == old[0] else (marks, with_current_offer(self.workspace, old[1]))
            if new is not None:
                self.n_swaps += old is not None
                self._opened = new
            self.problem = self._update_treatments(load_no) or problem
            if self._followers is not None:
                self._followers(self.name)
            return new is not None

    def _update_treatments(self, load_no: Mapping[Table, int]) -> str | None:
        """Opens what the running experiment shows besides the serving model; in one line what cannot be opened."""
        experiments = list_experiments(self.workspace)
        running = running_experiment(experiments, utc(present(self.workspace)))
        treatments: dict[str, Opened] = {}
        problem = None
        for variant in () if running is None else running.variants:
            version = variant.treatment.model
            if version is None or version == self.version or version in treatments:
                continue
            try:
                new = self._open(version, load_no, self._treatments.get(version))
            except ModelError as error:
                problem = f"the experiment continues without the model {version}: {error}"
            else:
                treatments[version] = new or self._treatments[version]
        self._treatments, self._experiments = treatments, experiments
        return problem

    def _open(self, version: str | None, load_no: Mapping[Table, int], before: Opened | None) -> Opened | None:
        """A recommender with this model; None when the one before was made from the same."""
        events = 0 if version is not None else load_no.get(Table.EVENTS, 0)
        loads = (load_no.get(Table.ITEMS, 0), load_no.get(Table.CONSENT, 0), events)
        marks = ShopMarks(version, newest_state(self.workspace, version), *loads)
        if before is not None and before[0] == marks:
            return None
        # the weights of one model's encoder are loaded once, however often its items or people change
        encoder = before[1].encoder if before is not None and before[0].version == version else None
        recommender = open_recommender(self.workspace, version=version, encoder=encoder).warm()
        if recommender.dataset.n_items:  # no caller is to wait for what a first answer imports and reads
            visitor = RecommendRequest(users=("",), k=1, basket=(recommender.dataset.items["item_id"][0],))
            recommender.for_nobody().recommend(visitor)
        return marks, recommender

    def _watch(self) -> None:
        stated = self.workspace.settings.service.load_encoder
        loads_encoder = self._followers is not None if stated is None else stated
        while not self._closing.is_set():
            before = self.problem
            try:
                if self.update():
                    logger.info("a recommender was opened", extra={"shop": self.name, "model_version": self.version})
                if self._opened is not None and loads_encoder:
                    self.finder.warm(self._opened[1].encoder)
            except RecllmError as error:
                self.problem = str(error)
                self.store_problem = str(error) if isinstance(error, StoreError) else None
            except Exception as error:  # the old recommender stays, and the next round tries again
                self.problem = f"{type(error).__name__}; see the log"
                logger.exception("not opened", extra={"shop": self.name})
            if self.problem not in (None, before):
                logger.warning("not served: %s", self.problem, extra={"shop": self.name})
            self._closing.wait(self.workspace.settings.service.watch_seconds)


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
        """Status and JSON of a slate, computed here where no process is free or it could not. Raises as
        `LiveShop.slate` does."""
        process = None
        with suppress(Empty):
            while process is None or not process.is_alive:
                process = self._free.get_nowait()
        if process is not None and process.is_alive:
            try:
                request = {"shop": shop.name, "slate": body.model_dump(mode="json")}
                if shop.name in process.shops and (reply := process.ask(request)):
                    status, _, document = reply.partition("\n")
                    return SlateStatus(status), document
            except (OSError, EOFError):  # the next update starts it again
                process.end()
                logger.warning("a process of slates ended; its request is answered by this one")
            finally:
                if process.is_alive:
                    self._free.put(process)
        slate = shop.slate(body)
        return slate.status, json_text(slate)

    def update(self, shop: str) -> None:
        """Let every process open what is new of a shop, and wait for them; start those that are missing."""
        with self._lock:
            _update_all([process for process in self._processes if process and process.is_ready], shop)
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
            _update_all([process], shop)
        with self._lock:
            for shop in self._folders:  # what changed since is seen before the first answer
                _update_all([process], shop)
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

    def ask(self, request: Mapping[str, Any]) -> str:
        """Status and JSON in two lines; "" where it could not answer. Raises `EOFError` or `OSError` when it died or
        takes too long."""
        self._answers.send_bytes(json.dumps(request).encode())
        if not self._answers.poll(ANSWER_SECONDS):
            raise EOFError
        return self._answers.recv_bytes().decode()

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


def _update_all(processes: list[_SlateProcess], shop: str) -> None:
    """At the same time."""
    for process in processes:
        process.tell_update(shop)
    for process in processes:
        process.await_update(shop)


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
    except RecllmError:  # the other process tries, and says why it cannot
        return b""
    except Exception:
        logger.exception("a process of slates could not answer; the service tries")
        return b""
    return f"{slate.status}\n{json_text(slate)}".encode(errors="backslashreplace")


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
