"""What a workspace learns: the encoder, the scorer, advice, and how good it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from recllm.base.errors import DataError, PolicyError
from recllm.base.schema import Encoder, Progress, Purpose
from recllm.base.settings import LoraSettings, ScorerTrainingSettings, Settings
from recllm.learn.models.sequence import SequenceArguments
from recllm.learn.training.lora.examples import LoraArguments
from recllm.recommend.recommender.shop_recommender import publish_recommender, workspace_encoder
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.workspace import Workspace, log_end

if TYPE_CHECKING:
    from recllm.learn.training.advise import Advice
    from recllm.learn.training.lora.tune import TunedEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The outcome of `recllm train`."""

    model_version: str
    rows: int
    """Events learned from."""
    seconds: float
    metrics: Mapping[str, float]
    """Of the validation users of the latest past window, who also chose the epoch and calibrated the probability."""
    notes: tuple[str, ...] = ()
    """What a shop that serves the model has to know."""


def train_workspace(
    workspace: Workspace,
    *,
    seed: int = 0,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
    lora: LoraSettings | None = None,
    tuned: TunedEncoder | None = None,
    **arguments: Any,
) -> Trained:
    """Train the scorer on people who agreed to it, of more than `scorer.learn_people` on a sample of them, and publish
    it as the current model, which serves everybody.

    `training.advise` chooses the settings, and whether there is a sequence model; what the workspace's settings
    say stands above its advice, and `arguments`, fields of `ScorerTrainingSettings`, above both. lora: fine-tune the
    encoder first; its adapter becomes part of the model. tuned: what `tune_workspace` gave, instead of that.
    Raises `DataError` when the log is too small to learn from, `PolicyError` where no one agreed to it.
    """
    from recllm.recommend.recommender.recommender import Recommender

    started, tell, erased = time.monotonic(), progress or logger.info, workspace.store().tombstones()
    people_limit = arguments.get("learn_people", workspace.settings.scorer.learn_people)
    data, end = learned_from(workspace, people_limit), log_end(workspace)
    data = data if end is None or end >= data.as_of else data.before(end)  # a clock that ran ahead wrote the rest
    base, locale = encoder or workspace_encoder(workspace), workspace.settings.locale
    if data.sample is not None:
        tell(f"{data.sample.people:,} of {data.sample.of_people:,} people are learned from (scorer.learn_people)")
    if lora is not None:
        tuned = tune_workspace(workspace, lora, encoder=base, progress=tell, people_limit=people_limit)
    recommender = Recommender(data, tuned.encoder if tuned else base, locale=locale)
    advice = workspace_advice(workspace, data, horizon_days=arguments.get("horizon_days"), seed=seed)
    scorer, sequence = settings_in_use(workspace.settings, advice, data, seed=seed, **arguments)
    tell(f"{len(data.events):,} events to learn from, {data.n_items:,} items; their texts are encoded")
    recommender = recommender.fit(
        scorer,
        interests=sequence,
        collaborative=workspace.settings.collaborative,
        progress=tell,
    )
    model = recommender.model
    assert model is not None  # noqa: S101 - fit returned
    if tuned:
        model = replace(model, adapter=tuned.adapter)
    version = publish_recommender(workspace, model, recommender.encoder, erased=erased, progress=tell)
    return Trained(
        model_version=version,
        rows=len(data.events),
        seconds=time.monotonic() - started,
        metrics=model.metrics,
        notes=tuple(model.training.get("notes", ())),
    )


def learned_from(workspace: Workspace, people_limit: int | None = None) -> Dataset:
    """The people who agreed to model training, of more than the limit a sample.
    Raises `PolicyError` without any."""
    data = workspace.gate().dataset(Purpose.MODEL_TRAINING, people_limit=people_limit)
    if not len(data.events):
        raise PolicyError(
            "no customer of this workspace has agreed to model training; load a consent table, "
            "or make the workspace with --consent-default granted"
        )
    return data


def tune_workspace(
    workspace: Workspace,
    lora: LoraSettings | None = None,
    *,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
    people_limit: int | None = None,
) -> TunedEncoder:
    """Fine-tune the encoder on people who agreed to training, in a folder of the cache.

    people_limit: of more people a sample; None for `scorer.learn_people`. Raises what
    `recllm.learn.training.lora.tune.tune_encoder` does.
    """
    from recllm.learn.training.lora.tune import tune_encoder

    arguments = LoraArguments.layered(workspace.settings.lora, lora)
    base = encoder or workspace_encoder(workspace)
    limit = people_limit or workspace.settings.scorer.learn_people
    data = workspace.gate().dataset(Purpose.MODEL_TRAINING, people_limit=limit)
    folder = workspace.cache_dir / "lora" / data.data_hash()  # which all processes of a run agree about
    return tune_encoder(data, base, arguments, folder, progress, locale=workspace.settings.locale)


def workspace_advice(
    workspace: Workspace,
    data: Dataset | None = None,
    *,
    encoder: str | None = None,
    horizon_days: int | None = None,
    seed: int = 0,
) -> Advice:
    """What to train on these data, by the workspace's settings; without data on people who agreed to training.
    encoder: one that is decided on; the workspace's own where its settings name another than the default."""
    from recllm.learn.training.advise import advise
    from recllm.text.encoder.loading import DEFAULT_ENCODER
    from recllm.text.items import item_texts

    settings = workspace.settings
    data = workspace.gate().dataset(Purpose.MODEL_TRAINING) if data is None else data
    decided = encoder or (settings.encoder if settings.encoder != DEFAULT_ENCODER else None)
    horizon_days = horizon_days or settings.scorer.explicit().get("horizon_days")
    texts = item_texts(data.items, settings.locale)
    return advise(data, texts, encoder=decided, horizon_days=horizon_days, seed=seed)


def settings_in_use(
    settings: Settings, advice: Advice, data: Dataset, *, seed: int = 0, **arguments: Any
) -> tuple[ScorerTrainingSettings, SequenceArguments | None]:
    """The scorer's and the sequence model's settings: advice, above it `settings`, above these `arguments`.

    Raises `DataError` when the log is too small to learn from and nothing was set that would say how.
    """
    from recllm.learn.training.advise import advised_interests

    explicit = settings.scorer.explicit() | arguments
    if advice.training is None and not explicit:
        raise DataError(f"{'; '.join(advice.missing)}. Without training there is {advice.mode}: recllm recommend works")
    scorer = (advice.training or ScorerTrainingSettings(seed=seed)).model_copy(update=explicit)
    sequence = advice.interests if advice.training else advised_interests(data, scorer)
    if settings.sequence_model is not None:
        sequence = (sequence or SequenceArguments(seed=seed)) if settings.sequence_model else None
    return scorer, sequence
