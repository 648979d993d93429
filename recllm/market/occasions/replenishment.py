"""Who buys which item again within the next week: boosted trees on the features of `occasions.repurchase`.

For each of the latest weeks of the log the pairs of a person and an item as of its start are examples, and the label is
whether the person bought the item in that week.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.documents import plain
from recllm.base.errors import DataError, ModelError
from recllm.base.stats.probabilities import auc, calibration_error, sigmoid
from recllm.learn.models.trees import BoostedTrees, BoostingSettings, grow_trees
from recllm.market.occasions.repurchase import HORIZON_DAYS, bought_again, repurchase_pairs
from recllm.market.propensity.features import FeatureTable
from recllm.shop.data.dataset import DAY, Dataset, utc

TREES = BoostingSettings(rounds=150, learning_rate=0.06, leaves=40, min_leaf_rows=200, l2=10.0)
COLUMN_SHARE = 0.35
"""Share of the columns that a split may choose from."""
WEEKS = 8
"""Past weeks learned from."""
MAX_ROWS = 600_000
"""Pairs of a person and an item in all these weeks at most, drawn at random."""
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
            raise ModelError(f"{file}: no replenishment model ({error}); remove it to learn one again") from error

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
    trees: BoostingSettings = TREES,
    *,
    weeks: int = WEEKS,
    progress: Callable[[str], None] | None = None,
) -> ReplenishmentModel:
    """From everything in `dataset`, the people who may be learned from, in their latest `weeks`.

    progress: gets each step in words. Raises `DataError` for a log without two weeks that can be learned from, or with
    too few repurchases.
    """
    tell, rng, starts = progress or (lambda _: None), np.random.default_rng(trees.seed), past_weeks(dataset, weeks)
    tables, labels = [], []
    for number, start in enumerate(starts, 1):
        tell(f"reading week {number} of {len(starts)}, from {utc(start):%Y-%m-%d}")
        pairs = repurchase_pairs(dataset, start)
        label, limit = bought_again(dataset, pairs, start), MAX_ROWS // len(starts)
        rows = np.sort(rng.permutation(len(pairs))[:limit])
        tables.append(pairs.features.rows(rows))
        labels.append(label[rows])
    n_positive = sum(int(label.sum()) for label in labels)
    if n_positive < MIN_REPURCHASES:
        raise DataError(
            f"in the last {len(starts)} weeks {n_positive:,} items were bought again after purchases on two days; "
            f"at least {MIN_REPURCHASES} are needed to learn when something is due"
        )

    def grown(windows: slice) -> BoostedTrees:
        table, label = FeatureTable.stacked(tables[windows]), np.concatenate(labels[windows])
        return grow_trees(table.values, label, trees, names=table.names, column_share=COLUMN_SHARE)

    tell("checking on the latest week")
    checked = ReplenishmentModel(trees=grown(slice(1, None)), as_of=starts[0], record={})
    figures = ranking_figures(checked.probability(tables[0]), labels[0])
    end = int(dataset.events.at.max()) + 1
    record = {
        "as_of": end,
        "data_hash": dataset.data_hash(),
        "weeks": len(starts),
        "pairs": sum(map(len, labels)),
        "bought_again": n_positive,
        "settings": plain(trees),
        "latest_week": figures,
    }
    tell("learning from all weeks")
    logger.info("replenishment: %d pairs of %d weeks, %s", record["pairs"], len(starts), figures)
    return ReplenishmentModel(trees=grown(slice(None)), as_of=end, record=record)


def past_weeks(dataset: Dataset, n: int) -> list[int]:
    """Starts of the latest n weeks whose end is known, latest first, epoch seconds; fewer where the log is short.

    Raises `DataError` for a log with fewer than two of them after its first four weeks.
    """
    if not len(dataset.events):
        raise DataError("the log is empty: no customer has agreed to model training, or no events were loaded")
    first, end, week = int(dataset.events.at.min()), int(dataset.events.at.max()) + 1, HORIZON_DAYS * DAY
    starts = [end - number * week for number in range(1, n + 1) if end - number * week >= first + 4 * week]
    if len(starts) < 2:
        raise DataError(f"the log spans {(end - first) / DAY:.0f} days; to learn when something is due takes six weeks")
    return starts


def ranking_figures(probability: Floats, label: Floats, first: int = 10_000) -> dict[str, float]:
    """auc, average_precision, precision of the `first` pairs, and ece, the calibration error. label: (n,); auc and
    average_precision are NaN where all labels are the same."""
    from sklearn.metrics import average_precision_score

    both = 0 < label.sum() < len(label)
    return {
        "auc": auc(probability, label),
        "average_precision": float(average_precision_score(label, probability)) if both else np.nan,
        "precision": float(label[np.argsort(-probability, kind="stable")[:first]].mean()),
        "ece": calibration_error(probability, label > 0),
    }
