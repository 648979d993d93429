"""One item for one person, explained whole: what each piece of evidence adds, and what it would take to lose the item.

    explanation(recommender, "ann", "tea")        # in a notebook: a picture of the contributions

Every number is a score or a list of the served model, computed again for a shortened history; see
`recllm.explain.leave_one_out` and
`recllm.explain.counterfactuals`. Sensitive evidence is counted and never named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recllm.charts import Bar, bar_chart
from recllm.data.dataset import Events
from recllm.errors import UsageError
from recllm.explain.counterfactuals import Counterfactual, Place, counterfactual
from recllm.explain.leave_one_out import Unit
from recllm.profiles.profile import build_profile
from recllm.recommender.recommender import NAMESAKES, NO_CONSENT, UNKNOWN, Recommender
from recllm.schema import Reason
from recllm.text.items import item_names
from recllm.text.reasons import reason_text

LABEL = 60
"""Characters of a piece of evidence in the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """contributions: every piece that was tried and may be named, heaviest first; delta in logits, below 0 when the
    item stands lower for it. withheld: the sum of the deltas of sensitive evidence. counterfactual: a sentence, None
    when nothing that may be named takes the item out of the first `k`; `without` are its pieces.

    place: among the person's list, each name counted once, from 1; after: without those pieces. Both are None when
    the item is not among the first `k`.
    """

    user_id: str
    item_id: str
    title: str
    k: int
    place: int | None
    reasons: tuple[Reason, ...]
    contributions: tuple[Reason, ...]
    withheld: float
    counterfactual: str | None
    without: tuple[str, ...]
    after: int | None

    def chart(self) -> str:
        """The contributions as an SVG element; every text is escaped."""
        bars = [Bar(_short(c.text), c.delta, f"{c.delta:+.2f}", strong=c.delta > 0) for c in self.contributions]
        if self.withheld:
            bars.append(Bar("not named", self.withheld, f"{self.withheld:+.2f}"))
        return bar_chart(bars, title=f"what speaks for {self.title}", width=900, label_width=420)

    def _repr_html_(self) -> str:
        """For notebooks: the picture with the sentences around it."""
        where = "" if self.place is None else f", number {self.place}"
        lines = [f"<p><b>{escape(self.title)}</b>{where}</p>", _STYLE, self.chart()]
        lines += [f"<p>{escape(reason.text)}</p>" for reason in self.reasons]
        lines += [f"<p>{escape(self.counterfactual)}</p>"] if self.counterfactual else []
        return f'<div class="recllm-explanation">{"".join(lines)}</div>'


_STYLE = (
    "<style>.recllm-explanation text{font:13px sans-serif}.recllm-explanation .strong{fill:#1769aa}"
    ".recllm-explanation .plain{fill:#9aa5b1}.recllm-explanation .minus{fill:#b5467a}</style>"
)


def explanation(recommender: Recommender, user: str, item: str, *, k: int = 10) -> Explanation:
    """Explain one item for one person, whether or not it is among their first `k`.

    Raises `UsageError` for an unknown item, or a person who is not served personally.
    """
    reasons, row, column = _told(recommender, user, item)
    units, worth = recommender.evidence(row, np.array([column]))
    named = np.array([not recommender.speaker().sensitive(unit) for unit in units], bool)
    heard = np.isfinite(worth[:, 0])
    place = places(recommender, row, column, k)
    person = recommender.person(row)
    before = int(place(person.events, [person.basics])[0])
    nameable = [unit for unit, fit in zip(units, named, strict=True) if fit]
    lost = counterfactual(person, nameable, worth[named, 0], place, k=k)
    return Explanation(
        user_id=user,
        item_id=item,
        title=item_names(recommender.dataset.items[[column]], recommender.locale)[0],
        k=k,
        place=before if before <= k else None,
        reasons=reasons,
        contributions=_contributions(recommender, row, column, units, np.where(named, worth[:, 0], np.nan)),
        withheld=float(worth[~named & heard, 0].sum()),
        counterfactual=None if lost is None else _sentence(recommender, lost, k),
        without=() if lost is None else tuple(_called(recommender, unit) for unit in lost.units),
        after=None if lost is None else lost.after,
    )


def write_page(found: Explanation, path: Path) -> None:
    """The explanation as an HTML page of its own."""
    title = escape(found.title)
    page = f'<!doctype html><html><head><meta charset="utf-8"><title>{title}</title></head><body>{found._repr_html_()}'
    path.write_text(page + "</body></html>\n", encoding="utf-8")


def places(recommender: Recommender, row: int, item: int, k: int) -> Place:
    """The item's place in the lists of versions of the person in `row`, counting each name once as slates do.

    A list holds `k` + `NAMESAKES` items; an item that is not in it gets the place after the last.
    """
    ranking = recommender.rank_versions(row, k + NAMESAKES)

    def place(histories: Events, basics: Sequence[Mapping[str, str]]) -> NDArray[np.int64]:
        lists = ranking(histories, basics).item
        known, code = np.unique(lists, return_inverse=True)
        names = item_names(recommender.dataset.items[np.maximum(known, 0).tolist()], recommender.locale)
        own = item_names(recommender.dataset.items[[item]], recommender.locale)[0]
        return np.array([_place(row, names, own, known, item) for row in code.reshape(lists.shape)], np.int64)

    return place


def _place(codes: NDArray[np.integer], names: list[str], own: str, known: NDArray[np.integer], item: int) -> int:
    listed = [c for c in codes.tolist() if known[c] >= 0]
    above = listed[: next((n for n, c in enumerate(listed) if known[c] == item), len(listed))]
    return 1 + len({names[c] for c in above} - {own})


def _told(recommender: Recommender, user: str, item: str) -> tuple[tuple[Reason, ...], int, int]:
    """The reasons, the person's row and the item's; the recommender refuses whom it may not serve."""
    slate = recommender.recommend(user, k=1, items_to_recommend=[item])[0]
    if slate.degraded_reason in (NO_CONSENT, UNKNOWN):
        raise UsageError(f"nothing to explain: {slate.degraded_reason}")
    row, column = recommender.user_rows([user])[0], recommender.dataset.item_rows([item])[0]
    return slate.items[0].reasons if slate.items else (), int(row), int(column)


def _contributions(
    recommender: Recommender, row: int, shown: int, units: Sequence[Unit], worth: NDArray[np.float32]
) -> tuple[Reason, ...]:
    """In words, heaviest first; worth: (n_units,), NaN for what is not told."""
    speaker, profile = recommender.speaker(), build_profile(recommender.dataset, row)
    order = [int(n) for n in np.argsort(-worth, kind="stable") if np.isfinite(worth[n])]
    told = [speaker.contribution(units[n], float(worth[n]), shown, profile) for n in order]
    return tuple(reason for reason in told if reason is not None)


def _sentence(recommender: Recommender, lost: Counterfactual, k: int) -> str:
    titles = [_called(recommender, unit) for unit in lost.units]
    return reason_text(
        "counterfactual",
        recommender.locale,
        titles=titles,
        before=lost.before,
        after=lost.after if lost.after <= k + NAMESAKES else None,
        listed=k + NAMESAKES,
    )


def _called(recommender: Recommender, unit: Unit) -> str:
    if unit.kind == "I":
        return unit.name.replace("_", " ")
    return item_names(recommender.dataset.items[[unit.item]], recommender.locale)[0]


def _short(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"
