"""A trial with its own columns: who is moved by which arm, what the policy is worth, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recllm.base.documents import json_text
from recllm.base.errors import DataError, PolicyError, UsageError
from recllm.market.propensity.effects import arm_learners, arm_scores, error_scale, shrinkage_bias
from recllm.market.propensity.parameters import UpliftSettings
from recllm.market.propensity.trial import Trial, TrialColumns, read_trial_table
from recllm.market.propensity.uplift import (
    TrialEstimate,
    estimate_trial,
    slope_test,
    trial_document,
    trial_lines,
)

Run = Callable[..., tuple[int, str, str]]
COLUMNS = TrialColumns(features=("age", "kind"), arm="group", control="none", outcome="y")
QUICK = UpliftSettings(forest_groups=10)
HILLSTROM = Path(__file__).resolve().parents[2] / "shared" / "data" / "hillstrom_email" / "hillstrom.parquet"
EFFECTS = {"a": (0.4, -0.3), "b": (-0.2, 0.2), "nobody": (0.0, 0.0), "alike": (0.2, 0.2)}
"""On dogs' people, and on cats'."""


def world(
    *arms: str, n: int = 3_000, seed: int = 0, amounts: bool = False, effects: dict[str, tuple[float, float]] = EFFECTS
) -> tuple[pl.DataFrame, np.ndarray]:
    """People with a dog or a cat, and their true effects, (n, arms). Age says who does it anyway."""
    rng = np.random.default_rng(seed)
    cat, age, arm = rng.random(n) < 0.5, rng.uniform(18, 80, n), rng.integers(0, len(arms) + 1, n)
    truth = np.stack([np.where(cat, effects[name][1], effects[name][0]) for name in arms], axis=1)
    chance = 0.3 + 0.2 * (age > 50) + np.where(arm > 0, truth[np.arange(n), np.maximum(arm, 1) - 1], 0)
    outcome = 10 * chance + rng.normal(size=n) if amounts else (rng.random(n) < np.clip(chance, 0, 1)).astype(float)
    columns = {"age": age, "kind": np.where(cat, "cat", "dog"), "group": np.array(["none", *arms])[arm], "y": outcome}
    return pl.DataFrame(columns), truth


def estimate(table: pl.DataFrame, columns: TrialColumns = COLUMNS, seed: int = 0) -> TrialEstimate:
    trial = Trial.of_table(table, columns, randomised=True)
    return estimate_trial(trial, rng=np.random.default_rng(seed), settings=QUICK)


def test_one_group_gains_and_another_loses() -> None:
    table, truth = world("a")
    answer, cat = estimate(table), (table["kind"] == "cat").to_numpy()
    arm = answer.effects[0]
    assert answer.people_differ and arm.p_value < 1e-6 and 0.7 < arm.slope < 1.4
    assert arm.expected[~cat].mean() == pytest.approx(0.4, abs=0.1)
    assert arm.expected[cat].mean() == pytest.approx(-0.3, abs=0.1)
    assert (answer.advised == ~cat).mean() > 0.97
    # half of the people have one effect, and are missed together where they are
    assert ((arm.low <= truth[:, 0]) & (truth[:, 0] <= arm.high)).mean() > 0.5
    assert (arm.low[~cat] > 0).mean() > 0.8 and (
        arm.high[cat] < 0
    ).mean() > 0.8  # and not so wide that they say nothing
    gain = answer.policy.against_nobody
    assert gain.low < 0.2 < gain.high and gain.low > 0.1  # 0.4 for half of the people
    assert answer.policy.against_best_single.low > 0.05 and "choosing for each person is better" in said(answer)


def test_three_arms_each_to_whom_it_helps() -> None:
    table, _ = world("a", "b", "nobody", n=6_000)
    answer, cat = estimate(table), (table["kind"] == "cat").to_numpy()
    names = np.array(answer.trial.arms)[answer.advised]
    assert answer.trial.arms == ("none", "a", "b", "nobody")
    assert (names[~cat] == "a").mean() > 0.95 and (names[cat] == "b").mean() > 0.8
    assert [arm.differ for arm in answer.effects][:2] == [True, True]
    assert sum(answer.policy.shares.values()) == pytest.approx(1) and answer.policy.best_single_arm == "a"
    assert answer.policy.against_nobody.value == pytest.approx(0.3, abs=0.06)  # 0.4 for dogs' people, 0.2 for cats'


def test_amounts() -> None:
    table, _ = world("a", amounts=True)
    answer, cat = estimate(table), (table["kind"] == "cat").to_numpy()
    assert not answer.trial.binary and answer.people_differ
    assert answer.effects[0].expected[~cat].mean() == pytest.approx(4, abs=0.5)
    assert answer.effects[0].expected[cat].mean() == pytest.approx(-3, abs=0.5)
    assert trial_document(answer)["trial"]["outcome_is"] == "amount"


@pytest.mark.parametrize("arm", ["nobody", "alike"])
def test_placebo_says_that_people_do_not_differ(arm: str) -> None:
    """One world in twenty may say otherwise."""
    answers = [estimate(world(arm, n=1_500, seed=seed)[0], seed=seed) for seed in range(4)]
    calm = [answer for answer in answers if not answer.people_differ]
    assert len(calm) >= 3
    for answer in calm:
        assert "people do not differ" in said(answer) and len(set(answer.advised.tolist())) == 1
    effects = [answer.effects[0].effect for answer in answers]
    assert np.mean([effect.value for effect in effects]) == pytest.approx(EFFECTS[arm][0], abs=0.03)
    certain = sum(effect.excludes_zero for effect in effects)
    assert certain == 4 if arm == "alike" else certain <= 1
    assert all(answer.advised[0] == 1 for answer in calm) or arm == "nobody"


def test_where_choosing_is_not_shown_to_be_better_the_advice_is_one_arm() -> None:
    """All gain, some more: nobody should go without."""
    answer = estimate(world("a", effects={"a": (0.4, 0.1)})[0])
    assert answer.people_differ and not answer.for_each and answer.policy.against_best_single.low <= 0
    assert set(answer.advised.tolist()) == {1}
    assert "so the advice is to give everybody 'a'" in said(answer)
    assert trial_document(answer)["advice_for_each"] is False
    chosen = estimate(world("a")[0])
    assert chosen.for_each and len(set(chosen.advised.tolist())) == 2 and "so the advice" not in said(chosen)


@pytest.mark.parametrize("differ", [False, True])
def test_intervals_of_people_hold_the_effect_as_often_as_said(differ: bool) -> None:
    """At 95 % of a person drawn at random: over some worlds neither much less nor nearly always."""
    covered, widths = [], []
    for seed in range(4):
        rng = np.random.default_rng([seed, differ])
        x, arm = rng.normal(size=(1_000, 4)), rng.integers(0, 2, 1_000)
        truth = 0.2 * np.tanh(x[:, 0]) if differ else np.full(1_000, 0.1)
        y = rng.random(1_000) < 0.4 + 0.1 * np.tanh(x[:, 1]) + arm * truth
        names = ("p", "q", "r", "s")
        table = pl.DataFrame(dict(zip(names, x.T, strict=True)) | {"group": np.array(["none", "a"])[arm], "y": y * 1.0})
        columns = TrialColumns(features=names, arm="group", control="none", outcome="y")
        found = estimate(table, columns, seed).effects[0]
        covered.append(((found.low <= truth) & (truth <= found.high)).mean())
        widths.append((found.high - found.low).mean() / 2)
    assert 0.85 < np.mean(covered) < 0.99  # with intervals half as wide about two thirds
    assert np.mean(widths) < (0.25 if differ else 0.15)


def test_errors_are_scaled_to_how_much_forests_of_different_people_differ() -> None:
    rng, error = np.random.default_rng(0), np.full(4_000, 0.2)
    one, other = (rng.normal(0, 0.05, 4_000) for _ in range(2))
    assert error_scale((one, error), (other, error)) == pytest.approx(0.25, rel=0.05)
    assert error_scale((one, 0 * error), (other, 0 * error)) == 1.0


def test_what_a_forest_takes_away_is_told_from_what_it_keeps() -> None:
    """It kept half of the differences: the other half is the bias."""
    rng, n = np.random.default_rng(1), 400_000
    truth, noise = rng.normal(0, 0.1, n), rng.normal(0, 1, n)
    expected, error = 0.5 * truth + rng.normal(0, 0.02, n), np.full(n, 0.02)
    assert shrinkage_bias(expected, error, truth + noise) == pytest.approx(0.05, rel=0.1)
    assert shrinkage_bias(rng.normal(0, 0.02, n), error, noise) < 0.02
    assert shrinkage_bias(-expected, error, truth + noise) == 0.0


def test_false_alarms_are_as_rare_as_said() -> None:
    """In 150 worlds of which every pair of people is met twice, p is below 5 % about as often; with a true signal
    nearly always."""
    rng, alarms, found = np.random.default_rng(0), 0, 0
    folds = [np.arange(500) % 5 == fold for fold in range(5)]
    for _ in range(150):
        x, noise = rng.normal(size=(500, 12)), rng.standard_t(4, size=500)
        alarms += slope_test(noise, _linear(x, noise, folds), folds)[1] < 0.05
        effect = noise + x[:, 0]
        found += slope_test(effect, _linear(x, effect, folds), folds)[1] < 0.05
    assert 1 <= alarms <= 16 and found > 146
    assert slope_test(noise, np.zeros(500), folds) == (0.0, 1.0)


def _linear(x: np.ndarray, effect: np.ndarray, folds: list[np.ndarray]) -> np.ndarray:
    """What a linear model of the other folds expects."""
    expected = np.empty(len(effect))
    for inside in folds:
        expected[inside] = x[inside] @ (x[~inside].T @ effect[~inside]) / (~inside).sum()
    return expected


def test_the_policys_value_lies_in_its_interval() -> None:
    """Of 6 worlds the 95 % interval of the gain may miss in one; a value of the same people's own models would be too
    high in most."""
    inside = 0
    weak = {"a": (0.1, -0.05), "b": (0.0, 0.05)}
    for seed in range(6):
        table, truth = world("a", "b", n=1_500, seed=100 + seed, effects=weak)
        answer = estimate(table, seed=seed)
        expected = np.stack([arm.expected for arm in answer.effects], axis=1)
        own = np.where(expected.max(axis=1) > 0, expected.argmax(axis=1) + 1, 0)
        true_gain = np.hstack([np.zeros((len(truth), 1)), truth])[np.arange(len(truth)), own].mean()
        inside += answer.policy.against_nobody.low <= true_gain <= answer.policy.against_nobody.high
    assert inside >= 5


def test_scores_are_right_on_average_whatever_the_model_says() -> None:
    rng = np.random.default_rng(0)
    arm = rng.integers(0, 2, 40_000)
    outcome = (rng.random(40_000) < np.where(arm == 1, 0.6, 0.2)).astype(float)
    wrong = np.tile([0.9, -3.0], (40_000, 1))
    scores = arm_scores(wrong, arm, outcome, np.bincount(arm) / len(arm))
    assert scores.mean(axis=0) == pytest.approx([0.2, 0.6], abs=0.02)


def test_trees_are_the_same_for_the_same_draw_and_people_of_no_effect_get_none() -> None:
    table, _ = world("nobody", n=2_000)
    trial = Trial.of_table(table, COLUMNS, randomised=True)
    (learner,), n = arm_learners(trial, QUICK)[1], len(trial)
    learn, judge = np.arange(n // 2), learner.values[n // 2 :]
    one, two = (learner.grow(learn, QUICK, np.random.default_rng(5)).predict(judge) for _ in range(2))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert np.abs(one[0]).mean() < 0.1 and (one[1] > 0).all()


def test_an_estimate_is_the_same_for_the_same_seed() -> None:
    table, _ = world("a", n=800)
    first, again, other = (json_text(trial_document(estimate(table, seed=seed))) for seed in (1, 1, 2))
    assert first == again != other


# --- what is refused -------------------------------------------------------------------------------------------------


def construct(table: pl.DataFrame, **changes: object) -> Trial:
    fields = {name: getattr(COLUMNS, name) for name in ("features", "arm", "control", "outcome")}
    return Trial.of_table(table, TrialColumns(**(fields | changes)), randomised=True)  # type: ignore[arg-type]


def test_without_randomisation_it_is_refused() -> None:
    with pytest.raises(PolicyError, match="drawn at random"):
        Trial.of_table(world("a")[0], COLUMNS, randomised=False)


def test_arms_that_differ_before_treatment_are_refused_by_name() -> None:
    table, _ = world("a")
    rng = np.random.default_rng(9)
    age = table["age"].to_numpy()
    by_age = np.where(rng.random(len(age)) < np.where(age > 50, 0.6, 0.4), "a", "none")
    by_kind = np.where(rng.random(len(age)) < np.where(table["kind"] == "cat", 0.6, 0.4), "a", "none")
    unknown = table.with_columns(age=pl.when((pl.col("group") == "a") & (pl.col("y") > 0)).then("age"))
    both = (age > 49) != (table["kind"] == "cat").to_numpy()  # neither alone says it
    by_both = np.where(rng.random(len(age)) < 0.3 + 0.4 * both, "a", "none")
    for unequal, name in (
        (table.with_columns(group=pl.Series(by_age)), "age"),
        (table.with_columns(group=pl.Series(by_kind)), "kind"),
        (unknown, "age"),
        (table.with_columns(group=pl.Series(by_both)), "(age|kind)"),
    ):
        with pytest.raises(PolicyError, match=f"not drawn as declared: .* most of all {name} "):
            construct(unequal)


@pytest.mark.parametrize(
    ("change", "changes", "error", "words"),
    [
        ({}, {"features": ("age", "size")}, UsageError, "unknown column size; the trial has: age, kind, group, y"),
        ({}, {"features": ("age", "y")}, UsageError, "y .also the outcome."),
        ({}, {"features": ("age", "group")}, UsageError, "group .also the arm."),
        ({}, {"features": ("age", "age")}, UsageError, "age .twice."),
        ({}, {"features": ()}, UsageError, "at least one feature"),
        ({}, {"control": "zero"}, UsageError, "--control 'zero' does not occur in group; there are: 'a', 'none'"),
        ({"group": pl.lit("none")}, {}, DataError, "group: has one value alone, 'none'"),
        ({"group": pl.int_range(pl.len()).cast(pl.String)}, {}, DataError, "3,000 different values"),
        ({"group": pl.when(pl.col("age") > 30).then("group")}, {}, DataError, "group: missing in .* first in row"),
        ({"y": pl.when(pl.col("age") > 30).then("y")}, {}, DataError, "y: missing or not finite in .* first in row"),
        ({"y": pl.lit(1.0)}, {}, DataError, "y: is 1 in every row"),
        ({"y": pl.lit("yes")}, {}, DataError, "y: 'yes' is no number; give 0 and 1"),
        ({"y": (pl.col("age") > 79.9).cast(pl.Float64)}, {}, DataError, "y is 0 in .* of .* rows"),
        ({"age": pl.lit(4)}, {}, DataError, "feature age: is 4 in every row"),
        ({"kind": pl.int_range(pl.len()).cast(pl.String)}, {}, DataError, "kind: 3,000 different texts"),
        ({"kind": pl.lit("2024-01-01").str.to_date()}, {}, DataError, "kind: is .* in every row"),
        ({"kind": pl.date(2024, 1, 1) + pl.duration(days=pl.int_range(pl.len()))}, {}, DataError, "neither number"),
    ],
)
def test_what_cannot_be_read(
    change: dict[str, pl.Expr], changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        construct(world("a")[0].with_columns(**change), **changes)


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match=r"arm '(a|none)' of group: \d+ rows; at least 100"):
        construct(world("a", n=150)[0])


def test_texts_become_few_columns_and_unknown_numbers_stay_unknown() -> None:
    table, _ = world("a", n=2_000)
    rng = np.random.default_rng(0)
    table = table.with_columns(
        town=pl.Series(rng.choice([f"town {n}" for n in range(300)], 2_000)),
        kind=pl.when(pl.int_range(pl.len()) % 4 > 0).then("kind"),
        age=pl.when(pl.int_range(pl.len()) % 3 > 0).then("age"),
    )
    features = construct(table, features=("age", "kind", "town")).features
    assert features.names == ("age", "kind = (none)", "kind = cat", "kind = dog", "town = (others)")
    assert features.groups == ("age", "kind", "kind", "kind", "town")
    assert np.isnan(features.values[::3, 0]).all() and not np.isnan(features.values[1::3, 0]).any()
    assert estimate(table).effects[0].expected.shape == (2_000,)


# --- the command -----------------------------------------------------------------------------------------------------

OPTIONS = ("--columns", "features=age,kind,arm=group,control=none", "--columns", "outcome=y")


def said(answer: TrialEstimate) -> str:
    return "\n".join(trial_lines(answer))


def test_the_command(command: Run, tmp_path: Path) -> None:
    table, _ = world("a", n=1_000)
    file = tmp_path / "trial.csv"
    table.write_csv(file)
    table.write_parquet(tmp_path / "trial.parquet")
    assert read_trial_table(file).equals(read_trial_table(tmp_path / "trial.parquet"))
    code, out, _ = command("uplift", str(file), *OPTIONS, "--randomised", "--json", "--csv", str(tmp_path / "out.csv"))
    answer = json.loads(out)
    assert code == 0 and answer["people_differ"] and answer["trial"]["control"]["arm"] == "none"
    assert [one["row"] for one in answer["people"]] == list(range(1, 1_001))
    for one, pet in zip(answer["people"], table["kind"], strict=True):
        effect = one["effects"]["a"]
        assert effect["low"] <= effect["value"] <= effect["high"]
        assert one["advised"] in (None, "a") and (one["advised"] == "a") == (effect["value"] > 0)
        assert pet == "cat" or effect["value"] > 0
    assert answer["policy"]["against_best_single"]["low"] > 0
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert len(rows) == 1_000 and set(rows[0]) == {"row", "advised", "effect a", "low a", "high a"}


def test_the_commands_lines(command: Run, tmp_path: Path) -> None:
    world("alike", n=1_000, seed=3)[0].write_csv(tmp_path / "t.csv")
    code, out, err = command("uplift", str(tmp_path / "t.csv"), *OPTIONS, "--randomised")
    assert code == 0 and "people do not differ" in out and "give everybody 'alike'" in out and "980 more" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (OPTIONS, 4, "drawn at random"),
        ((*OPTIONS[:-2], "--randomised"), 2, "give all of arm, control, features, outcome"),
        ((*OPTIONS, "--randomised", "--start", "2024-01-01"), 2, "--start"),
        (("--randomised",), 2, "give --start DATE"),
        ((*OPTIONS[:-1], "outcome=profit", "--randomised"), 2, "unknown column profit"),
    ],
)
def test_what_the_command_refuses(
    command: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    world("a", n=400)[0].write_csv(tmp_path / "t.csv")
    found, out, told = command("uplift", str(tmp_path / "t.csv"), *arguments)
    assert found == code and words in told and out == "" and told.count("\n") == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_trial_table(tmp_path / "nothing.csv")
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trial_table(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("age,kind,group,y\n")
    with pytest.raises(DataError, match="has no rows"):
        read_trial_table(tmp_path / "t.csv")


# --- a real trial ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not HILLSTROM.exists(), reason=f"the e-mail trial is not there: {HILLSTROM}")
def test_the_real_trial() -> None:
    table = read_trial_table(HILLSTROM)
    columns = TrialColumns(
        features=("recency", "history", "mens", "womens", "channel"),
        arm="segment",
        control="No E-Mail",
        outcome="visit",
    )
    answer = estimate(table, columns)
    men, women = answer.effects
    assert (men.arm, women.arm) == ("Mens E-Mail", "Womens E-Mail") and women.differ
    assert men.effect.low > women.effect.value > 0.03 and answer.policy.best_single_arm == "Mens E-Mail"
    bought = table["womens"].to_numpy() == 1
    assert women.expected[bought].mean() > women.expected[~bought].mean() + 0.02
    with pytest.raises(PolicyError, match="most of all visit"):
        leaking = TrialColumns(features=("recency", "visit"), arm="segment", control="No E-Mail", outcome="spend")
        Trial.of_table(table, leaking, randomised=True)
