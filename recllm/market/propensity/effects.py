"""The effect of a treatment on each person, with intervals, learned from a trial; and effects that a workspace keeps.
A trial's people are learned from as of its start, and everybody's effect is predicted as of now.

score      mu + 1[group] / e · (outcome - mu), of the treated less that of the others: its mean over people is the mean
           effect, whatever mu is, as long as e, the probability of the group, is right (Robins et al. 1994); mu is a
           model of the group's outcome, learned on other people.
effect     of a person, by an X-learner (Künzel et al. 2019): outcome models say what people would have done in the
           other group, the differences are learned in both groups, and the two answers are joined by the share of the
           treated.

The X-learner is learned on random halves of all people, one group of trees each. How much the groups' answers differ is
the standard error of their mean.

effects/NAME/effects.json holds the trees, their columns, scales and where the effects come from; no row of any person.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.base.arrays import Ints, Rows, Values
from recllm.base.documents import plain
from recllm.base.errors import DataError, ModelError, NothingToDo, UsageError
from recllm.base.files import PRIVATE, safe_id, write_whole
from recllm.base.stats.intervals import normal_quantile
from recllm.base.stats.probabilities import sigmoid
from recllm.learn.models.trees import BoostedTrees, BoostingSettings, grow_trees
from recllm.market.propensity.examples import Cohort
from recllm.market.propensity.features import FeatureTable, Floats
from recllm.market.propensity.model import people_folds, varying
from recllm.market.propensity.predict import datasets_of
from recllm.market.propensity.prediction import qini_curve
from recllm.market.propensity.trial import Trial, read_trial
from recllm.recommend.recommender.registry import clear_taint, taints
from recllm.shop.data.dataset import Dataset, utc
from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)
FOLDER = "effects"
RECORD = "effects.json"
FORMAT = 2
EARLIER_TREES = "effects.safetensors"
"""Of format 1, which is not read any more."""
EFFECT_FOLDS = 5
HALVED_FOLDS = 2
"""Folds predicted by learners of two halves of the others, too, to scale the errors."""
MIN_KEPT = 0.3
"""A learner keeps at least this share of the effects' differences: estimates below it are noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftSettings(BoostingSettings):
    """Effects are small compared with the noise of single outcomes."""

    rounds: int = 60
    learning_rate: float = 0.05
    leaves: int = 4
    min_leaf_rows: int = 100
    l2: float = 20.0
    folds: int = 3
    """Parts of users for the outcome models."""
    forest_groups: int = 20
    """Groups of an effect's trees, each on half of the users: they give the interval of an effect."""


def fit_outcome(people: Trial, settings: UpliftSettings) -> Callable[[Floats], Values]:
    """Of people of one group, each counted in proportion to 1 / the probability of it: gives the probability of the
    outcome, (n,), for rows of the table's values."""
    weights = 1 / np.where(people.treated, people.propensity, 1 - people.propensity)
    values = people.features.values
    trees = grow_trees(values, people.outcome, settings, objective="binary", weights=weights / weights.mean())
    return lambda rows: sigmoid(trees.score(rows))


def effect_scores(means: Values, trial: Trial) -> Values:
    """Doubly robust scores, (n,). means: of the outcome of the others and of the treated, by models of other people,
    (n, 2)."""
    treated = trial.treated
    of_treated = np.where(treated, (trial.outcome - means[:, 1]) / trial.propensity, 0.0)
    of_others = np.where(treated, 0.0, (trial.outcome - means[:, 0]) / (1 - trial.propensity))
    return np.asarray(means[:, 1] + of_treated - means[:, 0] - of_others)


@dataclass(frozen=True, eq=False)
class EffectTrees:
    """Trees of the effect by group: of people who were not treated, and of the treated."""

    groups: tuple[tuple[BoostedTrees, BoostedTrees], ...]
    share: float
    """Of the treated among the people: what the others' trees count for."""

    def predict(self, values: Floats) -> tuple[Values, Values]:
        """Effect and standard error, (n,) each."""
        answers = np.stack([self.share * a.score(values) + (1 - self.share) * b.score(values) for a, b in self.groups])
        return answers.mean(axis=0), answers.std(axis=0, ddof=1)


def person_scores(trial: Trial, settings: UpliftSettings) -> Values:
    """`effect_scores` of a trial's people, by models of other people."""
    means = np.empty((len(trial), 2))
    for inside in people_folds(np.arange(len(trial)), settings.folds, settings.seed + 1):
        for column, group in enumerate((~trial.treated, trial.treated)):
            means[inside, column] = fit_outcome(trial.rows(~inside & group), settings)(trial.features.values[inside])
    return effect_scores(means, trial)


def grow_effects(
    trial: Trial,
    people: Ints,
    settings: UpliftSettings,
    rng: np.random.Generator,
) -> EffectTrees:
    """Trees of these rows over the features that vary in the trial. Each group has outcome models of its own, so that
    their errors are among the groups' differences."""
    values, treated, outcome = trial.features.values, trial.treated, trial.outcome
    used = values[:, varying(values)]
    weights = 1 / np.where(treated, trial.propensity, 1 - trial.propensity)

    def grown(rows: Ints, effect: Values) -> BoostedTrees:
        weight = weights[rows] / weights[rows].mean()
        return grow_trees(used[rows], effect, settings, objective="regression", weights=weight)

    groups = []
    for _ in range(settings.forest_groups):
        half = rng.permutation(people)[: (len(people) + 1) // 2]
        others, addressed = half[~treated[half]], half[treated[half]]
        without, with_it = (fit_outcome(trial.rows(rows), settings) for rows in (others, addressed))
        of_others = grown(others, with_it(values[others]) - outcome[others])
        groups.append((of_others, grown(addressed, outcome[addressed] - without(values[addressed]))))
    return EffectTrees(tuple(groups), float(treated[people].mean()))


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
    trial: Trial,
    score: Values,
    settings: UpliftSettings,
    rng: np.random.Generator,
) -> HeldOutEffects:
    """score: of the trial's people, as `person_scores` gives it."""
    expected, error = np.empty(len(trial)), np.empty(len(trial))
    values = trial.features.values[:, varying(trial.features.values)]
    folds = people_folds(np.arange(len(trial)), EFFECT_FOLDS, settings.seed)
    halves: list[list[tuple[Values, Values]]] = [[], []]
    for number, inside in enumerate(folds):
        others = np.flatnonzero(~inside)
        expected[inside], error[inside] = grow_effects(trial, others, settings, rng).predict(values[inside])
        for half, people in enumerate(np.array_split(rng.permutation(others), 2) if number < HALVED_FOLDS else ()):
            halves[half].append(grow_effects(trial, people, settings, rng).predict(values[inside]))
    first, second = (np.concatenate(half, axis=1) for half in halves)
    scale = error_scale((first[0], first[1]), (second[0], second[1]))
    centred = []
    for column in (expected, score):
        centred.append(column.copy())
        for inside in folds:
            centred[-1][inside] -= column[inside].mean()
    bias = shrinkage_bias(centred[0], scale * error, centred[1])
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
    """On the mean of the trial's people, with the interval that holds it at 95 %."""
    effect_low: float
    effect_high: float


@dataclass(frozen=True, eq=False)
class PersonEffects:
    """How much a treatment moves each of n people, by a trial, (n,) each; low and high hold it at 95 %."""

    effect: Values
    """In [-1, 1], as the ends are: the outcome is 0 or 1."""
    low: Values
    high: Values

    def rows(self, people: Rows) -> PersonEffects:
        """Of these people."""
        return PersonEffects(*(getattr(self, column.name)[people] for column in fields(self)))


EffectsOf = Callable[[Rows], PersonEffects]
"""The effects of people, by their rows in the recommender's dataset."""


@dataclass(frozen=True, eq=False)
class LearnedEffects:
    """Effects of one treatment, for anyone with the same features."""

    names: tuple[str, ...]
    """All features that people are described by."""
    columns: Ints
    """Those of them that the trees read."""
    trees: EffectTrees
    scale: float
    bias: float
    """As in `HeldOutEffects`."""
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
        reach = normal_quantile() * np.hypot(self.scale * error, self.bias)
        return PersonEffects(*(np.clip(column, -1.0, 1.0) for column in (effect, effect - reach, effect + reach)))


def fit_effects(
    trial: Trial, settings: UpliftSettings | None = None, *, start: str = "", source: str = ""
) -> tuple[LearnedEffects, HeldOutEffects]:
    """The effects of a trial's treatment, and each person's effect by learners of other people. start, source: see
    `EffectSource`."""
    settings = settings or UpliftSettings()
    score, rng = person_scores(trial, settings), np.random.default_rng(settings.seed)
    held_out = held_out_effects(trial, score, settings, rng)
    effect = float(score.mean())
    reach = normal_quantile() * float(score.std(ddof=1) / np.sqrt(len(trial)))
    about = EffectSource(
        start=start,
        trial=source,
        people=len(trial),
        treated=int(trial.treated.sum()),
        effect=effect,
        effect_low=effect - reach,
        effect_high=effect + reach,
    )
    columns = varying(trial.features.values)
    trees = grow_effects(trial, np.arange(len(trial)), settings, rng)
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
        record["source"].pop("binary", None)  # always true: an earlier recllm wrote it
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
    return lambda user_rows: model.predict(Cohort(dataset).features(dataset.as_of).rows(user_rows))


def uplift_workspace(
    workspace: Workspace,
    trial: Path | pl.DataFrame,
    *,
    start: datetime,
    randomised: bool = False,
    seed: int = 0,
    source: str = "",
    save: str | None = None,
    ids: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `recllm uplift --json` prints: everybody's uplift, in [-1, 1] and with 95 % between low and high, most moved
    first, and the curve on the trial's people, each by a model of others.

    trial: a CSV, or its table with pseudonyms. start: before the first treatment, UTC without a zone; later events of
    people are not used. randomised: as of `Trial.construct`. source: the name of a table in the saved effects. save:
    the name under which the effects are saved. ids: pseudonym -> the shop's own id, where it is known.

    Raises `PolicyError` for what is no trial (see `Trial.construct`), `NothingToDo` without anyone to predict,
    `UsageError` for a name that cannot be, and what `read_trial` raises.
    """
    started = time.perf_counter()
    folder = None if save is None else effects_folder(workspace, save)
    table = read_trial(trial, workspace.pseudonymiser().many) if isinstance(trial, Path) else trial
    source = source or (trial.name if isinstance(trial, Path) else "a table")
    learn, ask = datasets_of(workspace)
    at = int((start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp())
    rows = learn.user_rows(table["user_id"])
    table = table.filter(pl.Series(rows >= 0, dtype=pl.Boolean))
    trial_data = Trial.construct(
        Cohort(learn).features(at).rows(rows[rows >= 0]),
        table["treated"].to_numpy() > 0,
        table["outcome"].to_numpy(),
        randomised=randomised,
        propensity=table["propensity"].to_numpy() if "propensity" in table.columns else None,
        seed=seed,
    )
    cohort = Cohort(ask)
    user_rows = np.flatnonzero(cohort.with_history(ask.as_of))
    if not len(user_rows):
        raise NothingToDo("no one to predict: no customer has a past that counts")
    settings = UpliftSettings(seed=seed)
    effects, held_out = fit_effects(trial_data, settings, start=utc(at).isoformat(), source=source)
    uplift = effects.predict(cohort.features(ask.as_of).rows(user_rows))
    if folder is not None:
        save_effects(effects, folder)
        clear_taint(folder.parent, folder.name)
    seconds = time.perf_counter() - started
    logger.info("uplift: %d people, a trial of %d, %.1f s", len(user_rows), len(trial_data), seconds)
    of_trial = trial_data.treated, trial_data.outcome, trial_data.propensity
    curve = qini_curve(held_out.expected, *of_trial)
    names, ids = cohort.user_ids(user_rows), ids or {}
    people = [
        {
            "user_id": ids.get(names[n], names[n]),
            "uplift": float(uplift.effect[n]),
            "low": float(uplift.low[n]),
            "high": float(uplift.high[n]),
        }
        for n in cohort.descending(user_rows, uplift.effect)
    ]
    return {
        "start": plain(utc(at)),
        "as_of": plain(utc(ask.as_of)),
        "trial": {"people": effects.source.people, "treated": effects.source.treated, "effect": curve.effect},
        "qini": curve.qini,
        "auuc": curve.auuc,
        "people": people,
    }
