"""The effect of a treatment on each person, with intervals, learned from a trial; and effects that a workspace keeps.

order      of people, by an X-learner (Künzel et al. 2019): outcome models say what people would have done in the other
           group, the differences are learned in both groups, and both answers are joined by the share of the treated.
score      mu + 1[group] / e · (outcome - mu), of the treated less that of the others: its mean over people is the mean
           effect, whatever mu is, as long as e, the probability of the group, is right (Robins et al. 1994); mu is the
           outcome model of the group, learned on other people.
effect     a line through the scores of the trial's people over the X-learner's answers, learned on other people (best
           linear predictor; Chernozhukov et al. 2018). So the interval of a person is that of the mean effect on the
           people whom the X-learner places alike, and where it orders no better than chance, all have the mean effect.

effects/NAME/effects.json holds the trees, the line and where the effects come from; no row of any person.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError, ModelError, PolicyError, UsageError
from recllm.base.files import PRIVATE, safe_id, write_whole
from recllm.base.stats.intervals import normal_quantile
from recllm.base.stats.probabilities import auc, sigmoid
from recllm.learn.models.trees import BoostedTrees, BoostingSettings, grow_trees
from recllm.market.propensity.examples import Cohort
from recllm.market.propensity.features import FeatureTable, Floats
from recllm.market.propensity.model import PropensitySettings, Values, cross_fitted, fit_base_models, people_folds
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.workspace import Workspace

NEEDED = ("user_id", "treated", "outcome")
"""Columns of a trial's table; `propensity` may be there too."""
MIN_PEOPLE_OF_A_GROUP = 100
MIN_OUTCOMES = 20
MIN_PROPENSITY = 0.02
"""A propensity nearer to 0 or 1 leaves no one to compare with."""

NOT_RANDOMISED = (
    "uplift needs a trial: who was treated must have been drawn at random (declare randomised) or by known chances "
    "(give the propensities). Among people chosen by a rule, treated and others differ already, and the difference "
    "would look like an effect; Complete Journey's campaigns are of this kind. Use recllm predict redeem to say who "
    "responds, or run a campaign with a holdout first"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """n people, each treated or not."""

    features: FeatureTable
    """As of before the treatment."""
    treated: NDArray[np.bool_]
    """(n,)"""
    outcome: Values
    """(n,), 0 or 1."""
    propensity: Values
    """(n,), each person's probability to be treated."""

    @classmethod
    def construct(
        cls,
        features: FeatureTable,
        treated: NDArray[np.generic],
        outcome: NDArray[np.generic],
        *,
        randomised: bool = False,
        propensity: NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> Trial:
        """treated, outcome: (n,), 0 or 1. randomised: the shop's word that everybody had the same probability.
        propensity: known ones, (n,), in (0, 1).

        Raises `PolicyError` without either, or when the features tell who was treated better than the propensities
        allow; `DataError` for people or outcomes too few, or values that cannot be.
        """
        is_treated, result = np.asarray(treated, bool), np.asarray(outcome, np.float64)
        n = len(is_treated)
        if not len(features) == n == len(result):
            raise DataError(f"a trial of {len(features)} people has {n} treatments and {len(result)} outcomes")
        if not np.isin(result, (0, 1)).all():
            raise DataError("a trial's outcome is 0 or 1 for each person")
        if not randomised and propensity is None:
            raise PolicyError(NOT_RANDOMISED)
        for group, inside in (("treated", is_treated), ("not treated", ~is_treated)):
            people, happened = int(inside.sum()), int(result[inside].sum())
            if people < MIN_PEOPLE_OF_A_GROUP:
                raise DataError(
                    f"{people} people of the trial are {group}; at least {MIN_PEOPLE_OF_A_GROUP} are needed. Run the "
                    "trial longer"
                )
            if min(happened, people - happened) < MIN_OUTCOMES:
                raise DataError(
                    f"the outcome is 1 for {happened:,} of {people:,} people who are {group}; at least {MIN_OUTCOMES} "
                    "of 0 and of 1 are needed. Take a more frequent outcome, or run the trial longer"
                )
        chance = np.full(n, is_treated.mean()) if propensity is None else np.asarray(propensity, np.float64)
        if chance.shape != is_treated.shape or not (np.abs(chance - 0.5) <= 0.5 - MIN_PROPENSITY).all():
            raise DataError(
                f"propensities: one for each of {n} people, from {MIN_PROPENSITY} to {1 - MIN_PROPENSITY:g}"
            )
        check_assignment(features, is_treated, chance, seed=seed)
        return cls(features=features, treated=is_treated, outcome=result, propensity=chance)

    def __len__(self) -> int:
        return len(self.outcome)

    def rows(self, which: NDArray[np.generic]) -> Trial:
        """These people only: a mask or row numbers."""
        columns = {f.name: getattr(self, f.name)[which] for f in fields(self) if f.name != "features"}
        return Trial(features=self.features.rows(which), **columns)


def check_assignment(features: FeatureTable, treated: NDArray[np.bool_], propensity: Values, *, seed: int = 0) -> float:
    """The AUC with which features tell who was treated, over and above the propensities; near .5 in a true trial.

    A classifier (`propensity.model`) is cross-fitted on the treatment; its scores are compared with those for
    treatments drawn again by the propensities. Raises `PolicyError` when the treated are separated by more than chance:
    more than four standard errors, and at least .02, above what the propensities alone would give. The error names the
    feature that the classifier's trees gain most by.
    """
    settings = PropensitySettings(rounds=60, leaves=6, folds=3, seed=seed)
    score = cross_fitted(features, treated.astype(np.float64), np.arange(len(treated)), settings).mean(axis=1)
    measured, rng = auc(score, treated), np.random.default_rng([seed, len(treated)])
    drawn = np.array([auc(score, rng.random(len(treated)) < propensity) for _ in range(200)])
    expected = float(np.nanmean(drawn))
    if measured - expected > max(0.02, 4 * float(np.nanstd(drawn))):
        base = fit_base_models(features, treated.astype(np.float64), settings)
        clearest = features.groups[base.columns[int(np.argmax(base.trees.booster.feature_importance("gain")))]]
        raise PolicyError(
            "treatment was not drawn as declared: what is known of people beforehand predicts who was treated, most "
            f"of all {clearest} (AUC {measured:.3f}, {expected:.3f} by the declared chances). {NOT_RANDOMISED}"
        )
    return measured


def read_trial(file: Path, pseudonyms: Callable[[Sequence[str]], list[str]] | None = None) -> pl.DataFrame:
    """The table of a trial in a CSV (UTF-8). pseudonyms: the shop's own ids to those of the dataset.

    Raises `UsageError` for a file that cannot be read, `DataError` for an empty one, a missing column, a person twice,
    or a value that is no number.
    """
    try:
        table = pl.read_csv(file, infer_schema=False, encoding="utf8")
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(f"{file}: cannot be read as CSV (UTF-8, first line names the columns): {reason}") from error
    missing = [name for name in NEEDED if name not in table.columns]
    if missing or not table.height:
        what = f"missing column {', '.join(missing)}; found {', '.join(table.columns)}" if missing else "has no rows"
        raise DataError(f"{file}: {what}; a trial has {', '.join(NEEDED)} of each person")
    numbers = [name for name in ("treated", "outcome", "propensity") if name in table.columns]
    table = table.with_columns(pl.col(numbers).str.strip_chars().cast(pl.Float64, strict=False))
    if table.select(pl.any_horizontal(pl.col(numbers).is_null())).to_series().any():
        raise DataError(f"{file}: {', '.join(numbers)} must be numbers in every row")
    if not table["treated"].is_in([0.0, 1.0]).all() or table["user_id"].n_unique() != table.height:
        raise DataError(f"{file}: treated is 0 or 1, and each person stands in it once")
    ids = table["user_id"].to_list()
    return table.with_columns(user_id=pl.Series(pseudonyms(ids) if pseudonyms else ids, dtype=pl.String))


# --- effects ----------------------------------------------------------------------------------------------------------


FOLDER = "effects"
RECORD = "effects.json"
FORMAT = 3
FOLDS = 5
"""Parts of a trial's people, each asked of learners of the others."""
FOLDS_SHARED = 2.0
"""Of the slope's variance: learners of the folds share most of their people, so the rows are not independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftSettings(BoostingSettings):
    """Effects are small compared with the noise of single outcomes."""

    rounds: int = 60
    learning_rate: float = 0.05
    leaves: int = 4
    min_leaf_rows: int = 100
    l2: float = 20.0


@dataclass(frozen=True, eq=False)
class XLearner:
    """Trees of a trial's outcome in each group, and of the effect as each group shows it: of those who were not
    treated, and of the treated."""

    outcome: tuple[BoostedTrees, BoostedTrees]
    effect: tuple[BoostedTrees, BoostedTrees]
    share: float
    """Of the treated among the people: what the others' trees of the effect count for."""

    @classmethod
    def fit(cls, trial: Trial, settings: UpliftSettings) -> XLearner:
        """Of all people of a trial, each counted in proportion to 1 / the probability of their group."""
        values, groups = trial.features.values, (~trial.treated, trial.treated)
        weights = 1 / np.where(trial.treated, trial.propensity, 1 - trial.propensity)

        def grown(group: NDArray[np.bool_], target: Values, objective: str) -> BoostedTrees:
            group_weights = weights[group] / weights[group].mean()
            return grow_trees(values[group], target, settings, objective=objective, weights=group_weights)

        without, with_it = (grown(group, trial.outcome[group], "binary") for group in groups)
        sign = np.where(trial.treated, 1, -1)
        otherwise = np.where(trial.treated, sigmoid(without.score(values)), sigmoid(with_it.score(values)))
        effect = sign * (trial.outcome - otherwise)
        of_others, of_treated = (grown(group, effect[group], "regression") for group in groups)
        return cls((without, with_it), (of_others, of_treated), float(trial.treated.mean()))

    def predict(self, values: Floats) -> Values:
        """The effect as the learner has it, (n,)."""
        return joined_effect(self.effect, self.share, values)

    def outcomes(self, values: Floats) -> Values:
        """The probability of the outcome without the treatment and with it, (n, 2)."""
        return np.stack([sigmoid(trees.score(values)) for trees in self.outcome], axis=1)


def joined_effect(trees: tuple[BoostedTrees, BoostedTrees], share: float, values: Floats) -> Values:
    """trees, share: as of `XLearner`. (n,)."""
    of_others, of_treated = (of_group.score(values) for of_group in trees)
    return share * of_others + (1 - share) * of_treated


def effect_scores(means: Values, trial: Trial) -> Values:
    """Doubly robust scores, (n,). means: of the outcome of the others and of the treated, by models of other people,
    (n, 2)."""
    treated = trial.treated
    of_treated = np.where(treated, (trial.outcome - means[:, 1]) / trial.propensity, 0.0)
    of_others = np.where(treated, 0.0, (trial.outcome - means[:, 0]) / (1 - trial.propensity))
    return np.asarray(means[:, 1] + of_treated - means[:, 0] - of_others)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectLine:
    """The mean effect over the X-learner's answer, with standard errors that do not depend on each other."""

    center: float
    """The mean answer, at which the line is `mean`."""
    mean: float
    slope: float
    """0 or more: 1 where the answers are right, 0 where they say nothing."""
    mean_error: float
    slope_error: float

    @classmethod
    def fit(cls, answer: Values, score: Values) -> EffectLine:
        """Least squares over people, (n,) each, with errors that hold for any variance of the scores (White 1980)."""
        n, away = len(score), answer - answer.mean()
        spread = max(float(away @ away), 1e-12)
        slope = float(away @ score) / spread
        residual = score - score.mean() - slope * away
        return cls(
            center=float(answer.mean()),
            mean=float(score.mean()),
            slope=max(0.0, slope),
            mean_error=float(np.sqrt(residual @ residual) / n),
            slope_error=float(np.sqrt(FOLDS_SHARED * (away**2 @ residual**2))) / spread,
        )

    def effects(self, answer: Values) -> PersonEffects:
        """answer: of the X-learner, (n,)."""
        away = answer - self.center
        effect = self.mean + self.slope * away
        half = normal_quantile() * np.hypot(self.mean_error, self.slope_error * away)
        # an effect on an outcome of 0 or 1
        return PersonEffects(*(np.clip(column, -1.0, 1.0) for column in (effect, effect - half, effect + half)))


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


@dataclass(frozen=True, eq=False)
class PersonEffects:
    """How much a treatment moves each of n people, by a trial, (n,) each; low and high hold the mean effect on the
    people who are alike to the learner at 95 %."""

    effect: Values
    low: Values
    high: Values

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
    trees: tuple[BoostedTrees, BoostedTrees]
    """`XLearner.effect`."""
    share: float
    line: EffectLine
    source: EffectSource

    def predict(self, features: FeatureTable) -> PersonEffects:
        """Raises `DataError` for other features than the trial's people had."""
        if features.names != self.names:
            different = sorted(set(features.names) ^ set(self.names))
            raise DataError(
                f"the effects were learned from other features ({', '.join(different[:5]) or 'in another order'}); "
                "learn them again with recllm uplift --save"
            )
        return self.line.effects(joined_effect(self.trees, self.share, features.values))


def fit_effects(
    trial: Trial, settings: UpliftSettings | None = None, *, start: str = "", source: str = ""
) -> tuple[LearnedEffects, Values]:
    """The effects of a trial's treatment, and of each of its people what learners of other people say, (n,). start,
    source: see `EffectSource`."""
    settings, n, values = settings or UpliftSettings(), len(trial), trial.features.values
    answer, means = np.empty(n), np.empty((n, 2))
    for inside in people_folds(np.arange(n), FOLDS, settings.seed):
        learner = XLearner.fit(trial.rows(~inside), settings)
        answer[inside], means[inside] = learner.predict(values[inside]), learner.outcomes(values[inside])
    score = effect_scores(means, trial)
    effect, reach = float(score.mean()), normal_quantile() * float(score.std(ddof=1) / np.sqrt(n))
    about = EffectSource(
        start=start,
        trial=source,
        people=n,
        treated=int(trial.treated.sum()),
        effect=effect,
        effect_low=effect - reach,
        effect_high=effect + reach,
    )
    learner = XLearner.fit(trial, settings)
    line = EffectLine.fit(answer, score)
    return LearnedEffects(trial.features.names, learner.effect, learner.share, line, about), answer


def save_effects(model: LearnedEffects, folder: Path) -> None:
    """Writes the file, readable by the owner only; effects of an earlier version give way."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    record = {
        "format": FORMAT,
        "names": model.names,
        "share": model.share,
        "line": asdict(model.line),
        "source": asdict(model.source),
        "trees": [trees.text() for trees in model.trees],
    }
    write_whole(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n", mode=PRIVATE)


def load_effects(folder: Path) -> LearnedEffects:
    """What `save_effects` wrote. Raises `ModelError` for a damaged or another file."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}")
        names, share = tuple(record["names"]), float(record["share"])
        line = EffectLine(**{name: float(number) for name, number in record["line"].items()})
        if not np.isfinite([share, *asdict(line).values()]).all():
            raise ValueError("an effect is no number")
        of_others, of_treated = (BoostedTrees.parse(text, names) for text in record["trees"])
        return LearnedEffects(names, (of_others, of_treated), share, line, EffectSource(**record["source"]))
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
