"""What a trial says: everybody's uplift, and of several arms whether people differ, and whom to give which arm.

A trial of the workspace's people is learned on their past as of its start, and everybody's effect is predicted as of
now. A table with columns of its own is judged by itself, each person by models of other people (five folds). The
outcome models behind the scores cross these folds: with arms drawn at random a score is right on average whatever its
outcome model says.

differ    the scores of an arm on the effects that other people's models expect of it: 0 on average where people do not
          differ (Chernozhukov et al. 2018). One-sided, at 5 % over all arms (Bonferroni). Two people of different folds
          are met twice, so the slope's variance is twice what independent rows give; `eval/uplift_real.py` counts the
          false alarms.
policy    for each person the arm with the highest expected effect, none where no arm is expected to help. Its value is
          the mean score of the arms that it gives (doubly robust; Dudík et al. 2011), and differences from giving
          nothing, or everybody the best arm, are means of people's differences. Intervals are at 95 %.

Where people do not differ, or choosing for each is not shown to be better than the best single arm, the advice is one
arm for everybody, or none.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.documents import guarded, plain, write_csv
from recllm.base.errors import NothingToDo
from recllm.base.stats.intervals import ConfidenceInterval
from recllm.market.propensity.effects import (
    EFFECT_FOLDS,
    HeldOutEffects,
    LearnedEffects,
    PersonEffects,
    arm_learners,
    fit_effects,
    held_out_effects,
    mean_interval,
    within_folds,
)
from recllm.market.propensity.examples import Cohort
from recllm.market.propensity.model import Values, people_folds
from recllm.market.propensity.parameters import UpliftSettings
from recllm.market.propensity.quality import QiniCurve, qini_curve
from recllm.market.propensity.trial import Trial
from recllm.shop.data.dataset import Dataset, utc

logger = logging.getLogger(__name__)

ALPHA = 0.05
"""Chance of saying that people differ where they do not."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ArmEffect:
    """An arm against the control."""

    arm: str
    people: int
    """In the arm."""
    mean: float
    """Outcome of the people in the arm, as it is."""
    effect: ConfidenceInterval
    """On the mean of everybody."""
    slope: float
    """Of the scores on the expected effects: 1 where people differ as much as expected, 0 where not at all."""
    p_value: float
    """That people do not differ, and the slope is this high by chance."""
    differ: bool
    qini: float
    """In extra outcomes per person, of the arm's and the control's people."""
    expected: Values
    """(n,), each person's effect by models of other people; low and high hold it at 95 %."""
    low: Values
    high: Values


@dataclass(frozen=True, eq=False, kw_only=True)
class ArmPolicy:
    """Whom to give which arm, and what that is worth; values are mean outcomes of everybody."""

    value: ConfidenceInterval
    """Of each person's own arm."""
    nobody: ConfidenceInterval
    """Of giving nothing."""
    best_single: ConfidenceInterval
    """Of giving everybody the arm that is best on average (nothing, if none is)."""
    best_single_arm: str | None
    against_nobody: ConfidenceInterval
    against_best_single: ConfidenceInterval
    shares: dict[str, float]
    """Of people, by the arm that the policy gives them; the control stands for nothing."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrialEstimate:
    """The answer."""

    trial: Trial
    effects: tuple[ArmEffect, ...]
    policy: ArmPolicy
    advised: NDArray[np.int64]
    """(n,), number of the advised arm; 0 is none."""

    @property
    def for_each(self) -> bool:
        """Whether the advice is made for each person: people differ, and choosing for each is shown to be better."""
        return self.people_differ and self.policy.against_best_single.low > 0

    @property
    def people_differ(self) -> bool:
        return any(arm.differ for arm in self.effects)


def estimate_trial(trial: Trial, *, rng: np.random.Generator, settings: UpliftSettings | None = None) -> TrialEstimate:
    """All results of a trial; the same for the same state of `rng`."""
    started = time.perf_counter()
    settings = replace(settings or UpliftSettings(), seed=int(rng.integers(2**31)))
    n, arms = len(trial), len(trial.arms)
    scores, learners = arm_learners(trial, settings)
    effect = scores[:, 1:] - scores[:, :1]  # (n, arms - 1), noise for a single person
    folds = people_folds(np.arange(n), EFFECT_FOLDS, settings.seed)
    held_out = [held_out_effects(of_arm, folds, settings, rng) for of_arm in learners]
    expected = np.stack([arm.expected for arm in held_out], axis=1)
    single = np.empty(n, np.int64)
    for inside in folds:
        single[inside] = _best(effect[~inside].mean(axis=0)[None])
    personal = _best(expected)
    tests = [slope_test(effect[:, column], expected[:, column], folds) for column in range(arms - 1)]
    effects = tuple(
        _arm_effect(trial, number, effect[:, number - 1], of_arm, *test)
        for number, (of_arm, test) in enumerate(zip(held_out, tests, strict=True), start=1)
    )
    best = int(_best(effect.mean(axis=0)[None])[0])
    policy = _policy(trial, scores, personal, single, best)
    alike = TrialEstimate(trial=trial, effects=effects, policy=policy, advised=np.full(n, best))
    logger.info("uplift: a trial of %d people in %d arms, %.1f s", n, arms, time.perf_counter() - started)
    return replace(alike, advised=personal) if alike.for_each else alike


def slope_test(effect: Values, expected: Values, folds: list[NDArray[np.bool_]]) -> tuple[float, float]:
    """Slope of the scores on what other people's models expect, within folds, and its one-sided p-value."""
    from scipy.special import ndtr

    spread, score = within_folds(expected, folds), within_folds(effect, folds)
    scatter = float(spread @ spread)
    if scatter <= 1e-12 * len(spread) * max(float(score @ score) / len(score), 1e-300):
        return 0.0, 1.0
    slope = float(spread @ score) / scatter
    error = np.sqrt(np.sum((spread * (score - slope * spread)) ** 2)) / scatter
    return slope, float(ndtr(-slope / (error * np.sqrt(2))))


def _best(effect: Values) -> NDArray[np.int64]:
    """Number of the arm with the highest effect, (n,); 0 where none is above 0."""
    return np.where(effect.max(axis=1) > 0, effect.argmax(axis=1) + 1, 0)


def _arm_effect(
    trial: Trial, number: int, effect: Values, held_out: HeldOutEffects, slope: float, p_value: float
) -> ArmEffect:
    inside, in_pair = trial.arm == number, (trial.arm == 0) | (trial.arm == number)
    pair, of_people = trial.pair(number), PersonEffects.of(held_out.expected, held_out.error, binary=trial.binary)
    return ArmEffect(
        arm=trial.arms[number],
        people=int(inside.sum()),
        mean=float(trial.outcome[inside].mean()),
        effect=mean_interval(effect),
        slope=slope,
        p_value=p_value,
        differ=p_value * (len(trial.arms) - 1) < ALPHA,
        qini=qini_curve(held_out.expected[in_pair], pair.arm > 0, pair.outcome, pair.probability[:, 1]).qini,
        expected=of_people.effect,
        low=of_people.low,
        high=of_people.high,
    )


def _policy(
    trial: Trial, scores: Values, personal: NDArray[np.int64], single: NDArray[np.int64], best: int
) -> ArmPolicy:
    """single: best arm for all by other people's scores; best: by everybody's, which is its name."""
    rows = np.arange(len(trial))
    by_person, alike, nothing = scores[rows, personal], scores[rows, single], scores[:, 0]
    shares = np.bincount(personal, minlength=len(trial.arms)) / len(trial)
    return ArmPolicy(
        value=mean_interval(by_person),
        nobody=mean_interval(nothing),
        best_single=mean_interval(alike),
        best_single_arm=trial.arms[best] if best else None,
        against_nobody=mean_interval(by_person - nothing),
        against_best_single=mean_interval(by_person - alike),
        shares={name: float(share) for name, share in zip(trial.arms, shares, strict=True)},
    )


# --- documents -------------------------------------------------------------------------------------------------------


def verdict(estimate: TrialEstimate) -> str:
    """In one or two sentences: do people differ, and what follows."""
    policy, control = estimate.policy, estimate.trial.arms[0]
    everybody = f"everybody {policy.best_single_arm!r}" if policy.best_single_arm else f"no one an arm ({control!r})"
    if not estimate.people_differ:
        lowest = min(arm.p_value for arm in estimate.effects)
        return (
            f"people do not differ in what an arm does to them, as far as this trial can tell (p = {lowest:.2g}): "
            f"give {everybody}; the effects of single people are noise around the mean"
        )
    differing = ", ".join(f"{arm.arm!r} (p = {arm.p_value:.2g})" for arm in estimate.effects if arm.differ)
    gain = policy.against_best_single
    if gain.low > 0:
        what, advice = f"choosing for each person is better than giving {everybody}", ""
    else:
        what = f"choosing for each person is not shown to be better than giving {everybody}"
        advice = f", so the advice is to give {everybody}"
    return (
        f"people differ in the effect of {differing}; {what}: "
        f"{gain.value:+.4g} ({gain.low:+.4g} to {gain.high:+.4g}){advice}"
    )


def trial_document(estimate: TrialEstimate) -> dict[str, Any]:
    """What `--json` prints. Rows are counted from 1."""
    trial, policy, names = estimate.trial, estimate.policy, estimate.trial.arms
    control = trial.outcome[trial.arm == 0]
    return {
        "trial": {
            "people": len(trial),
            "arm": trial.columns.arm,
            "control": {"arm": names[0], "people": len(control), "mean": float(control.mean())},
            "outcome": trial.columns.outcome,
            "outcome_is": "yes or no" if trial.binary else "amount",
            "features": trial.columns.features,
        },
        "arms": [
            {
                "arm": arm.arm,
                "people": arm.people,
                "mean": arm.mean,
                "effect": arm.effect,
                "people_differ": arm.differ,
                "p_value": arm.p_value,
                "slope": arm.slope,
                "qini": arm.qini,
            }
            for arm in estimate.effects
        ],
        "people_differ": estimate.people_differ,
        "advice_for_each": estimate.for_each,
        "verdict": verdict(estimate),
        "policy": policy,
        "people": [
            {
                "row": row + 1,
                "advised": names[number] if number else None,
                "effects": {
                    arm.arm: {"value": arm.expected[row], "low": arm.low[row], "high": arm.high[row]}
                    for arm in estimate.effects
                },
            }
            for row, number in enumerate(estimate.advised.tolist())
        ],
    }


def trial_lines(estimate: TrialEstimate) -> Iterator[str]:
    """For people: all but the rows."""
    trial, policy = estimate.trial, estimate.policy
    yield f"{len(trial):,} people, {trial.columns.outcome} by {trial.columns.arm} against {trial.arms[0]!r}"
    for arm in estimate.effects:
        yield f"  {arm.arm}: mean effect {_words(arm.effect)}; p that people do not differ {arm.p_value:.2g}"
    yield f"  {verdict(estimate)}"
    treated = ", ".join(f"{share:.0%} {name}" for name, share in policy.shares.items())
    yield f"policy, each person's own arm ({treated}): {_words(policy.value)}"
    yield f"  against no arm {_words(policy.against_nobody)}"
    yield f"  against {policy.best_single_arm or 'no arm'} for everybody {_words(policy.against_best_single)}"


def _words(interval: ConfidenceInterval) -> str:
    return f"{interval.value:.4g} ({interval.low:.4g} to {interval.high:.4g})"


def write_trial_csv(estimate: TrialEstimate, file: Path) -> None:
    """row, advised, and for each arm its effect, low and high. UTF-8."""
    columns = [f"{name} {arm.arm}" for arm in estimate.effects for name in ("effect", "low", "high")]
    table = np.stack([column for arm in estimate.effects for column in (arm.expected, arm.low, arm.high)], axis=1)
    names = ("", *estimate.trial.arms[1:])
    rows = (
        (str(row + 1), guarded(names[number]), *(f"{value:.6g}" for value in table[row]))
        for row, number in enumerate(estimate.advised.tolist())
    )
    write_csv(file, ("row", "advised", *map(guarded, columns)), rows)


# --- a trial of the workspace's people -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UpliftEstimate:
    """The answer."""

    start: dt.datetime
    as_of: dt.datetime
    people: tuple[tuple[str, float, float, float], ...]
    """(user_id, uplift, low, high), most moved first; uplift in [-1, 1] is the change of the probability of the
    outcome, which lies between low and high at 95 %."""
    curve: QiniCurve
    """On the trial's people, each by a model of other people."""
    effects: LearnedEffects
    """What can be saved, and asked of anyone."""


def estimate_uplift(
    trial_table: pl.DataFrame,
    learn: Dataset,
    ask: Dataset,
    *,
    start: dt.datetime,
    randomised: bool = False,
    seed: int = 0,
    settings: UpliftSettings | None = None,
    source: str = "",
) -> UpliftEstimate:
    """trial_table: as `read_trial` gives it; rows of people who are not in `learn` are dropped. learn: holds the
    trial's people. ask: whose uplift is predicted, as of its own time. start: before the first treatment; later events
    of people are not used; without a zone it is UTC. randomised: the shop's word that who was treated was drawn at
    random, with one probability for everybody. source: the trial's name in the saved effects.

    Raises `PolicyError` for what is no trial (see `Trial.of_treatment`), `NothingToDo` without anyone to predict.
    """
    started = time.perf_counter()
    settings = replace(settings or UpliftSettings(), seed=seed)
    start = start if start.tzinfo else start.replace(tzinfo=dt.UTC)
    rows = learn.user_rows(trial_table["user_id"])
    table = trial_table.filter(pl.Series(rows >= 0, dtype=pl.Boolean))
    trial = Trial.of_treatment(
        Cohort(learn).features(int(start.timestamp())).rows(rows[rows >= 0]),
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
    features, ids = cohort.features(ask.as_of).rows(user_rows), cohort.user_ids(user_rows)
    effects, held_out = fit_effects(trial, settings, start=utc(int(start.timestamp())).isoformat(), source=source)
    uplift = effects.predict(features)
    effect, low, high = uplift.effect, uplift.low, uplift.high
    curve = qini_curve(held_out.expected, trial.arm > 0, trial.outcome, trial.probability[:, 1])
    order = cohort.descending(user_rows, effect)
    logger.info("uplift: %d people, a trial of %d, %.1f s", len(ids), len(trial), time.perf_counter() - started)
    return UpliftEstimate(
        start=utc(int(start.timestamp())),
        as_of=utc(ask.as_of),
        people=tuple((ids[n], float(effect[n]), float(low[n]), float(high[n])) for n in order),
        curve=curve,
        effects=effects,
    )


def uplift_document(estimate: UpliftEstimate, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints. ids: pseudonym -> the shop's own id, where it is known."""
    ids, curve, source = ids or {}, estimate.curve, estimate.effects.source
    return {
        "start": plain(estimate.start),
        "as_of": plain(estimate.as_of),
        "trial": {"people": source.people, "treated": source.treated, "effect": curve.effect},
        "qini": curve.qini,
        "auuc": curve.auuc,
        "people": [
            {"user_id": ids.get(name, name), "uplift": uplift, "low": low, "high": high}
            for name, uplift, low, high in estimate.people
        ],
    }


def write_uplift_csv(estimate: UpliftEstimate, file: Path, ids: Mapping[str, str] | None = None) -> None:
    """user_id, uplift, low and high; most moved first. UTF-8."""
    rows = [
        (guarded((ids or {}).get(name, name)), *(f"{number:.6f}" for number in numbers))
        for name, *numbers in estimate.people
    ]
    write_csv(file, ("user_id", "uplift", "low", "high"), rows)
