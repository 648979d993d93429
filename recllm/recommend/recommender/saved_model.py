"""A model as a folder of safetensors and JSON: a version of a workspace, or a recommender that can be handed on.

A version holds weights, settings and figures, and no row of any person; it is published whole.

    folder = recommender.save_pretrained("tea-shop")         # push_to_hub(folder, "owner/tea-shop") uploads it
    Recommender.from_pretrained("tea-shop").recommend("a visitor", basket=["green-tea"])

    model.json, *.safetensors, adapter/      what was learned
    serving.safetensors, items.arrow         items with their vectors and what the crowd did with them
    people.safetensors                       the people's part of a serving state, empty
    README.md                                the card, filled in by itself

Neighbours are people, so they stay behind: a visitor is known by a cart alone, or by a history that the shop gives as a
basket.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recllm.base.documents import json_value, without_retired
from recllm.base.errors import ModelError, NotFittedError, UsageError
from recllm.base.files import write_whole
from recllm.base.settings import CollaborativeSettings
from recllm.learn.features.candidates import CandidateCounts
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.models.scorer import Scorer, load_scorer, save_scorer
from recllm.learn.models.sequence import SequenceWeights, load_sequence_model, save_sequence_model
from recllm.recommend.recommender.lineage import GateReport, Lineage, Origin, RetrainCheck
from recllm.recommend.recommender.registry import current, open_version, publish
from recllm.recommend.recommender.serving_state import (
    PEOPLE_STATE,
    open_catalogue_state,
    open_people_state,
    population_of,
    save_state,
    together_of,
)
from recllm.shop.data.dataset import Dataset

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from recllm.base.schema import Encoder

MODEL_FILE = "model.json"
ADAPTER = "adapter"


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A scorer with what is needed to serve it. metrics: of the validation users of the latest past
    window, who also chose the epoch and calibrated the probability."""

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


def stored_metrics(folder: Path) -> dict[str, float]:
    """The metrics of a version's folder; none where its files are no model's."""
    try:
        return dict(json_value((folder / MODEL_FILE).read_text(encoding="utf-8"))["metrics"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def publish_model(
    model: Model,
    models_dir: Path,
    *,
    lineage: Lineage | None = None,
    version: str | None = None,
) -> str:
    """Publish as the current version, whole or not at all; returns the version's name.

    lineage: where the model comes from; one that the gate refused is kept and does not serve, see
    `recllm.recommend.recommender.registry.publish`.
    """
    return publish(models_dir, lambda folder: save_model(model, folder), lineage=lineage, version=version)


def load_model(models_dir: Path, version: str | None = None) -> Model:
    """The current or named version, every byte of it verified; see `read_model`.

    Raises `NotFittedError` when nothing was trained.
    """
    name = version or current(models_dir)
    if name is None:
        raise NotFittedError(f"no model in {models_dir}; train one with: recllm train -w {models_dir.parent}")
    return read_model(open_version(models_dir, name), name)


CARD = "README.md"
PARTS = ("*.json", "*.safetensors", "*.arrow", "*.txt", "adapter/*", CARD)
"""What is taken from a hub: data, and nothing that runs."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the log cannot say about a model, for its card."""

    title: str = "A shop's recommender"
    licence: str = "not stated: ask its maker"
    consent: str = "not stated"
    """On what ground people's data were learned from."""
    erased: str = "it did not learn from customers who were erased by then"
    """What was done about customers who were erased since."""


def save_pretrained(
    folder: Path,
    model: Model | None,
    dataset: Dataset,
    population: CollaborativeStatistics,
    together: csr_matrix,
    *,
    locale: str,
    facts: CardFacts | None = None,
) -> Path:
    """Writes what a trained recommender answers from into a new or empty folder. locale: of the texts. Raises
    `UsageError` for an untrained one, and a folder that holds something."""
    if model is None:
        raise UsageError("there is no trained model to save: call fit first")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something already; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder)
    empty = Dataset.of_catalogue(dataset.items, dataset.as_of)
    crowds = {
        name: replace(crowd, votes=None if crowd.votes is None else crowd.votes[:0])
        for name, crowd in population.group_statistics.items()
    }
    without_people = replace(
        population,
        pool=population.pool[:0],
        profiles=population.profiles[:0],
        recent=population.recent[:0],
        decayed=population.decayed[:0],
        pool_basics=None if population.pool_basics is None else population.pool_basics[:0],
        group_statistics=crowds,
    )
    save_state(folder, empty, without_people, together, empty.events, locale=locale)
    write_whole(folder / CARD, model_card(model, facts or CardFacts(), n_items=dataset.n_items, locale=locale))
    return folder


def read_pretrained(name: str | Path, encoder: Encoder | None = None) -> dict[str, Any]:
    """The arguments of a `Recommender` from a folder that `save_pretrained` wrote, or a hub's repository "owner/name".

    encoder: the one that the model was trained with, where it is at hand; else the one that the model names. Raises
    `ModelError` for a folder without a model, a damaged one, or a repository that cannot be had.
    """
    from recllm.text.encoder.loading import load_encoder, with_adapter

    folder = Path(name)
    if not folder.is_dir():
        folder = _from_hub(str(name))
    model, catalogue = read_model(folder), open_catalogue_state(folder)
    people = open_people_state(folder / PEOPLE_STATE)
    if encoder is None:
        encoder = load_encoder(model.encoder)
        if model.adapter is not None:
            encoder = with_adapter(encoder, model.adapter)
    return {
        "dataset": Dataset.of_catalogue(catalogue.items, catalogue.as_of),
        "encoder": encoder,
        "model": model,
        "population": population_of(catalogue, people, model.population, model.interests),
        "together": together_of(catalogue, catalogue.items.height),
        "text_locale": catalogue.locale,
    }


def push_to_hub(folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Uploads a folder that `save_pretrained` wrote; returns its address. The token is that of `hf auth login`, or in
    HF_TOKEN. Raises `UsageError` for a wrong name or folder."""
    from huggingface_hub import HfApi

    if not _HUB_ID.fullmatch(repo_id):
        raise UsageError(f"{repo_id!r} is no name of a repository; they look like owner/name")
    if not (folder / MODEL_FILE).is_file() or not (folder / CARD).is_file():
        raise UsageError(f"{folder} was not written by save_pretrained")
    hub = HfApi()
    hub.create_repo(repo_id, private=private, exist_ok=True)
    return str(hub.upload_folder(folder_path=folder, repo_id=repo_id, allow_patterns=list(PARTS)))


def _from_hub(name: str) -> Path:
    from huggingface_hub import is_offline_mode, snapshot_download

    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"{name} is no folder, and no repository of a hub (those look like owner/name)")
    if is_offline_mode():
        raise ModelError(f"{name} is no folder here, and the hub is not asked: HF_HUB_OFFLINE is set")
    try:
        return Path(snapshot_download(name, allow_patterns=list(PARTS)))
    except Exception as error:  # the client's errors come from three libraries; each means "not from there"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{name} cannot be had from the hub: {reason}") from error


def model_card(model: Model, facts: CardFacts, *, n_items: int, locale: str) -> str:
    """Markdown with the hub's header: what it is, learned from what and when, how good, and what it cannot do."""
    training: Mapping[str, Any] = model.training
    span = f"{str(training['from'])[:10]} to {str(training['until'])[:10]}"
    figures = [f"| {name} | {value:.4f} |" for name, value in sorted(model.metrics.items())]
    quality = ["| on validation users | |", "| --- | --- |", *figures] if figures else ["Nothing was measured."]
    notes = [f"- {note}" for note in training.get("notes", ())]
    sample = training.get("sample")
    of_people = "" if sample is None else f" of {sample['of_people']:,}, {sample['rule']}"
    return "\n".join(
        [
            "---",
            "library_name: recllm",
            "tags: [recommender]",
            f"language: {locale}",
            "---",
            "",
            f"# {facts.title}",
            "",
            "```python",
            "from recllm import Recommender",
            'Recommender.from_pretrained("THIS").recommend("a visitor", basket=["an item id"])',
            "```",
            "",
            f"- **Learned from** {training['events']:,} events of {training['people']:,} people{of_people}; "
            f"{span}; data "
            f"{training['data_hash']}. {n_items:,} items are in it.",
            f"- **Split.** The latest {model.horizon_days} days of the validation users chose the epoch and calibrated "
            "the probabilities; the figures below are theirs.",
            f"- **Encoder** {model.encoder}" + (", with an adapter." if model.adapter is not None else "."),
            "- **Privacy.** No row, id or vector of a person is in these files, and no neighbours. The weights "
            "were not learned under differential privacy: they may tell something of many.",
            f"- **Consent.** {facts.consent}",
            f"- **Erasures.** {facts.erased}",
            f"- **Licence.** {facts.licence}",
            *notes,
            "",
            *quality,
            "",
        ]
    )
