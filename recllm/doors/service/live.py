"""A workspace that answers while it changes: one recommender in memory, exchanged whole when there is a newer one.

A person's events, consent and the present are read from the store for each answer. A thread looks for other changes:
the serving model, the items, neighbours who withdrew. It opens a new recommender and exchanges the two; one of them
computes an answer from its beginning to its end. When the new one cannot be opened, the old one stays, and
`LiveShop.problem` says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from enum import StrEnum
from functools import lru_cache
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from recllm.base.errors import ModelError, RecllmError, StoreError
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Slate, Table
from recllm.doors.service.everybody import Everybody, ShopMarks
from recllm.doors.service.requests import SlateRequest
from recllm.doors.service.visitor_sessions import session_pseudonyms
from recllm.market.adcopy.ads import EFFECT
from recllm.market.experiments.slates import (
    SlateExperiment,
    list_experiments,
    recommend_in_experiments,
    running_experiment,
)
from recllm.recommend.recommender.registry import current
from recllm.recommend.recommender.shop_recommender import open_recommender, usable_version, with_current_offer
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import record_shown
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, present
from recllm.text.encoder.cache import CachedEncoder
from recllm.text.word_index import WordIndex

if TYPE_CHECKING:
    import polars as pl

    from recllm.base.schema import Encoder, FloatArray
    from recllm.learn.models.effect import EffectModel
    from recllm.recommend.recommender.recommender import Recommender

logger = logging.getLogger(__name__)

T = TypeVar("T")


NEVER = -1
"""No load of consent: of a recommender that is older than the store's consent may be."""


EffectMark = tuple[int, int]
"""Time of the last change and inode of an effect model's card, which is written last and removed first."""


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
        self._effect: tuple[EffectMark | None, EffectModel | None] = None, None
        self._followers = followers
        self._lock = Lock()
        self._opened: tuple[ShopMarks, Recommender] | None = None
        self._experiments: list[SlateExperiment] = []
        self._treatments: dict[str, tuple[ShopMarks, Recommender]] = {}
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
        """What answers now, at the present of this moment. Raises `StoreError` as long as nothing is open."""
        if self._opened is None:
            raise StoreError(self.problem or f"the shop {self.name} is being opened; try again in a few seconds")
        return self._opened[1].at(present(self.workspace))

    def effect(self) -> EffectModel | None:
        """The model of which text works, opened by the first caller; None without one. Raises `ModelError`."""
        mark, model = self._effect
        if mark is not None and model is None:
            from recllm.market.adcopy.ads import effect_model

            model = effect_model(self.workspace)
            self._effect = mark, model
        return model

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
            effect = _effect_mark(self.workspace)
            if effect != self._effect[0]:
                self._effect = effect, None
            old, problem = self._opened, None
            try:
                version = usable_version(self.workspace)
                none_serves = current(self.workspace.models_dir) is None
                if none_serves and old is not None and old[0].version is not None:
                    raise ModelError("no model is the current one any more; run: recllm models promote VERSION")
                new = self._open(version, load_no, old)
            except ModelError as error:
                if old is None:
                    raise
                problem = str(error)
                try:
                    new = self._open(old[0].version, load_no, old)
                except ModelError:  # its files are gone too: it stays in memory
                    new = self._with_current_offer(old, load_no)
            if new is not None:
                self.n_swaps += old is not None
                self._opened = new
            problem = self._update_treatments(load_no) or problem
            self.problem = problem
            if self._followers is not None:
                self._followers(self.name)
            return new is not None

    def _update_treatments(self, load_no: Mapping[Table, int]) -> str | None:
        """Opens what the running experiment shows besides the serving model; in one line what cannot be opened."""
        experiments = list_experiments(self.workspace)
        running = running_experiment(experiments, utc(present(self.workspace)))
        treatments: dict[str, tuple[ShopMarks, Recommender]] = {}
        problem = None
        for treatment in () if running is None else running.treatments.values():
            version = treatment.model
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

    def _open(
        self, version: str | None, load_no: Mapping[Table, int], before: tuple[ShopMarks, Recommender] | None
    ) -> tuple[ShopMarks, Recommender] | None:
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

    def _with_current_offer(
        self, before: tuple[ShopMarks, Recommender], load_no: Mapping[Table, int]
    ) -> tuple[ShopMarks, Recommender] | None:
        """The recommender in memory with the current items, under marks of its own; None when they are the same."""
        marks = replace(before[0], items=load_no.get(Table.ITEMS, 0), consent=NEVER)
        return None if marks == before[0] else (marks, with_current_offer(self.workspace, before[1]))

    def _watch(self) -> None:
        loads_encoder = self.workspace.settings.service.load_encoder
        if loads_encoder is None:
            loads_encoder = self._followers is not None
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


def _effect_mark(workspace: Workspace) -> EffectMark | None:
    from recllm.learn.models.effect import CARD

    try:
        status = (workspace.root / EFFECT / CARD).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


# --- search -----------------------------------------------------------------------------------------------------------

MAX_QUERIES = 1_000
"""Vectors of queries that are kept, in memory alone."""

RETRY_SECONDS, MAX_RETRY_SECONDS = 30.0, 3_600.0
"""Pause after the first failed load of an encoder; each failure doubles it, up to the maximum."""


class VectorState(StrEnum):
    """Whether queries are encoded."""

    COLD = "cold"
    """Before the first search."""
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """The log says why. Queries go by words until a later try succeeds."""


class Finder:
    """The word index of the newest catalogue, and the encoder's vectors of queries. No query is written to disk."""

    def __init__(self) -> None:
        self.vectors = VectorState.COLD
        self._index: WordIndex | None = None
        self._items: pl.DataFrame | None = None
        self._fingerprint: str | None = None
        self._pause, self._next_try = RETRY_SECONDS, 0.0
        self._lock, self._encoding = Lock(), Lock()
        self._encode: Any = None

    def index(self, items: pl.DataFrame) -> WordIndex:
        """Of these items; built once, and grown by what is new in them."""
        with self._lock:
            if self._index is None or self._items is not items:
                self._index = (self._index or WordIndex.of(items[:0])).grown(items)
                self._items = items
            return self._index

    def vector(self, encoder: Encoder, query: str) -> FloatArray | None:
        """Unit (dim,); None as long as the encoder is not loaded, which the first query sets off."""
        self.warm(encoder)
        if self.vectors is not VectorState.READY or self._fingerprint != encoder.fingerprint:
            return None
        with self._encoding:
            vector: FloatArray = self._encode(query)
        return vector

    def warm(self, encoder: Encoder) -> None:
        """Load the encoder in the background, unless it is loaded; most encoders load torch with it."""
        with self._lock:
            if self._fingerprint != encoder.fingerprint:
                self._pause = RETRY_SECONDS
            elif self.vectors is not VectorState.FAILED or time.monotonic() < self._next_try:
                return
            self._fingerprint, self.vectors = encoder.fingerprint, VectorState.LOADING
        Thread(target=self._load, args=(encoder,), name="load encoder", daemon=True).start()

    def _load(self, encoder: Encoder) -> None:
        bare = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder

        @lru_cache(maxsize=MAX_QUERIES)
        def encode(query: str) -> Any:
            return bare.encode([query], kind="query")[0]

        try:
            with self._encoding:
                encode("warm")
            state = VectorState.READY
        except Exception as error:  # whatever a library raises, queries go by words
            logger.warning("the text encoder cannot be loaded: %s", error, exc_info=not isinstance(error, RecllmError))
            state = VectorState.FAILED
        with self._lock:
            if self._fingerprint == encoder.fingerprint:
                self._encode, self.vectors = encode, state
                self._next_try = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, MAX_RETRY_SECONDS)
