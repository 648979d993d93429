"""Why a person's probability is what it is: what the served score would be without each group of facts.

    delta(group) = score(person) - mean over some others of score(person, but with the other's values of the group)

which is the group's interventional worth (Janzing et al. 2020) with one group left out at a time. The others are drawn
once from the people learned from. It is measured on the model that is served; nothing is attributed that was not tried.
Groups that say the same thing can stand in for each other, and then each is worth less than both together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.policy import Policy
from recllm.propensity.features import FeatureTable, Floats
from recllm.schema import Reason
from recllm.settings import PredictionReasonSettings
from recllm.text.templates import Prompts

Score = Callable[[Floats], NDArray[np.float64]]
"""A score, (n,), of rows of the table's values, on a scale where differences mean something: logit or log."""

GENERAL, WITHHELD = "general", "withheld"
BASICS = "basics:"

_ROWS = 60_000
"""Rows scored at once."""


def background(features: FeatureTable, settings: PredictionReasonSettings) -> FeatureTable:
    """The others, drawn among the people learned from."""
    rng = np.random.default_rng(settings.seed)
    rows = rng.choice(len(features), min(settings.background_users, len(features)), replace=False)
    return features.rows(np.sort(rows))


def group_deltas(score: Score, features: FeatureTable, others: Floats) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """The groups that a person can be told of, and what each is worth to each person: (n, n_groups)."""
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


@dataclass(frozen=True, eq=False)
class GroupReasonWriter:
    """Groups and their facts to sentences."""

    locale: str
    policy: Policy
    settings: PredictionReasonSettings
    outcome: str = "chance"
    """What rises or falls, a key of the templates: chance or spend."""
    target: str | None = None
    """Words for what is asked about, e.g. a category; None where there is none."""

    def reasons(
        self, groups: tuple[str, ...], deltas: NDArray[np.float64], features: Mapping[str, float]
    ) -> tuple[Reason, ...]:
        """The largest deltas of one person, largest first; at least one entry. features: the person's, by name."""
        reasons: dict[str, Reason] = {}
        order = [n for n in np.argsort(-np.abs(deltas), kind="stable") if abs(deltas[n]) >= self.settings.min_effect]
        for number in order[: self.settings.max_reasons]:
            template, facts = group_facts(groups[number], features, self.target)
            sensitive = self.policy.is_sensitive([value for value in facts.values() if isinstance(value, str)])
            fact = self._render(WITHHELD) if sensitive else self._render(template, **facts)
            delta, evidence_id = float(deltas[number]), WITHHELD if sensitive else groups[number]
            text = self._render("told", fact=fact, up=delta > 0, what=self.outcome)
            reasons.setdefault(evidence_id, Reason(evidence_id=evidence_id, delta=delta, text=text))
        return tuple(reasons.values()) or (Reason(evidence_id=GENERAL, delta=0.0, text=self._render(GENERAL)),)

    def _render(self, template: str, /, **facts: object) -> str:
        return Prompts.load().render(f"behaviour.{template}", self.locale, **facts)


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
