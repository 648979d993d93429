"""Why a person's chance is what it is: what the served score would be without each group of facts.

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
from recllm.propensity.table import Features, Floats
from recllm.schema import Reason
from recllm.settings import PredictionReasonSettings
from recllm.text.templates import Prompts

Score = Callable[[Floats], NDArray[np.float64]]
"""A score, (n,), of rows of the table's values, on a scale where differences mean something: logit or log."""

GENERAL, WITHHELD = "general", "withheld"
BASICS = "basics:"

_ROWS = 60_000
"""Rows scored at once."""


def background(features: Features, settings: PredictionReasonSettings) -> Features:
    """The others, drawn among the people learned from."""
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(len(features), min(settings.background_users, len(features)), replace=False)
    return features.rows(np.sort(chosen))


def group_deltas(score: Score, features: Features, others: Floats) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """The groups that a person can be told of, and what each is worth to each person: (n, n_groups)."""
    groups = tuple(group for group in dict.fromkeys(features.groups) if (group in _FACTS or group.startswith(BASICS)))
    whole, out = score(features.values), np.empty((len(features), len(groups)))
    step = max(1, _ROWS // max(len(others), 1))
    for number, group in enumerate(groups):
        columns = np.array([g == group for g in features.groups])
        for start in range(0, len(features), step):
            part = slice(start, start + step)
            out[part, number] = whole[part] - _replaced(score, features.values[part], others, columns)
    return groups, out


def _replaced(score: Score, values: Floats, others: Floats, columns: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean score of each row with the columns of each of the others, (n,)."""
    tried = np.repeat(values, len(others), axis=0)
    tried[:, columns] = np.tile(others[:, columns], (len(values), 1))
    return np.asarray(score(tried).reshape(len(values), len(others)).mean(axis=1))


@dataclass(frozen=True, eq=False)
class Teller:
    """Groups and their facts to sentences. what: what rises or falls, a key of the templates: chance or spend.

    target: words for what is asked about, e.g. a category; None where there is none.
    """

    locale: str
    policy: Policy
    prompts: Prompts
    what: str = "chance"
    target: str | None = None

    def reasons(
        self,
        groups: tuple[str, ...],
        deltas: NDArray[np.float64],
        row: Mapping[str, float],
        settings: PredictionReasonSettings,
    ) -> tuple[Reason, ...]:
        """The largest deltas of one person, largest first; at least one entry."""
        order = [int(g) for g in np.argsort(-np.abs(deltas), kind="stable") if abs(deltas[g]) >= settings.min_effect]
        told = [self._reason(groups[g], float(deltas[g]), row) for g in order[: settings.max_reasons]]
        once = {reason.evidence_id: reason for reason in reversed(told)}
        found = tuple(reason for reason in told if once.get(reason.evidence_id) is reason)
        return found or (Reason(evidence_id=GENERAL, delta=0.0, text=self._render("general")),)

    def _reason(self, group: str, delta: float, row: Mapping[str, float]) -> Reason:
        name, facts = told_facts(group, row, self.target)
        hidden = self.policy.is_sensitive([str(value) for value in facts.values() if isinstance(value, str)])
        if hidden:
            name, facts = WITHHELD, {}
        fact = self._render(name, **facts)
        text = self._render("told", fact=fact, up=delta > 0, what=self.what)
        return Reason(evidence_id=WITHHELD if hidden else group, delta=delta, text=text)

    def _render(self, template: str, /, **facts: object) -> str:
        return self.prompts.render(f"behaviour.{template}", self.locale, **facts)


def told_facts(group: str, row: Mapping[str, float], target: str | None) -> tuple[str, dict[str, object]]:
    """The template of a group and its variables, from one person's features by name; NaN becomes None."""

    def get(name: str) -> float | None:
        value = row.get(name, np.nan)
        return None if np.isnan(value) else float(value)

    if group.startswith(BASICS):
        name = group.removeprefix(BASICS)
        mine = [key.split("=", 1)[1] for key, value in row.items() if key.startswith(f"{name}=") and value == 1]
        return "basics", {"name": name.replace("_", " "), "value": mine[0] if mine else None}
    facts: dict[str, object] = {name: get(feature) for name, feature in _FACTS[group].items()}
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
