"""Who buys which item again within the next week: boosted trees on what `recllm.market.occasions.repurchase` tells.

For each of the latest weeks of the log the pairs of a person and an item as of its start are examples, and the label is
whether the person bought the item in that week. The reference of the field is Amazon's Buy It Again (Bhagat et al.
2018), a repeat rate with a gamma prior; it is one of the features here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError, ModelError
from recllm.base.stats.probabilities import sigmoid
from recllm.learn.models.trees import BoostedTrees, grow_trees
from recllm.market.occasions.repurchase import HORIZON_DAYS, bought_again, repurchase_pairs
from recllm.market.occasions.rules import ReplenishmentSettings
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.model import varying
from recllm.shop.data.dataset import DAY, Dataset, utc

MIN_REPURCHASES = 200
"""Fewer of them in all weeks teach nothing that could be checked."""

Floats = NDArray[np.float64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplenishmentModel:
    """Trees, and what they were learned from."""

    trees: BoostedTrees
    as_of: int
    """Nothing from then on was learned from, epoch seconds."""
    record: Mapping[str, Any]
    """Data hash, weeks, pairs, settings, and the figures of the latest week by a model of the weeks before it."""

    @classmethod
    def read(cls, file: Path) -> ReplenishmentModel:
        """Reads what `save` wrote. Raises `ModelError` for any other file."""
        trees, record = BoostedTrees.read(file)
        try:
            return cls(trees=trees, as_of=int(record["as_of"]), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{file}: no replenishment model ({error}); remove it, and one is learned anew") from error

    def save(self, file: Path) -> None:
        """Writes it whole."""
        self.trees.save(file, self.record)

    def probability(self, features: FeatureTable) -> Floats:
        """That the item is bought within `HORIZON_DAYS` days, in (0, 1), (n,). Raises `ModelError` for other features
        than those learned from."""
        if missing := set(self.trees.names) - set(features.names):
            raise ModelError(f"the replenishment model reads {min(missing)}, which is not known; learn it again")
        columns = [features.names.index(name) for name in self.trees.names]
        return sigmoid(self.trees.score(features.values[:, columns]))


def learn_replenishment(
    dataset: Dataset,
    settings: ReplenishmentSettings | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> ReplenishmentModel:
    """From everything in `dataset`: people who may be learned from.

    progress: told what is done. Raises `DataError` for a log without two weeks that can be learned from, or with too
    few repurchases.
    """
    settings, tell = settings or ReplenishmentSettings(), progress or (lambda _: None)
    rng, weeks = np.random.default_rng(settings.seed), past_weeks(dataset, settings.weeks)
    tables, labels = [], []
    for number, start in enumerate(weeks, 1):
        tell(f"reading week {number} of {len(weeks)}, from {utc(start):%Y-%m-%d}")
        pairs = repurchase_pairs(dataset, start)
        label, limit = bought_again(dataset, pairs, start), settings.max_rows // len(weeks)
        rows = np.sort(rng.permutation(len(pairs))[:limit])
        tables.append(pairs.features.rows(rows))
        labels.append(label[rows])
    n_positive = sum(int(label.sum()) for label in labels)
    if n_positive < MIN_REPURCHASES:
        raise DataError(
            f"in the last {len(weeks)} weeks {n_positive:,} items were bought again by somebody who had bought them on "
            f"two days before; at least {MIN_REPURCHASES} are needed to learn when something is due"
        )
    tell("checking on the latest week")
    earlier = fit_trees(FeatureTable.stacked(tables[1:]), np.concatenate(labels[1:]), settings)
    checked = ReplenishmentModel(trees=earlier, as_of=weeks[0], record={})
    figures = ranking_figures(checked.probability(tables[0]), labels[0])
    tell("learning from all weeks")
    trees = fit_trees(FeatureTable.stacked(tables), np.concatenate(labels), settings)
    end = int(dataset.events.at.max()) + 1
    record = {
        "as_of": end,
        "data_hash": dataset.data_hash(),
        "weeks": len(weeks),
        "pairs": sum(map(len, labels)),
        "bought_again": n_positive,
        "settings": settings.model_dump(mode="json"),
        "latest_week": figures,
    }
    logger.info("replenishment: %d pairs of %d weeks, %s", record["pairs"], len(weeks), figures)
    return ReplenishmentModel(trees=trees, as_of=end, record=record)


def past_weeks(dataset: Dataset, n: int) -> list[int]:
    """Starts of the latest n weeks whose end is known, latest first, epoch seconds; fewer where the log is short.

    Raises `DataError` for a log with fewer than two of them after its first four weeks.
    """
    if not len(dataset.events):
        raise DataError("the log is empty: nobody has agreed to model training, or no events were loaded")
    first, end, week = int(dataset.events.at.min()), int(dataset.events.at.max()) + 1, HORIZON_DAYS * DAY
    starts = [end - number * week for number in range(1, n + 1) if end - number * week >= first + 4 * week]
    if len(starts) < 2:
        raise DataError(f"the log spans {(end - first) / DAY:.0f} days; to learn when something is due takes six weeks")
    return starts


def fit_trees(features: FeatureTable, label: Floats, settings: ReplenishmentSettings) -> BoostedTrees:
    """On the columns that vary: what a shop does not know, such as categories, is none."""
    columns = varying(features.values)
    names = [features.names[column] for column in columns]
    return grow_trees(features.values[:, columns], label, settings, names=names, column_share=settings.column_share)


def ranking_figures(probability: Floats, label: Floats, first: int = 10_000) -> dict[str, float]:
    """auc, average_precision, precision of the `first` pairs, and ece: the expected calibration error over 15 bins of
    equal size; auc and average_precision are NaN where all labels are the same. label: (n,)."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    order = np.argsort(-probability, kind="stable")
    bins = np.array_split(order, 15)
    error = sum(abs(probability[rows].mean() - label[rows].mean()) * len(rows) for rows in bins if len(rows))
    both = 0 < label.sum() < len(label)
    return {
        "auc": float(roc_auc_score(label, probability)) if both else np.nan,
        "average_precision": float(average_precision_score(label, probability)) if both else np.nan,
        "precision": float(label[order[:first]].mean()),
        "ece": float(error / len(label)),
    }
