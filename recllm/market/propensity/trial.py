"""Trials, from which effects are learned: people drawn into arms, their features beforehand, and their outcomes.

An effect can be read off data only when who is treated does not depend on what is to come: drawn at random (a trial),
or by known chances (propensities). Nothing here guesses propensities: campaigns that a shop mailed to whom it liked, as
those of Complete Journey, are refused.

A trial is a table of the workspace's people (user_id, treated and outcome, both 0 or 1, and with known probabilities
propensity), or one with columns of its own, several arms, and a yes or no or an amount as outcome. A feature is a
number or a text; each frequent text becomes a column of 0 and 1, the others together make one more.

A classifier looks whether features say who got which arm (`check_assignment`); arms that differ beforehand are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError, PolicyError, UsageError
from recllm.base.stats.probabilities import auc
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.model import Values, cross_fitted, fit_base_models
from recllm.market.propensity.parameters import PropensitySettings

NEEDED = ("user_id", "treated", "outcome")
"""Columns of a trial of the workspace's people."""
MIN_PEOPLE_OF_AN_ARM = 100
MIN_OUTCOMES = 20
MIN_PROPENSITY = 0.02
"""A propensity nearer to 0 or 1 leaves no one to compare with."""
MAX_ARMS = 20
MAX_CATEGORIES = 30
"""Of a text, that get a column of their own."""
MIN_CATEGORY_ROWS = 50
MAX_TEXTS = 1_000
"""Different texts of a feature: with more it is an id or a comment, and no category."""

NOT_RANDOMISED = (
    "uplift needs a trial: who was treated must have been drawn at random (declare randomised) or by known chances "
    "(give the propensities). Among people chosen by a rule, treated and others differ already, and the difference "
    "would look like an effect; Complete Journey's campaigns are of this kind. Use recllm predict redeem to say who "
    "responds, or run a campaign with a holdout first"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialColumns:
    """What the columns of a trial's table mean."""

    features: tuple[str, ...]
    """Known before the treatment."""
    arm: str
    control: str
    """The value of `arm` that says: not treated."""
    outcome: str

    def check(self, table: pl.DataFrame) -> None:
        """Raises `UsageError` for a column that is not there, or has two meanings."""
        if not self.features:
            raise UsageError("give at least one feature: --features COLUMN,COLUMN")
        names = (*self.features, self.arm, self.outcome)
        absent = [name for name in dict.fromkeys(names) if name not in table.columns]
        if absent:
            raise UsageError(f"unknown column {', '.join(absent)}; the trial has: {', '.join(table.columns)}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            uses = {self.outcome: "the outcome", self.arm: "the arm"}
            listed = ", ".join(f"{name} (also {uses[name]})" if name in uses else f"{name} (twice)" for name in twice)
            raise UsageError(
                f"--features, --arm and --outcome name a column more than once: {listed}; a feature is what was known "
                "before the treatment, so leave it out of --features"
            )


TREATMENT = TrialColumns(features=(), arm="treated", control="others", outcome="outcome")
"""Of a trial of the workspace's people, whose features are their past."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """n people, each drawn into one of several arms."""

    columns: TrialColumns = TREATMENT
    features: FeatureTable
    """As of before the treatment; groups are the table's columns."""
    arms: tuple[str, ...]
    """The control first."""
    arm: NDArray[np.int64]
    """(n,), number in `arms`."""
    outcome: Values
    """(n,), 0 or 1, or amounts."""
    probability: Values
    """(n, arms), each person's of each arm."""

    @classmethod
    def of_treatment(
        cls,
        features: FeatureTable,
        treated: NDArray[np.generic],
        outcome: NDArray[np.generic],
        *,
        randomised: bool = False,
        propensity: NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> Trial:
        """People who were treated, and others. treated, outcome: (n,), 0 or 1.

        randomised: the shop's word that everybody had the same probability. propensity: known ones, (n,), in (0, 1).
        Raises `PolicyError` without either, or when the features tell who was treated better than the propensities
        allow; `DataError` for arms or outcomes too few, or values that cannot be.
        """
        arm, result = np.asarray(treated, bool).astype(np.int64), np.asarray(outcome, np.float64)
        n, arms = len(arm), (TREATMENT.control, TREATMENT.arm)
        if not len(features) == n == len(result):
            raise DataError(f"a trial of {len(features)} people has {n} treatments and {len(result)} outcomes")
        if not np.isin(result, (0, 1)).all():
            raise DataError("a trial's outcome is 0 or 1 for each person")
        chance = None if propensity is None else np.asarray(propensity, np.float64)
        if chance is not None:
            if chance.shape != arm.shape or not (np.abs(chance - 0.5) <= 0.5 - MIN_PROPENSITY).all():
                limits = f"from {MIN_PROPENSITY} to {1 - MIN_PROPENSITY}"
                raise DataError(f"propensities: one for each of {n} people, {limits}")
            chance = np.stack([1 - chance, chance], axis=1)
        return cls._checked(TREATMENT, features, arms, arm, result, chance, randomised, seed)

    @classmethod
    def of_table(cls, table: pl.DataFrame, columns: TrialColumns, *, randomised: bool, seed: int = 0) -> Trial:
        """A table with columns of its own. randomised: the shop's word that arms were drawn at random, with the same
        chances for everybody.

        Raises `PolicyError` without it, or when the features tell who got which arm; `UsageError` for columns that are
        not there; `DataError` for values from which no effect can be read.
        """
        columns.check(table)
        outcome = _read_outcome(table, columns.outcome)
        arms, arm = _read_arms(table, columns)
        features = FeatureTable.of({name: _columns_of(table[name], name) for name in columns.features}, table.height)
        return cls._checked(columns, features, arms, arm, outcome, None, randomised, seed)

    @classmethod
    def _checked(
        cls,
        columns: TrialColumns,
        features: FeatureTable,
        arms: tuple[str, ...],
        arm: NDArray[np.int64],
        outcome: Values,
        probability: Values | None,
        randomised: bool,
        seed: int,
    ) -> Trial:
        """probability: as the field; None where all had the same."""
        if not randomised and probability is None:
            raise PolicyError(NOT_RANDOMISED)
        _check_arms(arms, arm, outcome, columns)
        if probability is None:
            probability = np.tile(np.bincount(arm, minlength=len(arms)) / len(arm), (len(arm), 1))
        trial = cls(columns=columns, features=features, arms=arms, arm=arm, outcome=outcome, probability=probability)
        for number in range(1, len(arms)):
            pair = trial.pair(number)
            check_assignment(pair.features, pair.arm > 0, pair.probability[:, 1], seed=seed)
        return trial

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def binary(self) -> bool:
        """Whether the outcome is 0 or 1."""
        return bool(np.isin(self.outcome, (0, 1)).all())

    def rows(self, which: NDArray[np.generic]) -> Trial:
        """These people only: a mask or row numbers."""
        return replace(
            self,
            features=self.features.rows(which),
            arm=self.arm[which],
            outcome=self.outcome[which],
            probability=self.probability[which],
        )

    def pair(self, number: int) -> Trial:
        """The people of this arm and of the control."""
        people = self.rows((self.arm == 0) | (self.arm == number))
        chances = people.probability[:, [0, number]]
        return replace(
            people,
            arms=(self.arms[0], self.arms[number]),
            arm=(people.arm > 0).astype(np.int64),
            probability=chances / chances.sum(axis=1, keepdims=True),
        )


def check_assignment(features: FeatureTable, treated: NDArray[np.bool_], propensity: Values, *, seed: int = 0) -> float:
    """The AUC with which features tell who was treated, over and above the propensities; near .5 in a true trial.

    A classifier (`propensity.model`) is cross-fitted on the arms; its scores are compared with those for arms
    drawn again by the propensities. Raises `PolicyError` when the true arms are separated by more than chance: more
    than four standard errors, and at least .02, above what the propensities alone would give. The error names the
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
            f"of all {clearest} (AUC {measured:.3f}, {expected:.3f} by the declared chances). A column that was "
            f"measured after the treatment is no feature: leave it out. {NOT_RANDOMISED}"
        )
    return measured


def read_trial(file: Path, pseudonyms: Callable[[Sequence[str]], list[str]] | None = None) -> pl.DataFrame:
    """The table of the workspace's people in a CSV. pseudonyms: the shop's own ids to those of the dataset.

    Raises `UsageError` for a file that cannot be read, `DataError` for a missing column, a person twice, or a value
    that is no number.
    """
    frame = read_trial_table(file, as_text=True)
    missing = [name for name in NEEDED if name not in frame.columns]
    if missing:
        raise DataError(f"{file}: missing column {', '.join(missing)}; found {', '.join(frame.columns)}")
    numbers = [name for name in ("treated", "outcome", "propensity") if name in frame.columns]
    table = frame.with_columns(pl.col(numbers).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False))
    if table.select(pl.any_horizontal(pl.col(numbers).is_null())).to_series().any():
        raise DataError(f"{file}: {', '.join(numbers)} must be numbers in every row")
    if not table["treated"].is_in([0.0, 1.0]).all() or table["user_id"].n_unique() != table.height:
        raise DataError(f"{file}: treated is 0 or 1, and each person stands in it once")
    ids = table["user_id"].cast(pl.String).to_list()
    return table.with_columns(user_id=pl.Series(pseudonyms(ids) if pseudonyms else ids, dtype=pl.String))


def read_trial_table(file: Path, *, as_text: bool = False) -> pl.DataFrame:
    """A CSV in UTF-8, its columns as text where asked for, or a Parquet file.

    Raises `UsageError` when it cannot be read, `DataError` when it is empty.
    """
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            table = pl.read_parquet(file)
        else:
            table = pl.read_csv(file, infer_schema=not as_text, infer_schema_length=None, encoding="utf8")
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(
            f"{file}: cannot be read as CSV (UTF-8, first line names the columns) or Parquet: {reason}"
        ) from error
    if not table.height:
        raise DataError(f"{file}: has no rows; a trial has one for each person")
    return table


def _read_outcome(table: pl.DataFrame, name: str) -> Values:
    column = table[name]
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise DataError(f"outcome {name}: {_example(column)} is no number; give 0 and 1, or amounts")
    outcome = column.cast(pl.Float64).to_numpy().copy()
    bad = np.flatnonzero(~np.isfinite(outcome))
    if len(bad):
        raise DataError(
            f"outcome {name}: missing or not finite in {len(bad):,} of {len(outcome):,} rows, first in row "
            f"{bad[0] + 1}; write 0 where nothing came of it, and leave out people who were not followed"
        )
    if (outcome == outcome[0]).all():
        raise DataError(
            f"outcome {name}: is {outcome[0]:g} in every row, so no effect can be seen; is it the right column?"
        )
    return outcome


def _read_arms(table: pl.DataFrame, columns: TrialColumns) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    column = table[columns.arm]
    if column.dtype.is_float() and (column.drop_nulls() % 1 == 0).all():
        column = column.cast(pl.Int64)
    column = column.cast(pl.String).str.strip_chars()
    absent = (column.is_null() | (column == "")).to_numpy()
    if absent.any():
        raise DataError(
            f"arm {columns.arm}: missing in {int(absent.sum()):,} rows, first in row {int(absent.argmax()) + 1}; "
            f"every person is in one arm, the untreated in {columns.control!r}"
        )
    names = sorted(column.unique().to_list())
    listed = ", ".join(repr(name) for name in names[:MAX_ARMS])
    if len(names) > MAX_ARMS:
        raise DataError(f"arm {columns.arm}: {len(names):,} different values ({listed}, ...); at most {MAX_ARMS} arms")
    if columns.control not in names:
        raise UsageError(f"--control {columns.control!r} does not occur in {columns.arm}; there are: {listed}")
    if len(names) == 1:
        raise DataError(f"arm {columns.arm}: has one value alone, {listed}; a trial needs a control and another arm")
    arms = (columns.control, *(name for name in names if name != columns.control))
    numbers = {name: number for number, name in enumerate(arms)}
    return arms, column.replace_strict(numbers, return_dtype=pl.Int64).to_numpy()


def _check_arms(arms: Sequence[str], arm: NDArray[np.int64], outcome: Values, columns: TrialColumns) -> None:
    values, counts = np.unique(outcome, return_counts=True)
    usual = values[counts.argmax()]
    for number, name in enumerate(arms):
        inside = outcome[arm == number]
        if len(inside) < MIN_PEOPLE_OF_AN_ARM:
            raise DataError(
                f"arm {name!r} of {columns.arm}: {len(inside)} rows; at least {MIN_PEOPLE_OF_AN_ARM} are needed in "
                "each. Run the trial longer, or leave out the rows of that arm"
            )
        common = int((inside == usual).sum())
        if min(common if set(values) == {0.0, 1.0} else MIN_OUTCOMES, len(inside) - common) < MIN_OUTCOMES:
            raise DataError(
                f"arm {name!r} of {columns.arm}: {columns.outcome} is {usual:g} in {common:,} of {len(inside):,} rows; "
                f"fewer than {MIN_OUTCOMES} others tell nothing. Take a more frequent outcome, or run the trial longer"
            )


def _columns_of(column: pl.Series, name: str) -> dict[str, NDArray[np.float32]]:
    """A number as it is, NaN where unknown; a text as one column for each frequent category."""
    if column.n_unique() < 2:
        raise DataError(f"feature {name}: is {_example(column)} in every row, so it explains nothing; leave it out")
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        numbers = column.cast(pl.Float32).to_numpy().copy()
        numbers[~np.isfinite(numbers)] = np.nan
        return {name: numbers}
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise DataError(f"feature {name}: {column.dtype} is neither number nor text; give days, say, instead of a date")
    texts = column.cast(pl.String).fill_null("").str.strip_chars()
    counts = texts.value_counts(sort=True, name="n")
    if counts.height > MAX_TEXTS:
        raise DataError(
            f"feature {name}: {counts.height:,} different texts, such as {_example(column)}; at most {MAX_TEXTS:,} "
            "make categories. Leave out ids, and write numbers as numbers in every row"
        )
    frequent = sorted(counts.filter(pl.col("n") >= MIN_CATEGORY_ROWS).head(MAX_CATEGORIES)[texts.name].to_list())
    columns = {f"{name} = {text or '(none)'}": (texts == text).to_numpy().astype(np.float32) for text in frequent}
    rare = (~texts.is_in(frequent)).to_numpy()
    if rare.any():
        columns[f"{name} = (others)"] = rare.astype(np.float32)
    return columns


def _example(column: pl.Series) -> str:
    values = column.drop_nulls()
    return repr(values[0]) if len(values) else "empty"
