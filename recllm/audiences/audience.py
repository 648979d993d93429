"""Who to reach: everybody's probability, who is left out and why, the cut, the reasons, and what the group is like."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.exclusions import Consents, ExclusionReason, exclusion_masks
from recllm.audiences.lookalikes import likeness
from recllm.audiences.probabilities import UserScores, target_probabilities, trained_model
from recllm.audiences.reasons import reasons_for
from recllm.audiences.request import AudienceRequest, Exclusions
from recllm.audiences.selection import Selection, check_floor, select
from recllm.audiences.targets import AudienceTarget, audience_target
from recllm.audiences.traits import AudienceTrait, distinguishing_traits
from recllm.data.dataset import USER_COLUMN, utc
from recllm.documents import guarded, plain, write_csv
from recllm.schema import Action, Reason

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

logger = logging.getLogger(__name__)

CSV_COLUMNS = ("user_id", "probability", "item_id", "reasons")

MAX_LISTED_ITEMS = 100
"""Items of a wide category beyond so many are not listed in a document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceMember:
    """One person who is addressed."""

    user_id: str
    """The dataset's: a pseudonym where the shop's ids are kept apart."""
    probability: float | None
    """Calibrated, in [0, 1], that they buy one of the items within the horizon; None for a likeness."""
    score: float
    """What people were ordered by: minus the log of the probability of buying none, or the likeness."""
    item_id: str | None
    """The item of the target that suits them best; None for a likeness."""
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Everybody who is known is a member, in the holdout, or counted among the excluded."""

    campaign_id: str
    as_of: datetime
    horizon_days: int
    model_version: str | None
    items: tuple[str, ...]
    people: tuple[AudienceMember, ...]
    """Best first."""
    holdout: tuple[str, ...]
    """Who is not addressed, for comparison."""
    excluded: dict[str, int]
    """`ExclusionReason` -> people."""
    group: tuple[AudienceTrait, ...]
    """What sets the members apart from the people who could have been reached and are not."""
    expected_conversions: float | None
    """Sum of the probabilities of `people`; None for a likeness."""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return len(self.people)

    def with_unconsented(self, n: int) -> Audience:
        """The same with `n` more people counted among those without consent, whom the recommender does not know."""
        reason = ExclusionReason.NO_CONSENT
        counts = {reason: self.excluded.get(reason, 0) + n} if n > 0 else {}
        return replace(self, excluded=counts | {k: v for k, v in self.excluded.items() if k not in counts})


@dataclass(frozen=True, eq=False)
class EligiblePool:
    """Who could be reached: the people that nothing speaks against."""

    target: AudienceTarget
    user_rows: NDArray[np.int64]
    """(n,), ascending."""
    user_ids: list[str]
    """(n,), the dataset's ids."""
    scores: UserScores
    """Of the n people."""
    excluded: dict[str, int]
    """`ExclusionReason` -> people who are not in the pool."""


def find_audience(recommender: Recommender, request: AudienceRequest, *, agreed: Consents | None = None) -> Audience:
    """The people to reach.

    The people of the dataset are those who agreed to personalisation; agreed: who agreed to the request's channel too.
    An audience that exclusions or limits leave empty is an answer, with the counts. Raises `UsageError` for an unknown
    item, an empty category or unknown seeds, `NotFittedError` without a trained model, `PolicyError` for a sensitive
    target or a group of fewer people than the policy's floor.
    """
    started, explain = time.perf_counter(), request.explain
    if request.seeds is not None:
        pool, explain = lookalike_pool(recommender, request.seeds, request.exclusions, agreed), False
    else:
        trained_model(recommender)
        recommender, target = audience_target(recommender, request.items, request.category, request.text)
        pool = eligible_pool(recommender, target, request.exclusions, agreed)
    name = request.campaign or pool.target.name
    audience = build_audience(
        recommender,
        pool,
        select(pool.scores, pool.user_ids, name, request.limits),
        name,
        explain,
        request.explain_first,
    )
    logger.info(
        "audience: %d of %d people, %d held out, %.1f s",
        audience.size,
        recommender.dataset.n_users,
        len(audience.holdout),
        time.perf_counter() - started,
    )
    return audience


def eligible_pool(
    recommender: Recommender, target: AudienceTarget, exclusions: Exclusions, agreed: Consents | None = None
) -> EligiblePool:
    """Everybody whom nothing speaks against, with their probabilities. Raises `NotFittedError` without a model."""
    masks = exclusion_masks(recommender, target.items, exclusions, agreed)
    user_rows = np.flatnonzero(~np.logical_or.reduce(list(masks.values())))
    return _pool(recommender, target, user_rows, target_probabilities(recommender, target.items, user_rows), masks)


def lookalike_pool(
    recommender: Recommender, seeds: Collection[str], exclusions: Exclusions, agreed: Consents | None = None
) -> EligiblePool:
    """Everybody but the seeds whom nothing speaks against, with their likeness. Raises `UsageError` without seeds."""
    no_items = np.zeros(0, np.int64)
    seed_rows = np.unique(recommender.user_rows(list(seeds)))
    seed_rows = seed_rows[seed_rows >= 0]
    masks = exclusion_masks(recommender, no_items, exclusions, agreed, seeds)
    user_rows = np.flatnonzero(~np.logical_or.reduce(list(masks.values())))
    alike = likeness(recommender, seed_rows, user_rows)
    target = AudienceTarget(f"like {len(seed_rows)} seeds", no_items, (alike.note,))
    scores = UserScores(alike.score, np.full(len(user_rows), -1), None)
    return _pool(recommender, target, user_rows, scores, masks)


def _pool(
    recommender: Recommender,
    target: AudienceTarget,
    user_rows: NDArray[np.int64],
    scores: UserScores,
    masks: Mapping[ExclusionReason, NDArray[np.bool_]],
) -> EligiblePool:
    user_ids = recommender.dataset.users[USER_COLUMN].gather(user_rows).to_list()
    excluded = {reason.value: int(mask.sum()) for reason, mask in masks.items() if mask.any()}
    return EligiblePool(target, user_rows, user_ids, scores, excluded)


def build_audience(
    recommender: Recommender,
    pool: EligiblePool,
    selection: Selection,
    name: str,
    explain: bool,
    explain_first: int | None = None,
) -> Audience:
    """The audience that was selected from a pool; explain_first as in `AudienceRequest`.

    Raises `PolicyError` for fewer people than the policy's floor."""
    data, model, scores = recommender.dataset, recommender.model, pool.scores
    check_floor(len(selection.addressed), recommender.policy.group_floor)
    reached, best_items = pool.user_rows[selection.addressed], scores.best_item[selection.addressed]
    explained = slice(explain_first if explain else 0)
    reasons = reasons_for(recommender, reached[explained], best_items[explained])
    reasons += [()] * (len(reached) - len(reasons))
    people = tuple(
        AudienceMember(
            user_id=pool.user_ids[position],
            probability=None if scores.probability is None else float(scores.probability[position]),
            score=float(scores.score[position]),
            item_id=data.items["item_id"][int(item)] if item >= 0 else None,
            reasons=why,
        )
        for position, item, why in zip(selection.addressed, best_items, reasons, strict=True)
    )
    cut = {
        ExclusionReason.UNPROFITABLE.value: selection.unprofitable,
        ExclusionReason.BEYOND_LIMIT.value: selection.beyond_limit,
    }
    actions, notes = recommender.population.settings.target, pool.target.notes
    if actions != (Action.PURCHASE,):
        notes = (*notes, f"a conversion is any of: {', '.join(actions)}")
    expected = None
    if scores.probability is not None:
        expected = float(scores.probability[selection.addressed].sum(dtype=np.float64))
    return Audience(
        campaign_id=name,
        as_of=utc(data.as_of),
        horizon_days=model.horizon_days if model else 0,
        model_version=model.version if model else None,
        items=tuple(data.items["item_id"].gather(pool.target.items).to_list()),
        people=people,
        holdout=tuple(pool.user_ids[position] for position in selection.holdout),
        excluded=pool.excluded | {reason: n for reason, n in cut.items() if n},
        group=distinguishing_traits(data, reached, np.setdiff1d(pool.user_rows, reached), recommender.policy),
        expected_conversions=expected,
        notes=notes,
    )


def audience_document(audience: Audience, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints; it names nobody who is held out. ids: pseudonym -> the shop's own id, where it is known."""
    document: dict[str, Any] = plain(audience)
    for person in document["people"]:
        person["user_id"] = (ids or {}).get(person["user_id"], person["user_id"])
    return document | {
        "item_id": audience.items[0] if len(audience.items) == 1 else None,
        "items": list(audience.items[:MAX_LISTED_ITEMS]),
        "size": audience.size,
        "holdout": len(audience.holdout),
    }


def write_audience_csv(audience: Audience, file: Path, ids: Mapping[str, str] | None = None) -> None:
    """One line per addressed person, `CSV_COLUMNS`; reasons joined by " | ". UTF-8."""
    rows = [
        (
            guarded((ids or {}).get(person.user_id, person.user_id)),
            "" if person.probability is None else f"{person.probability:.6f}",
            guarded(person.item_id),
            guarded(" | ".join(reason.text for reason in person.reasons)),
        )
        for person in audience.people
    ]
    write_csv(file, CSV_COLUMNS, rows)
