"""Who to reach: everybody's probability, who is left out and why, the cut, the reasons, and what the group is like."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.exclusions import Exclusions, reasons_against
from recllm.audiences.group import Difference, differences
from recllm.audiences.lookalikes import likeness
from recllm.audiences.probabilities import UNTRAINED, Chances, chances
from recllm.audiences.reasons import reasons_for
from recllm.audiences.selection import CUT, WORTHLESS, Cut, Selection, check_floor, select
from recllm.audiences.set_calibration import of_set
from recllm.audiences.targets import Target, category_target, item_target, text_target
from recllm.data.dataset import USER_COLUMN, utc
from recllm.errors import NotFittedError, UsageError
from recllm.schema import Action, Reason

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One person of an audience. user_id: the dataset's, a pseudonym where the shop's ids are kept apart."""

    user_id: str
    probability: float | None
    """Calibrated, in [0, 1], that they take one of the items within the horizon; None for a likeness by few seeds."""
    score: float
    """What people were ordered by: minus the log of the probability of taking none, or the likeness."""
    item_id: str | None
    """The item of the target that suits them best; None for a likeness."""
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Audience:
    """people: best first. known = len(people) + len(held) + the sum of `excluded`."""

    campaign_id: str
    as_of: datetime
    horizon_days: int
    model_version: str | None
    items: tuple[str, ...]
    people: tuple[Reached, ...]
    held: tuple[str, ...]
    """Who is not addressed, for comparison."""
    excluded: dict[str, int]
    group: tuple[Difference, ...]
    expected_conversions: float | None
    """Sum of the probabilities of `people`; None for a likeness."""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return len(self.people)


@dataclass(frozen=True, eq=False)
class Pool:
    """Who could be reached. rows: people that nothing speaks against; found: their chances; excluded: the others."""

    target: Target
    rows: NDArray[np.int64]
    found: Chances
    excluded: dict[str, int]


def audience(
    recommender: Recommender,
    *,
    items: Sequence[str] | None = None,
    category: str | None = None,
    text: str | None = None,
    seeds: Collection[str] | None = None,
    cut: Cut | None = None,
    exclusions: Exclusions | None = None,
    campaign: str | None = None,
    explain: bool = True,
) -> Audience:
    """The people to reach for items, a category, a text, or because they are like `seeds`: one of the four. A text
    may come with the category of the item it stands for.

    campaign: names the holdout's draw; the target's own name when None. explain: give each person's reasons.

    The people of the dataset are those who agreed to personalisation. An audience that exclusions or cuts leave empty
    is an answer, with the counts. Raises `UsageError` for an unknown item or empty category, `NotFittedError` without a
    trained model, `PolicyError` for a sensitive target or a group of fewer people than the policy's floor.
    """
    given = [items, category if text is None else None, text, seeds]
    if sum(one is not None for one in given) != 1:
        raise UsageError("an audience is for items, a category, a text or seeds: give one of them")
    cut, rules = cut or Cut(), exclusions or Exclusions()
    if seeds is not None:
        return _finish(recommender, _alike(recommender, seeds, rules), cut, campaign, explain=False)
    recommender, target = _target(recommender, items, category, text)
    return _finish(recommender, pool(recommender, target, rules), cut, campaign, explain=explain)


def pool(recommender: Recommender, target: Target, rules: Exclusions) -> Pool:
    """Everybody whom nothing speaks against, with their chances. Raises `NotFittedError` without a trained model."""
    against = reasons_against(recommender, target.items, rules)
    rows = np.flatnonzero(~np.logical_or.reduce(list(against.values())))
    found = of_set(recommender, target.items, chances(recommender, target.items, rows))
    return Pool(target, rows, found, _counts(against))


def _target(
    recommender: Recommender, items: Sequence[str] | None, category: str | None, text: str | None
) -> tuple[Recommender, Target]:
    if recommender.model is None:
        raise NotFittedError(UNTRAINED)
    if text is not None:
        return text_target(recommender, text, category)
    if category is not None:
        return recommender, category_target(recommender, category)
    return recommender, item_target(recommender, items or ())


def _alike(recommender: Recommender, seeds: Collection[str], rules: Exclusions) -> Pool:
    nothing = np.zeros(0, np.int64)
    rows = np.unique(recommender.user_rows(list(seeds)))
    rows = rows[rows >= 0]
    against = reasons_against(recommender, nothing, rules, seeds)
    open_rows = np.flatnonzero(~np.logical_or.reduce(list(against.values())))
    alike = likeness(recommender, rows, open_rows)
    found = Chances(alike.score, np.full(len(open_rows), -1), None)
    target = Target(f"like {len(rows)} seeds", nothing, (alike.note,))
    return Pool(target, open_rows, found, _counts(against))


def _counts(against: dict[str, NDArray[np.bool_]]) -> dict[str, int]:
    return {reason: int(mask.sum()) for reason, mask in against.items() if mask.any()}


def _finish(recommender: Recommender, found: Pool, cut: Cut, campaign: str | None, *, explain: bool) -> Audience:
    name = campaign or found.target.name
    chosen = select(found.found.order, found.found.probability, names_of(recommender, found), name, cut)
    return answer(recommender, found, chosen, name, explain=explain)


def names_of(recommender: Recommender, found: Pool) -> list[str]:
    """The dataset's id of each of the pool's people."""
    return recommender.dataset.users[USER_COLUMN].gather(found.rows).to_list()


def answer(recommender: Recommender, found: Pool, chosen: Selection, name: str, *, explain: bool) -> Audience:
    """The audience that was chosen from a pool. Raises `PolicyError` for fewer people than the policy's floor."""
    check_floor(len(chosen.addressed), recommender.policy.group_floor)
    left, p = {WORTHLESS: chosen.worthless, CUT: chosen.beyond}, found.found.probability
    ids, reached = names_of(recommender, found), found.rows[chosen.addressed]
    rest = np.setdiff1d(found.rows, reached)
    return Audience(
        campaign_id=name,
        as_of=utc(recommender.dataset.as_of),
        horizon_days=recommender.model.horizon_days if recommender.model else 0,
        model_version=recommender.model.version if recommender.model else None,
        items=tuple(recommender.dataset.items["item_id"].gather(found.target.items).to_list()),
        people=_people(recommender, found, chosen, ids, explain),
        held=tuple(ids[place] for place in chosen.held),
        excluded=found.excluded | {reason: n for reason, n in left.items() if n},
        group=differences(recommender.dataset, reached, rest, recommender.policy),
        expected_conversions=None if p is None else float(p[chosen.addressed].sum(dtype=np.float64)),
        notes=(*found.target.notes, *_of_the_model(recommender)),
    )


def _of_the_model(recommender: Recommender) -> tuple[str, ...]:
    """What counts as a conversion, where it is not only a purchase."""
    counted = recommender.population.settings.target
    return () if counted == (Action.PURCHASE,) else (f"a conversion is any of: {', '.join(counted)}",)


def _people(
    recommender: Recommender, found: Pool, chosen: Selection, ids: Sequence[str], explain: bool
) -> tuple[Reached, ...]:
    places, chances = chosen.addressed, found.found
    best = chances.best[places]
    why = reasons_for(recommender, found.rows[places], best) if explain else [()] * len(places)
    names = recommender.dataset.items["item_id"]
    return tuple(
        Reached(
            user_id=ids[place],
            probability=None if chances.probability is None else float(chances.probability[place]),
            score=float(chances.order[place]),
            item_id=names[int(item)] if item >= 0 else None,
            reasons=reasons,
        )
        for place, item, reasons in zip(places, best, why, strict=True)
    )
