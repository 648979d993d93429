"""The figures of a shop's first page, counted in a thread: a page shows the last ones at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from recllm.base.errors import RecllmError
from recllm.base.schema import Table
from recllm.doors.service.live import LiveShop
from recllm.market.campaigns.today import OccasionSuggestion, ShopFigures, shop_figures, suggest

logger = logging.getLogger(__name__)


def _suggestions(shop: LiveShop) -> tuple[OccasionSuggestion, ...]:
    """None of a log that has no times, or of a shop that has no events yet."""
    try:
        return tuple(suggest(shop.workspace, shop.recommender if shop.ready else None))
    except RecllmError as error:
        logger.info("no suggestions: %s", error)
    except Exception:  # the other figures do not depend on it
        logger.exception("suggestions were not found")
    return ()


@dataclass(eq=False)
class FigureCache:
    """The last figures of each shop; newer ones are counted in a thread when the store has changed, or the recommender
    was opened, which knows the goods of a day."""

    _figures: dict[str, tuple[tuple[int, int, bool], ShopFigures]] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def latest(self, shop: LiveShop) -> ShopFigures | None:
        """The last figures without counting any; None before the first ones."""
        latest = self._figures.get(shop.name)
        return None if latest is None else latest[1]

    def get(self, shop: LiveShop) -> ShopFigures | None:
        """The last figures, perhaps of a moment ago; None while the first ones are counted. Raises `StoreError`."""
        with shop.workspace.store().read() as reader:
            marks, counts = reader.marks(), reader.counts()
        state = (marks.event_no, sum(marks.load_no.get(table, 0) for table in Table), shop.ready)
        latest = self._figures.get(shop.name)
        if latest is None or latest[0] != state:
            with self._lock:
                if shop.name not in self._running:
                    self._running.add(shop.name)
                    threading.Thread(target=self._count, args=(shop, state, counts), daemon=True).start()
        return None if latest is None else latest[1]

    def _count(self, shop: LiveShop, state: tuple[int, int, bool], counts: Mapping[str, int]) -> None:
        try:
            before = self._figures.get(shop.name)
            figures = shop_figures(shop.workspace, counts)
            self._figures[shop.name] = (state, replace(figures, suggestions=before and before[1].suggestions))
            self._figures[shop.name] = (state, replace(figures, suggestions=_suggestions(shop)))
        except Exception:  # the next visit tries again
            logger.exception("figures were not counted", extra={"shop": shop.name})
        finally:
            with self._lock:
                self._running.discard(shop.name)
