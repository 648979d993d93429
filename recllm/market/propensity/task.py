"""A request with everything that is needed to answer it, and what the kinds of prediction have in common.

Why a person's probability is what it is: what the served score would be without each group of facts.

    delta(group) = score(person) - mean over some others of score(person, but with the other's values of the group)

which is the group's interventional worth (Janzing et al. 2020) with one group left out at a time. The others are drawn
once from the people learned from. It is measured on the model that is served; nothing is attributed that was not tried.
Groups with the same information can replace each other, and then each is worth less than both together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import NothingToDo
from recllm.base.policy import Policy
from recllm.base.schema import Reason
from recllm.market.propensity.examples import Cohort, Mask
from recllm.market.propensity.features import FeatureTable, Floats
from recllm.market.propensity.model import Backtest
from recllm.market.propensity.parameters import PropensitySettings
from recllm.market.propensity.prediction import Prediction, PredictionRequest, UserPrediction
from recllm.market.propensity.quality import quality
from recllm.shop.data.dataset import utc
from recllm.text.templates import Prompts

Score = Callable[[Floats], NDArray[np.float64]]
"""A score, (n,), of rows of the table's values, on a scale where differences mean something: logit or log."""

GENERAL, WITHHELD = "general", "withheld"
BASICS = "basics:"

MAX_REASONS = 3
"""Of a person."""
MIN_EFFECT = 0.1
"""Smaller changes of the logit are nothing clear."""
BACKGROUND_PEOPLE = 8
"""People whose values are put in place of the person's own."""

_ROWS = 60_000
"""Rows scored at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictionTask:
    """Who is learned from and who is predicted."""

    request: PredictionRequest
    learn: Cohort
    ask: Cohort
    """As of its dataset's own time."""
    policy: Policy = field(default_factory=Policy)
    settings: PropensitySettings = field(default_factory=PropensitySettings)

    @property
    def now(self) -> int:
        """Of the people who are predicted, epoch seconds."""
        return self.ask.dataset.as_of

    def with_past(self, eligible: Mask) -> tuple[FeatureTable, NDArray[np.int64], dict[str, int]]:
        """Who is predicted: their features and rows, and how many are left out because nothing of them counts.

        Raises `NothingToDo` without any.
        """
        rows = np.flatnonzero(eligible)
        if not len(rows):
            people = f"of {self.ask.dataset.n_users:,} people none has a past that counts"
            raise NothingToDo(f"no one to predict: {people}")
        missing = len(eligible) - len(rows)
        return self.ask.features(self.now).rows(rows), rows, {"no_past": missing} if missing else {}

    def reasons(
        self,
        score: Score,
        inputs: Callable[[FeatureTable], FeatureTable],
        learned: FeatureTable,
        table: FeatureTable,
        outcome: str = "chance",
    ) -> list[tuple[Reason, ...]]:
        """The reasons of each row of `table`; nothing without `explain`.

        inputs: a table to what `score` is given the values of. learned: the people that others are drawn from. outcome:
        what rises or falls, a key of the templates: chance or spend.
        """
        if not self.request.explain or not len(table):
            return [()] * len(table)
        others = inputs(background(learned)).values
        groups, deltas = group_deltas(score, inputs(table), others)
        # what is asked about in words, e.g. a category; None for everything, or several items
        target = self.request.category
        if target is None and len(self.request.items) == 1:
            row = int(self.ask.dataset.item_rows(self.request.items)[0])
            target = str(self.ask.dataset.items["title"][row] or self.request.items[0])

        def render(template: str, /, **facts: object) -> str:
            return Prompts.load().render(f"behaviour.{template}", self.request.locale, **facts)

        def of_one(deltas: NDArray[np.float64], features: Mapping[str, float]) -> tuple[Reason, ...]:
            """The largest deltas of one person, largest first; at least one entry. features: the person's, by name."""
            reasons: dict[str, Reason] = {}
            order = [n for n in np.argsort(-np.abs(deltas), kind="stable") if abs(deltas[n]) >= MIN_EFFECT]
            for number in order[:MAX_REASONS]:
                template, facts = group_facts(groups[number], features, target)
                sensitive = self.policy.is_sensitive([value for value in facts.values() if isinstance(value, str)])
                fact = render(WITHHELD) if sensitive else render(template, **facts)
                delta, evidence_id = float(deltas[number]), WITHHELD if sensitive else groups[number]
                text = render("reason", fact=fact, up=delta > 0, what=outcome)
                reasons.setdefault(evidence_id, Reason(evidence_id=evidence_id, delta=delta, text=text))
            return tuple(reasons.values()) or (Reason(evidence_id=GENERAL, delta=0.0, text=render(GENERAL)),)

        return [
            of_one(delta, dict(zip(table.names, map(float, row), strict=True)))
            for delta, row in zip(deltas, table.values, strict=True)
        ]

    def people(
        self,
        rows: NDArray[np.int64],
        rank_by: NDArray[np.floating],
        reasons: Sequence[tuple[Reason, ...]],
        **columns: Sequence[Any],
    ) -> tuple[UserPrediction, ...]:
        """`rows` of those who are asked about, highest `rank_by` first. columns: fields of `UserPrediction`."""
        ids = self.ask.user_ids(rows)
        return tuple(
            UserPrediction(user_id=ids[n], reasons=reasons[n], **{name: column[n] for name, column in columns.items()})
            for n in self.ask.descending(rows, rank_by)
        )

    def prediction(
        self,
        people: tuple[UserPrediction, ...],
        check: Backtest,
        *,
        as_of: int | None = None,
        active_days: int = 0,
        n_campaigns: int = 0,
        **fields: Any,
    ) -> Prediction:
        """The answer. as_of: epoch seconds, now when None. active_days, n_campaigns: for the words about the
        prediction. fields: further ones of `Prediction`."""
        kind, horizon, locale = self.request.kind, self.request.horizon_days, self.request.locale
        prompts, day = Prompts.load(), None if check.cut is None else f"{utc(int(check.cut.min())):%Y-%m-%d}"
        return Prediction(
            kind=kind,
            horizon_days=horizon,
            as_of=utc(self.now if as_of is None else as_of),
            meaning=prompts.render("behaviour.meaning", locale, kind=str(kind), active=active_days),
            people=people,
            quality=quality(check.probability, check.label),
            checked=prompts.render("behaviour.checked", locale, days=horizon, day=day, campaigns=n_campaigns),
            **fields,
        )


def background(features: FeatureTable) -> FeatureTable:
    """The others, drawn among the people learned from."""
    rows = np.random.default_rng(0).choice(len(features), min(BACKGROUND_PEOPLE, len(features)), replace=False)
    return features.rows(np.sort(rows))


def group_deltas(score: Score, features: FeatureTable, others: Floats) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """The groups that a reason can name, and what each is worth to each person: (n, n_groups)."""
    groups = tuple(group for group in dict.fromkeys(features.groups) if group in _FACTS or group.startswith(BASICS))
    scores, deltas = score(features.values), np.empty((len(features), len(groups)))
    size = max(1, _ROWS // max(len(others), 1))
    for number, group in enumerate(groups):
        columns = np.array([g == group for g in features.groups])
        for start in range(0, len(features), size):
            values = features.values[start : start + size]
            # each row once per other person, with that person's values of the group
            replaced = np.repeat(values, len(others), axis=0)
            replaced[:, columns] = np.tile(others[:, columns], (len(values), 1))
            mean = score(replaced).reshape(len(values), len(others)).mean(axis=1)
            deltas[start : start + size, number] = scores[start : start + size] - mean
    return groups, deltas


def group_facts(group: str, features: Mapping[str, float], target: str | None) -> tuple[str, dict[str, object]]:
    """The template of a group and its variables, from one person's features by name; NaN becomes None."""
    if group.startswith(BASICS):
        name = group.removeprefix(BASICS)
        answers = [key.split("=", 1)[1] for key, v in features.items() if key.startswith(f"{name}=") and v == 1]
        return "basics", {"name": name.replace("_", " "), "value": answers[0] if answers else None}
    values = {name: features.get(feature, np.nan) for name, feature in _FACTS[group].items()}
    facts: dict[str, object] = {name: None if np.isnan(value) else float(value) for name, value in values.items()}
    return group, facts | ({"target": target} if group == "target" else {})


_FACTS: Mapping[str, Mapping[str, str]] = {
    "recency": {"days": "days_since"},
    "frequency": {"trips": "trips_28"},
    "spend": {"spent": "spend_91", "per_trip": "spend_per_trip"},
    "tenure": {"days": "tenure"},
    "rhythm": {"gap": "gap_median", "days": "days_since"},
    "calendar": {"weekend": "weekend_share"},
    "trend": {"change": "trend_trips", "trips": "trips_28"},
    "breadth": {"categories": "categories_91", "items": "items_91"},
    "discount": {"saved": "saved_91"},
    "returns": {"returned": "returned_91"},
    "browsing": {"seen": "browsed_28", "carts": "carts_28"},
    "target": {"trips": "target_trips", "days": "target_days_since"},
    "coupons": {"redeemed": "redeemed_campaigns", "mailed": "mailed_before", "used": "coupon_trips_91"},
    "affinity": {"lines": "own_lines"},
    "campaign": {},
}
"""Variables of each group's template, and the feature that each is read from."""
