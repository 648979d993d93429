"""Why an item was recommended: leave-one-out on the served model, stated only as far as it was measured.

An evidence unit is one line of the person's profile: everything they did of one kind with one item ("B:<item_id>",
"H:<item_id>"), or one of their basics ("I:<name>"). Its delta for a shown item is

    delta = logit(user, item) - logit(user without the unit, item)

recomputed from the shortened history through the very code that serves, so it is exact (method `loo-v1`; leave-one-out
as in Lei et al. 2018, "Distribution-free predictive inference", section 6). Only the units nearest to an item are
tried, `EVIDENCE_PER_ITEM` of them: what was not tried is never claimed to be unimportant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Floats, Ints, Mask, Rows
from recllm.base.errors import UsageError
from recllm.base.policy import Policy
from recllm.base.schema import ACTION_CODE, BROWSING, Action, HistoryLine, Profile, Reason, ReasonKind
from recllm.recommend.recommender.histories import Histories, UserHistory
from recllm.shop.data.catalogue import known_rows
from recllm.shop.data.dataset import Dataset, row_starts
from recllm.shop.data.interactions import Pairs
from recllm.text.items import item_names, reason_text

_BROWSING_CODES = [ACTION_CODE[a] for a in BROWSING]
_BOUGHT_CODES = [ACTION_CODE[Action.PURCHASE], ACTION_CODE[Action.RETURN]]
_MAX_ITEMS = 2**32
EVIDENCE_PER_ITEM = 8  # lines of the history left out, one at a time: the nearest to the item
MAX_REASONS = 2  # per item
MIN_EFFECT = 0.05
"""A line is named only when leaving it out costs more than this share of the user's range of scores."""
ROUNDING = 1e-4
"""Deltas no further apart are equal: their last digits depend on the order of items."""
SAME_ITEM, SAME_TYPE = 100.0, 2.0
"""Head start of a unit that is the shown item itself, or of its narrowest category."""


PLACES = frozenset({"city", "region", "state", "province", "zip", "postcode", "postal_code", "country", "address"})
"""Basics that say where parcels go: a billing address is no taste, and never a reason."""
BROAD = 0.5
"""Share of a shop's buyers from which on a category says nothing of a customer."""


def broad_categories(items: pl.DataFrame, buyers: NDArray[np.floating]) -> frozenset[tuple[str, ...]]:
    """Paths of the categories that hold more than half of what is bought. buyers: of each item but the newest, which
    have none."""
    counts: Counter[tuple[str, ...]] = Counter()
    for path, n in zip(items["category"].to_list(), buyers.tolist(), strict=False):
        for level in range(1, len(path or ()) + 1):
            counts[tuple(path[:level])] += n
    return frozenset(path for path, n in counts.items() if n > BROAD * float(buyers.sum()))


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece of evidence. `item`: row of the item for kinds B and H; `name`: the basic for kind I."""

    kind: str
    item: int = -1
    name: str = ""

    @classmethod
    def parse(cls, evidence_id: str, dataset: Dataset) -> Evidence:
        """From the form of `Reason.evidence_id`.
        Raises `UsageError` for another form, or an unknown item."""
        kind, _, name = evidence_id.partition(":")
        if kind not in ("B", "H", "I") or not name:
            raise UsageError(f"evidence is B:<item id>, H:<item id> or I:<name>, not {evidence_id[:80]!r}")
        return cls(kind, name=name) if kind == "I" else cls(kind, int(known_rows(dataset, [name])[0]))


Score = Callable[[Histories, Pairs], Floats]
"""(n versions of a person, pairs) -> logit of each pair: the served model."""


def units_of(person: UserHistory, item_ids: pl.Series) -> list[Evidence]:
    """All evidence there is about a person, purchases first, then browsing, then basics that are no place. Items are in
    the order of their ids, as a refresh may change their rows."""
    e = person.events
    units = []
    for kind, codes in (("B", _BOUGHT_CODES), ("H", _BROWSING_CODES)):
        rows = np.unique(e.item[np.isin(e.action, codes)]).tolist()
        units += [Evidence(kind, row) for row in sorted(rows, key=item_ids.__getitem__)]
    return units + [Evidence("I", name=n) for n, v in person.basics.items() if v and n.casefold() not in PLACES]


def lacking(person: UserHistory, sets: Sequence[Sequence[Evidence]]) -> Histories:
    """One version of the person per set of units, each lacking all units of its set; none is its own neighbour."""
    many = person.events.rows(np.zeros(len(sets), np.int64))
    browsing, bought = (np.isin(many.action, codes) for codes in (_BROWSING_CODES, _BOUGHT_CODES))
    # one number for a version, a kind and an item
    line = (2 * many.user.astype(np.int64) + browsing) * _MAX_ITEMS + many.item
    removed = [
        (2 * version + (unit.kind == "H")) * _MAX_ITEMS + unit.item
        for version, units in enumerate(sets)
        for unit in units
        if unit.kind != "I"
    ]
    shortened = many.select(~((browsing | bought) & np.isin(line, removed)))
    hidden = [{unit.name for unit in units if unit.kind == "I"} for units in sets]
    basics = [{n: v for n, v in person.basics.items() if n not in names} for names in hidden]
    return Histories(shortened, basics, np.full(len(sets), person.row))


def deltas(
    person: UserHistory,
    units: Sequence[Evidence],
    item_rows: Rows,
    tried: Mask,
    score: Score,
) -> Floats:
    """Delta of each unit for each shown item, float32 (n_units, n_shown), NaN where not tried.

    tried: boolean (n_units, n_shown).
    """
    unit_deltas = np.full(tried.shape, np.nan, np.float32)
    used = np.flatnonzero(tried.any(1))
    if not len(used) or not len(item_rows):
        return unit_deltas
    versions = lacking(person, [(), *((units[int(u)],) for u in used)])
    order = np.argsort(item_rows, kind="stable")
    picks = [order, *(order[tried[u][order]] for u in used)]
    indptr = row_starts([len(p) for p in picks])
    items = np.asarray(item_rows)[np.concatenate(picks)].astype(np.int32)
    logit = score(versions, Pairs(indptr, items))
    full = np.zeros(len(item_rows), np.float32)
    full[order] = logit[: indptr[1]]
    for version, (unit, pick) in enumerate(zip(used, picks[1:], strict=True), 1):
        unit_deltas[unit, pick] = full[pick] - logit[indptr[version] : indptr[version + 1]]
    return unit_deltas


def heaviest_first(unit_deltas: Floats) -> Ints:
    """Numbers of the units, (n_units,), largest delta first and NaN last; equal ones stay in order."""
    order = np.argsort(-unit_deltas, kind="stable")
    level = np.cumsum(~(np.diff(unit_deltas[order], prepend=np.inf) >= -ROUNDING))
    return order[np.lexsort((order, level))]


def choose(
    units: Sequence[Evidence],
    item_rows: Rows,
    item_vectors: Floats,
    item_type: Rows,
    tried: int,
) -> Mask:
    """Which units to try for which item, boolean (n_units, n_shown): the item itself, its type, then by cosine.

    Basics are always tried.
    """
    rows = np.array([u.item for u in units if u.item >= 0], np.int64)
    types = np.asarray(item_type)
    same_type = (types[rows][:, None] == types[item_rows]) & (types[item_rows] >= 0)
    similarity = np.full((len(units), len(item_rows)), np.inf, np.float32)
    similarity[[u.item >= 0 for u in units]] = (
        item_vectors[rows] @ item_vectors[item_rows].T
        + SAME_TYPE * same_type
        + SAME_ITEM * (rows[:, None] == np.asarray(item_rows))
    )
    last = max(len(rows) - tried, 0)
    return np.asarray(similarity >= np.sort(similarity, axis=0)[last : last + 1])


@dataclass(frozen=True, eq=False)
class ReasonWriter:
    """Turns measured units into sentences. `items` are the dataset's."""

    items: pl.DataFrame
    policy: Policy
    locale: str = "en"
    broad: frozenset[tuple[str, ...]] = frozenset()
    """Paths of categories that are no reason; see `broad_categories`."""

    def contribution(self, unit: Evidence, delta: float, item_row: int, profile: Profile) -> Reason | None:
        """One piece of evidence in words, whatever its size; None for what is never named."""
        return None if self.sensitive(unit) else self._reason(unit, delta, item_row, _lines(profile), profile)

    def reasons(
        self,
        units: Sequence[Evidence],
        unit_deltas: Floats,
        item_row: int,
        profile: Profile,
        spread: float,
    ) -> tuple[Reason, ...]:
        """The clearest reasons for one shown item, largest first.

        One sentence says so when nothing is clear, or when only sensitive evidence is, which is never named.

        unit_deltas: (n_units,), NaN where not tried. spread: range of the person's scores, in logits, above 0.
        """
        lines = _lines(profile)
        clearest: list[Reason] = []
        withheld = 0.0  # delta of the strongest clear evidence that may not be named
        for number in heaviest_first(unit_deltas):
            delta = float(unit_deltas[number])
            if len(clearest) == MAX_REASONS or not delta > MIN_EFFECT * spread:
                break
            if self.sensitive(units[number]):
                withheld = withheld or delta
            else:
                clearest.append(self._reason(units[number], delta, item_row, lines, profile))
        kind = "withheld" if withheld else "general"
        return tuple(clearest) or (Reason(evidence_id=kind, delta=withheld, text=self._say(kind)),)

    def _say(self, kind: str, **facts: object) -> str:
        return reason_text(kind, self.locale, **facts)

    def sensitive(self, unit: Evidence) -> bool:
        """Never named to the person, however much it weighs."""
        return unit.item >= 0 and self.policy.is_sensitive(self._path(unit.item))

    def _reason(
        self,
        unit: Evidence,
        delta: float,
        item_row: int,
        lines: Mapping[tuple[str, str], HistoryLine],
        profile: Profile,
    ) -> Reason:
        if unit.kind == "I":
            text = self._say("basics", name=unit.name, value=profile.basics[unit.name])
            return Reason(evidence_id=f"I:{unit.name}", delta=delta, text=text, kind=ReasonKind.PICKED)
        item_id = self.items["item_id"][unit.item]
        line = lines.get((unit.kind, item_id))
        text = self._line_text(unit, item_row, line)
        bought = ReasonKind.KNOWN if unit.item == item_row else ReasonKind.TOGETHER
        kind = ReasonKind.INTEREST if unit.kind == "H" else bought
        return Reason(evidence_id=f"{unit.kind}:{item_id}", delta=delta, text=text, kind=kind)

    def _line_text(self, unit: Evidence, item_row: int, line: HistoryLine | None) -> str:
        title = item_names(self.items[unit.item], self.locale)[0]
        action = "purchase" if line is None else line.action.value
        if unit.item == item_row and line is not None:
            if unit.kind == "H":
                return self._say("browsed_before", title=title, action=action, days_since=line.days_since)
            return self._say(
                "bought_before",
                title=title,
                times=line.count,
                interval_days=line.interval_days,
                days_since=line.days_since,
            )
        common = self._common_category(unit.item, item_row)
        if unit.kind == "H" and line is not None:
            return self._say("browsed_similar", title=title, action=action, category=common)
        return self._say("bought_similar", title=title, category=common)

    def _common_category(self, first_row: int, second_row: int) -> str | None:
        """The narrowest category that both paths share; None for none, or one that holds most of the shop."""
        one_path, other_path = (self._path(first_row), self._path(second_row))
        shared = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(one_path, other_path, strict=False))]
        return shared[-1] if shared and tuple(shared) not in self.broad else None

    def _path(self, item: int) -> list[str]:
        path = self.items["category"][item]
        return [] if path is None else list(path)


def _lines(profile: Profile) -> dict[tuple[str, str], HistoryLine]:
    """Heaviest line of each (kind, item)."""
    heaviest: dict[tuple[str, str], HistoryLine] = {}
    for kind, lines in (("B", profile.purchases), ("H", profile.browsing)):
        for line in lines:
            heaviest.setdefault((kind, line.item_id), line)
    return heaviest


PositionOf = Callable[[Histories], Ints]
"""n versions of a person -> the item's position in each version's list, from 1, int64 (n,)."""

MOST = 8
"""Pieces taken out at most: a longer list explains nothing."""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """Without `units` the item would stand at position `after` instead of `before`, counted from 1."""

    units: tuple[Evidence, ...]
    before: int
    after: int


def counterfactual(
    person: UserHistory,
    units: Sequence[Evidence],
    deltas: Floats,
    position: PositionOf,
    *,
    k: int,
) -> Counterfactual | None:
    """What would have to be missing from a person's history for an item to leave the first `k`.

    The pieces of evidence that weigh most are taken out one after the other until the item leaves the first `k` of a
    list that is really ranked again, candidates and all; then those that were not needed are put back. So the set is
    small and proven, but not proven to be the smallest there is (as Ghazimatin et al. 2020 and Tran et al. 2021, here
    for any model that can rank a shortened history).

    deltas: (n_units,), NaN where not tried; only those above 0 are taken out. None when the item is not among the first
    `k` as it is, or still is without the `MOST` heaviest units.
    """
    heaviest = [units[int(n)] for n in heaviest_first(deltas) if deltas[n] > 0]
    prefixes = [tuple(heaviest[:n]) for n in range(min(MOST, len(heaviest)) + 1)]
    positions = position(lacking(person, prefixes))
    before, gone = int(positions[0]), np.flatnonzero(positions > k)
    if before > k or not len(gone):
        return None
    removed, after = prefixes[gone[0]], int(positions[gone[0]])
    while len(removed) > 1:  # what can go back goes back, lightest first, while the item stays away
        fewer = [removed[:n] + removed[n + 1 :] for n in reversed(range(len(removed)))]
        positions = position(lacking(person, fewer))
        still = np.flatnonzero(positions > k)
        if not len(still):
            break
        removed, after = fewer[still[0]], int(positions[still[0]])
    return Counterfactual(removed, before, after)
