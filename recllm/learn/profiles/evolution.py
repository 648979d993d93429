"""How a person's interests moved over time, as data.

Definitions
    purchase    one person, one item, one instant; browsing stands in for a person who bought nothing.
    interest    a category, at the deepest level at which the person's eight largest hold two thirds of the purchases,
                else the widest; without categories, a cluster of the items' vectors, named after its most typical item.
    period      a calendar month or quarter (UTC), or a stretch with an equal number of purchases ("mass"). "auto":
                months when the median month has 20 purchases, quarters when the median quarter has, else equal mass.
    share       the interest's part of the period's purchases.
    drift       1 - cos(Emb(B) of the period, Emb(B) of the last period with purchases), in [0, 2]; Emb(B) is the
                unit sum of the vectors of what was bought in the period.
    by chance   the mean drift when the two periods' purchases are dealt out again: what few purchases alone would show.
    novelty     share of the period's distinct items that the person had never bought before.
    entered     interests with two purchases and 5 % here, and not one before; left: the same in the last period with
                purchases, and not one since.

Nothing after `as_of` is read. Sensitive categories are one interest, "withheld", and never named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import UsageError
from recllm.base.policy import Policy
from recllm.base.schema import BROWSING, Action
from recllm.shop.data.dataset import Dataset, Events, utc
from recllm.shop.data.interactions import Floats, Ints, merged_lines, of_actions, unit
from recllm.text.templates import clean

By = Literal["auto", "month", "quarter", "mass"]

WITHHELD = "withheld"
UNKNOWN = "unknown"
TOP = 8
NAME_CHARS = 40
_DENSE = 20
"""Purchases in a median period, from which on a calendar period says something."""
_SHUFFLES = 40
_NEAR = 0.8
"""Cosine with the nearest cluster, from which on an item needs no cluster of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """[start, end). The first period has no drift and no novelty."""

    start: datetime
    end: datetime
    purchases: int
    shares: Mapping[str, float]
    """Interest to share, all above 0."""
    drift: float | None
    drift_by_chance: float | None
    novelty: float | None
    entered: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """drift, drift_by_chance, novelty: means over the periods, None below two of them."""

    user_id: str
    as_of: datetime
    what: Literal["purchases", "browsing"]
    by: str
    interests: tuple[str, ...]
    """Names, heaviest first."""
    periods: tuple[Period, ...]
    drift: float | None
    drift_by_chance: float | None
    novelty: float | None


def evolve(
    dataset: Dataset,
    user_row: int,
    item_vectors: Floats,
    as_of: int | None = None,
    *,
    by: By = "auto",
    most_periods: int = 12,
    policy: Policy | None = None,
) -> Evolution:
    """The person in `user_row` of `dataset` as of `as_of` (epoch seconds; the dataset's own time when None).

    item_vectors: unit rows (n_items, dim). most_periods: the latest ones; what came before still counts as known for
    novelty and for entering. Raises `UsageError` for an unknown `by`, a row that does not exist, or too few periods.
    """
    check_by(by)
    if not 0 <= user_row < dataset.n_users or most_periods < 2:
        raise UsageError(f"no user row {user_row} of {dataset.n_users}, or fewer than two periods ({most_periods})")
    limit = dataset.as_of if as_of is None else int(as_of)
    events = dataset.events.rows(np.array([user_row]))
    events = events.select(events.at < limit)
    purchases = merged_lines(of_actions(events, (Action.PURCHASE,)))
    bought = len(purchases) > 0
    if not bought:
        purchases = merged_lines(of_actions(events, tuple(BROWSING)))
    unit_of_time, edges = _edges(purchases.at, limit, by, most_periods)
    names = _interests(dataset, purchases.item, item_vectors, policy or Policy())
    periods = _periods(purchases, names, edges, item_vectors, most_periods)
    return Evolution(
        user_id=dataset.users["user_id"][user_row],
        as_of=utc(limit),
        what="purchases" if bought else "browsing",
        by=unit_of_time,
        interests=tuple(_shares(names)),
        periods=tuple(periods),
        drift=_mean([period.drift for period in periods]),
        drift_by_chance=_mean([period.drift_by_chance for period in periods]),
        novelty=_mean([period.novelty for period in periods]),
    )


def check_by(by: str) -> By:
    """Raises `UsageError` for a kind of period that there is not."""
    kind: By | None = next((kind for kind in get_args(By) if kind == by), None)
    if kind is None:
        raise UsageError(f"periods are one of {', '.join(get_args(By))}, not {by!r}")
    return kind


def _edges(at: Ints, limit: int, by: By, most_periods: int) -> tuple[str, Ints]:
    """What the periods are, and their bounds, epoch seconds ascending, (n + 1,); all purchases lie within."""
    if not len(at):
        return "mass" if by == "auto" else by, np.zeros(0, np.int64)
    for name, every in (("month", "1mo"), ("quarter", "1q")):
        edges = _calendar(int(at.min()), limit, every)
        dense = len(edges) > 3 and np.median(np.histogram(at, edges)[0]) >= _DENSE
        if by == name or (by == "auto" and dense):
            return name, edges
    return "mass", _equal_mass(at, limit, most_periods)


def _equal_mass(at: Ints, limit: int, most_periods: int) -> Ints:
    """A period ends with the first shopping trip that fills it: a trip is never cut."""
    times, counts = np.unique(at, return_counts=True)
    full = max(len(at) / most_periods, min(10, len(at) / 2))
    edges, size = [int(times[0])], 0
    for time, count in zip(times, counts, strict=True):
        if size >= full:
            edges.append(int(time))
            size = 0
        size += int(count)
    if len(edges) > 2 and size < full / 2:
        edges.pop()
    return np.array([*edges, limit], np.int64)


def _calendar(first: int, limit: int, every: str) -> Ints:
    """Whole months or quarters up to the limit; a last one that has hardly begun belongs to the one before."""
    span = pl.Series([utc(first), utc(limit)]).dt.truncate(every)
    starts = pl.datetime_range(span[0], span[1], every, eager=True)
    following = starts.dt.offset_by(every).dt.epoch("s").to_numpy()
    edges = starts.dt.epoch("s").to_numpy()
    edges, following = edges[edges < limit], following[: (edges < limit).sum()]
    if len(edges) > 1 and (limit - edges[-1]) / (following[-1] - edges[-1]) < 0.25:
        edges = edges[:-1]
    return np.array([*edges, limit], np.int64)


def _periods(purchases: Events, names: Sequence[str], edges: Ints, vectors: Floats, most_periods: int) -> list[Period]:
    """The latest periods; those before them count for what is new."""
    n, rng = max(len(edges) - 1, 0), np.random.default_rng(0)
    period_of = np.searchsorted(edges, purchases.at, side="right") - 1
    sizes = np.bincount(period_of, minlength=n)
    shares = [_shares([names[i] for i in np.flatnonzero(period_of == p).tolist()]) for p in range(n)]
    strong = [
        frozenset(name for name, share in period.items() if share >= 0.05 and share * size > 1.5)
        for period, size in zip(shares, sizes, strict=True)
    ]
    periods = []
    for p in range(max(0, n - most_periods), n):
        items, earlier = purchases.item[period_of == p], np.flatnonzero(sizes[:p])
        drift = by_chance = novelty = None
        entered = left = frozenset[str]()
        if len(earlier) and len(items):
            drift, by_chance = _drift(vectors, purchases.item[period_of == earlier[-1]], items, rng)
            novelty = float(np.isin(np.unique(items), purchases.item[period_of < p], invert=True).mean())
            entered = strong[p].difference(*shares[:p])
            left = strong[earlier[-1]].difference(*shares[p:])
        periods.append(
            Period(
                start=utc(int(edges[p])),
                end=utc(int(edges[p + 1])),
                purchases=len(items),
                shares=shares[p],
                drift=drift,
                drift_by_chance=by_chance,
                novelty=novelty,
                entered=tuple(sorted(entered)),
                left=tuple(sorted(left)),
            )
        )
    return periods


def _shares(names: Sequence[str]) -> dict[str, float]:
    """Share of each name, heaviest first, ties in order of the name."""
    counts = sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))
    return {name: count / len(names) for name, count in counts}


def _drift(vectors: Floats, before: Ints, after: Ints, rng: np.random.Generator) -> tuple[float, float]:
    """Drift between two sets of purchases (item rows), and its mean over random deals of all of them."""
    pool = vectors[np.concatenate([before, after])]  # (n, dim)
    deals = np.zeros((_SHUFFLES + 1, len(pool)), bool)
    deals[0, : len(before)] = True
    for deal in deals[1:]:
        deal[rng.permutation(len(pool))[: len(before)]] = True
    first = deals.astype(np.float32) @ pool
    second = unit(pool.sum(axis=0) - first)
    drift = np.clip(1 - (unit(first) * second).sum(axis=1), 0, 2)
    return float(drift[0]), float(drift[1:].mean())


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _interests(dataset: Dataset, item_rows: NDArray[np.integer], vectors: Floats, policy: Policy) -> list[str]:
    if not len(item_rows):
        return []
    items, inverse = np.unique(item_rows, return_inverse=True)
    rows = dataset.items[items]
    paths = [tuple(step for step in path or () if step) for path in rows["category"].to_list()]
    titles = [title or "" for title in rows["title"].to_list()]
    if any(paths):
        # the deepest level whose largest interests hold two thirds of the purchases, 1 when none does
        for level in range(max(len(path) for path in paths), 0, -1):
            shares = list(_shares([" > ".join(paths[i][:level]) for i in inverse]).values())
            if sum(shares[:TOP]) >= 2 / 3:
                break
        names = [clean(path[:level][-1], NAME_CHARS) if path else UNKNOWN for path in paths]
    else:
        typical = _clusters(vectors[items], np.bincount(inverse).astype(np.float32))
        names = [clean(titles[i], NAME_CHARS) or UNKNOWN for i in typical]
    sensitive = [policy.is_sensitive((*path, title)) for path, title in zip(paths, titles, strict=True)]
    return [WITHHELD if sensitive[i] else names[i] for i in inverse]


def _clusters(vectors: Floats, weight: Floats) -> NDArray[np.int64]:
    """k-means over a person's distinct items (unit rows); for each item, the most typical one of its cluster.

    The first centres are the heaviest item and then whatever is farthest, so that nothing is drawn.
    """
    from sklearn.cluster import KMeans

    centres = [int(np.argmax(weight))]
    nearest = vectors @ vectors[centres[0]]
    while len(centres) < min(TOP, len(vectors)) and nearest.min() < _NEAR:
        centres.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, vectors @ vectors[centres[-1]])
    means = KMeans(len(centres), init=vectors[centres], n_init=1).fit(vectors, sample_weight=weight)
    cosine = vectors @ unit(means.cluster_centers_.astype(np.float32)).T
    typical = [int(np.where(means.labels_ == c, cosine[:, c], -2).argmax()) for c in range(len(centres))]
    clusters: NDArray[np.int64] = np.array(typical, np.int64)[means.labels_]
    return clusters
