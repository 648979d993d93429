"""How a person's interests moved over time, as data, and two numbers per person that a model can use.

Definitions
    purchase    one person, one item, one instant; browsing stands in for somebody who bought nothing.
    interest    a category, at the deepest level at which the person's eight largest hold two thirds of the purchases,
                else the widest; without categories, a cluster of the items' vectors, named after its most typical item.
    period      a calendar month or quarter (UTC), or a stretch with an equal number of purchases ("mass"). "auto":
                months when the median month has 20 purchases, quarters when the median quarter has, else equal mass.
    share       the interest's part of the period's purchases.
    drift       1 - cos(Emb(B) of the period, Emb(B) of the last period with purchases), in [0, 2]; Emb(B) is the
                unit sum of the vectors of what was bought in the period.
    by chance   the mean drift when the two periods' purchases are dealt out anew: what few purchases alone would show.
    novelty     share of the period's distinct items that the person had never taken before.
    entered     interests with two purchases and 5 % here, and not one before; left: the same in the last period with
                purchases, and not one since.

Nothing after `as_of` is read. Sensitive categories are one interest, "withheld", and never named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, Events, utc
from recllm.data.interactions import Floats, Ints, matrix, occasions, of_actions, unit
from recllm.errors import UsageError
from recllm.policy import Policy
from recllm.schema import BROWSING, Action
from recllm.text.items import cleaner
from recllm.text.templates import Prompts

By = Literal["auto", "month", "quarter", "mass"]

WITHHELD = "withheld"
UNKNOWN = "unknown"
TOP = 8
NAME_CHARS = 40
_DENSE = 20
"""Purchases in a median period, from which on a calendar period says something."""
_SHUFFLES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """[start, end). shares: interest to share, all above 0. The first period has no drift and no novelty."""

    start: datetime
    end: datetime
    purchases: int
    shares: Mapping[str, float]
    drift: float | None
    drift_by_chance: float | None
    novelty: float | None
    entered: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """interests: names, heaviest first. drift, novelty: means over the periods, None below two of them."""

    user_id: str
    as_of: datetime
    what: Literal["purchases", "browsing"]
    by: str
    interests: tuple[str, ...]
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
    least_share: float = 0.05,
    policy: Policy | None = None,
    prompts: Prompts | None = None,
    seed: int = 0,
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
    taken = occasions(of_actions(events, (Action.PURCHASE,)))
    bought = len(taken) > 0
    taken = taken if bought else occasions(of_actions(events, tuple(BROWSING)))
    unit_by, edges = _edges(taken.at, limit, by, most_periods)
    names = _interests(dataset, taken, item_vectors, policy or Policy(), prompts or Prompts.load())
    periods = _periods(taken, names, edges, item_vectors, least_share, most_periods, np.random.default_rng(seed))
    order = sorted(set(names), key=lambda name: (-names.count(name), name))
    return Evolution(
        user_id=dataset.users["user_id"][user_row],
        as_of=utc(limit),
        what="purchases" if bought else "browsing",
        by=unit_by,
        interests=tuple(order),
        periods=tuple(periods),
        drift=_mean([p.drift for p in periods]),
        drift_by_chance=_mean([p.drift_by_chance for p in periods]),
        novelty=_mean([p.novelty for p in periods]),
    )


def check_by(by: str) -> By:
    """Raises `UsageError` for a kind of period that there is not."""
    found = next((known for known in get_args(By) if known == by), None)
    if found is None:
        raise UsageError(f"periods are one of {', '.join(get_args(By))}, not {by!r}")
    kind: By = found
    return kind


def recent_change(
    item_vectors: Floats, histories: Events, as_of: int, *, recent_days: float = 56.0, block: int = 2_048
) -> tuple[Floats, Floats]:
    """drift and novelty of each person, both float32 (n,), over the last `recent_days` against everything before.

    drift: 1 - cos(Emb(B) of the recent days, Emb(B) before), in [0, 2], and 0 for who bought in one of the two only.
    novelty: share of the recent days' distinct items never bought before, in [0, 1], and .5 for who bought nothing
    recently. People are taken in blocks, so memory stays at block x (dim + their items).
    """
    bought = of_actions(histories, (Action.PURCHASE,))
    bought = occasions(bought.select(bought.at < as_of))
    n, start = len(histories.indptr) - 1, as_of - recent_days * DAY
    drift, novelty = np.zeros(n, np.float32), np.full(n, 0.5, np.float32)
    for first in range(0, n, block):
        events = bought.rows(np.arange(first, min(first + block, n)))
        now, past = (events.select(mask) for mask in (events.at >= start, events.at < start))
        counts = [matrix(e, len(item_vectors), np.ones(len(e))) for e in (now, past)]
        vectors = [unit(c @ item_vectors) for c in counts]
        both = (np.diff(now.indptr) > 0) & (np.diff(past.indptr) > 0)
        part = slice(first, first + block)
        drift[part] = np.where(both, 1 - (vectors[0] * vectors[1]).sum(axis=1), 0)
        distinct, known = (counts[0] > 0), (counts[0] > 0).multiply(counts[1] > 0)
        size = np.diff(distinct.indptr)
        old = np.asarray(known.sum(axis=1)).ravel()
        novelty[part] = np.where(size > 0, 1 - old / np.maximum(size, 1), 0.5)
    return np.clip(drift, 0, 2), novelty


# --- periods ---------------------------------------------------------------------------------------------------------


def _edges(at: Ints, limit: int, by: By, most: int) -> tuple[str, Ints]:
    """What the periods are, and their bounds, epoch seconds ascending, (n + 1,); all purchases lie within."""
    if not len(at):
        return "mass" if by == "auto" else by, np.zeros(0, np.int64)
    for name, months in (("month", 1), ("quarter", 3)):
        edges = _calendar(int(at.min()), limit, months)
        dense = len(edges) > 3 and np.median(np.histogram(at, edges)[0]) >= _DENSE
        if by == name or (by == "auto" and dense):
            return name, edges
    return "mass", _equal_mass(at, limit, most)


def _equal_mass(at: Ints, limit: int, most: int) -> Ints:
    """A period ends with the first shopping trip that fills it: a trip is never cut."""
    times, counts = np.unique(at, return_counts=True)
    full = max(len(at) / most, min(10, len(at) / 2))
    edges, held = [int(times[0])], 0
    for time, count in zip(times, counts, strict=True):
        if held >= full:
            edges.append(int(time))
            held = 0
        held += int(count)
    if len(edges) > 2 and held < full / 2:
        edges.pop()
    return np.array([*edges, limit], np.int64)


def _calendar(first: int, limit: int, months: int) -> Ints:
    """Whole months or quarters up to the limit; a last one that has hardly begun belongs to the one before."""
    start = utc(first)
    number = (start.year * 12 + start.month - 1) // months * months
    edges: list[int] = []
    while not edges or edges[-1] < limit:
        edges.append(int(datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()))
        number += months
    begun = (limit - edges[-2]) / (edges[-1] - edges[-2])
    return np.array([*edges[: -2 if begun < 0.25 and len(edges) > 2 else -1], limit], np.int64)


def _periods(
    taken: Events,
    names: list[str],
    edges: Ints,
    vectors: Floats,
    least: float,
    most: int,
    rng: np.random.Generator,
) -> list[Period]:
    place = np.searchsorted(edges, taken.at, side="right") - 1
    share = [_shares([names[i] for i in np.flatnonzero(place == p)]) for p in range(max(len(edges) - 1, 0))]
    sizes = np.bincount(place, minlength=len(share))
    strong = [
        {name for name, value in s.items() if value >= least and value * n > 1.5}
        for s, n in zip(share, sizes, strict=True)
    ]
    periods = []
    for p in range(max(0, len(share) - most), len(share)):
        here, before = taken.item[place == p], np.flatnonzero(sizes[:p])
        compared = len(before) > 0 and len(here) > 0
        told = _drift(vectors, taken.item[place == before[-1]], here, rng) if compared else (None, None)
        fresh = np.isin(np.unique(here), taken.item[place < p], invert=True)
        periods.append(
            Period(
                start=utc(int(edges[p])),
                end=utc(int(edges[p + 1])),
                purchases=len(here),
                shares=share[p],
                drift=told[0],
                drift_by_chance=told[1],
                novelty=float(fresh.mean()) if compared else None,
                entered=tuple(sorted(strong[p].difference(*share[:p]))) if compared else (),
                left=tuple(sorted(strong[before[-1]].difference(*share[p:]))) if compared else (),
            )
        )
    return periods


def _shares(names: list[str]) -> dict[str, float]:
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return {name: count / len(names) for name, count in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))}


def _drift(vectors: Floats, before: Ints, here: Ints, rng: np.random.Generator) -> tuple[float, float]:
    """Drift between two sets of purchases (item rows), and its mean over random deals of all of them."""
    pool = vectors[np.concatenate([before, here])]  # (n, dim)
    deals = np.zeros((_SHUFFLES + 1, len(pool)), bool)
    deals[0, : len(before)] = True
    for deal in deals[1:]:
        deal[rng.permutation(len(pool))[: len(before)]] = True
    first = deals.astype(np.float32) @ pool
    second = unit(pool.sum(axis=0) - first)
    found = np.clip(1 - (unit(first) * second).sum(axis=1), 0, 2)
    return float(found[0]), float(found[1:].mean())


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


# --- interests -------------------------------------------------------------------------------------------------------


def _interests(dataset: Dataset, taken: Events, vectors: Floats, policy: Policy, prompts: Prompts) -> list[str]:
    """The interest of each purchase, in order."""
    if not len(taken):
        return []
    items, inverse = np.unique(taken.item, return_inverse=True)
    rows = dataset.items[items]
    paths = [tuple(part for part in path or () if part) for path in rows["category"].to_list()]
    titles = [title or "" for title in rows["title"].to_list()]
    withheld = [policy.is_sensitive((*path, title)) for path, title in zip(paths, titles, strict=True)]
    clean = cleaner(prompts)
    if any(paths):
        level = _level([paths[i] for i in inverse])
        named = [clean(path[:level][-1], NAME_CHARS) if path else UNKNOWN for path in paths]
    else:
        typical = _clusters(vectors[items], np.bincount(inverse).astype(np.float32))
        named = [clean(titles[i], NAME_CHARS) or UNKNOWN for i in typical]
    told = [WITHHELD if hidden else name for hidden, name in zip(withheld, named, strict=True)]
    return [told[i] for i in inverse]


def _level(paths: list[tuple[str, ...]]) -> int:
    """The deepest level whose largest interests hold two thirds of the purchases, 1 when none does."""
    for level in range(max(len(path) for path in paths), 1, -1):
        shares = list(_shares([" > ".join(path[:level]) for path in paths]).values())
        if sum(shares[:TOP]) >= 2 / 3:
            return level
    return 1


def _clusters(vectors: Floats, weight: Floats, rounds: int = 10) -> NDArray[np.int64]:
    """Spherical k-means (Dhillon and Modha 2001) over a person's distinct items; for each, its cluster's most typical.

    Starts from the heaviest item and then from whatever is farthest, so that nothing is drawn.
    """
    centres = [int(np.argmax(weight))]
    near = vectors @ vectors[centres[0]]
    while len(centres) < min(TOP, len(vectors)) and near.min() < 0.8:
        centres.append(int(np.argmin(near)))
        near = np.maximum(near, vectors @ vectors[centres[-1]])
    middle = vectors[centres]
    for _ in range(rounds):
        mine = (vectors @ middle.T).argmax(axis=1)
        sums = np.stack([(vectors * (weight * (mine == c))[:, None]).sum(axis=0) for c in range(len(middle))])
        middle = unit(sums)
    cosine = vectors @ middle.T
    mine = cosine.argmax(axis=1)
    typical = [int(np.where(mine == c, cosine[:, c], -2).argmax()) for c in range(len(middle))]
    out: NDArray[np.int64] = np.array(typical, np.int64)[mine]
    return out
