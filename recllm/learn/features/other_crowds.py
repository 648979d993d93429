"""Statistics of other crowds than all of a shop's people: of a sample of them, and of no one.

Of a sample. A scorer that learned from a tenth of a shop's people saw a tenth of each item's buyers; when it serves,
buyers are counted over everybody. Features such as log(1 + buyers) would then lie where it never learned. So what is a
number of people is multiplied by how many people each of the sample stands for (the Horvitz-Thompson estimate). Shares,
days, prices and means per person stay as they are counted: they do not grow with a shop.

Of no one. What a private scorer reads of a user and an item comes from the user's own past, what they said of
themselves, and the public catalogue. It is computed by the same `pair_features` as ever, over statistics that saw no
event, so nothing that another user did can reach it. Columns that need a crowd are constant there, and left out of the
score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.settings import CollaborativeSettings
from recllm.learn.features.candidates import CandidateCounts
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.features.pair_features import FEATURE_NAMES
from recllm.learn.models.sequence import SequenceModel
from recllm.shop.data.catalogue import ItemGroups, per_group
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import Floats
from recllm.shop.data.people_sample import PeopleSample

_LOG_DAYS = (3.0, 2.0)
_SHARE = (0.0, 0.25)

PRIVATE_FEATURES: Mapping[str, tuple[float, float]] = {
    # the user's own dealings with the item
    "times": (0.0, 0.7),
    "count_120": (0.0, 0.5),
    "count_30": (0.0, 0.4),
    "count_10": (0.0, 0.3),
    "days_since": (5.5, 1.5),
    "visits_since": (3.0, 1.5),
    "visit_rate": _SHARE,
    "overdue": (0.0, 1.0),
    "interval": (0.0, 1.5),
    "quantity": (0.0, 0.5),
    # with its groups
    **{f"{group}_times": (0.5, 1.0) for group in ("type", "category")},
    **{f"{group}_affinity": (0.0, 0.1) for group in ("type", "category")},
    "brand_affinity": (0.5, 0.3),
    **{f"{group}_days_since": (5.0, 1.7) for group in ("type", "category")},
    **{f"{group}_items": (0.5, 1.0) for group in ("type", "category", "type_maker", "type_size")},
    "type_overdue": (0.0, 1.0),
    "type_loyalty": _SHARE,
    # catalogue prices against those of what the user bought
    "price": (2.0, 1.5),
    "price_gap": (0.0, 1.0),
    "price_gap_type": (0.0, 0.5),
    # the user
    "visits_28": (1.5, 1.0),
    "days_since_visit": _LOG_DAYS,
    "items": (3.0, 1.5),
    "novelty": (0.5, 0.3),
    # texts
    "text_nearest": (0.7, 0.25),
    "text_set": (0.01, 0.03),
    # browsing
    "views": (0.0, 0.5),
    "days_since_view": (6.0, 1.5),
    "carted": _SHARE,
    "favourite": _SHARE,
    "type_views": _SHARE,
}
"""What a private scorer reads, and the centre and spread by which each is brought to scale. They are constants, written
down from what the features mean: a mean over a shop's pairs would tell of its people."""

assert set(PRIVATE_FEATURES) <= set(FEATURE_NAMES)  # noqa: S101

PRIVATE_CANDIDATES = CandidateCounts(
    own_history=500,
    neighbours=0,
    item_item=0,
    text_nearest=300,
    category_trend=300,
    new_arrivals=0,
    popular=300,
    interests=0,
    short_history=10_000_000,
)
"""Candidates of a private model: what the user bought, the nearest texts, and what the private score itself would offer
to anybody, of the whole catalogue and of the user's types."""


def crowd_of_nobody(
    items: pl.DataFrame,
    vectors: Floats,
    as_of: int,
    settings: CollaborativeSettings,
    facets: ItemGroups | None = None,
) -> CollaborativeStatistics:
    """Statistics of a shop without any event. items: `Dataset.items`. vectors: unit rows (n_items, dim)."""
    return CollaborativeStatistics.fit(Dataset.of_catalogue(items, as_of), vectors, settings, facets=facets)


def with_general_interest(
    population: CollaborativeStatistics, interest: NDArray[np.floating]
) -> CollaborativeStatistics:
    """The statistics with a stand-in for sales, by which items are proposed and shown to unknown users.

    interest: (n_items,), at least 0, what a private score expects an unknown user to buy. The features that a private
    scorer reads stay what they were.
    """
    interest = np.asarray(interest, np.float32)
    kind = population.facets.type
    of_type = per_group(kind, interest)
    share = np.where(of_type > 0, interest / np.maximum(of_type, 1e-12), 0).astype(np.float32)
    stats = replace(population.stats, buyers_28=interest, type_share=share, type_buyers_28=of_type)
    return replace(population, stats=stats)


def is_listed(items: pl.DataFrame) -> NDArray[np.bool_]:
    """The items that the catalogue names, (n_items,): of the others only people's events tell."""
    stated = [pl.col(name).is_not_null() for name in ("title", "brand", "price")]
    listed = items.select(pl.any_horizontal(*stated, pl.col("category").list.len().fill_null(0) > 0)).to_series()
    return np.asarray(listed.fill_null(False).to_numpy(), bool)


COUNTED = ("buyers_7", "buyers_28", "buyers_91", "buyers_ever", "buyers_7_before", "type_buyers_28")
"""The statistics of items that are numbers of people."""


def sample_statistics(
    dataset: Dataset,
    item_vectors: Floats,
    settings: CollaborativeSettings | None = None,
    basics: Floats | None = None,
    interests: SequenceModel | None = None,
    facets: ItemGroups | None = None,
) -> CollaborativeStatistics:
    """`CollaborativeStatistics.fit`, of a dataset that is a sample of people as if everybody had been counted."""
    settings, sample = settings or CollaborativeSettings(), dataset.sample
    if sample is None:
        return CollaborativeStatistics.fit(dataset, item_vectors, settings, basics, interests, facets)
    settings = sample_settings(settings, sample)
    return _scaled(CollaborativeStatistics.fit(dataset, item_vectors, settings, basics, interests, facets), sample)


def sample_settings(settings: CollaborativeSettings, sample: PeopleSample) -> CollaborativeSettings:
    """By which to count over a sample, so that what is counted is near to what is counted over all: the ridge of what
    goes with what is as much smaller as the sample, and of a smaller pool as large a share are neighbours."""
    n_pool, n_all = (min(settings.neighbour_pool, n) for n in (sample.people, sample.of_people))
    neighbours = max(1, round(settings.neighbours * n_pool / max(n_all, 1)))
    return settings.model_copy(update={"item_item_l2": settings.item_item_l2 / sample.scale, "neighbours": neighbours})


def _scaled(population: CollaborativeStatistics, sample: PeopleSample) -> CollaborativeStatistics:
    """Numbers of people as if all had been counted; and the pool, to whose size they are held, as large as theirs would
    be, with empty rows."""
    factor, stats, n_pool = np.float32(sample.scale), population.stats, len(population.pool)
    n_all = max(n_pool, min(population.settings.neighbour_pool, round(n_pool * sample.scale)))

    def longer(rows: Any) -> Any:
        """A sparse matrix with empty rows behind its own."""
        from scipy.sparse import csr_matrix

        indptr = np.pad(rows.indptr, (0, n_all - n_pool), mode="edge")
        return csr_matrix((rows.data, rows.indices, indptr), shape=(n_all, rows.shape[1]))

    groups = {
        name: replace(
            sales,
            arrival_rate=sales.arrival_rate * factor,
            votes=None if sales.votes is None else longer(sales.votes),
        )
        for name, sales in population.group_statistics.items()
    }
    basics = population.pool_basics
    return replace(
        population,
        stats=replace(stats, **{name: getattr(stats, name) * factor for name in COUNTED}),
        pool=np.pad(population.pool, (0, n_all - n_pool), constant_values=-1),
        profiles=longer(population.profiles),
        recent=longer(population.recent),
        decayed=longer(population.decayed),
        arrived=replace(population.arrived, got=population.arrived.got * factor),
        group_statistics=groups,
        pool_basics=None if basics is None else np.pad(basics, ((0, n_all - n_pool), (0, 0))),
    )
