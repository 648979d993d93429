"""Statistics of a sample of a shop's people, as if all had been counted.

A scorer that learned from a tenth of a shop's people saw a tenth of each item's buyers; when it serves,
buyers are counted over everybody. Features such as log(1 + buyers) would then lie where it never learned. So what is a
number of people is multiplied by how many people each of the sample stands for (the Horvitz-Thompson estimate). Shares,
days, prices and means per person stay as they are counted: they do not grow with a shop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recllm.base.arrays import Floats
from recllm.base.settings import CollaborativeSettings
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.models.sequence import SequenceModel
from recllm.shop.data.catalogue import ItemGroups
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import enlarged

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
    """`CollaborativeStatistics.fit`; the pool becomes as large as that of everybody would be, with empty rows."""
    settings, sample = settings or CollaborativeSettings(), dataset.sample
    if sample is not None:  # what is counted is then near to what is counted over all: as large a share are neighbours
        n_pool, n_all = (min(settings.neighbour_pool, n) for n in (sample.people, sample.of_people))
        neighbours = max(1, round(settings.neighbours * n_pool / max(n_all, 1)))
        ridge = settings.item_item_l2 / sample.scale
        settings = settings.model_copy(update={"item_item_l2": ridge, "neighbours": neighbours})
    population = CollaborativeStatistics.fit(dataset, item_vectors, settings, basics, interests, facets)
    if sample is None:
        return population
    factor, stats, n_pool = np.float32(sample.scale), population.stats, len(population.pool)
    n_all = max(n_pool, min(population.settings.neighbour_pool, round(n_pool * sample.scale)))

    groups = {
        name: replace(
            sales,
            arrival_rate=sales.arrival_rate * factor,
            votes=None if sales.votes is None else enlarged(sales.votes, n_all, sales.votes.shape[1]),
        )
        for name, sales in population.group_statistics.items()
    }
    basics = population.pool_basics
    return replace(
        population,
        stats=replace(stats, **{name: getattr(stats, name) * factor for name in COUNTED}),
        pool=np.pad(population.pool, (0, n_all - n_pool), constant_values=-1),
        profiles=enlarged(population.profiles, n_all, dataset.n_items),
        recent=enlarged(population.recent, n_all, dataset.n_items),
        decayed=enlarged(population.decayed, n_all, dataset.n_items),
        arrived=replace(population.arrived, got=population.arrived.got * factor),
        group_statistics=groups,
        pool_basics=None if basics is None else np.pad(basics, ((0, n_all - n_pool), (0, 0))),
    )
