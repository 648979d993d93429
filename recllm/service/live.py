"""A workspace that answers while it changes: one recommender in memory, exchanged whole when there is a newer one.

A person's events, consent and the present are read from the store for each answer. A thread looks for what else may
have changed: the serving model, the items, people who withdrew and are somebody's neighbour. It opens a new recommender
beside the old one and exchanges the two; an answer is computed by one of them from its beginning to its end. When the
new one cannot be opened, the old one goes on, and `LiveShop.problem` says why.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING

from recllm.errors import RecllmError, StoreError
from recllm.jobs.recommenders import open_recommender
from recllm.recommender.registry import current
from recllm.schema import RecommendRequest, Table
from recllm.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShopMarks:
    """What a recommender in memory was opened from."""

    version: str | None
    """The model's; None before the first training."""
    items: int
    """Number of the last load of items."""
    consent: int
    """Number of the last load of consent."""
    events: int
    """Number of the last load of events where there is no model, 0 otherwise: then histories are read by key."""


class LiveShop:
    """One workspace, opened for answers. `start` opens it and keeps it up to date until `close`.

    name: how requests call it where a service has several shops.
    """

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace = workspace
        self.name = name
        self.n_swaps = 0
        """Recommenders that were exchanged for a newer one since the start."""
        self.problem: str | None = None
        """Why there is no recommender, or none of the newest state; None when all is well."""
        self._opened: tuple[ShopMarks, Recommender] | None = None
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
        return self._opened is not None

    @property
    def version(self) -> str | None:
        """Version of the model that answers; None without one."""
        return self._opened[0].version if self._opened else None

    def recommender(self) -> Recommender:
        """What answers now, at the present of this moment. Raises `StoreError` as long as nothing is open."""
        if self._opened is None:
            raise StoreError(self.problem or f"the shop {self.name} is being opened; try again in a few seconds")
        return self._opened[1].at(present(self.workspace))

    def update(self) -> bool:
        """Open what changed since the last time; whether there is a new recommender.

        Raises what opening raises; the old recommender then stays.
        """
        marks = self._marks()
        if self._opened is not None and self._opened[0] == marks:
            return False
        recommender = open_recommender(self.workspace).warm()
        if recommender.dataset.n_items:  # no caller is to wait for what a first answer imports and reads
            visitor = RecommendRequest(users=("",), k=1, basket=(recommender.dataset.items["item_id"][0],))
            recommender.for_nobody().recommend(visitor)
        self.n_swaps += self._opened is not None
        self._opened = (marks, recommender)
        return True

    def _marks(self) -> ShopMarks:
        version = current(self.workspace.models_dir)
        with self.workspace.store().read() as reader:
            load_no = reader.marks().load_no
        events = 0 if version is not None else load_no.get(Table.EVENTS, 0)
        return ShopMarks(version, load_no.get(Table.ITEMS, 0), load_no.get(Table.CONSENT, 0), events)

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                if self.update():
                    logger.info("a recommender was opened", extra={"shop": self.name, "model_version": self.version})
                self.problem = None
            except RecllmError as error:
                if self.problem != str(error):
                    logger.warning("not opened: %s", error, extra={"shop": self.name})
                self.problem = str(error)
            except Exception as error:  # whatever it is, the old recommender goes on, and the next round tries again
                self.problem = f"{type(error).__name__}; see the log"
                logger.exception("not opened", extra={"shop": self.name})
            self._closing.wait(self.workspace.settings.service.watch_seconds)
