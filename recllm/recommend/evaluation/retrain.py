"""Learn from the grown log without breaking what works.

Checks say whether the serving model is due. A challenger is then trained with the serving model's recipe on everything
before the latest window, both are judged on that window, and the challenger serves only if the gate lets it. What is
judged is what will serve: the challenger's weights never saw the window, and its serving state is of the present.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from recllm.base.errors import DataError
from recllm.base.files import lock_file
from recllm.base.schema import Action, Encoder, Progress, Purpose
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings, Settings
from recllm.learn.models.sequence import SequenceArguments
from recllm.recommend.recommender.lineage import (
    CheckKind,
    CheckVerdict,
    GateReason,
    GateReport,
    GateVerdict,
    Lineage,
    Origin,
    RetrainCheck,
    Taint,
)
from recllm.recommend.recommender.registry import (
    DecisionKind,
    VersionDecision,
    decisions,
    promote,
    remove_old,
    remove_tainted,
    serving,
    taints,
    versions,
)
from recllm.recommend.recommender.shop_recommender import model_encoder, publish_recommender, usable_version
from recllm.recommend.recommender.shop_states import forget_in_states
from recllm.recommend.recommender.train import learned_from, train_workspace, tune_workspace
from recllm.shop.data.dataset import DAY, Dataset, utc
from recllm.shop.workspace.workspace import Workspace, log_end, present

if TYPE_CHECKING:
    from recllm.learn.training.lora.tune import TunedEncoder
    from recllm.recommend.evaluation.drift import ServedModel
    from recllm.recommend.evaluation.systems import TrainingRecipe
    from recllm.recommend.recommender.saved_model import Model

REFUSED_VERSIONS = 3  # refused versions that stay on the disk; of older ones the reasons stay

logger = logging.getLogger(__name__)

LOCK = ".retrain.lock"


class RetrainOutcome(StrEnum):
    NOT_DUE = "not_due"
    """No check asked for it, and nothing was trained."""
    TOO_EARLY = "too_early"
    """A check asked for it, but the log grew by less than `min_days` since the last training."""
    PROMOTED = "promoted"
    """The challenger serves."""
    REFUSED = "refused"
    """The challenger is kept and does not serve."""
    OVERTAKEN = "overtaken"
    """The challenger passed, but another version was promoted while it was trained; it is kept and does not serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainReport:
    """The outcome of `recllm retrain`."""

    outcome: RetrainOutcome
    parent: str
    """The version that served."""
    checks: tuple[RetrainCheck, ...]
    challenger: str | None = None
    """The new version; None where nothing was trained."""
    gate: GateReport | None = None
    as_of: str = ""
    """The present, ISO 8601, UTC."""
    removed: tuple[str, ...] = ()
    """Versions whose files were removed to keep the disk bounded."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A version in the history."""

    version: str
    created_at: datetime
    megabytes: float
    serves: bool
    serving_since: str | None
    """ISO 8601, UTC; None for a version that does not serve, or is older than decisions."""
    metrics: dict[str, float]
    """Of its validation users, see `recllm.learn.training.scorer.FittedScorer`."""
    training: dict[str, Any]
    """People, items, events, span and notes of the training, where they are known."""
    lineage: Lineage | None
    """Its parent, data, checks and the gate's verdict; None for a version that was published without."""
    taint: Taint | None
    """Of a version that learned from a customer who was erased."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHistory:
    """All versions that are on disk, oldest first, and everything that was decided."""

    serving: str | None
    versions: tuple[ModelRecord, ...]
    decisions: tuple[VersionDecision, ...]


def retrain(
    workspace: Workspace,
    *,
    needed: Collection[str],
    now: datetime | None = None,
    if_due: bool = False,
    seed: int = 0,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
) -> RetrainReport:
    """Check the serving model, train a challenger, and let it serve if it is not worse.

    needed: versions that are not removed: those of a running experiment, by `experiments.slates.treatment_models`. now:
    an aware time instead of the clock. if_due: train only if a check says so. seed: of samples, training and bootstrap.
    encoder: the one that the serving model was trained with, where it is open already. People are learned from who
    agreed to model training, and measured if they agreed to analytics as well. What is interrupted leaves the serving
    model as it was, and nothing half done. Raises `NotFittedError` without a model, `StoreError` while another
    retraining of the workspace runs, `DataError` when the log before the window is too short to learn from.
    """
    started, limits, tell = time.monotonic(), workspace.settings.retraining, progress or logger.info
    with lock_file(workspace.models_dir / LOCK, wait_seconds=0.0):
        parent = serving(workspace.models_dir)
        if parent is not None and usable_version(workspace) is None:
            report = replace_ended(workspace, parent, seed=seed, encoder=encoder, tell=tell)
        else:
            served = served_model(workspace, now=now, seed=seed, encoder=encoder)
            report = retrain_gated(workspace, served, now=now, if_due=if_due, tell=tell)
        removed: list[str] = []
        if report.challenger is not None:
            removed = remove_old(
                workspace.models_dir, refused=REFUSED_VERSIONS, retrained=limits.retrained_versions, needed=needed
            )
        if report.outcome is RetrainOutcome.PROMOTED:  # what learned from erased customers goes too
            removed += remove_tainted(workspace.models_dir)
            forget_in_states(workspace)
    as_of = utc(present(workspace, now)).isoformat()
    return replace(report, as_of=as_of, removed=tuple(removed), seconds=time.monotonic() - started)


def retrain_gated(
    workspace: Workspace, served: ServedModel, *, now: datetime | None, if_due: bool, tell: Progress
) -> RetrainReport:
    """Checks, and where they ask for it a challenger and the gate."""
    from recllm.recommend.recommender.saved_model import lineage_of

    version, erased = str(served.model.version), workspace.store().tombstones()
    taint = taints(workspace.models_dir).get(version)
    tell(f"checks of {version}, which learned from the log until {utc(served.until):%Y-%m-%d}")
    checks = (*served.checks(), erasure_check(taint is not None))
    report = RetrainReport(outcome=RetrainOutcome.NOT_DUE, parent=version, checks=checks)
    due = [check.kind.value for check in checks if check.verdict is CheckVerdict.DUE]
    tell(f"due by {', '.join(due)}" if due else "no check asks for a retraining")
    gates = [decision.gate for decision in decisions(workspace.models_dir)]
    gates += [manifest.lineage.gate for manifest in versions(workspace.models_dir) if manifest.lineage]
    judged_until = [int(datetime.fromisoformat(gate.window_end).timestamp()) for gate in gates if gate is not None]
    is_early = served.end - max([served.until, *judged_until]) < served.settings.min_days * DAY
    if if_due and (not due or is_early) and taint is None:
        return replace(report, outcome=RetrainOutcome.TOO_EARLY) if due else report
    tuned = None
    if taint is not None and served.model.adapter is not None:
        tell("the adapter of the encoder learned from a customer who was erased: it is tuned again")
        tuned = tune_workspace(workspace, progress=tell, people_limit=_people_limit(served.model, workspace.settings))
    model, gate = _challenger(workspace, served, tuned, tell)
    lineage = lineage_of(model, Origin.RETRAINED, version, checks=checks, gate=gate)
    encoder = tuned.encoder if tuned else served.encoder
    challenger = publish_recommender(workspace, model, encoder, lineage=lineage, now=now, erased=erased, progress=tell)
    outcome = RetrainOutcome.REFUSED
    if gate.verdict is GateVerdict.PASSED:
        of_challenger = {d.kind for d in decisions(workspace.models_dir) if d.version == challenger}
        is_overtaken = DecisionKind.OVERTAKEN in of_challenger
        outcome = RetrainOutcome.OVERTAKEN if is_overtaken else RetrainOutcome.PROMOTED
    elif taint is not None and must_replace(gate, taint):
        tell(f"it serves all the same, as {version} learned from a customer who was erased")
        promote(workspace.models_dir, challenger, force=True)
        outcome = RetrainOutcome.PROMOTED
    return replace(report, outcome=outcome, challenger=challenger, gate=gate)


def erasure_check(is_tainted: bool) -> RetrainCheck:
    verdict = CheckVerdict.DUE if is_tainted else CheckVerdict.NOT_DUE
    return RetrainCheck(kind=CheckKind.ERASURE, verdict=verdict, figures={})


def replace_ended(
    workspace: Workspace, version: str, *, seed: int, encoder: Encoder | None, tell: Progress
) -> RetrainReport:
    """What `recllm train` makes serves in the place of a version whose use has ended."""
    tell(f"{version} may not be used any more, so there is nothing to compare with: a model is trained by itself")
    has_adapter = (workspace.models_dir / "versions" / version / "adapter").is_dir()
    lora = workspace.settings.lora if has_adapter else None
    trained = train_workspace(workspace, seed=seed, encoder=encoder, lora=lora, progress=tell)
    checks, challenger = (erasure_check(True),), trained.model_version
    return RetrainReport(outcome=RetrainOutcome.PROMOTED, parent=version, checks=checks, challenger=challenger)


def served_model(
    workspace: Workspace, *, now: datetime | None = None, seed: int = 0, encoder: Encoder | None = None
) -> ServedModel:
    """What `retrain` looks at; its `checks` change nothing. Raises as `retrain` does."""
    from recllm.recommend.evaluation.drift import ServedModel
    from recllm.recommend.recommender.saved_model import load_model

    model = load_model(workspace.models_dir)
    as_of, people_limit = present(workspace, now), _people_limit(model, workspace.settings)
    data = learned_from(workspace, people_limit).before(as_of)
    return ServedModel(
        model=model,
        encoder=encoder or model_encoder(workspace, model),
        locale=workspace.settings.locale,
        data=data,
        measured=data.users["user_id"].is_in(workspace.gate().permitted_users(Purpose.ANALYTICS)).to_numpy(),
        as_of=as_of,
        until=int(datetime.fromisoformat(model.training["until"]).timestamp()),
        end=window_end(data, as_of, is_replayed=log_end(workspace, now) == as_of),
        settings=workspace.settings.retraining,
        seed=seed,
    )


def must_replace(gate: GateReport, taint: Taint) -> bool:
    """Whether a refused challenger takes the place of a model that learned from a customer who was erased.

    At once where it is only not proven to be as good, and where the serving model had learned from the very window on
    which both were judged, which proves nothing against a challenger that had not; where it is worse, once the time is
    over."""
    has_seen_answers = gate.serving_seen_days > 0
    is_worse = not {GateReason.WORSE, GateReason.MISCALIBRATED}.isdisjoint(gate.reasons)
    return has_seen_answers or not is_worse or taint.has_ended(datetime.now(UTC))


def _challenger(
    workspace: Workspace, served: ServedModel, tuned: TunedEncoder | None, tell: Progress
) -> tuple[Model, GateReport]:
    """A model trained on everything before the latest window, and what the gate says of it. tuned: another adapter of
    the encoder than that of the serving model; it saw the window, which the gate forgives."""
    from recllm.recommend.evaluation.drift import judge

    past, days = served.data.before(served.start), served.settings.window_days
    tell(f"a challenger learns from {len(past.events):,} events before {utc(served.start):%Y-%m-%d}")
    recipe = serving_recipe(served.model, workspace.settings, served.seed)
    encoder, adapter = (tuned.encoder, tuned.adapter) if tuned else (served.encoder, served.model.adapter)
    challenger = replace(train_challenger(past, encoder, recipe, tell), adapter=adapter)
    tell(f"both are judged on the {days} days from {utc(served.start):%Y-%m-%d}")
    ours, theirs = replace(served, encoder=encoder).at(served.start, challenger), served.at(served.start)
    return challenger, judge(served, ours, theirs)


def train_challenger(past: Dataset, encoder: Encoder, recipe: TrainingRecipe, progress: Progress) -> Model:
    from recllm.recommend.evaluation.systems import fit_recipe

    fitted = fit_recipe(past, encoder, recipe, progress)
    assert fitted.model is not None  # noqa: S101 - fit returned
    return fitted.model


def serving_recipe(model: Model, settings: Settings, seed: int) -> TrainingRecipe:
    """What the model was trained with, and above it what the workspace's settings say.

    Which actions stand in for purchases is decided again, as a shop's purchases grow. Nothing is fine-tuned: an adapter
    of the model is a part of its encoder.
    """
    from recllm.recommend.evaluation.systems import TrainingRecipe

    # without what an older model was trained with and has a fixed value since
    arguments, of_sequence = model.training["arguments"], model.training.get("sequence") or {}
    stored = {name: value for name, value in arguments.items() if name in ScorerTrainingSettings.model_fields}
    sequence = {name: value for name, value in of_sequence.items() if name in SequenceArguments.model_fields}
    interests = None if model.interests is None else SequenceArguments(**sequence)
    if settings.sequence_model is not None:
        interests = (interests or SequenceArguments()) if settings.sequence_model else None
    collaborative = {name: value for name, value in model.population.explicit().items() if name != "target"}
    return TrainingRecipe(
        training=ScorerTrainingSettings(**{**stored, **settings.scorer.explicit(), "seed": seed}),
        interests=interests and interests.model_copy(update={"seed": seed}),
        collaborative=CollaborativeSettings(**{**collaborative, **settings.collaborative.explicit()}),
        candidates=model.candidates,
        locale=settings.locale,
    )


def _people_limit(model: Model, settings: Settings) -> int:
    """People learned from at most: as the serving model was trained, and above it what the settings say."""
    return serving_recipe(model, settings, 0).training.learn_people


def window_end(dataset: Dataset, as_of: int, *, is_replayed: bool) -> int:
    """Where the latest whole day (UTC) of purchases ends, in epoch seconds.

    The day of the present is not over yet, unless the log is replayed. Raises `DataError` without a purchase.
    """
    at = dataset.events.of(Action.PURCHASE).at
    if not len(at):
        raise DataError("the log has no purchases, so nothing can be judged: load purchases")
    end = (int(at.max()) // DAY + 1) * DAY
    return end if is_replayed else min(end, as_of // DAY * DAY)


def model_history(workspace: Workspace) -> ModelHistory:
    from recllm.recommend.recommender.saved_model import stored_record

    now_serving, log = serving(workspace.models_dir), decisions(workspace.models_dir)
    marked = taints(workspace.models_dir)
    since = {d.version: d.at for d in log if d.kind in (DecisionKind.PROMOTED, DecisionKind.ROLLED_BACK)}
    records = []
    for manifest in versions(workspace.models_dir):
        record = stored_record(workspace.models_dir / "versions" / manifest.version)
        records.append(
            ModelRecord(
                version=manifest.version,
                created_at=datetime.fromisoformat(manifest.created_at),
                megabytes=round(sum(file.bytes for file in manifest.files.values()) / 1e6, 1),
                serves=manifest.version == now_serving,
                serving_since=since.get(manifest.version) if manifest.version == now_serving else None,
                metrics=record.get("metrics", {}),
                training=record.get("training", {}),
                lineage=manifest.lineage,
                taint=marked.get(manifest.version),
            )
        )
    return ModelHistory(serving=now_serving, versions=tuple(records), decisions=tuple(log))
