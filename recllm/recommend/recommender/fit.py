"""The model that a log teaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from recllm.base.schema import Encoder
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.learn.features.candidates import CandidateCounts
from recllm.learn.features.item_vectors import DatedItemVectors, basics_of, basics_vectors
from recllm.recommend.recommender.saved_model import Model
from recllm.shop.data.dataset import Dataset, utc

if TYPE_CHECKING:
    from recllm.base.schema import FloatArray
    from recllm.learn.models.sequence import SequenceArguments


def fit_model(
    dataset: Dataset,
    encoder: Encoder,
    arguments: ScorerTrainingSettings,
    *,
    locale: str,
    interests: SequenceArguments | None = None,
    collaborative: CollaborativeSettings | None = None,
    candidates: CandidateCounts | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Model, FloatArray]:
    """A scorer trained on all of the dataset, and the item vectors of its time, (n_items, dim). Arguments and errors as
    of `Recommender.fit`. locale: of the item texts."""
    from recllm.learn.training.scorer import fit_scorer

    basics = basics_vectors(encoder, basics_of(dataset.users), locale)
    dated = DatedItemVectors(encoder, dataset, locale)
    fitted = fit_scorer(
        dataset,
        dated.latest,
        basics,
        arguments,
        progress,
        population=collaborative,
        settings=candidates,
        interests=interests,
        vectors_before=dated.before,
    )
    ids = dataset.items["item_id"].to_list()
    model = Model(
        scorer=fitted.scorer,
        population=fitted.population,
        candidates=fitted.candidates,
        encoder=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        horizon_days=arguments.horizon_days,
        metrics=fitted.metrics,
        training={
            "data_hash": dataset.data_hash(),
            "people": dataset.n_users,
            "sample": None if dataset.sample is None else dataset.sample.record(),
            "items": dataset.n_items,
            "events": len(dataset.events),
            "from": utc(int(dataset.events.at.min())).isoformat(),
            "until": utc(dataset.as_of).isoformat(),
            "arguments": arguments.model_dump(mode="json"),
            "sequence": None if interests is None else interests.model_dump(mode="json"),
            "notes": list(fitted.notes),
        },
        interests=None if fitted.interests is None else fitted.interests.stored(ids),
    )
    return model, dated.latest
