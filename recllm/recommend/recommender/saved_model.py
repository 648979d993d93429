"""A model as a folder of safetensors and JSON: weights, settings and figures, and no row of any person."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recllm.base.documents import json_value, without_retired
from recllm.base.errors import ModelError, NotFittedError, UsageError
from recllm.base.schema import Encoder, Progress
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.learn.features.candidates import CandidateCounts
from recllm.learn.features.item_vectors import DatedItemVectors, basics_of, basics_vectors
from recllm.learn.models.scorer import Scorer, load_scorer, save_scorer
from recllm.learn.models.sequence import SequenceWeights, load_sequence_model, save_sequence_model
from recllm.recommend.recommender.lineage import GateReport, Lineage, Origin, RetrainCheck
from recllm.recommend.recommender.registry import current, open_version
from recllm.shop.data.dataset import Dataset, utc

if TYPE_CHECKING:
    from recllm.base.arrays import Floats
    from recllm.learn.models.sequence import SequenceArguments

MODEL_FILE = "model.json"
ADAPTER = "adapter"


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A scorer with what is needed to serve it. metrics: see `recllm.learn.training.scorer.FittedScorer`."""

    scorer: Scorer = field(repr=False)
    population: CollaborativeSettings
    candidates: CandidateCounts
    encoder: str
    encoder_fingerprint: str
    horizon_days: int
    metrics: Mapping[str, float]
    training: Mapping[str, Any]
    """Data hash, people, events, span, seed, arguments of the scorer and the sequence model, and notes of the training
    run."""
    version: str | None = None
    interests: SequenceWeights | None = field(default=None, repr=False)
    """The sequence model, where one was trained."""
    folder: Path | None = None
    """Where a published version lies."""
    adapter: Path | None = None
    """Folder of the LoRA adapter whose vectors the scorer learned on; None for the encoder as it came."""


def fit_model(
    dataset: Dataset,
    encoder: Encoder,
    arguments: ScorerTrainingSettings,
    *,
    locale: str,
    interests: SequenceArguments | None = None,
    collaborative: CollaborativeSettings | None = None,
    candidates: CandidateCounts | None = None,
    progress: Progress | None = None,
) -> tuple[Model, Floats]:
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


def save_model(model: Model, folder: Path) -> None:
    """Write the model's files into an existing folder."""
    save_scorer(model.scorer, folder)
    if model.interests is not None:
        save_sequence_model(model.interests, folder)
    if model.adapter is not None:
        shutil.copytree(model.adapter, folder / ADAPTER)
    record = {
        "encoder": model.encoder,
        "encoder_fingerprint": model.encoder_fingerprint,
        "horizon_days": model.horizon_days,
        "metrics": dict(model.metrics),
        "training": dict(model.training),
        "population": model.population.model_dump(mode="json"),
        "candidates": asdict(model.candidates),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / MODEL_FILE).write_text(text, encoding="utf-8")


def read_model(folder: Path, version: str | None = None) -> Model:
    """Read what `save_model` wrote. Raises `ModelError` when a file is missing or does not fit."""
    try:
        record = json_value((folder / MODEL_FILE).read_text(encoding="utf-8"))
        return Model(
            scorer=load_scorer(folder),
            population=CollaborativeSettings(**without_retired("collaborative", record["population"])),
            candidates=CandidateCounts(**record["candidates"]),
            encoder=record["encoder"],
            encoder_fingerprint=record["encoder_fingerprint"],
            horizon_days=record["horizon_days"],
            metrics=record["metrics"],
            training=record["training"],
            version=version,
            folder=folder,
            interests=load_sequence_model(folder),
            adapter=folder / ADAPTER if (folder / ADAPTER).is_dir() else None,
        )
    except (OSError, ValueError, TypeError, KeyError, UsageError) as error:
        raise ModelError(f"{folder}: not a model of this version ({error}); train again") from error


def lineage_of(
    model: Model,
    origin: Origin,
    parent: str | None,
    *,
    checks: Sequence[RetrainCheck] = (),
    gate: GateReport | None = None,
) -> Lineage:
    """What the model's manifest is to say of where it comes from."""
    training = model.training
    return Lineage(
        origin=origin,
        parent=parent,
        data_hash=training["data_hash"],
        people=training["people"],
        items=training["items"],
        events=training["events"],
        trained_from=training["from"],
        trained_until=training["until"],
        checks=tuple(checks),
        gate=gate,
    )


def stored_record(folder: Path) -> dict[str, Any]:
    """The record of a version's folder; empty where its files are no model's."""
    try:
        return dict(json_value((folder / MODEL_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def load_model(models_dir: Path, version: str | None = None) -> Model:
    """The current or named version, every byte of it verified; see `read_model`.

    Raises `NotFittedError` when nothing was trained.
    """
    name = version or current(models_dir)
    if name is None:
        raise NotFittedError(f"no model in {models_dir}; train one with: recllm train -w {models_dir.parent}")
    return read_model(open_version(models_dir, name), name)
