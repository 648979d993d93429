"""A workspace that answers while it changes: one recommender in memory, exchanged whole when there is a newer one.

A person's events, consent and the present are read from the store for each answer. A thread looks for what else may
have changed: the serving model, the items, people who withdrew and are somebody's neighbour. It opens a new recommender
beside the old one and exchanges the two; an answer is computed by one of them from its beginning to its end. When the
new one cannot be opened, the old one goes on, and `LiveShop.problem` says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from recllm.base.errors import ModelError, RecllmError, StoreError
from recllm.base.schema import RecommendRequest, Slate, Table
from recllm.doors.service.everybody import Everybody, ShopMarks
from recllm.doors.service.finder import Finder
from recllm.market.jobs.ad_copy import EFFECT
from recllm.market.jobs.experiments import (
    SlateExperiment,
    list_experiments,
    recommend_in_experiments,
    running_experiment,
)
from recllm.recommend.recommender.registry import current
from recllm.recommend.recommender.shop_recommender import open_recommender, usable_version, with_current_offer
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, present

if TYPE_CHECKING:
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

    name: how requests call it where a service has several shops. followers: told the name after each `update`, and
    waited for: other processes that answer for the same shop.
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
        """The workspace's model of which text works as of the last `update`, opened by the first caller; None without
        one. Raises `ModelError` for a bad one."""
        mark, model = self._effect
        if mark is not None and model is None:
            from recllm.market.jobs.ad_copy import effect_model

            model = effect_model(self.workspace)
            self._effect = mark, model
        return model

    def once_a_day(self, figures: FigureGate, question: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Figures of groups. Callers without exact ones get the first answer of the day (UTC): the change between two
        looks could be what one customer did meanwhile."""
        if figures.is_exact:
            return compute()
        day, answer = self._figures.get(question, (None, None))
        if day != figures.at.date():
            answer = compute()
            self._figures[question] = figures.at.date(), answer
        return answer  # type: ignore[return-value]

    def recommend(self, request: RecommendRequest) -> list[Slate]:
        """The slates of people, each by the treatment of their variant; see `recommend_in_experiments`."""
        serving, treatments = self._opened, self._treatments

        def recommender_of(version: str | None) -> Recommender | None:
            if version is None or (serving is not None and version == serving[0].version):
                return self.recommender()
            of_version = treatments.get(version)
            return None if of_version is None else of_version[1].at(present(self.workspace))

        return recommend_in_experiments(self.workspace, request, self._experiments, recommender_of)

    def update(self) -> bool:
        """Open what changed since the last time; whether there is a new recommender.

        When the serving model cannot be opened and another one answers already, that one goes on with the items and
        people of now, and `problem` says what is wrong; where its own files are gone, too, without new items. Raises
        what opening raises where nothing answers yet, and `StoreError` when the store cannot be read.
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
                except ModelError:  # the files of what answers are gone, too: it goes on in memory
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
                problem = f"the experiment goes on without the model {version}: {error}"
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
        """The recommender in memory with the items of now; None when they are the same as before.

        Its marks stay apart from those of an opened one, so that one is opened as soon as that can be.
        """
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
            except Exception as error:  # whatever it is, the old recommender goes on, and the next round tries again
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
