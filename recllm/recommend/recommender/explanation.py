"""One item for one person, explained whole: what each piece of evidence adds, and what it would take to lose the item.

    recommender.explain("ann", "tea")        # in a notebook: a picture of the contributions

Every number is a score or a list of the served model, computed again for a shortened history; see
`recllm.recommend.recommender.leave_one_out`. Sensitive evidence is counted and never named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recllm.base.charts import Bar, bar_chart
from recllm.base.schema import Reason
from recllm.recommend.recommender.leave_one_out import Counterfactual, Evidence, PositionOf, UserHistory, counterfactual
from recllm.recommend.recommender.ranking import NAMESAKES
from recllm.shop.data.catalogue import catalogue_rows, on_offer
from recllm.shop.data.dataset import Events
from recllm.text.items import item_names, reason_text

if TYPE_CHECKING:
    from recllm.recommend.recommender.recommender import Recommender

LABEL = 60
"""Characters of a piece of evidence in the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """contributions: every piece that was tried and may be named, heaviest first; delta in logits, below 0 when the
    item stands lower for it. withheld: the sum of the deltas of sensitive evidence. counterfactual: a sentence, None
    when nothing that may be named takes the item out of the first `k`; `without` are its pieces.

    rank: in the person's list, each name counted once, from 1; after: without those pieces. Both are None when
    the item is not among the first `k`.
    """

    user_id: str
    item_id: str
    title: str
    k: int
    available: bool
    """False for an item off sale, which has no rank."""
    rank: Annotated[int | None, Field(serialization_alias="place")] = field(metadata={"json": "place"})
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
        where = "" if self.rank is None else f", number {self.rank}"
        lines = [f"<p><b>{escape(self.title)}</b>{where}</p>", _STYLE, self.chart()]
        lines += [f"<p>{escape(reason.text)}</p>" for reason in self.reasons]
        lines += [f"<p>{escape(self.counterfactual)}</p>"] if self.counterfactual else []
        return f'<div class="recllm-explanation">{"".join(lines)}</div>'


_STYLE = (
    "<style>.recllm-explanation text{font:13px sans-serif}.recllm-explanation .strong{fill:#1769aa}"
    ".recllm-explanation .plain{fill:#9aa5b1}.recllm-explanation .minus{fill:#b5467a}</style>"
)


def explanation(recommender: Recommender, user: str, item: str, *, k: int = 10) -> Explanation:
    """What `Recommender.explain` answers, and what it raises."""
    column = int(catalogue_rows(recommender.dataset, [item])[0])
    person = recommender.person(user)
    items = np.array([column])
    units, deltas = recommender.evidence(person, items)
    speaker, profile = recommender.speaker(), recommender.person_profile(person)
    named = np.array([not speaker.sensitive(unit) for unit in units], bool)
    position = positions(recommender, person, column, k)
    before = int(position(person.events, [person.basics])[0])
    nameable = [unit for unit, may_be_named in zip(units, named, strict=True) if may_be_named]
    lost = counterfactual(person, nameable, deltas[named, 0], position, k=k)
    order = np.argsort(-deltas[:, 0], kind="stable")
    contributions = [
        speaker.contribution(units[n], float(deltas[n, 0]), column, profile)
        for n in order
        if named[n] and np.isfinite(deltas[n, 0])
    ]
    available = bool(on_offer(recommender.dataset.items, recommender.dataset.as_of)[column])
    return Explanation(
        user_id=user,
        item_id=item,
        title=item_names(recommender.dataset.items[[column]], recommender.locale)[0],
        k=k,
        available=available,
        rank=before if before <= k and available else None,
        reasons=speaker.reasons(units, deltas[:, 0], column, profile, recommender.spread(person)),
        contributions=tuple(reason for reason in contributions if reason is not None),
        withheld=float(np.nansum(deltas[~named, 0])),
        counterfactual=None if lost is None else _sentence(recommender, lost, k),
        without=() if lost is None else tuple(_evidence_name(recommender, unit) for unit in lost.units),
        after=None if lost is None else lost.after,
    )


def write_page(explanation: Explanation, path: Path) -> None:
    """The explanation as an HTML page of its own."""
    title = escape(explanation.title)
    head = f'<!doctype html><html><head><meta charset="utf-8"><title>{title}</title></head>'
    path.write_text(f"{head}<body>{explanation._repr_html_()}</body></html>\n", encoding="utf-8")


def positions(recommender: Recommender, person: UserHistory, item: int, k: int) -> PositionOf:
    """The item's position in the lists of versions of the person, counting each name once as slates do.

    A list holds `k` + `NAMESAKES` items; an item that is not in it gets the position after the last.
    """
    ranking = recommender.rank_versions(person, k + NAMESAKES)
    name = item_names(recommender.dataset.items[[item]], recommender.locale)[0]

    def position(histories: Events, basics: Sequence[Mapping[str, str]]) -> NDArray[np.int64]:
        lists = ranking(histories, basics).item
        listed = np.unique(lists)
        names = item_names(recommender.dataset.items[np.maximum(listed, 0).tolist()], recommender.locale)
        name_of = dict(zip(listed.tolist(), names, strict=True))
        numbers = []
        for row in lists.tolist():
            row = row[: row.index(-1)] if -1 in row else row
            above = row[: row.index(item)] if item in row else row
            numbers.append(1 + len({name_of[row_above] for row_above in above} - {name}))
        return np.array(numbers, np.int64)

    return position


def _sentence(recommender: Recommender, lost: Counterfactual, k: int) -> str:
    titles = [_evidence_name(recommender, unit) for unit in lost.units]
    return reason_text(
        "counterfactual",
        recommender.locale,
        titles=titles,
        before=lost.before,
        after=lost.after if lost.after <= k + NAMESAKES else None,
        listed=k + NAMESAKES,
    )


def _evidence_name(recommender: Recommender, unit: Evidence) -> str:
    if unit.kind == "I":
        return unit.name.replace("_", " ")
    return item_names(recommender.dataset.items[[unit.item]], recommender.locale)[0]


def _short(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"
