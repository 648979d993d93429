"""Effects of the arms of a trial on each person, with intervals; and effects that a workspace keeps by name.

score of an arm   mu + 1[arm] / e · (outcome - mu): its mean over people is the arm's mean outcome if everybody had it,
                  whatever mu is, as long as e, the probability of the arm, is right (Robins et al. 1994); mu is a model
                  of the arm's outcome, learned on other people.
effect            of a person, by an X-learner (Künzel et al. 2019) for each arm: outcome models say what people would
                  have done in the other arm, the differences are learned in both arms, and the two answers are joined
                  by the share of the arm.

The X-learner is learned on random halves of all people, one group of trees each. How much the groups' answers differ is
the standard error of their mean. `error_scale` compares it with how much two learners of different people differ, and
`shrinkage_bias` is what a learner draws effects towards their mean.

effects/NAME/effects.json holds the trees, their columns, scales and where the effects come from; no row of any person.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recllm.base.documents import plain
from recllm.base.errors import DataError, ModelError, UsageError
from recllm.base.files import PRIVATE, safe_id, write_whole
from recllm.base.stats.intervals import ConfidenceInterval, normal_quantile
from recllm.base.stats.probabilities import sigmoid
from recllm.learn.models.trees import BoostedTrees, grow_trees
from recllm.market.propensity.examples import Cohort
from recllm.market.propensity.features import FeatureTable, Floats
from recllm.market.propensity.model import Values, people_folds, varying
from recllm.market.propensity.parameters import UpliftSettings
from recllm.market.propensity.trial import Trial
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.workspace import Workspace

FOLDER = "effects"
RECORD = "effects.json"
FORMAT = 2
EARLIER_TREES = "effects.safetensors"
"""Of format 1, which is not read any more."""
EFFECT_FOLDS = 5
HALVED_FOLDS = 2
"""Folds whose people are predicted by learners of two halves of the others, too: that is what errors are scaled by."""
MIN_KEPT = 0.3
"""Of the effects' differences a learner is taken to keep at least this share: estimates below it are noise."""

Masks = list[NDArray[np.bool_]]


def mean_interval(values: Values) -> ConfidenceInterval:
    """The mean of n values with the interval that holds it at 95 %."""
    mean = float(values.mean())
    half = normal_quantile() * float(values.std(ddof=1) / np.sqrt(len(values)))
    return ConfidenceInterval(mean, mean - half, mean + half)


def arm_means(trial: Trial, settings: UpliftSettings) -> Values:
    """Each person's mean outcome in each arm by models of other people, (n, arms)."""
    means = np.empty(trial.probability.shape)
    for inside in people_folds(np.arange(len(trial)), settings.folds, settings.seed + 1):
        for number in range(len(trial.arms)):
            learn = trial.rows(~inside & (trial.arm == number))
            mean = fit_outcome(learn, number, settings, binary=trial.binary)
            means[inside, number] = mean.of(trial.features.values[inside])
    return means


@dataclass(frozen=True, eq=False)
class OutcomeModel:
    """The mean outcome of people like the ones learned from."""

    trees: BoostedTrees
    binary: bool

    def of(self, values: Floats) -> Values:
        """(n,), of rows of the table's values; a probability where the outcome is 0 or 1."""
        score = self.trees.score(values)
        return sigmoid(score) if self.binary else score


def fit_outcome(people: Trial, number: int, settings: UpliftSettings, *, binary: bool) -> OutcomeModel:
    """Of people of one arm, each counted in proportion to 1 / the probability of it. binary: see `Trial.binary`."""
    weights = 1 / people.probability[:, number]
    objective, values = "binary" if binary else "regression", people.features.values
    trees = grow_trees(values, people.outcome, settings, objective=objective, weights=weights / weights.mean())
    return OutcomeModel(trees, binary)


def arm_scores(means: Values, arm: NDArray[np.integer], outcome: Values, probability: Values) -> Values:
    """Doubly robust scores, (n, arms). means: of each arm's outcome, by models of other people; probability: of each
    arm, (n, arms) or (arms,); arm: which one each person had."""
    is_arm = arm[:, None] == np.arange(means.shape[1])
    return np.asarray(means + np.where(is_arm, (outcome[:, None] - means) / probability, 0.0))


@dataclass(frozen=True, eq=False)
class EffectTrees:
    """Trees of an arm's effect, by group: those of the control's people, and those of the arm's."""

    groups: tuple[tuple[BoostedTrees, BoostedTrees], ...]
    share: float
    """Of the arm among the people of both: what the control's trees count for."""

    def predict(self, values: Floats) -> tuple[Values, Values]:
        """Effect and standard error, (n,) each."""
        answers = np.stack([self.share * a.score(values) + (1 - self.share) * b.score(values) for a, b in self.groups])
        return answers.mean(axis=0), answers.std(axis=0, ddof=1)


@dataclass(frozen=True, eq=False)
class ArmLearner:
    """Learns the effect of one arm of a trial."""

    trial: Trial
    number: int
    """Of the arm."""
    score: Values
    """(n,), the arm's score less the control's."""

    @cached_property
    def values(self) -> Floats:
        """(n, columns), the features that vary."""
        return self.trial.features.values[:, varying(self.trial.features.values)]

    def grow(self, people: NDArray[np.int64], settings: UpliftSettings, rng: np.random.Generator) -> EffectTrees:
        """Trees of these rows: an X-learner of each group's half, outcome models and all, so that the errors of these
        are among the groups' differences."""
        arm = self.trial.arm
        people = people[(arm[people] == 0) | (arm[people] == self.number)]
        groups = []
        for _ in range(settings.forest_groups):
            half = rng.permutation(people)[: (len(people) + 1) // 2]
            control, treated = half[arm[half] == 0], half[arm[half] == self.number]
            without, with_arm = (self._outcome(control, 0, settings), self._outcome(treated, self.number, settings))
            outcome, values = self.trial.outcome, self.trial.features.values
            of_control = self._effect(control, 0, with_arm.of(values[control]) - outcome[control], settings)
            of_arm = self._effect(treated, self.number, outcome[treated] - without.of(values[treated]), settings)
            groups.append((of_control, of_arm))
        return EffectTrees(tuple(groups), float((arm[people] == self.number).mean()))

    def _outcome(self, rows: NDArray[np.int64], number: int, settings: UpliftSettings) -> OutcomeModel:
        return fit_outcome(self.trial.rows(rows), number, settings, binary=self.trial.binary)

    def _effect(self, rows: NDArray[np.int64], number: int, effect: Values, settings: UpliftSettings) -> BoostedTrees:
        weights = 1 / self.trial.probability[rows, number]
        weights /= weights.mean()
        return grow_trees(self.values[rows], effect, settings, objective="regression", weights=weights)


def arm_learners(trial: Trial, settings: UpliftSettings) -> tuple[Values, list[ArmLearner]]:
    """Scores, (n, arms), and what learns the effect of each arm but the control."""
    scores = arm_scores(arm_means(trial, settings), trial.arm, trial.outcome, trial.probability)
    return scores, [ArmLearner(trial, n, scores[:, n] - scores[:, 0]) for n in range(1, len(trial.arms))]


@dataclass(frozen=True, eq=False)
class HeldOutEffects:
    """Effects of n people by learners of other people, and how far they may be off."""

    expected: Values
    """(n,)"""
    error: Values
    """(n,), standard errors: the trees' own, scaled, and the bias."""
    scale: float
    """Of the trees' own standard error; see `error_scale`."""
    bias: float
    """See `shrinkage_bias`."""


def held_out_effects(
    learner: ArmLearner, folds: Masks, settings: UpliftSettings, rng: np.random.Generator
) -> HeldOutEffects:
    """folds: masks of people who are predicted together."""
    expected, error = np.empty(len(learner.score)), np.empty(len(learner.score))
    halves: list[list[tuple[Values, Values]]] = [[], []]
    for number, inside in enumerate(folds):
        others = np.flatnonzero(~inside)
        expected[inside], error[inside] = learner.grow(others, settings, rng).predict(learner.values[inside])
        for half, people in enumerate(np.array_split(rng.permutation(others), 2) if number < HALVED_FOLDS else ()):
            halves[half].append(learner.grow(people, settings, rng).predict(learner.values[inside]))
    first, second = ((np.concatenate([e for e, _ in half]), np.concatenate([s for _, s in half])) for half in halves)
    scale = error_scale(first, second)
    bias = shrinkage_bias(within_folds(expected, folds), scale * error, within_folds(learner.score, folds))
    return HeldOutEffects(expected, np.hypot(scale * error, bias), scale, bias)


def error_scale(first: tuple[Values, Values], second: tuple[Values, Values]) -> float:
    """What standard errors are to be multiplied by: two learners of different people differ by their errors alone.

    first, second: effects and errors of the same m people, (m,) each, by learners of different people. The mean square
    of the difference over the sum of the mean squared errors, as a root.
    """
    squared = float(np.mean(first[1] ** 2 + second[1] ** 2))
    return float(np.sqrt(np.mean((first[0] - second[0]) ** 2) / squared)) if squared > 0 else 1.0


def shrinkage_bias(expected: Values, error: Values, effect: Values) -> float:
    """Root mean square of what learners draw effects towards their mean.

    expected: (n,), effects by learners of other people, with mean 0 within each fold, with their errors. effect: (n,),
    the people's own scores, with mean 0 alike. A learner that keeps a share k of the true differences finds
    t^2 = var(expected) - error^2 = k^2 var(true), and shares c = cov(effect, expected) = k var(true) with the scores:
    k is t^2 / c, and (1 - k)^2 c / k is the mean square of what it takes away. 0 where it finds no difference.
    """
    apart, shared = float(np.mean(expected**2) - np.mean(error**2)), float(np.mean(expected * effect))
    if apart <= 0 or shared <= 0:
        return 0.0
    kept_share = min(1.0, max(MIN_KEPT, apart / shared))
    return float((1 - kept_share) * np.sqrt(shared / kept_share))


def within_folds(values: Values, folds: Masks) -> Values:
    """The values less the mean of their fold."""
    centred = values.copy()
    for inside in folds:
        centred[inside] -= values[inside].mean()
    return centred


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectSource:
    """Where effects come from."""

    start: str
    """Before the first treatment, ISO 8601."""
    trial: str
    """The trial's file, or the campaign's id."""
    people: int
    treated: int
    effect: float
    """Of the treatment on the mean of the trial's people, with the interval that holds it at 95 %."""
    effect_low: float
    effect_high: float
    binary: bool
    """Whether the outcome is 0 or 1: then effects lie in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class PersonEffects:
    """How much a treatment moves each of n people, by a trial, (n,) each; low and high hold it at 95 %."""

    effect: Values
    low: Values
    high: Values

    @classmethod
    def of(cls, effect: Values, error: Values, *, binary: bool) -> PersonEffects:
        """error: standard errors, (n,). binary: see `Trial.binary`."""
        half = normal_quantile() * error
        limit = 1.0 if binary else np.inf
        return cls(*(np.clip(column, -limit, limit) for column in (effect, effect - half, effect + half)))

    def rows(self, people: NDArray[np.integer]) -> PersonEffects:
        """Of these people."""
        return PersonEffects(*(getattr(self, column.name)[people] for column in fields(self)))


EffectsOf = Callable[[NDArray[np.integer]], PersonEffects]
"""The effects of people, by their rows in the recommender's dataset."""


@dataclass(frozen=True, eq=False)
class LearnedEffects:
    """Effects of one treatment, for anyone with the same features."""

    names: tuple[str, ...]
    """All features that people are described by."""
    columns: NDArray[np.int64]
    """Those of them that the trees read."""
    trees: EffectTrees
    scale: float
    """Of the trees' standard error."""
    bias: float
    """Root mean square of what the trees draw effects towards their mean."""
    source: EffectSource

    def predict(self, features: FeatureTable) -> PersonEffects:
        """Raises `DataError` for other features than the trial's people had."""
        if features.names != self.names:
            different = sorted(set(features.names) ^ set(self.names))
            raise DataError(
                f"the effects were learned from other features ({', '.join(different[:5]) or 'in another order'}); "
                "learn them again with recllm uplift --save"
            )
        effect, error = self.trees.predict(np.ascontiguousarray(features.values[:, self.columns]))
        return PersonEffects.of(effect, np.hypot(self.scale * error, self.bias), binary=self.source.binary)


def fit_effects(
    trial: Trial, settings: UpliftSettings | None = None, *, start: str = "", source: str = ""
) -> tuple[LearnedEffects, HeldOutEffects]:
    """The effects of a trial's first arm after the control, and each person's effect by learners of other people.
    start, source: see `EffectSource`."""
    settings = settings or UpliftSettings()
    _, (learner, *_) = arm_learners(trial, settings)
    rng, n = np.random.default_rng(settings.seed), len(trial)
    held_out = held_out_effects(learner, people_folds(np.arange(n), EFFECT_FOLDS, settings.seed), settings, rng)
    effect = mean_interval(learner.score)
    about = EffectSource(
        start=start,
        trial=source,
        people=n,
        treated=int((trial.arm == 1).sum()),
        effect=effect.value,
        effect_low=effect.low,
        effect_high=effect.high,
        binary=trial.binary,
    )
    columns, trees = varying(trial.features.values), learner.grow(np.arange(n), settings, rng)
    return LearnedEffects(trial.features.names, columns, trees, held_out.scale, held_out.bias, about), held_out


def save_effects(model: LearnedEffects, folder: Path) -> None:
    """Writes the file, readable by the owner only; effects of an earlier version give way."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    record = {
        "format": FORMAT,
        "names": model.names,
        "columns": model.columns.tolist(),
        "scale": model.scale,
        "bias": model.bias,
        "source": plain(model.source),
        "share": model.trees.share,
        "trees": [[trees.text() for trees in group] for group in model.trees.groups],
    }
    write_whole(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n", mode=PRIVATE)
    (folder / EARLIER_TREES).unlink(missing_ok=True)


def load_effects(folder: Path) -> LearnedEffects:
    """What `save_effects` wrote. Raises `ModelError` for a damaged or another file."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}")
        names, columns = tuple(record["names"]), np.array(record["columns"], np.int64)
        if len(columns) and (columns.min() < 0 or columns.max() >= len(names)):
            raise ValueError("a tree reads a column that is not there")
        scale, bias, share = (float(record[name]) for name in ("scale", "bias", "share"))
        if not np.isfinite([scale, bias, share]).all() or len(record["trees"]) < 2:
            raise ValueError("an effect is no number, or has no interval")
        used = [names[column] for column in columns]
        groups = [
            (BoostedTrees.parse(control, used), BoostedTrees.parse(arm, used)) for control, arm in record["trees"]
        ]
        trees = EffectTrees(tuple(groups), share)
        return LearnedEffects(names, columns, trees, scale, bias, EffectSource(**record["source"]))
    except Exception as error:  # each kind of damage has an error of its own
        raise ModelError(
            f"{folder}: no effects of this version ({error}); save them again with recllm uplift"
        ) from error


def effects_folder(workspace: Workspace, name: str) -> Path:
    """Raises `UsageError` for a name that is no file name."""
    return workspace.root / FOLDER / safe_id(name, "the name of effects")


def effect_names(workspace: Workspace) -> list[str]:
    """Of all effects that were saved, sorted."""
    return sorted(file.parent.name for file in (workspace.root / FOLDER).glob("*/effects.json"))


def saved_effects(workspace: Workspace, name: str) -> LearnedEffects:
    """Raises `UsageError` for a name under which nothing was saved, `ModelError` for damaged files, and for what was
    learned from people who were erased, once its time is over."""
    from recllm.recommend.recommender.registry import taints

    folder, names = effects_folder(workspace, name), effect_names(workspace)
    if name not in names:
        listed = f"there are: {', '.join(names)}" if names else "there are none yet"
        raise UsageError(
            f"no effects {name!r} in this workspace; {listed}. Learn some: recllm uplift TRIAL --save NAME"
        )
    taint = taints(workspace.root / FOLDER).get(name)
    if taint is not None and taint.has_ended(datetime.now(UTC)):
        raise ModelError(
            f"the effects {name!r} were learned from people who were erased since, and their use ended on "
            f"{taint.use_until[:10]}; learn them again: recllm uplift TRIAL --save {name}"
        )
    return load_effects(folder)


def effects_of(workspace: Workspace, name: str, dataset: Dataset) -> EffectsOf:
    """The effects of people of a dataset, as of its time. Raises as `saved_effects` does."""
    model = saved_effects(workspace, name)

    def effects(user_rows: NDArray[np.integer]) -> PersonEffects:
        features = Cohort(dataset).features(dataset.as_of).rows(user_rows)
        return model.predict(features)

    return effects
