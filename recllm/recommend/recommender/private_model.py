"""A private model: how it is trained, and what it serves from: the catalogue and its own scores, as nothing may be
counted over people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from recllm.base.errors import DataError
from recllm.base.schema import Encoder
from recllm.base.settings import CollaborativeSettings, PrivateTrainingSettings
from recllm.learn.features.candidates import explicit
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.features.item_vectors import basics_of, basics_vectors, item_vectors
from recllm.learn.features.other_crowds import crowd_of_nobody, with_general_interest
from recllm.learn.models.scorer import Scorer
from recllm.learn.training.private.accounting import PrivacyGuarantee
from recllm.recommend.recommender.ranking import ItemRanker, UserInputs
from recllm.recommend.recommender.saved_model import Model
from recllm.shop.data.dataset import Dataset, Events, utc
from recllm.shop.data.interactions import Floats, Pairs

BLOCK_ITEMS = 16_384
HIGHEST_LOGIT = 10.0
"""exp of the score is an expected number of purchases; no customer buys more of one item."""


def catalogue_vectors(encoder: Encoder, items: pl.DataFrame, as_of: int, locale: str = "en") -> Floats:
    """Unit vectors of the items by what the catalogue says, (n_items, dim): a price that was only paid is not known."""
    return item_vectors(encoder, Dataset.of_catalogue(items, as_of), locale)


def private_population(
    items: pl.DataFrame, vectors: Floats, as_of: int, scorer: Scorer, settings: CollaborativeSettings
) -> CollaborativeStatistics:
    """Statistics without customers; for sales stands what the private score expects an unknown user to buy."""
    empty = crowd_of_nobody(items, vectors, as_of, settings)
    return with_general_interest(empty, general_interest(scorer, empty))


def general_interest(scorer: Scorer, empty: CollaborativeStatistics) -> Floats:
    """Expected purchases of each item by a user of whom nothing is known, (n_items,)."""
    ranker, parts = ItemRanker(scorer, empty), []
    unknown = UserInputs(replace(Events.nothing(), indptr=np.zeros(2, np.int64)), empty.as_of)
    for start in range(0, empty.n_items, BLOCK_ITEMS):
        pairs: Pairs = explicit(1, np.arange(start, min(start + BLOCK_ITEMS, empty.n_items)))
        parts.append(np.exp(np.minimum(ranker.score(unknown, pairs).logit, HIGHEST_LOGIT)))
    return np.concatenate([*parts, np.zeros(0)]).astype(np.float32)


def fit_private_model(
    dataset: Dataset,
    encoder: Encoder,
    settings: PrivateTrainingSettings,
    guarantee: PrivacyGuarantee,
    *,
    locale: str = "en",
    collaborative: CollaborativeSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> Model:
    """Learn the scorer as `guarantee` says. encoder: as it came, or with an adapter that the guarantee covers.

    It has no metrics, because nothing was measured on people. Raises `DataError` when there is nothing to learn from,
    and what `recllm.learn.training.private.head.fit_private_scorer` raises.
    """
    from recllm.learn.training.private.examples import log_end_day
    from recllm.learn.training.private.head import fit_private_scorer

    if not len(dataset.events):
        raise DataError("the log holds no event, so there is nothing to learn from")
    vectors = catalogue_vectors(encoder, dataset.items, dataset.as_of, locale)
    basics = basics_vectors(encoder, basics_of(dataset.users), locale)
    mechanism = guarantee.mechanisms[-1]
    fitted = fit_private_scorer(dataset, vectors, basics, settings, mechanism, collaborative, progress)
    return Model(
        scorer=fitted.scorer,
        population=fitted.population,
        candidates=fitted.candidates,
        encoder=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        horizon_days=settings.horizon_days,
        metrics={},
        training={
            "data_hash": dataset.data_hash(),
            "people": dataset.n_users,
            "items": dataset.n_items,
            "events": len(dataset.events),
            "from": utc(int(dataset.events.at.min()) // 86_400 * 86_400).isoformat(),
            "until": utc(log_end_day(dataset.as_of)).isoformat(),
            "arguments": settings.model_dump(mode="json"),
            "sequence": None,
            "notes": [
                "trained privately: no metrics, no calibration and no early stop, as each would look at people; the "
                "level of the probability was learned with the weights"
            ],
        },
        privacy=guarantee,
    )
