"""From ranked items to the slate that a caller gets: titles, reasons, headings, notes, and what explored.

A slate explores with the exact probability of every item that it shows:

    positions      0        1        2                     the k best, each kept with probability 1 - share
    ranks          0        1        2
    strata       3 6 9    4 7 10   5 8 11                  pool = 9: ranks 3 to 11, dealt out like cards

Each position is explored independently with probability `share`, and then draws uniformly from a stratum of its own.
So the propensities are exact: 1 - share for the item of the rank itself, share / (size of the stratum) for each item of
the stratum, and 1 where the stratum is empty.

Simplified: an item of the pool has one possible position. So a log of such slates says nothing of a ranking beyond the
pool; `experiments.off_policy` says how much is left out.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.arrays import Floats, Ints, Rows, Values
from recllm.base.errors import UsageError
from recllm.base.questions import RecommendRequest
from recllm.base.schema import (
    ACTION_CODE,
    Action,
    Intent,
    Note,
    NoteKind,
    Objective,
    Reason,
    ReasonKind,
    Recommendation,
    ServedBy,
    Slate,
    SlateStatus,
)
from recllm.base.settings import OfferSettings
from recllm.learn.features.candidates import POPULAR, served_by
from recllm.recommend.recommender.explanation import Explainer
from recllm.recommend.recommender.histories import UserHistory
from recllm.recommend.recommender.intent_items import Remark, shops_weekly
from recllm.recommend.recommender.ranking import NAMESAKES, Ranked
from recllm.shop.data.dataset import DAY, Dataset, utc
from recllm.text.items import ItemNames, reason_text
from recllm.text.templates import Prompts

if TYPE_CHECKING:
    from recllm.recommend.recommender.saved_model import Model

SERVED_BY = {SlateStatus.PERSONAL: ServedBy.SCORER, SlateStatus.TEXT_ONLY: ServedBy.COSINE}
"""What orders a slate of a status; popularity for all the rest."""

WHY_SHORT = (
    NoteKind.SHORT,
    NoteKind.NO_RECENT_PURCHASE,
    NoteKind.NOTHING_GOES_WITH,
    NoteKind.NOTHING_TO_WIN_BACK,
)
"""Notes that say why a slate has fewer items than asked, or none."""


def slate_depth(request: RecommendRequest) -> int:
    """Items that a slate may be made of."""
    return request.k + (request.explore_pool if request.explore_share else 0)


@dataclass(frozen=True, eq=False)
class SlateWriter:
    """The slates of one request."""

    request: RecommendRequest
    dataset: Dataset
    names: ItemNames
    locale: str
    offers: OfferSettings
    model: Model | None
    explainer: Explainer | None
    """None for slates without reasons."""
    buyers_28: Floats
    """People who bought each item in four weeks, (n_items,)."""

    def personal(
        self,
        position: int,
        person: UserHistory,
        ranked: Ranked,
        best: Ints,
        spread: float,
        rng: np.random.Generator,
        *,
        causes: Mapping[int, int],
        remark: Remark | None,
    ) -> Slate:
        """position: of the user in the request. ranked, best: the user's list, and the positions in it that a slate may
        be made of. causes, remark: as `FittingItems.of_offers` gives them."""
        request = self.request
        drawn_from: tuple[str, ...] = ()
        propensities = np.ones(len(best))
        if request.explore_share:
            drawn_from = tuple(self.dataset.item_ids(ranked.item[best].astype(np.int64)))
            best, propensities = explore(best, request.k, request.explore_share, request.explore_pool, rng)
        rows = ranked.item[best].astype(np.int64)
        reasons = [()] * len(best) if self.explainer is None else self.explainer.reasons(person, rows, spread)
        if self.explainer is not None and causes:
            offers = [self._goes_with(causes[row], person) for row in rows.tolist()]
            reasons = [(offer, *measured) for offer, measured in zip(offers, reasons, strict=True)]
        items = self._items(person, ranked, best, propensities, reasons)
        notes: list[Note] = []
        probabilities = [item.probability for item in items if item.probability is not None]
        by_chance = probabilities == sorted(probabilities, reverse=True)
        by_cart = request.basket and request.objective is Objective.PROBABILITY
        if not by_chance and not by_cart and not request.explore_share:
            kind = NoteKind.BY_MARGIN if request.objective is Objective.MARGIN else NoteKind.BY_LIFT
            notes.append(slate_note(kind, self.locale))
        if remark is not None:
            days = remark[1] if self.dataset.step_seconds is None else None
            notes.append(slate_note(remark[0], self.locale, days=days))
        status = SlateStatus.PERSONAL if self.model else SlateStatus.TEXT_ONLY
        return replace(self._slate(position, items, status, notes), ranked=drawn_from)

    def _items(
        self,
        person: UserHistory,
        ranked: Ranked,
        best: Ints,
        propensities: Values,
        reasons: Sequence[tuple[Reason, ...]],
    ) -> tuple[Recommendation, ...]:
        rows = ranked.item[best].astype(np.int64)
        item_ids = self.dataset.item_ids(rows)
        titles = self.names.of(rows.tolist())
        parts = self._parts(person, rows)
        is_weekly = self.dataset.step_seconds is None and shops_weekly(person.events.of(Action.PURCHASE))
        variables = {intent: {"weekly": is_weekly} if intent is Intent.REMIND else {} for intent in {*parts} - {None}}
        prompts = Prompts.load()
        headings = {intent: prompts.render(f"slate.part_{intent}", self.locale, **v) for intent, v in variables.items()}
        return tuple(
            Recommendation(
                rank=n + 1,
                item_id=item_ids[n],
                title=titles[n],
                score=float(ranked.logit[column]),
                cosine=float(ranked.cosine[column]),
                logit=float(ranked.logit[column]),
                mlp=float(ranked.mlp[column]) if self.model else None,
                probability=float(ranked.probability[column]) if self.model else None,
                propensity=float(propensities[n]),
                served_by=served_by(int(ranked.sources[column])) or ("asked_for",),
                reasons=tuple(reasons[n]),
                part=parts[n],
                part_text=headings.get(parts[n], ""),
            )
            for n, column in enumerate(best)
        )

    def first_of_names(self, items: Rows) -> Ints:
        """Positions of the first items, as many as `slate_depth`, of each name only the first."""
        size = slate_depth(self.request)
        if self.request.same_names:
            return np.arange(min(size, len(items)))
        return np.array(self.names.first(items.tolist())[:size], np.int64)

    def popular(self, position: int, order: Ints, status: SlateStatus) -> Slate:
        """order: rows of the items that may be shown, those that more people bought lately first."""
        k, depth = self.request.k, self.request.k + NAMESAKES
        rows = order[:depth][self.first_of_names(order[:depth])][:k]
        while len(rows) < k and depth < len(order):
            depth *= 4
            rows = order[:depth][self.first_of_names(order[:depth])][:k]
        reason = Reason(evidence_id="general", delta=0.0, text=reason_text("popular", self.locale, category=None))
        item_ids = self.dataset.item_ids(rows)
        titles = self.names.of(rows.tolist())
        items = tuple(
            Recommendation(
                rank=n + 1,
                item_id=item_ids[n],
                title=titles[n],
                score=float(self.buyers_28[row]),
                cosine=None,
                logit=None,
                probability=None,
                served_by=(POPULAR,),
                reasons=(reason,),
            )
            for n, row in enumerate(rows.tolist())
        )
        return self._slate(position, items, status, [])

    def _parts(self, person: UserHistory, rows: Ints) -> list[Intent | None]:
        """What each item is to the person; None where all is new to them, as they bought nothing."""
        bought = frozenset(person.events.of(Action.PURCHASE).item.tolist())
        intent = self.request.intent
        if intent in (Intent.CROSS_SELL, Intent.WIN_BACK):
            return [intent if bought or intent is Intent.CROSS_SELL else None] * len(rows)
        return [(Intent.REMIND if row in bought else Intent.DISCOVER) if bought else None for row in rows.tolist()]

    def _goes_with(self, cause: int, person: UserHistory) -> Reason:
        """The purchase, or the item in the cart, that an offer goes with."""
        events, item_id = person.events, self.dataset.items["item_id"][cause]
        bought = events.at[(events.item == cause) & (events.action == ACTION_CODE[Action.PURCHASE])]
        days = None if not len(bought) else (self.dataset.as_of - int(bought.max())) / DAY
        in_cart = days is None or days > self.offers.cross_sell_days
        days_since = None if in_cart or self.dataset.step_seconds is not None else days
        title = self.names.of([cause])[0]
        text = reason_text("goes_with", self.locale, title=title, days_since=days_since, in_cart=in_cart)
        return Reason(evidence_id=f"B:{item_id}", delta=0.0, text=text, kind=ReasonKind.TOGETHER)

    def _slate(self, position: int, items: tuple[Recommendation, ...], status: SlateStatus, notes: list[Note]) -> Slate:
        if len(items) < self.request.k:
            notes = [*notes, slate_note(NoteKind.SHORT, self.locale, shown=len(items), k=self.request.k)]
        words = [] if status is SlateStatus.PERSONAL else [Prompts.load().render(f"slate.{status}", self.locale)]
        words += [note.text for note in notes if note.kind in WHY_SHORT]
        model = self.model if status is SlateStatus.PERSONAL else None
        return Slate(
            user_id=self.request.users[position],
            request_id=uuid.uuid4().hex,
            as_of=utc(self.dataset.as_of),
            model_version=model.version if model else None,
            horizon_days=model.horizon_days if model else None,
            items=items,
            status=status,
            served_by=SERVED_BY.get(status, ServedBy.POPULAR),
            propensity=math.prod(item.propensity for item in items),
            notes=tuple(notes),
            degraded_reason="; ".join(words) or None,
        )


def slate_note(kind: NoteKind, locale: str, **numbers: float | None) -> Note:
    """What is said of a slate, in words."""
    text = Prompts.load().render(f"slate.{kind}", locale, **numbers)
    return Note(kind=kind, numbers={n: value for n, value in numbers.items() if value is not None}, text=text)


def stratum(position: int, k: int, n_ranked: int, pool: int) -> range:
    """The ranks, from 0, that an explored position draws from."""
    return range(k + position, min(k + pool, n_ranked), k)


def explore(ranked_item_rows: Rows, k: int, share: float, pool: int, rng: np.random.Generator) -> tuple[Ints, Values]:
    """The rows to show and the probability of each, both (min(k, n),), in the order of the positions.

    ranked_item_rows: (n,), best first, no row twice; n of k + pool and more fills every stratum. share: in [0, 1].
    pool: number of ranks after the first k, from 0. Raises `UsageError` for a value out of its range, or a row twice.
    """
    if k < 1 or pool < 0 or not 0 <= share <= 1:
        raise UsageError(f"k is {k}, pool {pool}, share {share}; give k from 1, pool from 0, and a share of 0 to 1")
    ranked = np.asarray(ranked_item_rows, np.int64)[: k + pool]
    if ranked.ndim != 1 or len(set(ranked.tolist())) < len(ranked):
        raise UsageError("ranked_item_rows: give each row once, best first")
    strata = [stratum(position, k, len(ranked), pool) for position in range(min(k, len(ranked)))]
    sizes = np.array([len(ranks) for ranks in strata], np.int64)
    # the same number of draws whatever is explored: a slate of a seed differs by its own ranking alone
    is_explored = (rng.random(len(sizes)) < share) & (sizes > 0)
    drawn = (rng.random(len(sizes)) * sizes).astype(np.int64)
    ranks = [ranks[drawn[j]] if is_explored[j] else j for j, ranks in enumerate(strata)]
    greedy_propensities = np.where(sizes > 0, 1 - share, 1.0)
    return ranked[ranks], np.where(is_explored, share / np.maximum(sizes, 1), greedy_propensities)
