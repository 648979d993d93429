"""A private training as a model that can be published."""

from __future__ import annotations

from collections.abc import Callable

from recllm.base.errors import DataError
from recllm.base.schema import Encoder
from recllm.base.settings import CollaborativeSettings, PrivateTrainingSettings
from recllm.learn.features.item_vectors import basics_of, basics_vectors
from recllm.learn.training.private.accounting import PrivacyGuarantee
from recllm.learn.training.private.examples import log_end_day
from recllm.recommend.recommender.private_serving import catalogue_vectors
from recllm.recommend.recommender.saved_model import Model
from recllm.shop.data.dataset import Dataset, utc


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
